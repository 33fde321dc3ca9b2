"""Splits judged beside their rivals, and the pictures that are edited."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import picture_array

from sketchae.basis import random_basis
from sketchae.data import picture_pairs, read_picture
from sketchae.errors import BadInputError, MissingFileError
from sketchae.latents import open_latents
from sketchae.metrics.comparison import OWN, RECIPE, compare_splits
from sketchae.preprocess import preprocess_profile
from sketchae.profiles import load_profile


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The smoke profile's world, smaller still, with its latents."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SKETCHAE_ROOT", str(tmp_path_factory.mktemp("root")))
    profile = load_profile("smoke", n_train=8, n_val=4, n_test=16, n_pairs=12, n_random_bases=3, n_boot=20)
    preprocess_profile(profile, progress=False)
    yield profile
    patch.undo()


def test_rivals_are_judged_like_the_recipe(small):
    from sketchae.backbones import load_vae

    bases = {seed: random_basis(4, 2, seed) for seed in (5, 6, 7)}
    comparison = compare_splits(small, load_vae("embedded"), bases, open_latents(small.latents_dir, "test"))
    scores = [s["score"] for s in comparison.seeds.values()]
    assert comparison.recipe["score"] == np.median(scores)  # never the best
    assert len(comparison.pairs) == 6 and len(comparison.null) == 3 and next(iter(comparison.table)) == RECIPE
    a, b = comparison.trivial["a unchanged"], comparison.trivial["b unchanged"]
    assert a["semantic"] > 0.4 > -0.4 > a["style"] and b["style"] > 0.4 > -0.4 > b["semantic"]
    assert 1 / 4 <= comparison.p_value <= 1
    values = comparison.values()
    assert values["recipe.score"] == comparison.recipe["score"] and values["n_random_bases"] == 3
    assert "ceiling" in str(comparison)


def test_a_vaes_own_basis_is_judged_beside_the_recipe(small):
    from sketchae.backbones import load_vae

    own, trained = random_basis(4, 2, 1), random_basis(4, 2, 5)
    comparison = compare_splits(small, load_vae("embedded"), {5: trained, 1: own}, open_latents(small.latents_dir, "test"), own)
    assert list(comparison.table)[:2] == [RECIPE, OWN] and OWN in str(comparison)
    assert comparison.own == comparison.seeds[1]
    assert comparison.values()["own.score"] == comparison.own["score"]


def test_photographs_have_no_factors(small):
    test = open_latents(small.latents_dir, "test")
    assert compare_splits(load_profile("coco"), None, {}, test) is None
    with pytest.raises(BadInputError, match="no basis"):
        compare_splits(small, None, {}, test)


def test_pairs_come_from_files_and_then_from_the_test_split(small, tmp_path):
    for name, mode in (("a.png", "L"), ("b.png", "RGBA")):
        Image.fromarray(picture_array(90, 60)).convert(mode).save(tmp_path / name)
    pairs = picture_pairs(small, str(tmp_path / "a.png"), str(tmp_path / "b.png"), n_pairs=3)
    assert pairs.originals.shape == pairs.targets.shape == (3, 3, 128, 128)
    assert torch.equal(pairs.originals[0], read_picture(tmp_path / "a.png", 128))
    assert torch.equal(picture_pairs(small, n_pairs=2).originals, pairs.originals[1:])
    with pytest.raises(BadInputError, match="both"):
        picture_pairs(small, str(tmp_path / "a.png"))
    with pytest.raises(MissingFileError, match=r"c\.png"):
        picture_pairs(small, str(tmp_path / "a.png"), str(tmp_path / "c.png"))
