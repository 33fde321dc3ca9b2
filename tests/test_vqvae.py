"""The VQ-VAE and the networks that latent models share: another library's quantiser, definitions, finite differences, resumed trainings."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interruption import interrupted_at
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize

from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool
from sketchae.errors import BadInputError
from sketchae.latent_models import vqvae as module
from sketchae.latent_models.networks import (
    Decoder,
    Encoder,
    ResidualBlock,
    VectorDecoder,
    VectorEncoder,
    n_parameters,
    normal_like,
    picture_loss,
)
from sketchae.latent_models.vqvae import VQVAE, VectorQuantizer, train_vqvae

SMALL = dict(codebook_size=16, code_dim=4, widths=(8, 8), n_blocks=(0, 1), patch=8)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def quantizer(codes, **options):
    """A quantiser whose codes are given; their moving counts start at 1."""
    made = VectorQuantizer(*codes.shape, **options).to(codes.dtype)
    with torch.no_grad():
        made.codebook.copy_(codes)
        if made.ema_decay is not None:
            made.sums.copy_(codes)
    return made


def grid(features):
    """Features (n, code_dim), laid out as one picture's row (1, code_dim, 1, n)."""
    return features.T[None, :, None]


def distances(z_e, codes):
    """|z_e - e_i| at every place, as the definition has it (n, h, w, codes)."""
    return (z_e.movedim(1, -1)[..., None, :] - codes).norm(dim=-1)


# --- The quantiser beside another library's


def both(codes, *, decay=0.9, eps=0.0, learn=False):
    """Ours and lucidrains' with the same codes, neither with dead codes nor with theirs of the rotation trick, which is another gradient."""
    ours = quantizer(codes, ema_decay=None if learn else decay, dead_below=0)
    options = dict(accept_image_fmap=True, rotation_trick=False, commitment_weight=1.0, threshold_ema_dead_code=0)
    theirs = VectorQuantize(codes.shape[1], len(codes), decay=decay, eps=eps, learnable_codebook=learn, ema_update=not learn, **options)
    with torch.no_grad():
        theirs._codebook.embed.copy_(codes[None])
        theirs._codebook.embed_avg.copy_(codes[None])
    return ours, theirs


def test_it_is_lucidrains_quantiser_and_straight_through_gradient():
    ours, theirs = both(normal(12, 5, seed=1))
    z_ours, z_theirs = normal(3, 5, 4, 6).requires_grad_(), normal(3, 5, 4, 6).requires_grad_()
    found, (quantized, indices, commitment) = ours(z_ours), theirs(z_theirs)
    assert torch.equal(found.indices, indices) and len(indices.unique()) > 6
    assert torch.allclose(found.z_q, quantized, atol=1e-6)
    assert found.commitment_loss.item() == pytest.approx(commitment.item(), rel=1e-6) and found.codebook_loss == 0
    weights = normal(3, 5, 4, 6, seed=2)
    ((found.z_q * weights).sum() + found.commitment_loss).backward()
    ((quantized * weights).sum() + commitment.sum()).backward()
    assert torch.allclose(z_ours.grad, z_theirs.grad, atol=1e-6)
    assert (z_ours.grad - weights).abs().max() > 1e-3  # the commitment takes part


@pytest.mark.parametrize(("eps", "tolerance"), [(0.0, 1e-5), (1e-5, 1e-3)])
def test_its_codes_follow_as_lucidrains_do(eps, tolerance):
    """By default they smooth the counts, (N_i + eps) / (N + K eps) · N, and we do not: for counts above 0.1 less than one part in a thousand."""
    ours, theirs = both(normal(12, 5, seed=1), eps=eps)
    for step in range(15):
        z_e = normal(3, 5, 4, 6, seed=10 + step) * 0.5 + 0.1 * step
        assert torch.equal(ours(z_e).indices, theirs(z_e)[1])
        assert torch.allclose(ours.counts, theirs._codebook.cluster_size[0], rtol=1e-5)
        assert torch.allclose(ours.codebook, theirs.codebook, rtol=tolerance, atol=tolerance / 10)
    assert ours.counts.min() < 1 < ours.counts.max() and (ours.codebook - normal(12, 5, seed=1)).abs().max() > 0.5


