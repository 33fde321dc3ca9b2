"""Stored sweeps: made in pieces, resumed, refused for another VAE, and those that ship fit what ships."""

import json

import numpy as np
import pytest
import torch
from interruption import interrupted_at

from sketchae import load_vae, sweeps
from sketchae.basis import random_basis
from sketchae.errors import BadInputError, MissingFileError


@pytest.fixture(scope="module")
def vae():
    torch.set_num_threads(1)
    return load_vae("embedded")


def test_an_interrupted_sweep_goes_on_where_it_was(vae, tmp_path, monkeypatch):
    whole = sweeps.sweep_haar(vae, tmp_path / "whole.json", 3, n_pairs=4, progress=False)
    monkeypatch.setattr(sweeps, "_SAVE_EVERY", 1)
    with interrupted_at(3, sweeps, "plane_scores"):
        sweeps.sweep_haar(vae, tmp_path / "cut.json", 3, n_pairs=4, progress=False)
    assert len(json.loads((tmp_path / "cut.json").read_text())["rows"]) == 2
    resumed = sweeps.sweep_haar(vae, tmp_path / "cut.json", 3, n_pairs=4, progress=False)
    assert resumed["rows"] == whole["rows"]


def test_exchanging_the_blocks_turns_the_score_round(vae):
    """score of the complement on (a, b) = - score of the plane on (b, a): so chance is 0 over all planes."""
    scenes_a, scenes_b = sweeps.validation_pairs(6)
    judge = sweeps.load_judge("a")
    there = sweeps.SwapBench(vae, judge, scenes_a, scenes_b, n_boot=2)
    back = sweeps.SwapBench(vae, judge, scenes_b, scenes_a, n_boot=2)
    basis = random_basis(4, 2, 5)
    exchanged = random_basis(4, 2, 5)
    exchanged.Q.copy_(basis.Q[[2, 3, 0, 1]])
    assert there.score(exchanged)["score"] == pytest.approx(-back.score(basis)["score"], abs=1e-6)


def test_the_search_climbs_and_says_where_it_ended(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "N_STARTS", 1)
    monkeypatch.setattr(sweeps, "N_STEPS", 2)
    monkeypatch.setattr(sweeps, "N_GRADIENT_STEPS", 1)
    monkeypatch.setattr(sweeps, "N_PAIRS_OPTIMUM", 4)
    haar = sweeps.sweep_haar(vae, tmp_path / "haar.json", 2, n_pairs=4, progress=False)
    found = sweeps.sweep_optimum(vae, tmp_path / "optimum.json", haar, progress=False)
    start = int(np.argmax(haar["columns"]["judge_a"]))
    assert {(row["start"], row["how"]) for row in found["rows"]} == {(start, "random walk"), (start, "gradient")}
    bench = sweeps.validation_bench(vae, 4, sweeps.SEARCHED)
    walked = next(row for row in found["rows"] if row["how"] == "random walk")
    assert walked["judge_a"] >= sweeps.plane_scores(bench, random_basis(4, 2, start))["judge_a"] - 1e-6
    assert found["rows"][0]["judge_a"] == max(row["judge_a"] for row in found["rows"])
    basis = sweeps.optimum_basis(vae, tmp_path)
    assert np.allclose(basis.Q, found["rows"][0]["Q"], atol=1e-5)


def test_a_sweep_of_another_vae_is_refused(vae, tmp_path):
    stored = sweeps.sweep_haar(vae, tmp_path / "haar.json", 1, n_pairs=4, progress=False)
    with pytest.raises(BadInputError, match="another vae_id"):
        sweeps.load_sweep(tmp_path / "haar.json", {**stored["about"], "vae_id": "other"})
    with pytest.raises(MissingFileError, match="sketchae.sweeps"):
        sweeps.load_sweep(tmp_path / "nothing.json", {})
    assert sweeps.find_haar(vae, tmp_path) is None  # another number of pairs
    assert sweeps.find_haar(vae, tmp_path / "nowhere") is None


def test_the_search_looks_at_scenes_of_its_own():
    searched = sweeps.validation_pairs(4, sweeps.SEARCHED)[0]
    jitters = {int(seed) for part in sweeps.validation_pairs(sweeps.SEARCHED // 2) for seed in part.content_jitter_seed}
    assert len(jitters) == sweeps.SEARCHED and not jitters & {int(seed) for seed in searched.content_jitter_seed}


def test_what_ships_was_made_for_what_ships(vae):
    haar = sweeps.find_haar(vae)
    assert haar is not None and len(haar["rows"]) == sweeps.N_PLANES
    bench = sweeps.validation_bench(vae, sweeps.N_PAIRS)
    again = sweeps.plane_scores(bench, random_basis(4, 2, 123))
    stored = haar["rows"][123]
    assert again["score"] == pytest.approx(stored["score"], abs=0.03)  # a machine's rounding may turn a reading or two
    assert again["counterfactual_mse"] == pytest.approx(stored["counterfactual_mse"], abs=0.02)
    assert sweeps.optimum_basis(vae).orthogonality_error < 1e-5
