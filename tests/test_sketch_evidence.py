"""What 06_sketch_autoencoder measures, on a few pictures."""

import json
import shutil

import numpy as np
import pytest
import torch

from sketchae import sketch_evidence
from sketchae.backbones import ASSETS, load_vae
from sketchae.backbones.adapter import LatentAdapter
from sketchae.basis import random_basis
from sketchae.errors import BadInputError, MissingFileError
from sketchae.profiles import load_profile
from sketchae.scenes import render, split_scenes


@pytest.fixture(scope="module")
def scenes():
    return split_scenes("val", 24)


@pytest.fixture(scope="module")
def scored(scenes):
    codecs = sketch_evidence.load_codecs(ASSETS)
    perfect = sketch_evidence.truths(scenes)
    benches = {name: sketch_evidence.pair_bench(codec.vae, scenes, perfect, 20) for name, codec in codecs.items() if codec.splits}
    scores = {label: benches[name].score(split) for name, bench in benches.items() for label, split in codecs[name].splits.items()}
    ceilings = {label: benches[name].ceiling for name in benches for label in codecs[name].splits}
    return codecs, perfect, scores, ceilings


def test_every_split_is_scored_under_the_ceiling_of_its_own_vae(scored):
    codecs, _, scores, ceilings = scored
    assert set(scores) == {*codecs["stock"].splits, sketch_evidence.SKETCH, sketch_evidence.STRICT} and not codecs["twin"].splits
    assert scores[sketch_evidence.SKETCH]["score"] > scores[sketch_evidence.AUGMENTATION]["score"] + 0.1
    text = sketch_evidence.table(scores, ceilings)
    assert all(label in text for label in scores)
    assert ceilings[sketch_evidence.ADAPTER] == ceilings[sketch_evidence.AUGMENTATION] != ceilings[sketch_evidence.SKETCH]


def test_values_are_plain_and_shares_are_of_the_ceiling(scored, scenes):
    codecs, _, scores, ceilings = scored
    images = render(scenes[:4]).images
    blocks = {label: sketch_evidence.block_statistics(codecs["stock"].vae, split, images) for label, split in codecs["stock"].splits.items()}
    values = sketch_evidence.values(scores, ceilings, blocks)
    share = values["sketch_autoencoder.share_of_ceiling"]
    assert share == pytest.approx(values["sketch_autoencoder.score"] / values["sketch_autoencoder.ceiling"])
    assert len(values["augmentation_eigenproblem.std"]) == 4
    assert not any(isinstance(value, float) and np.isnan(value) for value in values.values())


def test_pictures_of_every_split_stand_between_their_sources_and_the_truth(scored, scenes):
    codecs, perfect, _, _ = scored
    images = render(scenes[:4]).images
    shown = sketch_evidence.swap_rows(codecs, images[::2], images[1::2], perfect[:2])
    assert len(shown.rows) == len(shown.labels) == 2 + 5 + 1
    assert torch.equal(shown.rows[-1], perfect[:2])
    assert all(row.shape == (2, 3, 128, 128) for row in shown.rows)


def test_the_first_truth_has_the_content_of_scene_0_and_the_style_of_scene_1(scenes):
    same = sketch_evidence.truths(scenes[np.array([0, 0, 1, 1])])
    assert (same - render(scenes[:2]).images).abs().max() < 1e-5


def test_reconstruction_is_measured_with_an_interval(scenes):
    found = sketch_evidence.reconstruction(load_vae(), render(scenes[:8]).images)
    assert 20 < found.psnr_db_ci95[0] < found.psnr_db < found.psnr_db_ci95[1] < 40


def test_blocks_are_read_on_scenes_that_the_probe_has_not_seen(monkeypatch, tmp_path):
    monkeypatch.setenv("SKETCHAE_ROOT", str(tmp_path))
    profile = load_profile("smoke", n_sketch_pairs=6)
    read = sketch_evidence.read_blocks({"random": (load_vae(), random_basis(4, 2, 0))}, profile)["random"]
    assert read.n_train == read.n_test == 24 and read.score.shape[1] == 4


def test_a_missing_network_and_a_foreign_basis_are_told(tmp_path):
    LatentAdapter(random_basis(4, 2, 0), 2, 8).save(tmp_path / "sketch_adapter")
    with pytest.raises(MissingFileError):
        sketch_evidence.load_codecs(tmp_path)
    for name in ("sketch", "sketch_twin", "sketch_strict"):
        shutil.copytree(ASSETS / "sketch", tmp_path / name)
    assert sketch_evidence.load_codecs(tmp_path)["strict"].splits
    for name in ("sketch_strict", "sketch"):
        file = tmp_path / name / "basis" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"vae_id": "0" * 16}))
        with pytest.raises(BadInputError):
            sketch_evidence.load_codecs(tmp_path)