def test_codes_that_learn_have_lucidrains_gradients():
    """Theirs is one squared error whose gradient goes both ways; ours are two terms, each with one of the two."""
    ours, theirs = both(normal(12, 5, seed=1), learn=True)
    z_ours, z_theirs = normal(3, 5, 4, 6).requires_grad_(), normal(3, 5, 4, 6).requires_grad_()
    found, (_, _, loss) = ours(z_ours), theirs(z_theirs)
    assert found.codebook_loss.item() == found.commitment_loss.item() == pytest.approx(loss.item(), rel=1e-6)
    (found.codebook_loss + found.commitment_loss).backward()
    loss.sum().backward()
    assert torch.allclose(ours.codebook.grad, theirs._codebook.embed.grad[0], atol=1e-7) and ours.codebook.grad.abs().max() > 1e-3
    assert torch.allclose(z_ours.grad, z_theirs.grad, atol=1e-7)


# --- The quantiser by its definitions


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 3), h=st.integers(1, 4), w=st.integers(1, 4), dim=st.integers(1, 5), size=st.integers(2, 9))
def test_nearest_is_the_argmin_of_true_distances(seed, n, h, w, dim, size):
    """Whole numbers, whose squared distances are exact: also where two codes are as near, of which the first is taken."""
    rng = np.random.default_rng(seed)
    codes, z_e = rng.integers(-3, 4, (size, dim)), rng.integers(-3, 4, (n, dim, h, w))
    made = quantizer(torch.from_numpy(codes).float())
    indices = made.nearest(torch.from_numpy(z_e).float())
    squared = ((np.moveaxis(z_e, 1, -1)[..., None, :] - codes) ** 2).sum(-1)
    assert np.array_equal(indices.numpy(), squared.argmin(-1))
    once = made.lookup(indices)
    assert torch.equal(made.lookup(made.nearest(once)), once)
    assert torch.equal(once.movedim(1, -1), torch.from_numpy(codes).float()[indices])


def test_the_gradient_passes_straight_through():
    made = quantizer(normal(7, 3, dtype=torch.float64)).eval()
    z_e = normal(1, 3, 2, 2, seed=1, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: made(z).z_q, z_e)
    assert torch.equal(jacobian.reshape(12, 12), torch.eye(12, dtype=torch.float64))
    assert torch.allclose(made(z_e).z_q, made.lookup(made.nearest(z_e)))


def test_each_loss_moves_its_own_side_as_finite_differences_do():
    """Both are the mean squared distance to the nearest code; one is its derivative by the codes alone, the other by z_e alone."""
    codes, z_e = normal(6, 3, dtype=torch.float64), normal(2, 3, 2, 3, seed=1, dtype=torch.float64)

    def energy(z, e):
        return distances(z, e).min(-1).values.square().mean() / 3

    def slopes(function, x, step=1e-6):
        moves = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape) * step
        return torch.stack([(function(x + move) - function(x - move)) / (2 * step) for move in moves]).reshape(x.shape)

    for loss, by_codes in (("codebook_loss", True), ("commitment_loss", False)):
        made, z = quantizer(codes, ema_decay=None), z_e.clone().requires_grad_()
        value = getattr(made(z), loss)
        assert value.item() == pytest.approx(energy(z_e, codes).item())
        value.backward()
        moved, still = (made.codebook.grad, z.grad) if by_codes else (z.grad, made.codebook.grad)
        assert still is None or not still.any()
        expected = slopes(lambda e: energy(z_e, e), codes) if by_codes else slopes(lambda x: energy(x, codes), z_e)
        assert torch.allclose(moved, expected, atol=1e-8) and moved.abs().max() > 1e-2


