"""Rules for what git tracks: no machine's paths, no heavy files, notebooks that can be read and trusted."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from sketchae.executed import check_pair, notebook_parameters, read_notebook
from sketchae.paper import check_paper

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
MAX_CELL_LINES = 25
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a clone: git knows no files here")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in files if path.is_file()]


def test_no_file_is_too_heavy():
    for path in tracked_files():
        limit = 16 if "assets" in path.parts else 20
        assert path.stat().st_size < limit * 2**20, f"{path.relative_to(ROOT)} has more than {limit} MiB"


def test_no_machines_paths_or_addresses():
    """Paths of somebody's computer mean nothing elsewhere; outputs of notebooks are where they slip in."""
    pattern = re.compile(r"(?<![\w.~$-])/(?:home|root|Users|work|mnt|opt|private)/\w+|(?<![\w/.])[A-Z]:\\\\?Users")
    for path in tracked_files():
        if path.suffix in (".py", ".ipynb", ".md", ".json", ".toml", ".yml", ".txt", ".cff", ".cfg", "") and (
            path != Path(__file__).resolve()
        ):
            found = pattern.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(ROOT)} names {found.group()}"


def test_nothing_tracked_is_a_pickle():
    for path in tracked_files():
        assert path.suffix not in (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".npy"), path.relative_to(ROOT)


def test_ruff_is_content():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_make_test_names_every_file_that_runs_whole_notebooks():
    (named,) = re.findall(r"^NOTEBOOK_TESTS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    marked = [path for path in (ROOT / "tests").glob("test_*.py") if "@pytest.mark." + "notebooks" in path.read_text()]
    assert sorted(named.split()) == sorted(path.relative_to(ROOT).as_posix() for path in marked)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("name", ["paper.md", "README.md"])
def test_the_text_agrees_with_the_results(name):
    assert check_paper(ROOT / name, ROOT / "results", ROOT / "figures") == []


@each_notebook
def test_a_notebook_agrees_with_its_twin(notebook):
    assert notebook.with_suffix(".py").is_file()
    check_pair(notebook)


@each_notebook
def test_a_notebook_is_committed_executed_from_top_to_bottom(notebook):
    cells = [cell for cell in read_notebook(notebook).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


@each_notebook
def test_a_notebook_has_its_fixed_cells(notebook):
    cells = read_notebook(notebook).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    tags = [tag for cell in cells for tag in cell.metadata.get("tags", [])]
    assert tags.count("parameters") == 1 and "checks" in cells[-1].metadata.get("tags", [])
    parameters = notebook_parameters(read_notebook(notebook), notebook.name)
    assert next(iter(parameters)) == "PROFILE" and ast.literal_eval(parameters["PROFILE"]) == "scenes"
    assert all(name.isupper() for name in parameters)


@each_notebook
def test_a_notebook_only_tells_and_calls(notebook):
    """Short cells, and no definitions: a function belongs into the package, where it is tested."""
    for number, cell in enumerate(read_notebook(notebook).cells):
        if cell.cell_type != "code":
            continue
        assert len(cell.source.splitlines()) <= MAX_CELL_LINES, f"cell {number} is too long"
        tree = ast.parse(TransformerManager().transform_cell(cell.source))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not any(isinstance(node, kinds) for node in ast.walk(tree)), f"cell {number} defines something"


@each_notebook
def test_a_notebook_is_written_as_run_all_writes_it(notebook):
    """No times, no paths, no progress bars: else git would show changes where no result changed."""
    text = notebook.read_text(encoding="utf-8")
    assert "papermill" not in text and "iopub" not in text and "widget-view" not in text
    assert not re.search(r"\d+%\|", text)
