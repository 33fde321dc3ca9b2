"""The committed notebooks, run: the whole path on the smoke profile, and each stored output compared by nbval.

Everything happens on copies under `build/tests/`, so that git sees nothing. The chain of notebooks that read each other's results is in
`test_notebooks_chain.py`: two files for the two processes of `make test`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from notebook_files import (
    FIRST_AFTER,
    FIRST_OF_CHAIN,
    ROOT,
    fresh_copy,
    hold_to_outputs,
    run_nbval,
    write_small_notebook,
)

from sketchae.executed import read_notebook, write_notebook
from sketchae.run_all import find_notebooks, run_all


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


@pytest.mark.notebooks
@pytest.mark.timeout(3600)
def test_the_outputs_of_notebooks_that_stand_alone_are_what_the_code_prints():
    hold_to_outputs(fresh_copy("nbval-alone"), lambda name: not FIRST_OF_CHAIN <= name < FIRST_AFTER)