def test_moving_averages_have_their_closed_form():
    """The same features every step: e_i = (γ^t e_i0 + (1 - γ^t) n_i mean_i) / (γ^t + (1 - γ^t) n_i), and the mean in the end."""
    features = torch.tensor([[1.0, 1.0], [1.2, 0.6], [1.4, 1.1], [-1.0, -2.0]], dtype=torch.float64)
    start = torch.tensor([[2.0, 2.0], [-2.0, -2.0]], dtype=torch.float64)
    means, n = torch.stack([features[:3].mean(0), features[3]]), torch.tensor([[3.0], [1.0]], dtype=torch.float64)
    made = quantizer(start, ema_decay=0.8, dead_below=0)
    for t in range(1, 101):
        assert made(grid(features)).indices.flatten().tolist() == [0, 0, 0, 1]
        kept = 0.8**t
        assert torch.allclose(made.codebook, (kept * start + (1 - kept) * n * means) / (kept + (1 - kept) * n))
        assert torch.allclose(made.counts[:, None], kept + (1 - kept) * n)
    assert torch.allclose(made.codebook, means)


def test_without_moving_averages_codes_learn_by_their_loss():
    features = torch.cat([normal(20, 2) * 0.1 + 1, normal(20, 2, seed=1) * 0.1 - 1])
    made = quantizer(torch.tensor([[0.5, 0.0], [-0.5, 0.0]]), ema_decay=None)
    assert [name for name, _ in made.named_parameters()] == ["codebook"] and not list(made.buffers())
    before = made.codebook.detach().clone()
    made(grid(features))
    assert torch.equal(made.codebook, before)  # a look moves nothing
    optimizer = torch.optim.SGD(made.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        made(grid(features)).codebook_loss.backward()
        optimizer.step()
    assert torch.allclose(made.codebook, torch.stack([features[:20].mean(0), features[20:].mean(0)]), atol=1e-4)


def test_dead_codes_are_put_at_features_and_come_alive():
    features = torch.eye(8) * 5
    made = quantizer(torch.cat([features[:1], normal(7, 8) * 0.01 - 100]), ema_decay=0.99)
    first = made(grid(features))
    assert first.perplexity.item() == pytest.approx(1.0)  # all features took the one code that is near
    assert all((features == code).all(1).any() for code in made.codebook[1:])
    assert made.counts[1:].tolist() == [2.0] * 7
    assert made(grid(features)).perplexity > 5
    for _ in range(200):  # those that share a feature die again, until each feature has its code
        made(grid(features))
    last = made(grid(features))
    assert last.perplexity.item() > 7 and last.commitment_loss < 0.2 * first.commitment_loss


def test_a_code_in_use_is_not_replaced_and_looking_moves_nothing():
    features = normal(40, 2) * 0.1
    codes = torch.tensor([[0.0, 0.0], [90.0, 90.0]])
    looking = quantizer(codes).eval()
    looking(grid(features))
    assert torch.equal(looking.codebook, codes) and looking.counts.tolist() == [1.0, 1.0]
    kept, replaced = quantizer(codes, dead_below=0), quantizer(codes)
    kept(grid(features)), replaced(grid(features))
    assert torch.equal(kept.codebook[0], replaced.codebook[0]) and kept.codebook[0].norm() < 0.1
    assert kept.codebook[1].tolist() == pytest.approx([90.0, 90.0]) and replaced.codebook[1].norm() < 1


def test_an_unused_code_is_dead_again_after_a_second_chance():
    features = torch.zeros(4, 2)
    made = quantizer(torch.tensor([[0.0, 0.0], [90.0, 90.0]]), ema_decay=0.9)
    made(grid(features))
    counts = [made.counts[1].item()]
    for _ in range(8):  # both codes are at the same place now, of which the first is taken
        assert not made(grid(features)).indices.any()
        counts.append(made.counts[1].item())
    n_alive = next(t for t in itertools.count() if 2 * 0.9**t < 1)
    assert n_alive == math.ceil(math.log(2) / -math.log(0.9)) == 7
    assert counts[:n_alive] == pytest.approx([2 * 0.9**t for t in range(n_alive)]) and counts[n_alive] == 2.0


def test_perplexity_counts_the_codes_in_use():
    codes = torch.eye(4)
    made = quantizer(codes).eval()
    assert made(grid(codes[[2] * 9])).perplexity.item() == pytest.approx(1.0)
    assert made(grid(codes.repeat(3, 1))).perplexity.item() == pytest.approx(4.0)
    skewed = made(grid(codes[[0, 0, 0, 1]])).perplexity.item()
    assert skewed == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), rel=1e-6)


