"""What a notebook found, written with the run that found it.

`results/values.json` holds only values (`evaluate.swap_score`: 0.123), so that two runs on one machine give the same
file to the last digit. `results/manifest.json` holds what varies or explains: library versions, host, times, git
commit, the operative profile, and hashes and alternative texts of the figures.
"""

import base64
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import math
import numbers
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sketchae.atomic import atomic_write_bytes, atomic_write_text
from sketchae.errors import BadInputError
from sketchae.figures import render_png

VALUES, MANIFEST = "values.json", "manifest.json"
LIBRARIES = (
    "accelerate", "datasets", "diffusers", "jaxtyping", "matplotlib", "numpy", "pillow", "safetensors", "scikit-image",
    "scikit-learn", "scipy", "sketchae", "torch", "transformers",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SavedFigure(os.PathLike):
    """A figure on disk; as the last expression of a notebook cell it shows the very file that was saved."""

    path: Path
    alt: str

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"image/png": base64.b64encode(self.path.read_bytes()).decode(), "text/plain": self.alt}


class Recorder:
    """Collects the values and figures of one notebook; `close()` writes them in place of that notebook's earlier ones.

    Args:
        notebook: the notebook's name; a leading number is dropped ("04_evaluate" records as "evaluate").
        profile: a `sketchae.profiles.Profile` (its results_dir, figures_dir and work_dir are used).

    As a context manager it closes at the end of the block unless an error happened: a failed run keeps the old results.
    """

    def __init__(self, notebook: str, profile: Any) -> None:
        self.notebook = _checked_name(re.sub(r"^\d+_", "", notebook))
        self.profile = profile
        self.values: dict[str, Any] = {}
        self.figures: dict[str, dict[str, str]] = {}
        self._started = datetime.datetime.now(datetime.UTC)
        self._clock = time.perf_counter()

    def value(self, name: str, x: Any, digits: int = 3) -> Any:
        """Record `x` as "<notebook>.<name>", floats rounded to `digits` decimals; returns what was recorded.

        Takes numbers, booleans, strings, None (not measured), arrays and tensors, lists of these, and dicts, which
        become one key an entry ("<name>.<entry>").

        Raises:
            BadInputError: NaN or infinity (the message names the key), a type that JSON lacks, or a malformed name.
        """
        key = f"{self.notebook}.{_checked_name(name)}"
        if isinstance(x, Mapping):
            return {entry: self.value(f"{name}.{entry}", item, digits) for entry, item in x.items()}
        self.values[key] = _plain(x, digits, key)
        return self.values[key]

    def figure(self, figure: Figure, name: str, *, alt: str) -> SavedFigure:
        """Save a figure as figures_dir/<notebook>_<name>.png with its alternative text.

        The same figure gives the same bytes.

        Raises:
            BadInputError: the alternative text is empty.
        """
        stem = f"{self.notebook}_{_checked_name(name)}"
        if not alt.strip():
            raise BadInputError(f"Figure {stem} has no alternative text: say in one sentence what it shows.")
        path = atomic_write_bytes(Path(self.profile.figures_dir) / f"{stem}.png", render_png(figure, Description=alt))
        self.figures[stem] = {"alt": alt, "file": path.name, **figure_hashes(path)}
        return SavedFigure(path, alt)

    def close(self) -> None:
        """Merge into values.json and manifest.json under a lock; safe beside other notebooks in other processes."""
        results = Path(self.profile.results_dir)
        entry = {
            "started": self._started.isoformat(timespec="seconds"),
            "duration_s": round(time.perf_counter() - self._clock, 1),
            "host": {"system": platform.platform(), "machine": platform.machine(), "n_cores": os.cpu_count()},
            "python": platform.python_version(),
            "versions": library_versions(),
            "git": git_state(self.profile.root),
            "profile": _jsonable(dataclasses.asdict(self.profile)),
            "figures": self.figures,
        }
        work_dir = Path(self.profile.work_dir)
        work_dir.mkdir(parents=True, exist_ok=True)
        # The lock lies with the work, not beside the results, which git tracks.
        with filelock.FileLock(work_dir / "record.lock"):
            values = read_json(results / VALUES)
            values = {key: x for key, x in values.items() if not key.startswith(f"{self.notebook}.")}
            manifest = read_json(results / MANIFEST)
            manifest.setdefault("notebooks", {})[self.notebook] = entry
            _write_json(results / VALUES, values | self.values)
            _write_json(results / MANIFEST, manifest)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} if there is none; BadInputError if it is not a JSON object."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise BadInputError(f"{path} is not valid JSON ({error}): delete it and run the notebooks again.") from error
    if not isinstance(content, dict):
        raise BadInputError(f"{path} does not hold a JSON object: delete it and run the notebooks again.")
    return content


def figure_hashes(path: Path) -> dict[str, str]:
    """SHA-256 of a picture's file and of its pixels (which another compressor or a metadata change leaves alone)."""
    with Image.open(path) as image:
        pixels = image.convert("RGBA")
    content = repr(pixels.size).encode() + pixels.tobytes()
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "pixels_sha256": hashlib.sha256(content).hexdigest(),
    }


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that results depend on; those that are missing are left out."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_state(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Commit of the checkout that `folder` belongs to and whether tracked files differ from it; None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        modified = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(modified)}
    except (OSError, subprocess.SubprocessError):
        return None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n")


def _plain(x: Any, digits: int, key: str) -> Any:
    if isinstance(x, Tensor):
        x = x.detach().cpu().numpy()
    if isinstance(x, np.ndarray | np.generic):
        x = x.tolist()
    if isinstance(x, list | tuple):
        return [_plain(item, digits, key) for item in x]
    if x is None or isinstance(x, bool | int | str):
        return x
    if not isinstance(x, numbers.Real):
        raise BadInputError(f"Value {key} is a {type(x).__name__}: record numbers, strings, lists or dicts of these.")
    if not math.isfinite(x):
        raise BadInputError(
            f"Value {key} is {x}: a result that is NaN or infinite is not recorded; record None if it was not measured."
        )
    return round(float(x), digits) + 0.0  # + 0.0 turns -0.0 into 0.0


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name):
        raise BadInputError(f"{name!r} cannot name a value or a figure: use letters, digits, '_', '-' and '.' only.")
    return name
