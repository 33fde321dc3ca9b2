"""Training the latent models that ship, a tiny one in a few steps; and what lies in the package."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from interruption import interrupted_at
from safetensors import safe_open
from tiny import mnist_folder

from sketchae.backbone_training import provenance as provenance_module
from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool
from sketchae.errors import BadInputError, MissingFileError
from sketchae.latent_models import ship
from sketchae.latent_models.digits import load_digits_of
from sketchae.latent_models.ship import (
    DIGITS_MODELS,
    Recipe,
    Workshop,
    install_model,
    open_model,
    provenance,
    shipped,
    train_model,
    train_on_digits,
)
from sketchae.latent_models.vqvae import VQVAE, train_vqvae
from sketchae.profiles import load_profile
from sketchae.scenes.judges import ASSETS

SMALL = dict(codebook_size=16, code_dim=4, widths=(8, 8), n_blocks=(0, 1), patch=8)
LOOP = LoopConfig(n_steps=6, lr=4e-3, n_warmup=2, ema_decay=0.8, checkpoint_every=4)
EMBEDDED = sorted(path for path in (ASSETS / "latent_models").glob("*") if path.is_dir())
KEYS = {"model", "about", "made_by", "trained_on", "scenes_version", "n_parameters", "duration_s", "n_threads", "torch", "loop", "last_losses"}
KEYS |= {"licence"}


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """A folder with 12 drawn scenes."""
    folder = tmp_path_factory.mktemp("pool")
    ImagePool(folder, "backbones", 12)
    return folder


@pytest.fixture
def workshops(monkeypatch, tmp_path):
    """A tiny recipe in place of all others, and a package without models; the workshops that it was given are listed here."""
    given: list[Workshop] = []

    def train(w: Workshop):
        given.append(w)
        return train_vqvae(w.pool, w.training, w.config, batch_size=4, **SMALL)

    monkeypatch.setattr(ship, "RECIPES", {"vqvae": Recipe(train, LOOP, 12, "a tiny VQ-VAE")})
    monkeypatch.setattr(ship, "ASSETS", tmp_path / "assets")
    return given


def weights(folder):
    return {key: value.clone() for key, value in VQVAE.from_pretrained(folder).state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def test_a_recipe_becomes_a_model_with_its_provenance(workshops, pools, tmp_path):
    out = train_model("vqvae", tmp_path / "work", pool=pools)
    assert out == tmp_path / "work" / "vqvae" == shipped("vqvae", tmp_path / "work")
    about = provenance("vqvae", tmp_path / "work")
    assert about.keys() == KEYS and about["model"] == "vqvae" and about["about"] == "a tiny VQ-VAE" and about["licence"] == "MIT"
    assert about["trained_on"] == "the first 12 scenes of the split 'backbones'" and about["made_by"].endswith("--only vqvae")
    assert LoopConfig(**about["loop"]) == LOOP and about["torch"] == torch.__version__ and about["n_threads"] == torch.get_num_threads()
    log = json.loads((out / "training_log.json").read_text())
    assert [row["step"] for row in log] == [0, 5] and about["last_losses"] == log[-1]
    model = open_model("vqvae", tmp_path / "work")
    assert isinstance(model, VQVAE) and not model.training and not any(p.requires_grad for p in model.parameters())
    assert about["n_parameters"] == sum(p.numel() for p in model.parameters())
    again = train_model("vqvae", tmp_path / "again", pool=pools)
    assert equal(weights(out), weights(again))


def test_a_trial_has_its_own_steps_and_scenes_and_learns_from_no_others(workshops, pools, tmp_path):
    """Eight scenes out of a pool of twelve give what a pool of eight gives: provenance says eight."""
    part = train_model("vqvae", tmp_path / "part", n_steps=3, n_scenes=8, pool=pools)
    about = provenance("vqvae", tmp_path / "part")
    assert about["trained_on"] == "the first 8 scenes of the split 'backbones'"
    assert LoopConfig(**about["loop"]) == replace(LOOP, n_steps=3) and about["last_losses"]["step"] == 2
    own = train_model("vqvae", tmp_path / "own", n_steps=3, n_scenes=8, pool=tmp_path / "pool")
    assert [len(w.pool) for w in workshops] == [len(w.pool.scenes) for w in workshops] == [8, 8]
    assert equal(weights(part), weights(own))
    assert not equal(weights(part), weights(train_model("vqvae", tmp_path / "all", n_steps=3, pool=pools)))


def test_scenes_are_drawn_only_for_those_that_ask(workshops, tmp_path, monkeypatch):
    def without_scenes(w: Workshop):
        torch.manual_seed(0)
        return VQVAE(**SMALL), {"log": [{"step": 0, "loss": 1.0}], "duration_s": 0.4, "config": {}, "trained_on": "nothing"}

    monkeypatch.setitem(ship.RECIPES, "vqvae", Recipe(without_scenes, LOOP, 0, "not trained"))
    train_model("vqvae", tmp_path / "work", pool=tmp_path / "pool")
    assert provenance("vqvae", tmp_path / "work")["trained_on"] == "nothing" and not (tmp_path / "pool").exists()


def test_provenance_is_written_last(workshops, pools, tmp_path, monkeypatch):
    real, before = provenance_module.atomic_write_text, {}

    def spy(path, text):
        before[path.name] = {file.name for file in path.parent.iterdir()}
        return real(path, text)

    monkeypatch.setattr(provenance_module, "atomic_write_text", spy)
    out = train_model("vqvae", tmp_path, pool=pools)
    everything = {file.name for file in out.iterdir()}
    assert everything == {"config.json", "diffusion_pytorch_model.safetensors", "provenance.json", "training_log.json"}
    assert before["provenance.json"] == everything - {"provenance.json"}


def test_what_failed_before_the_end_is_not_finished_and_resumes(workshops, pools, tmp_path, monkeypatch):
    with interrupted_at(1, VQVAE, "save_pretrained"):
        train_model("vqvae", tmp_path, pool=pools)
    with pytest.raises(MissingFileError):
        shipped("vqvae", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("sketchae.latent_models.vqvae.picture_loss", None)  # the steps are done: none is taken again
        out = train_model("vqvae", tmp_path, pool=pools)
    assert equal(weights(out), weights(train_model("vqvae", tmp_path / "whole", pool=pools)))


def test_a_finished_model_is_kept(workshops, pools, tmp_path):
    out = train_model("vqvae", tmp_path, pool=pools)
    times = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    assert train_model("vqvae", tmp_path, n_steps=9, pool=tmp_path / "no pool") == out
    assert len(workshops) == 1 and times == {file.name: file.stat().st_mtime_ns for file in out.iterdir()}


def test_an_unknown_model_is_refused_by_name(workshops, tmp_path):
    for use in (train_model, open_model):
        with pytest.raises(BadInputError, match="no latent model 'gan'; choose from vqvae"):
            use("gan", tmp_path)
    assert not workshops and not list(tmp_path.iterdir())


def test_only_a_finished_model_is_installed(workshops, pools, tmp_path):
    work, assets = tmp_path / "work", tmp_path / "elsewhere"
    (work / "vqvae").mkdir(parents=True)
    (work / "vqvae" / "config.json").write_text("{}")  # half of a model
    with pytest.raises(MissingFileError, match="--only vqvae first"):
        install_model("vqvae", work, assets)
    assert not assets.exists()
    out = train_model("vqvae", work, pool=pools)
    for _ in range(2):  # a second time puts it in place of the first
        install_model("vqvae", work, assets)
    train_model("vqvae", tmp_path / "trial", n_steps=2, pool=pools)
    with pytest.raises(BadInputError, match="is a trial of 2 steps, and the recipe has 6"):
        install_model("vqvae", tmp_path / "trial", assets)
    installed = assets / "latent_models" / "vqvae"
    assert {f.name: f.read_bytes() for f in installed.iterdir()} == {f.name: f.read_bytes() for f in out.iterdir()}


def test_the_folder_goes_before_the_package(workshops, pools, tmp_path):
    with pytest.raises(MissingFileError, match="No trained 'vqvae'.*--only vqvae"):
        shipped("vqvae", tmp_path / "work")
    train_model("vqvae", tmp_path / "work", pool=pools)
    with pytest.raises(MissingFileError):
        shipped("vqvae")  # the package is still without
    install_model("vqvae", tmp_path / "work", tmp_path / "assets")
    packaged = tmp_path / "assets" / "latent_models" / "vqvae"
    assert shipped("vqvae") == shipped("vqvae", tmp_path / "empty") == packaged
    assert shipped("vqvae", tmp_path / "work") == tmp_path / "work" / "vqvae"
    (tmp_path / "work" / "vqvae" / "provenance.json").unlink()
    assert shipped("vqvae", tmp_path / "work") == packaged


def test_every_recipe_has_a_class_and_a_sentence():
    for name, recipe in ship.RECIPES.items():
        assert hasattr(ship.CLASSES[name.split("_")[0]], "from_pretrained")
        assert recipe.about and recipe.config.n_steps > recipe.config.n_warmup and recipe.n_scenes >= 0
    assert len({recipe.about for recipe in ship.RECIPES.values()}) == len(ship.RECIPES)


# --- What lies in the package


def test_only_models_with_recipes_are_embedded():
    assert {path.name for path in EMBEDDED} <= set(ship.RECIPES) and "vqvae" in {path.name for path in EMBEDDED}


@pytest.mark.parametrize("folder", EMBEDDED, ids=lambda path: path.name)
def test_an_embedded_model_is_small_whole_and_without_pickles(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    assert all(0 < path.stat().st_size < 16 * 2**20 for path in files)
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
            continue
        with safe_open(path, "np") as tensors:
            assert all(np.isfinite(tensors.get_tensor(key)).all() for key in tensors.keys())  # noqa: SIM118  # it is no dictionary


@pytest.mark.parametrize("folder", EMBEDDED, ids=lambda path: path.name)
def test_an_embedded_model_says_how_it_was_trained(folder):
    about, recipe = json.loads((folder / "provenance.json").read_text()), ship.RECIPES[folder.name]
    assert about.keys() >= KEYS and about["model"] == folder.name and about["licence"] == "MIT"
    assert about["about"] == recipe.about and about["made_by"] == f"python -m sketchae.latent_models --only {folder.name}"
    assert about["duration_s"] > 0 and about["n_threads"] > 0 and re.match(r"\d+\.\d+", about["torch"])
    stages = about["loop"] if isinstance(about["loop"], list) else [about["loop"]]
    assert stages[-1]["n_steps"] == recipe.config.n_steps  # the dVAE has a stage before; a trial has fewer
    log = json.loads((folder / "training_log.json").read_text())
    assert log[0]["step"] == 0 and about["last_losses"]["step"] >= log[-1]["step"]
    assert all(math.isfinite(value) for row in [*log, about["last_losses"]] for value in row.values())
    assert about["n_parameters"] == sum(p.numel() for p in open_model(folder.name).parameters())


def test_a_profile_may_name_other_digits(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("SKETCHAE_ROOT", str(tmp_path / "root"))
    mnist = mnist_folder(tmp_path / "mnist", ([3, 0, 9, 1], [7, 1]))
    profile = load_profile("scenes", digits=mnist, n_latent_steps=2)
    assert not str(profile.results_dir).startswith(str(tmp_path / "root" / "results"))  # not what git tracks
    digits = load_digits_of(profile)
    folder = train_on_digits(profile, digits)
    assert sorted(path.name for path in folder.glob("digits_*")) == sorted(DIGITS_MODELS)
    assert open_model("digits_2", folder).config.size_px == digits.size_px == 28
    assert provenance("digits_2", folder)["trained_on"] == str(mnist)
    other = mnist_folder(tmp_path / "other", ([3, 0], [7, 1]))
    assert train_on_digits(load_profile("scenes", digits=other, n_latent_steps=2), digits) != folder
    assert load_digits_of(load_profile("scenes")).size_px == 8