def test_bad_codes_are_refused():
    for size, dim in ((1, 4), (0, 4), (4, 0)):
        with pytest.raises(BadInputError, match="two codes and one number"):
            VectorQuantizer(size, dim)
    made = quantizer(normal(5, 3))
    with pytest.raises(BadInputError, match="Features of 4 channels do not fit codes of 3"):
        made(normal(1, 4, 2, 2))
    for wrong in (-1, 5):
        with pytest.raises(BadInputError, match="numbered 0 to 4"):
            made.lookup(torch.tensor([[[0, wrong]]]))
    assert made.lookup(torch.tensor([[[0, 4]]])).shape == (1, 3, 1, 2)
    for shape in ((0, 2, 2), (2, 0, 2)):
        assert made.lookup(torch.zeros(shape, dtype=torch.long)).shape == (shape[0], 3, *shape[1:])


# --- Networks


@pytest.mark.parametrize(("widths", "patch", "multiple"), [((6,), 2, 2), ((6, 8), 2, 4), ((4, 6, 8), 4, 16)])
def test_encoder_and_decoder_are_inverse_in_shape(widths, patch, multiple):
    n_blocks = (1,) * len(widths)
    encoder, decoder = Encoder(5, widths, n_blocks, patch), Decoder(5, widths, n_blocks, patch)
    images = torch.rand(2, 3, 2 * multiple, 3 * multiple)
    features = encoder(images)
    assert encoder.multiple == multiple and features.shape == (2, 5, 2, 3) and decoder(features).shape == images.shape
    for height, width in ((multiple + 1, multiple), (multiple, multiple + multiple // 2)):
        with pytest.raises(BadInputError, match=f"multiples of {multiple}"):
            encoder(torch.rand(1, 3, height, width))


@pytest.mark.parametrize(("widths", "n_blocks"), [((), ()), ((4, 8), (1,)), ((4,), (1, 1))])
def test_every_resolution_has_its_width_and_blocks(widths, n_blocks):
    for network in (Encoder, Decoder):
        with pytest.raises(BadInputError, match="one of each for every resolution"):
            network(4, widths, n_blocks)


def test_a_code_sees_the_pixels_around_its_place():
    """A picture that moves by one place moves its features by one, where the border is far; a pixel changes only features nearby."""
    torch.manual_seed(0)
    encoder = Encoder(3, (6, 8), (1, 1), patch=2)
    for block in (layer for layer in encoder.layers if isinstance(layer, ResidualBlock)):
        torch.nn.init.normal_(block.second.weight, std=0.1)
    images = torch.rand(1, 3, 64, 64)
    features, moved = encoder(images), encoder(images.roll(encoder.multiple, -1))
    assert torch.allclose(moved[..., 7:10, 8:11], features[..., 7:10, 7:10], atol=1e-5)
    other = images.clone()
    other[..., 33, 33] = 1 - other[..., 33, 33]
    changed = (encoder(other) != features).any(1)[0].nonzero()
    assert [8, 8] in changed.tolist() and (changed - 8).abs().max() <= 4


def test_a_residual_block_is_the_identity_at_the_start_and_learns():
    block, x = ResidualBlock(6), normal(2, 6, 5, 5)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.second.weight.grad.abs().max() > 0
    torch.nn.init.normal_(block.second.weight)
    expected = x + F.conv2d(F.conv2d(x.relu(), block.first.weight, block.first.bias, padding=1).relu(), block.second.weight, padding=1)
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_vectors_and_pictures():
    images = torch.rand(2, 3, 128, 128)
    z = VectorEncoder(10)(images)
    assert z.shape == (2, 10) and VectorDecoder(10)(z).shape == images.shape
    small = dict(widths=(4, 6), n_blocks=(0, 1), grid=2)  # pictures of 2 · 4 · 2 pixels
    assert VectorEncoder(3, **small)(torch.rand(2, 3, 16, 16)).shape == (2, 3) and VectorDecoder(3, **small)(normal(2, 3)).shape == (2, 3, 16, 16)
    with pytest.raises(BadInputError, match="16 x 16 pixels, not 32 x 16"):
        VectorEncoder(3, **small)(torch.rand(2, 3, 32, 16))


def test_the_picture_loss_has_its_known_values():
    images = torch.rand(2, 3, 8, 8)
    assert picture_loss(images, images) == 0
    assert picture_loss(images + 0.25, images).item() == pytest.approx(0.0625, rel=1e-5)  # an offset has no edges
    stripes = torch.zeros(2, 3, 8, 8)
    stripes[..., ::2] = 1
    nothing = torch.zeros_like(stripes)
    # Half of the pixels are wrong, all horizontal differences, no vertical ones: 1/2 + 1/2 · 1.
    assert picture_loss(stripes, nothing).item() == picture_loss(stripes.mT.contiguous(), nothing).item() == 1.0


def test_numbers_that_are_learnt_and_noise_of_a_seed():
    assert n_parameters(torch.nn.Linear(3, 2)) == 8 and n_parameters(torch.nn.BatchNorm2d(5)) == 10
    noise = normal_like(torch.zeros(40, 50, 50), np.random.default_rng(0))
    assert noise.shape == (40, 50, 50) and noise.dtype == torch.float32
    assert abs(noise.mean()) < 5 / math.sqrt(1e5) and abs(noise.var() - 1) < 5 * math.sqrt(2 / 1e5)
    assert torch.equal(noise, normal_like(noise, np.random.default_rng(0))) and not torch.equal(noise, normal_like(noise, np.random.default_rng(1)))


# --- The model


def test_a_picture_costs_what_its_codes_cost():
    model = VQVAE()
    images = torch.rand(1, 3, 128, 128)
    codes = model.encode(images)
    assert model.bits() == codes.numel() * 9 == 9216 and model.bits(64) == 2304
    assert VQVAE(**SMALL).bits() == 8 * 8 * 4
    assert model.decode(codes).shape == images.shape


def test_codes_to_pictures_and_back_to_disk(tmp_path):
    torch.manual_seed(0)
    model = VQVAE(**SMALL, ema_decay=0.9).eval()
    with torch.no_grad():
        model.decoder.layers[-2].bias[:] = torch.linspace(-4, 4, 192)  # some pixels overshoot on either side
    images = torch.rand(2, 3, 32, 32)
    codes = model.encode(images)
    out = model.decode(codes)
    assert codes.shape == (2, 2, 2) and out.shape == images.shape and (out.min(), out.max()) == (0, 1)
    model.save_pretrained(tmp_path)
    again = VQVAE.from_pretrained(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys() >= {"quantizer.codebook", "quantizer.counts", "quantizer.sums"}
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert torch.equal(again.encode(images), codes) and torch.equal(again.decode(codes), out)
    assert again.quantizer.ema_decay == 0.9 and {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    with pytest.raises(BadInputError, match="multiples of 16"):
        model.encode(torch.rand(1, 3, 40, 40))
    with pytest.raises(BadInputError, match="numbered 0 to 15"):
        model.decode(codes + 16)


# --- Training


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return ImagePool(tmp_path_factory.mktemp("pool"), "backbones", 16)


def train(pool, folder, n_steps=12, ema_decay=0.9, **options):
    config = LoopConfig(n_steps=n_steps, lr=4e-3, n_warmup=4, ema_decay=0.8, checkpoint_every=4)
    return train_vqvae(pool, folder, config, batch_size=8, ema_decay=ema_decay, **SMALL, **options)


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_an_interrupted_training_ends_with_the_same_weights(pool, tmp_path, ema_decay):
    whole, record = train(pool, tmp_path / "whole", ema_decay=ema_decay)
    with interrupted_at(7, module, "picture_loss"):
        train(pool, tmp_path / "parts", ema_decay=ema_decay)
    assert (tmp_path / "parts" / "step-0000004.safetensors").exists()
    torch.manual_seed(99)  # what others drew in the meantime does not matter
    resumed, again = train(pool, tmp_path / "parts", ema_decay=ema_decay)
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())
    assert again["log"] == record["log"] and not resumed.training
    other, _ = train_vqvae(pool, tmp_path / "other", LoopConfig(n_steps=2, lr=4e-3, seed=1), batch_size=8, **SMALL)
    assert not torch.equal(other.encoder.layers[1].weight, whole.encoder.layers[1].weight)


def test_the_loss_falls_and_several_codes_are_used(pool, tmp_path):
    images = pool.images(np.arange(16))
    model, record = train(pool, tmp_path, n_steps=60)
    start, _ = train(pool, tmp_path / "start", n_steps=1)
    mse = [F.mse_loss(m.decode(m.encode(images)), images).item() for m in (start, model)]
    assert record["log"][-1]["step"] == 59 and record["log"][-1]["perplexity"] > 3
    assert mse[1] < 0.6 * mse[0] and len(model.encode(images).unique()) > 3
    colours = images.mean((2, 3), keepdim=True).expand_as(images)
    assert mse[1] < 0.8 * F.mse_loss(colours, images)  # of the best that a decoder does that knows a picture's mean colour only


def test_it_learns_crops_then_whole_pictures(pool, tmp_path, monkeypatch):
    real, seen = module.picture_loss, []

    def spy(out, images):
        seen.append(images.clone())
        return real(out, images)

    monkeypatch.setattr(module, "picture_loss", spy)
    train(pool, tmp_path, n_steps=20)
    assert [tuple(images.shape) for images in seen] == [(8, 3, 64, 64)] * 18 + [(2, 3, 128, 128)] * 2
    pictures = pool.images(np.arange(16))
    assert all((pictures == picture).all((1, 2, 3)).any() for picture in seen[-1])
    places = set()
    for crop in seen[0]:
        windows = pictures.unfold(2, 64, 4).unfold(3, 64, 4)[..., ::21, ::21]  # 4 x 4 pixels of every crop find the place
        found = (windows == crop[:, None, None, ::21, ::21]).all(dim=(1, 4, 5)).nonzero().tolist()
        hits = [(y, x) for n, y, x in found if torch.equal(pictures[n, :, 4 * y : 4 * y + 64, 4 * x : 4 * x + 64], crop)]
        assert hits
        places.add(hits[0])
    assert len(places) > 4 and any(y != x for y, x in places)


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_the_loss_is_the_sum_of_its_terms(pool, tmp_path, monkeypatch, ema_decay):
    """picture + 0.05 · (codebook + β commitment), on two first steps that differ in β alone; codes that follow by EMA need no term of their own."""
    real, pictures = module.picture_loss, []
    monkeypatch.setattr(module, "picture_loss", lambda out, images: pictures.append(real(out, images)) or pictures[-1])
    for beta in (0, 100):
        row = train(pool, tmp_path / str(beta), n_steps=1, ema_decay=ema_decay, commitment_weight=beta)[1]["log"][0]
        codebook = row["commitment"] if ema_decay is None else 0
        assert row["loss"] == pytest.approx(pictures[-1].item() + 0.05 * (codebook + beta * row["commitment"]), abs=5e-5)
        assert row["commitment"] > 0.005  # so that each term is seen
    assert pictures[0] == pictures[1]


def test_a_batch_larger_than_the_pool_is_refused(pool, tmp_path):
    for batch_size in (0, 17):
        with pytest.raises(BadInputError, match="between 1 and 16"):
            train_vqvae(pool, tmp_path, LoopConfig(n_steps=2, lr=1e-3), batch_size=batch_size, **SMALL)
