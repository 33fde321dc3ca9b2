"""The augmentation eigenproblem on codecs whose answer is known, and what each picture change leaves alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sketchae.basis import augmentation_split, latent_change_covariance, plane_angle, random_basis
from sketchae.basis.augmentation import (
    CONTENT_TRANSFORMS,
    DEFAULT_CONTENT,
    DEFAULT_STYLE,
    STYLE_TRANSFORMS,
    AugmentationSplit,
)
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import generator

TRANSFORMS = {**STYLE_TRANSFORMS, **CONTENT_TRANSFORMS}
seeds = st.integers(0, 2**32 - 1)


def soft_pictures(n: int = 6, size: int = 16, seed: int = 0) -> torch.Tensor:
    """Pictures of low contrast about different greys, so that no default colour change runs into black or white."""
    random = torch.Generator().manual_seed(seed)
    mean = 0.4 + 0.2 * torch.rand(n, 3, 1, 1, generator=random)
    return mean + 0.2 * (torch.rand(n, 3, size, size, generator=random) - 0.5)


def generators(n: int, start: int = 0, name: str = "test") -> list[np.random.Generator]:
    return [generator(f"{name}/{start + i}") for i in range(n)]


def edges(images: torch.Tensor, n: int) -> torch.Tensor:
    """n maps of edge strength, |x(p) - x(p + step)| over the three colours: blind to default colour changes."""
    steps = [(1, 0), (0, 1), (2, 0), (0, 2), (3, 0), (0, 3)][:n]
    return torch.stack([(images - images.roll(step, (2, 3))).norm(dim=1) for step in steps], 1)


class Planted:
    """Channels with a known answer, hidden by a rotation: edges, moved by content only, and mean colours, by style only."""

    def __init__(self, n_edges: int = 2, n_colours: int = 3, seed: int = 0) -> None:
        self.n_edges, self.n_colours = n_edges, n_colours
        self.truth = random_basis(n_edges + n_colours, n_edges, seed).Q

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        colours = images.mean((2, 3), keepdim=True)[:, : self.n_colours].expand(-1, -1, *images.shape[2:])
        return torch.einsum("ji,bjhw->bihw", self.truth, torch.cat([edges(images, self.n_edges), colours], 1))


class Convolution:
    """A random encoder, of which nothing is known, with rotated channels on request."""

    def __init__(self, channels: int = 4, rotation: torch.Tensor | None = None) -> None:
        self.weight = torch.randn(channels, 3, 4, 4, generator=torch.Generator().manual_seed(3))
        self.rotation = torch.eye(channels) if rotation is None else rotation

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ij,bjhw->bihw", self.rotation, functional.conv2d(images, self.weight, stride=4).tanh())


# --- the picture changes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_change_gives_pictures_and_depends_on_nothing_but_picture_and_seed(name):
    images = torch.rand(5, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    before = images.clone()
    changed = TRANSFORMS[name](images, generators(5))
    assert torch.equal(images, before)
    assert changed.shape == images.shape and changed.dtype == images.dtype
    assert changed.min() >= 0 and changed.max() <= 1
    assert (changed - images).abs().mean((1, 2, 3)).min() > 1e-3  # every picture is changed
    alone = torch.cat([TRANSFORMS[name](images[i : i + 1], generators(1, i)) for i in range(5)])
    assert torch.allclose(alone, changed, atol=1e-6)
    if name not in ("flip", "blur"):
        assert (TRANSFORMS[name](images, generators(5, name="other")) - changed).abs().max() > 1e-2


@pytest.mark.parametrize("name", DEFAULT_STYLE)
def test_default_style_changes_leave_the_edges(name):
    images = soft_pictures()
    changed = STYLE_TRANSFORMS[name](images, generators(len(images)))
    assert torch.allclose(edges(changed, 4), edges(images, 4), atol=1e-5)


@pytest.mark.parametrize("name", [*DEFAULT_CONTENT, "patch_shuffle"])
def test_content_changes_leave_every_colour(name):
    images = soft_pictures()
    changed = CONTENT_TRANSFORMS[name](images, generators(len(images)))
    values = lambda batch: batch.flatten(2).sort(dim=2).values  # noqa: E731
    assert torch.equal(values(changed), values(images))
    assert (edges(changed, 4) - edges(images, 4)).abs().mean() > 1e-2


# --- the split -------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 6), st.integers(1, 3), seeds)
def test_planted_planes_are_found(n_edges, n_colours, seed):
    codec = Planted(n_edges, n_colours, seed)
    split = augmentation_split(codec, soft_pictures(seed=seed))
    assert plane_angle(split.basis(n_edges).Q, codec.truth, n_edges).max() < 0.1
    assert split.n_semantic == split.basis().n_semantic == n_edges


@pytest.mark.parametrize("channels", [4, 16, 32])
def test_rotating_the_codec_rotates_the_plane(channels):
    rotation = random_basis(channels, 1, seed=5).Q
    images = soft_pictures(8, 32)
    plain = augmentation_split(Convolution(channels), images)
    rotated = augmentation_split(Convolution(channels, rotation), images)
    assert np.allclose(plain.eigenvalues, rotated.eigenvalues, atol=1e-5)
    k = plain.n_semantic
    assert plane_angle(rotated.eigenvectors, plain.eigenvectors @ rotation.double().numpy().T, k).max() < 0.1
    assert plane_angle(rotated.eigenvectors, plain.eigenvectors, k).max() > 5


def test_neither_the_batch_size_nor_the_way_the_pictures_come_matters():
    images, codec = soft_pictures(7), Convolution()
    whole = augmentation_split(codec, images, n_repeats=2)
    for other in (
        augmentation_split(codec, images, n_repeats=2, batch_size=3),
        augmentation_split(codec, iter(images.split(2)), n_repeats=2, batch_size=1),
    ):
        assert np.allclose(whole.S, other.S, atol=1e-6) and np.allclose(whole.C, other.C, atol=1e-6)
        assert np.allclose(whole.eigenvectors, other.eigenvectors, atol=1e-4)
        assert other.n_pictures == 7 and other.n_repeats == 2
    again = augmentation_split(codec, images, n_repeats=2)
    assert np.array_equal(whole.eigenvectors, again.eigenvectors)
    assert not np.allclose(whole.S, augmentation_split(codec, images, name="other").S, atol=1e-4)


def test_the_covariance_is_the_sum_over_pixels_pictures_and_changes():
    images, codec = soft_pictures(3), Convolution()
    negative = lambda x, _: 1 - x  # noqa: E731
    mirror = lambda x, _: x.flip(3)  # noqa: E731
    found = latent_change_covariance(codec, images, {"negative": negative, "mirror": mirror}, batch_size=2)
    expected = np.zeros((4, 4))
    for changed in (1 - images, images.flip(3)):
        difference = (codec.encode(changed) - codec.encode(images)).double().numpy()
        for vector in difference.transpose(0, 2, 3, 1).reshape(-1, 4):
            expected += np.outer(vector, vector)
    assert found.dtype == np.float64
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_eigenproblem_by_hand():
    split = AugmentationSplit.from_covariances(np.diag([6.0, 1.0, 3.0]), np.diag([1.0, 8.0, 1.0]))
    assert np.allclose(split.S, np.diag([0.6, 0.1, 0.3])) and np.allclose(split.C, np.diag([0.1, 0.8, 0.1]))
    assert np.allclose(split.eigenvalues, [-0.7, 0.2, 0.5])
    assert np.allclose(split.eigenvectors, np.eye(3)[[1, 2, 0]])  # rows, with positive signs
    assert split.n_semantic == 1
    basis = split.basis(2, vae="mine", facts={"a": 1})
    assert (basis.n_semantic, basis.vae, basis.facts) == (2, "mine", {"a": 1})
    assert np.allclose(basis.Q.numpy(), split.eigenvectors, atol=1e-6)


def test_equal_changes_still_leave_both_blocks_a_channel():
    split = AugmentationSplit.from_covariances(np.eye(4), 2 * np.eye(4))
    assert split.n_semantic == 1


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style": ["colour"]}, "'colour' is no style change: choose from colour_mix, inversion"),
        ({"content": []}, "Name at least one"),
        ({"content": ["flip", "flip"]}, "each once"),
        ({"images": soft_pictures(1)}, "1 picture"),
        ({"images": []}, "0 picture"),
        ({"images": torch.full((2, 3, 16, 16), float("nan"))}, "must lie in \\[0, 1\\] and be finite"),
        ({"images": torch.full((2, 3, 16, 16), 7.0)}, "must lie in \\[0, 1\\]"),
        ({"images": torch.zeros(2, 1, 16, 16)}, "three channels"),
        ({"n_repeats": 0}, "one repeat"),
    ],
)
def test_what_cannot_be_used_is_said(change, message):
    with pytest.raises(BadInputError, match=message):
        augmentation_split(Convolution(), **{"images": soft_pictures(), **change})


def test_a_codec_with_nan_or_without_movement_is_refused():
    class Broken(Convolution):
        def encode(self, images):
            return super().encode(images) / 0 - torch.inf

    class Still(Convolution):
        def encode(self, images):
            return torch.ones(len(images), 4, 2, 2)

    with pytest.raises(BadInputError, match="NaN or infinite"):
        augmentation_split(Broken(), soft_pictures())
    with pytest.raises(BadInputError, match="The style changes moved the latents by 0 in all"):
        augmentation_split(Still(), soft_pictures())
    with pytest.raises(BadInputError, match="n_semantic=4 leaves no room"):
        augmentation_split(Convolution(), soft_pictures()).basis(4)
