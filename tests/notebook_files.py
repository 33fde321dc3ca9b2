"""Small notebooks for tests, and the one way in which committed notebooks are held to their outputs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sketchae.run_all import REUSED_MEMORY, TEXT_PROGRESS, find_notebooks

ROOT = Path(__file__).resolve().parents[1]
COPIES = ROOT / "build" / "tests"
# 01 to 05 form a chain, each reading what those before it wrote; the others need none.
FIRST_OF_CHAIN, LAST_OF_CHAIN, FIRST_AFTER = "01", "05", "06"
SANITIZE = Path(__file__).with_name("nbval_sanitize.cfg")
KERNELSPEC = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


def write_small_notebook(path: Path, *sources: str, parameters: str = 'PROFILE = "scenes"') -> Path:
    """A notebook with a title, a `parameters` cell and the given code cells; never executed."""
    cells = [new_markdown_cell("# A throwaway"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC}), path)
    return path


def run_nbval(folder: Path, root: Path, *notebooks: Path) -> subprocess.CompletedProcess:
    """Run `notebooks` by nbval with `root` as SKETCHAE_ROOT, outputs compared after tests/nbval_sanitize.cfg and within tests/nbval_tolerance.py.

    Progress bars are off (the stored outputs have none), and none of this project's pytest settings apply.
    """
    root.mkdir(parents=True, exist_ok=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "PYTEST_ADDOPTS", "CI", "BUILD_NUMBER")}
    # pytest repeats whole messages in its summary where CI or BUILD_NUMBER is set
    environment |= {"SKETCHAE_ROOT": str(root), **TEXT_PROGRESS, **REUSED_MEMORY, "TQDM_DISABLE": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
    here = str(Path(__file__).resolve().parent)  # for the plugin
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), here]), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", "pytest.ini", "--rootdir", ".", "-p", "no:cacheprovider", "-p", "nbval_tolerance"),
            *("--nbval", "--nbval-kernel-name", "python3", "--nbval-sanitize-with", str(SANITIZE), "--color=no"),
            *("--durations=10", *(str(notebook.relative_to(folder)) for notebook in notebooks)),
        ],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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


def hold_to_outputs(root: Path, belongs: Callable[[str], bool]) -> None:
    """Run those notebooks of `root` (a `fresh_copy`) whose file name `belongs` under nbval."""
    notebooks = [path for path in find_notebooks(root / "notebooks") if belongs(path.name)]
    assert notebooks
    done = run_nbval(root / "notebooks", root, *notebooks)
    (root / f"nbval-{notebooks[0].stem}.txt").write_text(done.stdout, encoding="utf-8")
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-12000:]
