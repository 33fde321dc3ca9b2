"""The sketch autoencoder: its parts, its training for a few steps, and the adapter for a VAE that stays as it is."""

import json

import numpy as np
import pytest
import torch
from interruption import interrupted_at

from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool
from sketchae.backbone_training.restyle import restyle
from sketchae.backbone_training.ship import BackboneBudget, train_backbones
from sketchae.backbone_training.sketch import (
    RECONSTRUCTION_ONLY,
    ClipEffect,
    SketchVAE,
    SketchWeights,
    deepened,
    rolled,
    sketch_targets,
    train_sketch,
)
from sketchae.backbones import load_clip, load_vae, own_basis
from sketchae.backbones.adapter import LatentAdapter
from sketchae.basis import OrthogonalBasis, plane_angle, random_basis
from sketchae.edits import Split, swap
from sketchae.errors import BadInputError, MissingFileError
from sketchae.scenes import render, split_scenes
from sketchae.training.effect import Rotated


@pytest.fixture(scope="module")
def images():
    return render(split_scenes("val", 6)).images


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return ImagePool(tmp_path_factory.mktemp("pool"), "backbones", 8)


def stirred(start: OrthogonalBasis, **options) -> LatentAdapter:
    """An adapter that is far from the identity."""
    torch.manual_seed(0)
    adapter = LatentAdapter(start, **options)
    for layer in adapter.layers:
        torch.nn.init.normal_(layer[-1].weight, std=0.2)
    return adapter.requires_grad_(False)


# --- restyling and rolling ---


def test_restyled_pictures_stay_pictures_and_depend_on_the_generator_alone(images):
    changed = restyle(images, np.random.default_rng(1))
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(changed, restyle(images, np.random.default_rng(1)))
    assert not torch.equal(changed, restyle(images, np.random.default_rng(2)))


def test_restyling_changes_colours_more_than_places(images):
    """Along edges of the original the restyled picture has edges too; its colours tell little of the original's."""
    changed = torch.cat([restyle(images, np.random.default_rng(seed)) for seed in range(4)])
    original = images.repeat(4, 1, 1, 1)

    def edges(pictures):
        small = torch.nn.functional.avg_pool2d(pictures, 4)
        return small.diff(dim=-2).abs().sum(1).flatten(1)

    def correlation(a, b):
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return ((a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)).mean()

    same, other = correlation(edges(original), edges(changed)), correlation(edges(original), edges(changed.roll(1, 0)))
    assert same > other + 0.2
    colour = (original.mean((2, 3)) - changed.mean((2, 3))).abs().mean()
    assert colour > 0.1


def test_rolling_moves_places_and_keeps_values():
    style = torch.randn(40, 2, 4, 6)
    moved = rolled(style, np.random.default_rng(0))
    assert torch.allclose(moved.flatten(2).sort(-1).values, style.flatten(2).sort(-1).values)
    kept = (moved == style).flatten(1).all(1).float().mean()
    assert 0.15 < kept < 0.5  # three in ten


# --- the network ---


def test_a_deepened_vae_computes_the_same(images):
    vae = load_vae().vae
    deep = deepened(vae, 1, 2)
    assert sum(p.numel() for p in deep.parameters()) > sum(p.numel() for p in vae.parameters())
    with torch.no_grad():
        z = vae.encode(images[:2] * 2 - 1).latents
        assert torch.allclose(deep.encode(images[:2] * 2 - 1).latents, z, atol=1e-5)
        assert torch.allclose(deep.decode(z).sample, vae.decode(z).sample, atol=1e-5)


@pytest.mark.parametrize(("channels", "k", "n_layers"), [(4, 2, 6), (5, 2, 4), (4, 1, 0)])
def test_the_adapter_is_invertible_and_starts_as_q_alone(channels, k, n_layers):
    basis, z = random_basis(channels, k, 0), torch.randn(3, channels, 8, 8)
    fresh = LatentAdapter(basis, n_layers, 8)
    assert isinstance(fresh, Split)
    for mine, plain in zip(fresh.to_semantic_style(z), basis.to_semantic_style(z), strict=True):
        assert torch.allclose(mine, plain, atol=1e-5)
    bent = stirred(basis, n_layers=n_layers, width=8)
    semantic, style = bent.to_semantic_style(z)
    assert semantic.shape[1] == k and style.shape[1] == channels - k
    assert torch.allclose(bent.from_semantic_style(semantic, style), z, atol=1e-4)
    if n_layers:
        assert not torch.allclose(torch.cat([semantic, style], 1), basis.encode(z), atol=1e-2)
    assert torch.allclose(swap(bent, z, z), z, atol=1e-4)


