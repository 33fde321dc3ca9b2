"""The model with two noise levels on other splits: trained, drawn, kept, and found again only by the VAE that it was made for."""

import numpy as np
import pytest
from interruption import interrupted_at

from sketchae.backbones import load_vae
from sketchae.basis import OrthogonalBasis
from sketchae.diffusion import other_splits, report
from sketchae.diffusion.arms import Sizes
from sketchae.diffusion.other_splits import SPLITS, find_splits, study_split
from sketchae.diffusion.storage import load_diffusion
from sketchae.diffusion.studies import load_studies
from sketchae.diffusion.studio import Studio
from sketchae.errors import BadInputError
from sketchae.scenes import FACTORS

TINY = Sizes(n_steps=2, n_prompts=2, n_samples=2, n_few=2, n_real=2)
BUDGET = {"n_steps": 1, "n_scenes": 8, "batch_size": 4, "widths": (32, 32)}


def study(name, folder, **more):
    return study_split(name, folder / "work", folder / "out", TINY, progress=False, pool=folder / "pool", **BUDGET, **more)


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_is_trained_on_its_own_latents_drawn_and_found(name, tmp_path):
    (tmp_path / "out").mkdir()
    with interrupted_at(2, Studio, "_draw"):
        study(name, tmp_path)
    assert not list((tmp_path / "out").iterdir())
    found = study(name, tmp_path)
    model = load_diffusion(tmp_path / "work" / name)
    basis = OrthogonalBasis.load("embedded" if name == "plain_q" else tmp_path / "work" / "random_basis")
    assert np.allclose(model.basis.Q, basis.Q) and model.vae_id == load_vae(SPLITS[name].vae).id
    assert model.levels == "two" and found.about["n_train_steps"] == 1 and set(found.numbers) == {"joint", "ahead", "sequential"}
    assert all(found.readings[arm]["b"].shape == (4, len(FACTORS)) for arm in found.numbers) and "b preview" in found.readings["sequential"]
    assert {"mean", "semantic_ci95", "judge_a"} <= report.sample_row(found, "joint").keys()
    assert abs(report.gain(found, "ahead", "ahead").mean) < 1e-9
    assert find_splits(tmp_path / "out") == {}  # of another size than what ships
    assert list(find_splits(tmp_path / "out", TINY)) == [name]


def test_an_unknown_split_is_refused_by_name(tmp_path):
    with pytest.raises(BadInputError, match="no split 'haar'; choose from plain_q, random"):
        study("haar", tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_ships_was_made_for_what_ships():
    found = find_splits()
    assert list(found) == list(SPLITS)
    for studies in found.values():
        assert studies.about["guidance"] == load_studies().numbers["guidance"]["chosen"]
        assert studies.about["n_train_steps"] == other_splits.N_STEPS and len(studies.read("joint")["terrain"]) == 400
