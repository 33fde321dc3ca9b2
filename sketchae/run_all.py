"""Execute the notebooks in order, thin over papermill: what `make paper` and `sketchae run-all` do.

Where an executed notebook goes:

- profile `scenes`, nothing overridden: back in place (atomically, only on success), without times, paths or anything
  else that differs between two equal runs, so that git shows a change only where a result changed;
- any other run: `build/<profile>/notebooks/`;
- a run with overridden parameters gets a root of its own, `build/overrides/<profile>-<what>/`, because its latents,
  its Q and its results are not the profile's.

A notebook that fails stays in the second or third place, as far as it got.
"""

import ast
import contextlib
import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import sketchae
from sketchae.atomic import atomic_write_text
from sketchae.errors import BadInputError, MissingFileError, SketchaeError
from sketchae.executed import check_pair, deterministic, notebook_parameters, read_notebook, write_notebook
from sketchae.profiles import TRACKED, Profile, load_profile

NOTEBOOK_NAME = "[0-9][0-9]_*.ipynb"

# Without a person in front of it, a notebook shows its progress as text on stderr, which can be passed on to the
# terminal and left out of the file; a widget can be neither. tqdm.auto chooses text where it believes to be in Spyder.
TEXT_PROGRESS = {"SPYDER_TEXT_PROGRESS": "1", "TQDM_MININTERVAL": "1"}

# glibc gives large arrays back to the system at once and pays for the pages anew: a fifth of a training step on a CPU.
REUSED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "10000000000",
    "MALLOC_TOP_PAD_": "100000000",
}


class NotebookError(SketchaeError, RuntimeError):
    """A notebook stopped; the message names the notebook, the cell and the error."""