def test_an_adapter_is_saved_and_loaded(tmp_path):
    bent, z = stirred(random_basis(4, 2, 1), n_layers=2, width=8), torch.randn(1, 4, 8, 8)
    again = LatentAdapter.load(bent.save(tmp_path / "adapter"))
    assert torch.equal(again.to_semantic_style(z)[0], bent.to_semantic_style(z)[0])
    with pytest.raises(MissingFileError, match="config.json"):
        LatentAdapter.load(tmp_path)
    (tmp_path / "adapter" / "adapter.safetensors").write_bytes(b"half")
    with pytest.raises(BadInputError, match="save it again"):
        LatentAdapter.load(tmp_path / "adapter")
    for n_layers in (-2, 3):
        with pytest.raises(BadInputError, match="even number"):
            LatentAdapter(random_basis(4, 2, 1), n_layers)


# --- training ---


@pytest.mark.parametrize("kind", ["sketch", "adapter", "twin"])
def test_training_changes_what_it_should_and_resumes(kind, pool, tmp_path):
    clip, codec = load_clip(), load_vae()
    effect = None if kind == "twin" else ClipEffect(clip, sketch_targets(pool, clip, 8))
    weights = RECONSTRUCTION_ONLY if kind == "twin" else SketchWeights()

    def run(out):
        torch.manual_seed(0)
        start = random_basis(4, 2, 0)
        model = SketchVAE(load_vae().vae, LatentAdapter(start, 2, 8) if kind == "adapter" else Rotated(start))
        config = LoopConfig(n_steps=3, lr=1e-3, n_warmup=1, checkpoint_every=1)
        return model, train_sketch(model, pool, 8, out, config, weights, effect=effect, batch_size=4)

    whole, record = run(tmp_path / "whole")
    with interrupted_at(3, pool, "images"):
        run(tmp_path / "parts")
    resumed, _ = run(tmp_path / "parts")
    for key, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[key], atol=1e-6), key
    terms = {"step", "loss", "prior", "reconstruction"} | (set() if kind == "twin" else {"restyled", "cycle", "effect"})
    assert set(record["log"][-1]) == terms
    changed = not torch.equal(whole.vae.encoder.layers[0].weight, codec.vae.encoder.layers[0].weight)
    assert changed == (kind != "adapter")  # that VAE must not change
    if kind == "sketch":
        assert whole.split.A.abs().max() > 0 and whole.split.basis().orthogonality_error < 1e-5


def test_a_weighed_effect_must_know_every_picture(pool, tmp_path):
    model = SketchVAE(load_vae().vae, Rotated(random_basis(4, 2, 0)))
    clip = load_clip()
    for effect in (None, ClipEffect(clip, sketch_targets(pool, clip, 4))):
        with pytest.raises(BadInputError, match="all 8 pictures"):
            train_sketch(model, pool, 8, tmp_path, LoopConfig(n_steps=1, lr=1e-3), effect=effect)


def test_what_ships_is_made_by_name_and_loads_with_its_own_basis(tmp_path):
    budget = BackboneBudget(sketch_steps=1, sketch_strict_steps=1, n_sketch_scenes=8, n_backbone_scenes=8)
    train_backbones(tmp_path, budget, only=("sketch", "sketch_adapter", "sketch_strict"))
    basis, codec = own_basis(tmp_path / "sketch"), load_vae(tmp_path / "sketch")
    basis.check_vae(codec)
    assert basis.n_semantic == 2 and own_basis("embedded") is None
    assert LatentAdapter.load(tmp_path / "sketch_adapter").channels == 4
    strict, its_basis = load_vae(tmp_path / "sketch_strict"), own_basis(tmp_path / "sketch_strict")
    its_basis.check_vae(strict)
    assert "_name_or_path" not in json.loads((tmp_path / "sketch_strict" / "config.json").read_text())
    assert strict.id != codec.id and plane_angle(its_basis.Q, basis.Q, 2).max() < 5  # it starts at the one that was finished before
    assert plane_angle(its_basis.Q, own_basis("sketch").Q, 2).max() > 5
    with pytest.raises(BadInputError, match="sketch_adapter"):
        train_backbones(tmp_path, budget, only=("sketches",))
