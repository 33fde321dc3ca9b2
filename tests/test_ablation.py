"""The ablation: every kind of choice runs on a few scenes, resumes, and what ships belongs to what ships."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sketchae import ablation, load_clip, load_profile, load_vae
from sketchae.ablation import CHOICES, Ablation
from sketchae.ablation_data import Data
from sketchae.errors import BadInputError
from sketchae.preprocess import preprocess_profile
from sketchae.scenes.judges import ASSETS

SMALL = {"n_train": 24, "n_val": 8, "n_test": 4, "shard_size": 16, "n_steps": 3, "batch_size": 8, "val_every": 3, "n_effect_steps": 1, "n_pairs": 12}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A profile of a few preprocessed scenes, in a root of its own, whose second backbones are copies of the first."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("ablation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKETCHAE_ROOT", str(root))
        patch.setattr(Data, "second", ASSETS)
        profile = load_profile("smoke", **SMALL)
        preprocess_profile(profile, progress=False)
        yield profile, root / "work"


def test_every_kind_of_choice_runs_and_an_interrupted_sweep_goes_on(world, monkeypatch):
    profile, work = world
    wanted = ("the recipe", "polar factor, not QR", "exactly orthogonal W, learning rate 1e-3", "first half of the pictures")
    wanted += ("style words in captions", "eigenproblem, dependent factors", "effect objective", "another CLIP", "eigenproblem, another VAE")
    choices = [replace(c, n_seeds=2) for c in CHOICES if c.name in wanted]
    assert len(choices) == len(wanted)
    monkeypatch.setattr(ablation, "CHOICES", choices)
    file = work / "ablation.json"
    ablation.sweep_ablation(profile, file, work, choices[1:2], progress=False)
    first = json.loads(file.read_text())["rows"]
    rows = ablation.sweep_ablation(profile, file, work, choices, progress=False)["rows"]
    assert rows[2:4] == first and len(rows) == 2 * len(choices)
    assert [row["choice"] for row in rows[::2]] == [choice.name for choice in choices]  # not in the order in which they were made
    found = Ablation(rows)
    assert set(found.choices) == set(wanted)
    recipe, same = found.column("the recipe", "Q"), found.column("another CLIP", "Q")
    assert found.column("the recipe", "from_recipe_deg") == pytest.approx([0, 0], abs=0.1)
    assert np.allclose(recipe, same, atol=1e-4)  # the second backbones are the first here
    assert found.column("exactly orthogonal W, learning rate 1e-3", "from_penalty_deg").tolist() == [None, None]
    assert found.between("the recipe", "another CLIP") == pytest.approx([0, 0], abs=0.1)
    assert found.factor_correlation("the recipe", "another CLIP") == pytest.approx(1)
    for q in found.column("effect objective", "Q"):
        assert np.allclose(q @ q.T, np.eye(4), atol=1e-4)
    panels = found.panels()
    assert "from_penalty_deg" in panels["the recipe"] and "from_penalty_deg" not in panels["effect objective"]
    table = str(found)
    assert all(name in table for name in wanted) and "nan" not in table


def test_tables_are_what_their_names_say(world):
    profile, work = world
    data = Data(profile, work)
    whole, val = data.tables("as it is")
    first, second = (data.tables(name)[0] for name in ("first half", "second half"))
    assert len(first) == len(second) == 12 and len(val) == 8
    assert torch.equal(second.gather(np.array([0]))[0], whole.gather(np.array([12]))[0])
    assert torch.equal(second.gather_captions(np.array([0]), which=np.array([1])), whole.gather_captions(np.array([12]), which=np.array([1])))
    for name, n in (("a quarter", 6), ("a sixteenth", 1)):
        fewer, _ = data.tables(name)
        assert len(fewer) == n and torch.equal(fewer.gather(np.arange(n))[0], whole.gather(np.arange(n))[0])
    worded, _ = data.tables("style words")
    rows, which = np.arange(24), np.zeros(24, int)
    assert torch.equal(worded.gather(rows)[0], whole.gather(rows)[0])
    assert not torch.allclose(worded.gather_captions(rows, which=which), whole.gather_captions(rows, which=which), atol=0.05)
    dependent, _ = data.tables("dependent")
    assert not torch.equal(dependent.gather(rows)[0], whole.gather(rows)[0])
    with pytest.raises(BadInputError, match="choose one of"):
        data.tables("no such")


def test_what_ships_belongs_to_what_ships():
    found = ablation.find_ablation(load_vae("embedded"), load_clip("embedded"), load_profile("scenes"))
    assert found is not None
    assert found.choices == [choice.name for choice in CHOICES]
    for choice in CHOICES:
        assert len(found.column(choice.name, "score")) == choice.n_seeds
        assert np.isfinite(found.column(choice.name, "score")).all()


def test_another_setting_is_not_taken_for_it(tmp_path: Path):
    vae, clip = load_vae("embedded"), load_clip("embedded")
    assert ablation.find_ablation(vae, clip, load_profile("smoke")) is None
    assert ablation.find_ablation(vae, clip, load_profile("scenes"), tmp_path) is None
