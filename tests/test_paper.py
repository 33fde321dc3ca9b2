import dataclasses
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sketchae.errors import MissingFileError
from sketchae.paper import check_paper, refresh_paper
from sketchae.record import Recorder


@dataclasses.dataclass(frozen=True)
class Folders:
    root: Path
    work_dir = property(lambda self: self.root / "build")
    results_dir = property(lambda self: self.root / "results")
    figures_dir = property(lambda self: self.root / "figures")


TEXT = """# A paper of 2026

The swap score is <!--v:evaluate.score:.2f-->?<!--/v--> (95 % interval <!--v:evaluate.ci[0]-->?<!--/v--> to
<!--v:evaluate.ci[1]-->?<!--/v-->), for <!--v:evaluate.n-->0<!--/v--> pairs; 4 channels.

| method | score |
|---|---|
| Q | <!--v:evaluate.score:+.1%--><!--/v--> |
| other | <!--v:evaluate.none-->x<!--/v--> |

![A line.](figures/evaluate_line.png)

![Drawn by hand.](figures/static/hand.png) [![badge](https://example.org/badge.svg)](https://example.org)
"""


def record(root: Path, score: float = 0.5, height: float = 1.0) -> None:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, height])
    with Recorder("04_evaluate", Folders(root)) as recorder:
        recorder.value("score", score)
        recorder.value("ci", [0.4, 0.6])
        recorder.value("n", 512)
        recorder.value("none", None)
        recorder.figure(figure, "line", alt="A line.")


@pytest.fixture
def paper(tmp_path) -> Path:
    record(tmp_path)
    (tmp_path / "figures/static").mkdir()
    (tmp_path / "figures/static/hand.png").write_bytes((tmp_path / "figures/evaluate_line.png").read_bytes())
    (tmp_path / "paper.md").write_text(TEXT)
    return tmp_path / "paper.md"


def folders(paper: Path) -> tuple[Path, Path, Path]:
    return paper, paper.parent / "results", paper.parent / "figures"


def test_refresh_writes_values_and_hashes_and_check_is_content(paper):
    assert len(check_paper(*folders(paper))) == 7
    assert refresh_paper(*folders(paper)) == []
    assert check_paper(*folders(paper)) == []
    text = paper.read_text()
    assert "is <!--v:evaluate.score:.2f-->0.50<!--/v--> (95 %" in text
    assert "<!--v:evaluate.ci[1]-->0.6<!--/v-->" in text
    assert "| Q | <!--v:evaluate.score:+.1%-->+50.0%<!--/v--> |" in text
    assert "<!--v:evaluate.none-->–<!--/v-->" in text
    assert "![A line.](figures/evaluate_line.png)<!--fig:evaluate_line sha256=" in text
    assert "4 channels" in text


def test_refreshing_twice_changes_nothing(paper):
    refresh_paper(*folders(paper))
    before = (paper.read_text(), paper.stat().st_mtime_ns)
    refresh_paper(*folders(paper))
    assert (paper.read_text(), paper.stat().st_mtime_ns) == before


def test_a_new_run_makes_number_and_figure_stale(paper):
    refresh_paper(*folders(paper))
    record(paper.parent, score=0.25, height=2)
    problems = "\n".join(check_paper(*folders(paper)))
    assert "evaluate.score stands as '0.50', the results say '0.25'" in problems
    assert "figure evaluate_line has changed since" in problems
    assert refresh_paper(*folders(paper)) == []


def test_a_figure_that_is_not_the_recorded_one_is_reported(paper):
    refresh_paper(*folders(paper))
    manifest = paper.parent / "results/manifest.json"
    content = json.loads(manifest.read_text())
    content["notebooks"]["evaluate"]["figures"]["evaluate_line"]["pixels_sha256"] = "0" * 64
    manifest.write_text(json.dumps(content))
    assert check_paper(*folders(paper)) == [
        "paper.md: figure evaluate_line is not the one in manifest.json: run its notebook again."
    ]


@pytest.mark.parametrize(
    ("addition", "problem"),
    [
        ("<!--v:evaluate.missing-->1<!--/v-->", "value evaluate.missing is not in values.json"),
        ("<!--v:evaluate.score[0]-->1<!--/v-->", "value evaluate.score cannot be written"),
        ("<!--v:evaluate.ci-->1<!--/v-->", "name one item"),
        ("<!--v:evaluate.score:.2q-->1<!--/v-->", "value evaluate.score cannot be written"),
        ("<!--v:evaluate.score-->1", "1 marker(s) <!--v:… are malformed"),
        ("<!--fig:evaluate_line sha256=00-->", "1 marker(s) <!--fig:… are malformed"),
        ("![](figures/static/hand.png)", "figure figures/static/hand.png has no alternative text"),
        ("![x](figures/lost.png)", "figure figures/lost.png does not exist"),
    ],
)
def test_every_kind_of_trouble_is_reported_and_left_alone(paper, addition, problem):
    paper.write_text(TEXT + addition + "\n")
    problems = refresh_paper(*folders(paper))
    assert len(problems) == 1
    assert problem in problems[0]
    assert paper.read_text().endswith(addition + "\n")


def test_a_missing_paper_is_one_clear_sentence(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        check_paper(tmp_path / "paper.md", tmp_path, tmp_path)


def test_without_results_every_number_is_reported(paper):
    (paper.parent / "results/values.json").unlink()
    assert sum("is not in values.json" in problem for problem in check_paper(*folders(paper))) == 6
