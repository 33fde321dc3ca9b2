"""The stored searches on other codecs: what their rows are, when they are refused, and that those that ship fit what ships."""

import numpy as np
import pytest
import torch

from sketchae import ablation_data, load_clip, load_vae, other_codecs, sweeps

FITTED = ["eigenproblem", "effect objective", "labels, random walk", "labels, gradient"]
FROM_RANDOM = ["labels, random walk, from the best random", "labels, gradient, from the best random"]


@pytest.fixture(scope="module")
def clip():
    torch.set_num_threads(1)
    return load_clip("embedded")


@pytest.fixture
def small(monkeypatch):
    for name, value in {"N_STEPS": 1, "N_GRADIENT_STEPS": 1, "N_PAIRS_OPTIMUM": 8}.items():
        monkeypatch.setattr(sweeps, name, value)
    for name, value in {"WIDE_CHANNELS": 6, "N_WIDE_RANDOM": 2, "N_SECOND_RANDOM": 3, "N_PICTURES": 8}.items():
        monkeypatch.setattr(other_codecs, name, value)


def test_the_same_searches_split_many_channels(small, clip, tmp_path):
    found = other_codecs.sweep_wide(clip, tmp_path / "wide.json", progress=False)
    assert [row["split"] for row in found["rows"]] == ["random 0", "random 1", *FITTED]
    assert other_codecs.find_wide(clip, tmp_path)["rows"] == found["rows"]


def test_a_second_vae_is_searched_from_its_best_random_split_too(small, clip, tmp_path, monkeypatch):
    vae = load_vae("embedded")
    starts = []
    climb = other_codecs.climb
    monkeypatch.setattr(other_codecs, "climb", lambda codec, bench, start, *rest: starts.append(start) or climb(codec, bench, start, *rest))
    found = other_codecs.sweep_second(vae, clip, tmp_path / "second.json", progress=False)
    assert [row["split"] for row in found["rows"]] == [*(f"random {seed}" for seed in range(3)), *FITTED, *FROM_RANDOM]
    best = int(np.argmax([row["judge_a"] for row in found["rows"][:3]]))
    assert torch.equal(starts[1].Q, other_codecs.random_basis(4, 2, best).Q) and not torch.equal(starts[0].Q, starts[1].Q)
    assert found["about"]["vae_id"] == vae.id and other_codecs.find_second(clip, tmp_path)["rows"] == found["rows"]
    monkeypatch.setattr(other_codecs, "_rows", None)  # stored: nothing is searched again
    assert other_codecs.sweep_second(vae, clip, tmp_path / "second.json", progress=False)["rows"] == found["rows"]
    monkeypatch.setattr(ablation_data, "SECOND", {**ablation_data.SECOND, "seed": 2})
    assert other_codecs.find_second(clip, tmp_path) is None and other_codecs.find_second(clip, tmp_path / "nowhere") is None


def test_what_ships_was_made_for_what_ships(clip):
    for found in (other_codecs.find_wide(clip), other_codecs.find_second(clip)):
        assert found is not None
        assert all(row["score"] < row["ceiling"] <= 1 for row in found["rows"])
