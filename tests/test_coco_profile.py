"""The paper's own setting from end to end: hub ids, real network code, tiny checkpoints, all notebooks that read them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stand_in import HubStandIn
from tiny import coco_dataset, paper_clip, paper_vae

from sketchae.profiles import load_profile
from sketchae.run_all import find_notebooks

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.notebooks
def test_the_coco_profile_runs_from_the_hub_to_the_figures(tmp_path):
    """`sketchae run-all --profile coco` as a user types it; only steps and seeds are fewer, and the hub is a stand-in."""
    profile = load_profile("coco")
    models = {profile.vae: paper_vae(tmp_path / "vae"), profile.clip: paper_clip(tmp_path / "clip")}
    data = coco_dataset(tmp_path / "coco", n_train=12, n_val=4, n_test=8)
    parameters = {"N_STEPS": "20", "BATCH_SIZE": "4", "TRAIN_SEEDS": "[0]", "N_IMAGES": "64", "N_EFFECT_STEPS": "2", "N_PROXY_BASES": "4"}
    command = [sys.executable, "-m", "sketchae", "run-all", "--profile", "coco"]
    for name, value in parameters.items():
        command += ["-p", name, value]
    with HubStandIn(models=models, datasets={profile.dataset: data}) as hub:
        root = tmp_path / "root"
        (root / "notebooks").mkdir(parents=True)
        for notebook in find_notebooks(ROOT / "notebooks"):
            (root / "notebooks" / notebook.name).write_bytes(notebook.read_bytes())
        environment = {**os.environ, **hub.environment(tmp_path / "cache"), "SKETCHAE_ROOT": str(root), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        commits = {name: hub.commit("models", name) for name in models}
        assert any(profile.dataset in request for request in hub.requests)
    assert done.returncode == 0, done.stdout[-6000:]
    (work,) = (root / "build" / "overrides").glob("coco-*/build/coco")
    assert [path.name[:2] for path in find_notebooks(work / "notebooks")] == list(profile.notebooks)
    values = json.loads((work / "results" / "values.json").read_text())
    assert values["preprocess.n_train"] == 10 and values["preprocess.n_skipped"] == 2  # one corrupt, one without caption
    assert "evaluate.recipe.score" not in values  # no factor of a photograph is known, so nothing is scored
    assert (work / "figures" / "evaluate_lerp.png").is_file()
    summary = json.loads((work / "latents" / "preprocess.json").read_text())
    assert all(commit in json.dumps(summary) for commit in commits.values())  # which checkpoint it was, is on record
    assert (work / "basis" / "seed-0" / "model.safetensors").is_file()
    assert not (root / "results").exists() and not (root / "figures").exists()
