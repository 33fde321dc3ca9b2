"""The stacked, channels-last, kernel-composing embedders against the same network written plainly."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.plain_split import PlainSplit
from sketchae.embedders import ImageEmbedders, patches
from sketchae.errors import BadInputError
from sketchae.training import SplitModel, TrainConfig


def inputs(shape, embed_dim, n_seeds=1, batch=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n_seeds, batch, *shape, generator=generator, dtype=dtype)
    clip_img, clip_txt = F.normalize(
        torch.randn(2, n_seeds, batch, embed_dim, generator=generator, dtype=dtype), dim=-1
    )
    return z, clip_img, clip_txt


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 2)])
def test_patches_make_a_strided_convolution_and_its_gradient(size):
    x = torch.randn(2, 3, *size, 4, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    expected = F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), kernel, stride=2, padding=1)
    got = patches(x) @ kernel.permute(2, 3, 1, 0).flatten(0, 2)
    assert torch.allclose(got.flatten(0, 1).permute(0, 3, 1, 2), expected)
    direction = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad(expected, x, direction, retain_graph=True)
    (gradient,) = torch.autograd.grad(got, x, direction.permute(0, 2, 3, 1).unflatten(0, (2, 3)))
    assert torch.allclose(gradient, wanted)


@pytest.mark.parametrize(
    ("shape", "n_semantic", "n_blocks"), [((4, 16, 16), 2, 3), ((4, 9, 13), 1, 3), ((6, 8, 8), 5, 2), ((2, 2, 3), 1, 1)]
)
def test_the_stack_computes_what_the_plain_network_computes(shape, n_semantic, n_blocks):
    config = TrainConfig(n_semantic=n_semantic, n_blocks=n_blocks)
    model = SplitModel(shape, 10, config, seeds=[3, 5]).double()
    with torch.no_grad():  # layer norms start at 1 and 0, where a mistake could hide
        for parameter in model.embedders.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    z, clip_img, clip_txt = inputs(shape, 10, n_seeds=2)
    terms = model(z, clip_img, clip_txt)
    terms.sum().backward()
    for seed in range(2):
        plain = PlainSplit(shape, 10, n_semantic, n_blocks).double()
        plain.copy_from(model, seed)
        expected = plain(z[seed], clip_img[seed], clip_txt[seed])
        assert torch.allclose(terms[seed].double(), expected, rtol=1e-5)  # the loss is taken in float32
        expected.sum().backward()
        for own, stacked, shaped in plain.pairs(model, seed):
            assert torch.allclose(shaped(stacked.grad), own.grad, rtol=1e-4, atol=1e-7)


def test_nothing_is_left_out_of_the_comparison():
    model = SplitModel((4, 8, 8), 10, TrainConfig(), seeds=[0])
    plain = PlainSplit((4, 8, 8), 10)
    assert sum(1 for _ in plain.pairs(model)) == sum(1 for _ in plain.parameters())
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in model.parameters())


def test_starts_are_torch_s_defaults_and_belong_to_the_seed():
    torch.manual_seed(0)
    shape, seeds = (4, 16, 16), range(7, 47)
    together = SplitModel(shape, 64, TrainConfig(), seeds=seeds)
    plains = [PlainSplit(shape, 64) for _ in seeds]
    own = [[p.detach() for p, _, _ in plain.pairs(together, 0)] for plain in plains]
    drawn = [[f(p).detach() for _, p, f in plains[0].pairs(together, i)] for i in range(len(seeds))]
    for theirs, ours in zip(zip(*own), zip(*drawn), strict=True):
        theirs, ours = torch.stack(theirs), torch.stack(ours)
        # 40 draws of each parameter come close to the bound of the same uniform distribution.
        assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.1)
        assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=0.25 * theirs.abs().max().item())
    alone = SplitModel(shape, 64, TrainConfig(), seeds=[8])
    for (_, a, shaped_a), (_, b, shaped_b) in zip(plains[0].pairs(together, 1), plains[0].pairs(alone, 0), strict=True):
        assert torch.equal(shaped_a(a), shaped_b(b))
    assert not torch.equal(together.basis.weight[0], together.basis.weight[1])
    # Far from orthogonal at first: U(-1/2, 1/2) entries have variance 1/12.
    wide = torch.cat([SplitModel((4, 8, 8), 4, TrainConfig(), seeds=range(i, i + 50)).basis.weight for i in (0, 50)])
    assert wide.var().item() == pytest.approx(1 / 12, rel=0.1) and wide.abs().max() <= 0.5


def test_orthogonal_parametrization_stays_orthogonal():
    model = SplitModel((4, 8, 8), 10, TrainConfig(parametrization="orthogonal"), seeds=[0, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = model.basis.weight.detach().clone()
    for _ in range(3):
        terms = model(*inputs((4, 8, 8), 10, n_seeds=2, dtype=torch.float32))
        terms.sum().backward()
        optimizer.step()
    weight = model.basis.weight.detach()
    assert (weight - before).abs().max() > 0.01
    assert torch.allclose(weight.mT @ weight, torch.eye(4).expand(2, 4, 4), atol=1e-5)


def test_options_of_the_loss_reach_it():
    z, clip_img, clip_txt = inputs((4, 8, 8), 10, dtype=torch.float32)
    model = SplitModel((4, 8, 8), 10, TrainConfig(loss="l1", orthogonality_reduction="sum"), seeds=[0])
    with torch.no_grad():
        terms, guess, weight = model(z, clip_img, clip_txt)[0], model.embed(z)[0], model.basis.weight[0]
    assert terms[0].item() == pytest.approx((weight.T @ weight - torch.eye(4)).square().sum().item(), rel=1e-5)
    assert terms[1].item() == pytest.approx(F.l1_loss(guess[0], clip_txt[0]).item(), rel=1e-5)
    assert terms[2].item() == pytest.approx(F.l1_loss(guess[1], clip_img[0] - clip_txt[0]).item(), rel=1e-5)


def test_latents_too_small_and_blocks_left_empty():
    generators = [torch.Generator()]
    with pytest.raises(BadInputError, match="4x16 cannot be halved n_blocks=3 times"):
        ImageEmbedders(10, (4, 16), generators)
    with pytest.raises(BadInputError, match="at least 1"):
        ImageEmbedders(10, (16, 16), generators, n_blocks=0)
    for k in (4, 7):
        with pytest.raises(BadInputError, match="choose 1 to 3"):
            SplitModel((4, 16, 16), 10, TrainConfig(n_semantic=k), seeds=[0])
