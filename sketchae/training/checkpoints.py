"""Tensors and JSON in one safetensors file that is either complete or absent; no pickles.

The JSON lies in the file's own header, so that the numbers and what is said about them cannot come apart when a run is
killed between two writes.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sketchae.atomic import atomic_write_bytes
from sketchae.errors import BadInputError, MissingFileError


def save_state(path: str | Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Write `tensors` and the JSON-serialisable `facts` to `path`; raises NoSpaceError where the disk is full."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"sketchae": json.dumps(facts, sort_keys=True, allow_nan=False)}
    return atomic_write_bytes(path, safetensors.torch.save(contiguous, metadata))


def load_state(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_state` wrote.

    Raises:
        MissingFileError: there is no such file. BadInputError: it is damaged, or something else wrote it.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["sketchae"])  # noqa: SIM118
    except FileNotFoundError:
        raise MissingFileError(f"There is no {path}: train first.") from None
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise BadInputError(f"{path} is damaged or not one of ours ({error}): delete it and train again.") from error


def training_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters, buffers and the optimiser's moments, under names that `restore_training` finds again."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    return tensors


def restore_training(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put `training_tensors` back, bit by bit."""
    own = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    model.load_state_dict(own)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, moment = name.split(".")
            state.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
