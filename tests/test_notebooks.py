"""The committed notebooks, run: the whole path on the smoke profile, and each stored output compared by nbval.

Everything happens on copies under `build/tests/`, so that git sees nothing.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from notebook_files import run_nbval, write_small_notebook

from sketchae.executed import read_notebook, write_notebook
from sketchae.run_all import find_notebooks, run_all

ROOT = Path(__file__).resolve().parents[1]
COPIES = ROOT / "build" / "tests"
FIRST_ALONE = "06"  # notebooks before it form a chain, each reading what those before it wrote; the others need none


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A small notebook, executed in place as `make paper` does it."""
    notebook = write_small_notebook(
        tmp_path / "notebooks" / "00_small.ipynb",
        'import time\nprint("swap score 0.731")\nprint(f"{time.time():.3f} s")',
        "import sys\nprint('a warning', file=sys.stderr)",
        "[round(1 / 3, 3), 'two']",
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass",
    )
    monkeypatch.setenv("SKETCHAE_ROOT", str(tmp_path))
    run_all("scenes", progress=False)
    return notebook


def test_unaltered_outputs_pass(small):
    """Times differ between the two runs, and the progress bar is in neither."""
    done = run_nbval(small.parent, small.parent, small)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


def test_every_altered_stored_output_fails(small):
    """What is printed, what goes to stderr, what a last expression shows: a number beyond the tolerance or one word is enough."""
    notebook = read_notebook(small)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = output.text.replace("0.731", "0.741").replace("a warning", "no warning")
            else:
                output.data["text/plain"] = output.data["text/plain"].replace("two", "too")
    write_notebook(small, notebook)
    done = run_nbval(small.parent, small.parent, small)
    assert done.returncode == 1 and "3 failed, 2 passed" in done.stdout, done.stdout
    assert done.stdout.count("Cell outputs differ") == 3


def test_a_number_within_the_tolerance_of_two_processors_passes(small):
    notebook = read_notebook(small)
    (printed,) = (
        output for cell in notebook.cells for output in cell.get("outputs", []) if "0.731" in output.get("text", "")
    )
    printed.text = printed.text.replace("0.731", "0.733")
    write_notebook(small, notebook)
    done = run_nbval(small.parent, small.parent, small)
    assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout


def fresh_copy(name: str) -> Path:
    """An empty root with copies of the committed notebooks in it."""
    root = COPIES / name
    shutil.rmtree(root, ignore_errors=True)
    (root / "notebooks").mkdir(parents=True)
    for notebook in find_notebooks(ROOT / "notebooks"):
        shutil.copy2(notebook, root / "notebooks" / notebook.name)
    if (ROOT / "figures" / "static").is_dir():
        shutil.copytree(ROOT / "figures" / "static", root / "figures" / "static")
    return root


@pytest.mark.notebooks
def test_the_whole_path_runs_on_the_smoke_profile():
    root = fresh_copy("smoke")
    command = [sys.executable, "-m", "sketchae", "run-all", "--profile", "smoke"]
    environment = {**os.environ, "SKETCHAE_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:]
    work = root / "build" / "smoke"
    assert [path.name for path in find_notebooks(work / "notebooks")] == [
        path.name for path in find_notebooks(ROOT / "notebooks")
    ]
    assert json.loads((work / "results" / "values.json").read_text(encoding="utf-8"))
    assert not (root / "results").exists()  # only the scenes profile writes there
    again = subprocess.run([*command, "--skip-finished"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.count("skipped") == len(find_notebooks(ROOT / "notebooks"))


def hold_to_outputs(name: str, belongs: Callable[[str], bool]) -> None:
    """Run those committed notebooks whose file name `belongs` under nbval, in a root of their own."""
    root = fresh_copy(name)
    notebooks = [path for path in find_notebooks(root / "notebooks") if belongs(path.name)]
    assert notebooks
    done = run_nbval(root / "notebooks", root, *notebooks)
    (root / "nbval.txt").write_text(done.stdout, encoding="utf-8")
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-12000:]


# `make test` gives whole notebooks to two processes (conftest.py): the chain and one that stands alone to the first, everything else to the other;
# so both take about as long.
@pytest.mark.notebooks
@pytest.mark.xdist_group("chain")
@pytest.mark.timeout(3600)
def test_every_committed_output_of_the_chain_is_what_the_code_prints():
    hold_to_outputs("nbval", lambda name: name < FIRST_ALONE)


@pytest.mark.notebooks
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("with_the_chain", [False, pytest.param(True, marks=pytest.mark.xdist_group("chain"))])
def test_every_other_committed_output_is_what_the_code_prints(with_the_chain):
    hold_to_outputs(f"nbval-alone-{with_the_chain}", lambda name: name >= FIRST_ALONE and name.startswith("07_continuous") is with_the_chain)


@pytest.mark.notebooks
@pytest.mark.xdist_group("chain")
def test_an_altered_output_of_a_committed_notebook_fails():
    """In place of trust in nbval: alter one number that 03_qr_finalize printed; what it reads is there from above."""
    root = COPIES / "nbval"
    notebook = next(iter((root / "notebooks").glob("03_*.ipynb")), None)
    if notebook is None or not (root / "nbval.txt").is_file():
        pytest.skip("the run over all notebooks did not come before this one")
    content = read_notebook(notebook)
    texts = [output for cell in content.cells for output in cell.get("outputs", []) if "text" in output]
    assert texts, "03 prints nothing that could be altered"
    texts[-1].text = "altered " + texts[-1].text
    altered = notebook.with_name("03_altered.ipynb")
    write_notebook(altered, content)
    done = run_nbval(root / "notebooks", root, altered)
    altered.unlink()
    assert done.returncode == 1 and "Cell outputs differ" in done.stdout, done.stdout[-6000:]
