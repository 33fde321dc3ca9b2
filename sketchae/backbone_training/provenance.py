"""What lies beside every network that was trained here: how, on what and for how long. Its presence means that the network is finished."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sketchae.atomic import atomic_write_text
from sketchae.errors import MissingFileError
from sketchae.scenes import SCENES_VERSION

_FILE = "provenance.json"
_MOST_ROWS = 200  # of the log, about


def write_provenance(out: Path, about: Mapping[str, Any], record: Mapping[str, Any], n_parameters: int) -> None:
    """Write the training's log into `out`, and then, last, `provenance.json`: `about`, and what the loop's record and this machine say.

    Args:
        out: the folder with the finished weights.
        about: what the network is, and how it is made again; its keys come first.
        record: as `sketchae.backbone_training.loop.fit` returns it (stage by stage under "config", where there are several).
    """
    found = {
        **about,
        "scenes_version": SCENES_VERSION,
        "n_parameters": n_parameters,
        "duration_s": round(record["duration_s"]),
        "n_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "loop": record["config"],
        "last_losses": record["log"][-1],
        "licence": "MIT",
    }
    rows = record["log"][:: max(1, len(record["log"]) // _MOST_ROWS)]
    atomic_write_text(out / "training_log.json", json.dumps(rows) + "\n")
    atomic_write_text(out / _FILE, json.dumps(found, indent=1) + "\n")


def is_finished(folder: Path) -> bool:
    """Whether a network's training, and the writing of its files, came to their end."""
    return (Path(folder) / _FILE).exists()


def read_provenance(folder: Path) -> dict[str, Any]:
    """What `write_provenance` wrote."""
    return json.loads((Path(folder) / _FILE).read_text(encoding="utf-8"))


def install_finished(networks: Mapping[Path, Path], remedies: Mapping[Path, str]) -> None:
    """Copy folders of finished networks to where the package finds them; all of them, or none.

    Args:
        networks: from folder to folder.
        remedies: for each folder, the command that finishes it.

    Raises:
        MissingFileError: where one is not finished.
    """
    for source in networks:
        if not is_finished(source):
            raise MissingFileError(f"{source} holds no finished network: train it with {remedies[source]} first.")
    for source, target in networks.items():
        shutil.copytree(source, target, dirs_exist_ok=True)
