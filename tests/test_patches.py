"""The linear codec: what its latents are, how exactly they decode, and that the rest of the package takes it."""

import pytest
import torch

from sketchae.backbones import LatentCodec, load_vae
from sketchae.backbones.patches import N_NUMBERS, PATCH, PatchCodec
from sketchae.basis import augmentation_split, random_basis
from sketchae.edits import swap
from sketchae.errors import BadInputError


def pictures(n: int = 12, size: int = 64, seed: int = 0) -> torch.Tensor:
    """Soft coloured clouds with a little grain, in (0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return 0.1 + 0.7 * smooth + 0.1 * torch.rand(n, 3, size, size, generator=generator)


@pytest.fixture(scope="module")
def codec() -> PatchCodec:
    return PatchCodec.fit(pictures(), 32)


def test_with_every_channel_decoding_is_exact():
    images = pictures()
    whole = PatchCodec.fit(images, N_NUMBERS)
    assert (whole.decode(whole.encode(images)) - images).abs().max() < 1e-4
    others = pictures(3, 40, seed=7)
    assert (whole.decode(whole.encode(others)) - others).abs().max() < 1e-4


def test_latents_of_the_training_pictures_are_white(codec):
    z = codec.encode(pictures())
    assert z.shape == (12, 32, 8, 8) and z.dtype == torch.float32
    channels = z.movedim(1, 0).flatten(1)
    assert channels.mean(1).abs().max() < 1e-3
    assert (torch.cov(channels, correction=0) - torch.eye(32)).abs().max() < 1e-3


def test_a_patch_is_eight_pixels_a_side(codec):
    images = pictures(1)
    changed = images.clone()
    changed[:, :, 8:16, 24:32] = 0.5
    moved = (codec.encode(changed) - codec.encode(images)).abs().sum(1)[0] > 1e-4
    assert moved[1, 3] and moved.sum() == 1


def test_reconstruction_errors_fall_with_channels_by_the_variance_left_out():
    images = pictures()
    whole = PatchCodec.fit(images, N_NUMBERS)
    assert (whole.deviations.diff() <= 0).all()
    errors = []
    for channels in (1, 4, 16, 64):
        few = PatchCodec.fit(images, channels)
        assert torch.equal(few.components, whole.components[:channels])
        errors.append(float((few.decode(few.encode(images)) - images).square().mean()))
        assert errors[-1] == pytest.approx(float(whole.deviations[channels:].square().sum()) / N_NUMBERS, rel=1e-3)
    assert errors == sorted(errors, reverse=True)


def test_components_are_orthonormal_with_a_positive_largest_entry(codec):
    u = codec.components
    assert (u @ u.T - torch.eye(32)).abs().max() < 1e-5
    assert (u.gather(1, u.abs().argmax(1, keepdim=True)) > 0).all()


def test_equal_pictures_give_the_equal_codec_and_id(codec):
    again = PatchCodec.fit(pictures(), 32)
    assert torch.equal(again.components, codec.components) and again.id == codec.id and codec.id.startswith("PatchCodec-")
    others = (PatchCodec.fit(pictures(), 31), PatchCodec.fit(pictures(seed=1), 32))
    assert len({codec.id, *(other.id for other in others)}) == 3


def test_the_order_of_the_pictures_hardly_matters(codec):
    turned = PatchCodec.fit(pictures().flip(0), 4)
    assert torch.allclose(turned.components, codec.components[:4], atol=1e-4)


def test_gradients_pass_through_decode(codec):
    z = codec.encode(pictures(2)).requires_grad_()
    weights = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    (codec.decode(z) * weights).sum().backward()
    direction, step = torch.randn(z.shape, generator=torch.Generator().manual_seed(3)), 1e-2
    with torch.no_grad():
        both = [(codec.decode(z + sign * step * direction) * weights).double().sum() for sign in (1, -1)]
    assert float((z.grad * direction).sum()) == pytest.approx(float(both[0] - both[1]) / (2 * step), rel=0.02)


def test_pictures_stay_in_range_and_latents_are_not_clipped(codec):
    decoded = codec.decode(50 * codec.encode(pictures()))
    assert decoded.min() == 0 and decoded.max() == 1
    assert codec.encode(torch.zeros(1, 3, 64, 64)).abs().max() > 3 and codec.clipped_share == 0


def test_it_is_a_codec_as_the_others_are(codec):
    assert isinstance(codec, LatentCodec) and codec.downsampling == PATCH and codec.device.type in ("cpu", "cuda")
    wrapped = load_vae(codec)
    assert (wrapped.latent_channels, wrapped.downsampling, wrapped.id) == (32, PATCH, codec.id)
    images = pictures()
    basis = augmentation_split(codec, images).basis(16)
    assert basis.Q.shape == (32, 32)
    z = codec.encode(images)
    for split in (basis, random_basis(32, 16, 0)):
        assert torch.allclose(codec.decode(swap(split, z, z)), codec.decode(z), atol=1e-4)
    split = random_basis(32, 16, 0)
    split.vae_id = codec.id
    split.check_vae(codec)


@pytest.mark.parametrize("channels", [0, -1, 193])
def test_a_patch_has_no_other_numbers_of_channels(channels):
    with pytest.raises(BadInputError, match=f"1 to 192 channels, not {channels}"):
        PatchCodec.fit(pictures(2), channels)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 60, 64), "multiples of 8"),
        (torch.zeros(2, 1, 64, 64), "shape"),
        (torch.full((2, 3, 64, 64), 1.5), r"\[0, 1\]"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "uint8"),
    ],
)
def test_what_is_no_picture_is_refused(codec, images, message):
    with pytest.raises(BadInputError, match=message):
        PatchCodec.fit(images)
    with pytest.raises(BadInputError, match=message):
        codec.encode(images)


def test_too_few_pictures_for_so_many_channels_are_refused():
    for images, rank in ((torch.zeros(0, 3, 64, 64), 0), (torch.full((2, 3, 64, 64), 0.5), 0), (pictures(1, 16), 3)):
        with pytest.raises(BadInputError, match=f"vary in {rank} directions, too few for 32"):
            PatchCodec.fit(images)
    grey = pictures()[:, :1].expand(-1, 3, -1, -1)
    assert PatchCodec.fit(grey, 64).latent_channels == 64
    with pytest.raises(BadInputError, match="64 directions, too few for 65"):
        PatchCodec.fit(grey, 65)


def test_latents_of_another_codec_are_refused(codec):
    with pytest.raises(BadInputError, match="has 32 channels"):
        codec.decode(torch.zeros(1, 4, 8, 8))