def run_all(
    profile_name: str,
    parameters: dict[str, object] | None = None,
    only: Sequence[str] = (),
    skip_finished: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Execute the project's notebooks in order and return where each one was written.

    Args:
        profile_name: a profile that ships, or the path of a TOML file.
        parameters: values for the notebooks' parameters (upper-case names); each notebook gets those that it has.
        only: numbers or names of the notebooks to run ("02", "02_train"); if empty those of the profile.
        skip_finished: leave out a notebook whose last run finished with the same cells, parameters, profile, package
            and earlier notebooks.

    Raises:
        BadInputError: an unknown profile, notebook or parameter; nothing has run then.
        NotebookError: a notebook stopped; the ones after it have not run.
    """
    profile = load_profile(profile_name)
    parameters = dict(parameters or {})
    everything = find_notebooks(profile.root / "notebooks")
    chosen = _choose(everything, only or profile.notebooks)
    known = {notebook: notebook_parameters(read_notebook(notebook), notebook.name) for notebook in everything}
    _check_parameters(parameters, [known[notebook] for notebook in chosen])
    for notebook in chosen:
        check_pair(notebook)
    root = profile.root / "build" / "overrides" / _slug(profile.name, parameters) if parameters else profile.root
    output = Path(os.environ.get("SKETCHAE_OUTPUT") or root).resolve()
    in_place = profile.name == TRACKED and not parameters and output == root.resolve()
    work_dir = root / "build" / profile.name

    written, key = [], _first_key(profile)
    with _kernel_environment(root, output):
        for position, notebook in enumerate(everything):
            given = {name: value for name, value in parameters.items() if name in known[notebook]}
            if "PROFILE" in known[notebook] and ast.unparse(known[notebook]["PROFILE"]) != repr(profile_name):
                given = {"PROFILE": profile_name, **given}
            key = _next_key(key, notebook, given)  # also of notebooks that are not chosen: later ones stand on them
            if notebook not in chosen:
                continue
            target = notebook if in_place else work_dir / "notebooks" / notebook.name
            stamp = work_dir / "finished" / f"{notebook.stem}.json"
            label = f"[{position + 1}/{len(everything)}] {notebook.stem}"
            if skip_finished and _is_finished(stamp, key, target):
                _say(f"{label}: finished before, skipped", progress)
            else:
                _say(f"{label} ...", progress)
                stamp.unlink(missing_ok=True)
                started = time.perf_counter()
                kept = work_dir / "notebooks" / notebook.name
                _execute(notebook, kept, given, progress)
                if in_place:
                    _put_back(notebook, kept)
                seconds = round(time.perf_counter() - started, 1)
                atomic_write_text(stamp, json.dumps({"key": key, "duration_s": seconds}) + "\n")
                _say(f"{label}: {seconds} s", progress)
            written.append(target)
    return written


def find_notebooks(folder: Path) -> list[Path]:
    """`NN_name.ipynb` in `folder`, in the order of their numbers."""
    notebooks = sorted(folder.glob(NOTEBOOK_NAME))
    if not notebooks:
        raise MissingFileError(
            f"No notebook NN_name.ipynb in {folder}: run this in a clone of the project, or set SKETCHAE_ROOT to one."
        )
    return notebooks


def _choose(everything: list[Path], only: Sequence[str]) -> list[Path]:
    chosen = set()
    for name in only:
        stem = Path(name).stem
        matches = [path for path in everything if path.stem == stem or path.stem.split("_")[0] == stem]
        if not matches:
            names = ", ".join(path.stem for path in everything)
            raise BadInputError(f"There is no notebook {name!r}: the notebooks are {names}.")
        chosen.update(matches)
    return [path for path in everything if path in chosen] if only else everything


def _check_parameters(parameters: dict[str, object], known: list[dict[str, ast.expr]]) -> None:
    available = sorted(set().union(*known) - {"PROFILE"})
    if "PROFILE" in parameters:
        raise BadInputError("PROFILE is not a parameter to override: give it as --profile.")
    for name in parameters:
        # papermill itself would set an unused variable and exit with 0
        if name not in available:
            raise BadInputError(f"No notebook to run has a parameter {name!r}: they have {', '.join(available)}.")


def _slug(profile: str, parameters: dict[str, object]) -> str:
    """A folder name that says what was overridden, and differs wherever the values differ."""
    said = "-".join(f"{name.lower()}={value}" for name, value in sorted(parameters.items()))
    digest = hashlib.sha256(repr(sorted(parameters.items())).encode()).hexdigest()[:8]
    return f"{profile}-{re.sub(r'[^A-Za-z0-9_=.-]+', '_', said)[:60]}-{digest}"


def _first_key(profile: Profile) -> str:
    """What every notebook's result depends on: the profile, and each file of this package."""
    digest = hashlib.sha256(json.dumps(asdict(profile), sort_keys=True).encode())
    package = Path(sketchae.__file__).parent
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _next_key(previous: str, notebook: Path, given: dict[str, object]) -> str:
    cells = [[cell.cell_type, cell.source] for cell in read_notebook(notebook).cells]
    return hashlib.sha256(json.dumps([previous, notebook.name, cells, given], default=repr).encode()).hexdigest()


def _is_finished(stamp: Path, key: str, target: Path) -> bool:
    try:
        if json.loads(stamp.read_text(encoding="utf-8"))["key"] != key or not target.is_file():
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    # Outputs may have been cleared by hand since.
    return all(cell.execution_count for cell in read_notebook(target).cells if cell.cell_type == "code" and cell.source)


def _execute(notebook: Path, output: Path, given: dict[str, object], progress: bool) -> None:
    """papermill, with every way in which it can fail told in one sentence."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    # Parameters were checked above, from the syntax tree; papermill's own reading misses `int | None` and warns.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, output)),
            parameters={name: list(value) if isinstance(value, tuple) else value for name, value in given.items()},
            kernel_name="python3",
            progress_bar=progress,
            stderr_file=sys.stderr if progress and sys.stderr.isatty() else None,
            cwd=str(notebook.parent),
            extra_arguments=["--log-level=CRITICAL"],  # else every kernel warns of unencrypted local sockets
        )
    except papermill.PapermillExecutionError as error:
        print("\n".join(error.traceback), file=sys.stderr)
        first_line = error.source.strip().splitlines()[0] if error.source.strip() else ""
        raise NotebookError(
            f"{notebook.name} stopped in cell [{error.exec_count}] ({first_line}) with {error.ename}: {error.evalue}\n"
            f"The notebook as far as it got: {output}"
        ) from error
    except (DeadKernelError, CellExecutionError) as error:
        raise NotebookError(
            f"{notebook.name} stopped because its Python process died, most often for want of memory: close other "
            f"programs, or choose a smaller profile.\nThe notebook as far as it got: {output}"
        ) from error
    except NoSuchKernel as error:
        raise MissingFileError(
            "Jupyter knows no kernel `python3`: install ipykernel into the environment that runs this."
        ) from error


def _put_back(notebook: Path, executed: Path) -> None:
    source = read_notebook(notebook)
    result = read_notebook(executed)
    cells = [cell.source for cell in result.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if cells != [cell.source for cell in source.cells]:
        raise NotebookError(
            f"{notebook.name} was edited while it ran, so its outputs were not put into it: run it again. "
            f"The executed notebook: {executed}"
        )
    write_notebook(notebook, deterministic(source, result))


@contextlib.contextmanager
def _kernel_environment(root: Path, output: Path) -> Iterator[None]:
    """What the kernels inherit: where to work, and this very copy of the package."""
    package_parent = str(Path(sketchae.__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    changes: dict[str, str | None] = {
        "SKETCHAE_ROOT": str(root),
        "SKETCHAE_OUTPUT": str(output),
        "PYTHONPATH": package_parent + (os.pathsep + inherited if inherited else ""),
        "JUPYTER_PREFER_ENV_PATH": "1",  # take this environment's kernel, not one that the user registered
        **TEXT_PROGRESS,
        **REUSED_MEMORY,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else Python 3.11 warns about frozen modules in every kernel
        "MPLBACKEND": None,  # a backend without display would keep figures out of the notebooks
    }
    before = {name: os.environ.get(name) for name in changes}
    try:
        _set(changes)
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _say(text: str, progress: bool) -> None:
    if progress:
        print(text, flush=True)
