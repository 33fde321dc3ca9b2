import dataclasses
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from sketchae.errors import BadInputError
from sketchae.record import Recorder, figure_hashes, git_state


@dataclasses.dataclass(frozen=True)
class Folders:
    """As much of a profile as a Recorder needs."""

    root: Path
    seeds: tuple[int, ...] = (0, 1)
    work_dir = property(lambda self: self.root / "build")
    results_dir = property(lambda self: self.root / "results")
    figures_dir = property(lambda self: self.root / "figures")


def drawing(height: float = 1.0) -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, height])
    return figure


def values(root: Path) -> dict:
    return json.loads((root / "results/values.json").read_text())


def manifest(root: Path) -> dict:
    return json.loads((root / "results/manifest.json").read_text())["notebooks"]


def test_values_are_rounded_sorted_and_named_after_the_notebook(tmp_path):
    with Recorder("04_evaluate", Folders(tmp_path)) as record:
        assert record.value("swap_score", 0.123456) == 0.123
        record.value("angle", np.float32(12.3456), digits=1)
        record.value("error", torch.tensor(1.23e-7), digits=9)
        record.value("ci", (0.12345, -0.0001))
        record.value("n", np.int64(512))
        record.value("halves", {"semantic": 0.5, "style": torch.tensor([0.25, 1.0])})
        record.value("works", True)
        record.value("absent", None)
    assert values(tmp_path) == {
        "evaluate.swap_score": 0.123, "evaluate.angle": 12.3, "evaluate.error": 1.23e-7, "evaluate.ci": [0.123, 0.0],
        "evaluate.n": 512, "evaluate.halves.semantic": 0.5, "evaluate.halves.style": [0.25, 1.0],
        "evaluate.works": True, "evaluate.absent": None,
    }  # fmt: skip
    text = (tmp_path / "results/values.json").read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert "-0.0" not in text


def test_a_rerun_replaces_its_own_entries_as_a_whole_and_no_others(tmp_path):
    for notebook, name in (("02_train", "loss"), ("04_evaluate", "old"), ("04_evaluate", "new")):
        with Recorder(notebook, Folders(tmp_path)) as record:
            record.value(name, 1.0)
    assert values(tmp_path) == {"train.loss": 1.0, "evaluate.new": 1.0}
    assert set(manifest(tmp_path)) == {"train", "evaluate"}


def test_a_notebook_whose_name_begins_another_s_is_not_mixed_up(tmp_path):
    for notebook in ("train_more", "train"):
        with Recorder(notebook, Folders(tmp_path)) as record:
            record.value("loss", 1)
    assert values(tmp_path) == {"train.loss": 1, "train_more.loss": 1}


def test_the_same_run_gives_the_same_values_file(tmp_path):
    texts = set()
    for order in ((1, 2), (2, 1)):
        with Recorder("evaluate", Folders(tmp_path)) as record:
            for number in order:
                record.value(f"v{number}", number / 3)
        texts.add((tmp_path / "results/values.json").read_bytes())
    assert len(texts) == 1


def test_the_manifest_explains_the_run(tmp_path):
    with Recorder("evaluate", Folders(tmp_path)) as record:
        saved = record.figure(drawing(), "line", alt="A rising line.")
    entry = manifest(tmp_path)["evaluate"]
    assert (
        entry["versions"]["torch"] == torch.__version__.split("+")[0] or entry["versions"]["torch"] == torch.__version__
    )
    assert entry["profile"]["seeds"] == [0, 1]
    assert entry["host"]["n_cores"] >= 1
    assert entry["git"] is None
    figure = entry["figures"]["evaluate_line"]
    assert figure["alt"] == "A rising line."
    assert {key: figure[key] for key in ("sha256", "pixels_sha256")} == figure_hashes(saved.path)
    assert saved.path == tmp_path / "figures/evaluate_line.png"
    assert list((tmp_path / "results").iterdir()) != [], "nothing but the two files lies there"
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"values.json", "manifest.json"}


def test_git_state_of_a_checkout(repository):
    state = git_state(repository)
    if state is not None:  # a sdist has no git
        assert len(state["commit"]) == 40


def test_the_same_figure_gives_the_same_bytes_and_another_another_hash(tmp_path):
    record = Recorder("evaluate", Folders(tmp_path))
    first = record.figure(drawing(), "a", alt="A line.").path.read_bytes()
    assert record.figure(drawing(), "a", alt="A line.").path.read_bytes() == first
    pixels = record.figures["evaluate_a"]["pixels_sha256"]
    record.figure(drawing(), "a", alt="Another text, the same pixels.")
    assert record.figures["evaluate_a"]["pixels_sha256"] == pixels
    record.figure(drawing(2), "a", alt="A line.")
    assert record.figures["evaluate_a"]["pixels_sha256"] != pixels


def test_a_saved_figure_shows_the_saved_file_with_its_text(tmp_path):
    saved = Recorder("evaluate", Folders(tmp_path)).figure(drawing(), "a", alt="A line.")
    bundle = saved._repr_mimebundle_()
    assert bundle["text/plain"] == "A line."
    assert bundle["image/png"].startswith("iVBOR")
    with Image.open(saved) as image:
        assert image.info["Description"] == "A line."
        assert image.width > 300


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.array([1.0, np.nan]), torch.tensor(float("nan"))])
def test_nan_is_refused_naming_the_key(tmp_path, bad):
    with pytest.raises(BadInputError, match=r"evaluate\.swap_score is (nan|inf)"):
        Recorder("04_evaluate", Folders(tmp_path)).value("swap_score", bad)


def test_other_bad_input_is_one_clear_sentence(tmp_path):
    record = Recorder("evaluate", Folders(tmp_path))
    with pytest.raises(BadInputError, match="no alternative text"):
        record.figure(drawing(), "a", alt=" ")
    with pytest.raises(BadInputError, match="cannot name"):
        record.value("swap score", 1)
    with pytest.raises(BadInputError, match=r"evaluate\.x is a \w*Path"):
        record.value("x", Path("a"))
    (tmp_path / "results").mkdir()
    (tmp_path / "results/values.json").write_text("{")
    with pytest.raises(BadInputError, match="delete it and run the notebooks again"):
        record.close()


def test_a_failed_run_keeps_the_old_results(tmp_path):
    with Recorder("evaluate", Folders(tmp_path)) as record:
        record.value("x", 1)
    with pytest.raises(ZeroDivisionError), Recorder("evaluate", Folders(tmp_path)) as record:
        record.value("x", 1 / 0)
    assert values(tmp_path) == {"evaluate.x": 1}


def _record_often(root: str, notebook: str) -> None:
    for number in range(15):
        with Recorder(notebook, Folders(Path(root))) as record:
            record.value("x", number)


def test_two_processes_lose_no_entry(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_record_often, args=(str(tmp_path), name)) for name in ("a", "b", "c")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert values(tmp_path) == {"a.x": 14, "b.x": 14, "c.x": 14}
    assert set(manifest(tmp_path)) == {"a", "b", "c"}
