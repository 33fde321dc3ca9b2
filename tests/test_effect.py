"""The effect objective, through a codec and an embedder in which content and style live where we put them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toys import gradient_is_right

from sketchae.basis import OrthogonalBasis, plane_angle, random_basis
from sketchae.errors import BadInputError
from sketchae.training.effect import EffectObjective, Rotated, fit_effect

DIM = 12


class PlantedCodec:
    """Latents are pictures turned by an orthogonal matrix: the first half of the channels of x = Q z shows content."""

    def __init__(self, channels: int = 4, seed: int = 3):
        self.basis = random_basis(channels, channels // 2, seed)

    def decode(self, z):
        return self.basis.encode(z)


class PlantedClip:
    """Embeds the content channels into the first half of the dimensions and the style channels into the other."""

    def __init__(self, channels: int = 4):
        generator = torch.Generator().manual_seed(0)
        self.maps = torch.randn(2, channels // 2, DIM // 2, generator=generator)

    def embed_images(self, images):
        content, style = images.mean(dim=(2, 3)).chunk(2, dim=1)
        return F.normalize(torch.cat([content @ self.maps[0], style @ self.maps[1]], dim=1), dim=-1)


def planted(n: int = 64, channels: int = 4) -> tuple[EffectObjective, PlantedCodec]:
    codec, clip = PlantedCodec(channels), PlantedClip(channels)
    x = torch.randn(n, channels, 1, 1, generator=torch.Generator().manual_seed(1)).expand(-1, -1, 4, 4).contiguous()
    images = clip.embed_images(x)
    texts = torch.cat([images[:, : DIM // 2], torch.zeros(n, DIM // 2)], dim=1)
    return EffectObjective(codec, clip, codec.basis.decode(x), images, texts), codec


def test_what_captions_span_is_projected_out():
    objective, _ = planted()
    assert objective.targets.n_content <= 2  # two content channels
    style = objective.targets.style(torch.eye(DIM))
    assert (style @ objective.targets.content_directions.T).abs().max() < 1e-5
    assert torch.allclose(style.norm(dim=-1), torch.ones(DIM))


def test_the_planted_split_wins_both_halves_and_the_trivial_answers_one_each():
    objective, codec = planted()
    a, b = torch.arange(0, 32), torch.arange(32, 64)
    content, style = objective.value(codec.basis, a, b)
    assert content > 0.6 and style > 0.6

    def trivial(which):
        embeds = objective.clip.embed_images(codec.decode(objective.z[which]))
        return objective.targets.halves(embeds, a, b).mean(0)

    only_a, only_b = trivial(a), trivial(b)
    assert only_a[0] > 0.6 > 0.4 > only_a[1] and only_b[1] > 0.6 > 0.4 > only_b[0]
    assert abs(float(only_a.sum()) - 1) < 0.2 and abs(float(only_b.sum()) - 1) < 0.2
    assert content + style > max(only_a.sum(), only_b.sum())


def test_exchanging_the_blocks_is_exchanging_the_pictures():
    objective, codec = planted()
    a, b = torch.arange(0, 8), torch.arange(8, 16)
    exchanged = OrthogonalBasis.from_matrix(codec.basis.Q[[2, 3, 0, 1]], 2)
    assert torch.allclose(objective(exchanged, a, b), 1 - objective(codec.basis, b, a), atol=1e-5)


def test_rotated_is_orthogonal_and_starts_at_the_start():
    start = random_basis(5, 2, 1)
    turned = Rotated(start)
    assert torch.allclose(turned.Q, start.Q, atol=1e-6)
    torch.nn.init.normal_(turned.A)
    assert torch.allclose(turned.Q @ turned.Q.T, torch.eye(5), atol=1e-5)
    z = torch.randn(2, 5, 3, 3)
    assert torch.allclose(turned.from_semantic_style(*turned.to_semantic_style(z)), z, atol=1e-5)


def test_the_gradient_agrees_with_finite_differences():
    objective, _ = planted(16)
    objective.z, targets = objective.z.double(), objective.targets
    for name in ("texts", "styles", "mean", "content_directions"):
        setattr(targets, name, getattr(targets, name).double())
    objective.clip.maps = objective.clip.maps.double()
    turned = Rotated(random_basis(4, 2, 5)).double()
    a, b = torch.arange(0, 8), torch.arange(8, 16)

    assert gradient_is_right(objective, turned, a, b)


@pytest.mark.parametrize("channels", [4, 8])
def test_it_finds_the_planted_plane_and_keeps_the_best_start(channels):
    objective, codec = planted(channels=channels)
    starts = [random_basis(channels, channels // 2, seed) for seed in (10, 11)]
    n_steps = 150 * channels // 4  # with more channels each angle takes a smaller step
    found = fit_effect(objective, starts, n_steps=n_steps, batch_size=24, progress=False)
    assert found.objective[found.chosen] == max(found.objective) > max(found.before)
    assert plane_angle(found.basis.Q, codec.basis.Q, channels // 2).max() < 20
    assert found.basis.orthogonality_error < 1e-5
    again = fit_effect(objective, starts[:1], n_steps=n_steps, batch_size=24, progress=False)
    assert torch.equal(again.ends[0].Q, found.ends[0].Q)  # one start does not depend on the others


def test_it_chooses_on_no_more_pairs_than_there_are():
    """Of eight pictures two are kept for the choice: two ordered pairs."""
    asked = []

    class Counts:
        z = torch.zeros(8, 4, 1, 1)

        def __call__(self, basis, a, b):
            return basis.Q[:1, :2].expand(len(a), 2)

        def value(self, basis, a, b):
            asked.append(len(a))
            return 0.5, 0.5

    fit_effect(Counts(), [random_basis(4, 2, 0)], n_steps=1, batch_size=2, progress=False)
    assert asked == [2, 2]


def test_bad_input_is_told():
    objective, codec = planted()
    with pytest.raises(BadInputError, match="one of each"):
        EffectObjective(codec, objective.clip, objective.z, objective.targets.texts[:3], objective.targets.texts)
    with pytest.raises(BadInputError, match="start"):
        fit_effect(objective, [])


def test_the_share_of_content_directions_counts():
    objective, codec = planted()
    texts = torch.from_numpy(np.random.default_rng(0).normal(size=(64, DIM))).float()
    images = objective.clip.embed_images(codec.decode(objective.z))
    few = EffectObjective(codec, objective.clip, objective.z, images, texts, content_share=0.2)
    many = EffectObjective(codec, objective.clip, objective.z, images, texts, content_share=0.9)
    assert 1 <= few.targets.n_content < many.targets.n_content <= DIM
