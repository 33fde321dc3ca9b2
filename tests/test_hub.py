"""Through the real network code, against a stand-in for the hub on this machine: the paper's own three ids."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_scenario import CLIP, COCO, VAE
from hub_stand_in import HubStandIn
from tiny import coco_dataset, mnist_folder, paper_clip, paper_vae

from sketchae.backbones import load_clip, load_vae

TESTS = Path(__file__).resolve().parent


def _run(arguments: list[str], **environment: str) -> dict:
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    process = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(re.search(r"^ANSWER(.*)$", process.stdout, re.MULTILINE)[1])


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    root = tmp_path_factory.mktemp("repositories")
    for folder in (paper_vae(root / "vae"), paper_clip(root / "clip")):
        (folder / "README.md").write_text("# a model\n")
        (folder / "pytorch_model.bin").write_bytes(b"a pickle, which must never be fetched")
    coco_dataset(root / "coco", n_train=30)
    return root


@pytest.fixture(scope="module")
def answer(repositories, tmp_path_factory):
    return _run([str(TESTS / "hub_scenario.py"), str(repositories), str(tmp_path_factory.mktemp("cache"))])


def test_the_papers_backbones_come_from_the_hub(answer, repositories):
    vae, clip = answer["first"]
    assert vae == [load_vae(repositories / "vae").id, answer["commits"][0]]
    assert clip == [load_clip(repositories / "clip").id, answer["commits"][1]]
    assert any(f"{VAE}/resolve/" in request for request in answer["first_requests"])
    assert not any("pytorch_model.bin" in request for request in answer["first_requests"])


def test_the_commit_of_the_first_download_is_kept_without_asking_again(answer):
    assert answer["second"] == answer["first"] and answer["second_requests"] == []
    assert answer["third"] == answer["first"]  # the hub was gone by then


def test_coco_is_read_by_position_over_the_network(answer):
    coco, commit = answer["coco"], answer["commits"][2]
    assert coco["n"] == [30, 4, 4] and coco["revision"] == commit and commit in coco["fingerprint"]
    assert coco["last"] == [f"COCO_train2014_{i:012d}.jpg" for i in (27, 28, 29)]
    assert coco["first"] == ["Example", "Skipped", "Skipped", "Example"]
    assert any(request.startswith(f"GET /datasets/{COCO}/resolve/{commit}/data/train-") for request in coco["requests"])
    assert coco["same_at_commit"]


@pytest.mark.parametrize(
    ("when", "what", "kind", "part"),
    [
        ("not_yet", "vae", "MissingFileError", "has not been downloaded yet and local_files_only is set"),
        ("not_yet", "no_repository", "BadInputError", "There is no public nobody/nothing on the hub"),
        ("not_yet", "no_revision", "BadInputError", f"{VAE} has no revision no-such-branch"),
        ("not_yet", "no_vae_inside", "MissingFileError", f"{CLIP} has no complete checkpoint"),
        ("not_yet", "no_dataset", "BadInputError", "There is no public dataset nobody/nothing on the hub"),
        ("not_yet", "no_dataset_revision", "BadInputError", f"{COCO} with the revision no-such-branch on the hub"),
        ("gone", "vae", "NoNetworkError", "connect to the network and run again"),
        ("gone", "dataset", "NoNetworkError", "profile 'scenes', which needs no download"),
        ("gone", "rows", "NoNetworkError", f"{COCO} is not stored on this machine"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence_with_the_remedy(answer, when, what, kind, part):
    name, sentence = answer[when][what]
    assert (name, part in sentence) == (kind, True), sentence
    assert "\n" not in sentence


def test_offline_mode_is_honoured(tmp_path):
    program = f"""
import json
from sketchae.backbones import load_vae
from sketchae.data import HubSource
answer = []
for call in (lambda: load_vae("{VAE}"), lambda: HubSource("{COCO}")):
    try:
        call()
    except Exception as error:
        answer.append([type(error).__name__, str(error)])
print("ANSWER" + json.dumps(answer))
"""
    errors = _run(["-c", program], HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert [name for name, _ in errors] == ["NoNetworkError"] * 2
    assert all("HF_HUB_OFFLINE is set" in sentence and "\n" not in sentence for _, sentence in errors)


def test_mnist_comes_from_the_hub_at_its_commit(tmp_path):
    folder = mnist_folder(tmp_path / "mnist", ([3, 0, 9], [7, 1]))
    with HubStandIn(models={}, datasets={"ylecun/mnist": folder}) as hub:
        commit = hub.commit("datasets", "ylecun/mnist")
        script = f"""if True:
            from sketchae.latent_models.digits import load_mnist
            digits = load_mnist("ylecun/mnist", revision={commit!r})
            print(digits.train_labels.tolist(), digits.test_labels.tolist(), digits.size_px, digits.source)
        """
        environment = {**os.environ, **hub.environment(tmp_path / "cache")}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == f"[3, 0, 9] [7, 1] 28 ylecun/mnist, commit {commit}", done.stderr
