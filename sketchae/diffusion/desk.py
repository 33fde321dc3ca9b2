"""Where the arms of a study are drawn and kept: a folder of finished ones, on which several processes work at once."""

import contextlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from sketchae.atomic import atomic_path
from sketchae.diffusion.arms import Found
from sketchae.errors import BadInputError
from sketchae.progress import hide_if

MADE_BY = "python -m sketchae.diffusion.studies"


class Desk:
    """A folder of finished arms, on which several processes work."""

    def __init__(self, folder: Path, about: dict[str, Any], progress: bool):
        self.folder, self.about, self.progress = Path(folder), about, progress
        self.folder.mkdir(parents=True, exist_ok=True)

    def all(self, jobs: Mapping[str, Any], work: Any) -> dict[str, Found]:
        """Every job's tensors and numbers, by name: first what nobody works on, then what others have not finished."""
        for timeout in (0, -1):
            for name, job in tqdm(jobs.items(), desc=f"{next(iter(jobs))} …", **hide_if(not self.progress or timeout != 0)):
                with self._free(name, timeout) as free:
                    if free:
                        tensors, numbers = work(job)
                        write_stored(self._file(name), tensors, {"about": self.about, "numbers": numbers})
        return {name: self._load(name) for name in jobs}

    @contextlib.contextmanager
    def _free(self, name: str, timeout: int) -> Iterator[bool]:
        """Whether the arm is still to be drawn, by this process; it stays ours within the block."""
        if self._file(name).exists():
            yield False
            return
        try:
            with filelock.FileLock(self._file(name).with_suffix(".lock"), timeout=timeout):
                yield not self._file(name).exists()
        except filelock.Timeout:
            yield False

    def _file(self, name: str) -> Path:
        return self.folder / f"{name.replace(', ', '_').replace(' ', '_')}.safetensors"

    def _load(self, name: str) -> Found:
        tensors, head = load_stored(self._file(name))
        if head["about"] != self.about:
            raise BadInputError(f"{self.folder} holds arms of other networks or sizes: remove it to start anew.")
        return tensors, head["numbers"]


def write_stored(file: Path, tensors: Mapping[str, Tensor], head: dict[str, Any]) -> None:
    """Tensors with what they were made from ("about") and what was measured ("numbers"); whole, or not at all."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    metadata = {"head": json.dumps({"made_by": MADE_BY, **head, "versions": versions})}
    with atomic_path(file) as path:
        save_file({name: table.contiguous() for name, table in tensors.items()} or {"nothing": torch.zeros(0)}, path, metadata)


def load_stored(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_stored` wrote: tensors and head, with the versions of the libraries.

    Raises:
        BadInputError: the file is damaged.
    """
    try:
        with safe_open(file, "pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}, json.loads(stored.metadata()["head"])  # noqa: SIM118 - no mapping
    except Exception as error:  # the library has its own for each kind of damage
        raise BadInputError(f"{file} cannot be read ({error}): remove it and make it again by `{MADE_BY}`.") from error
