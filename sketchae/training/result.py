"""What a training run leaves behind, and whether two runs are the same one."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError
from sketchae.training.batches import Latents
from sketchae.training.checkpoints import load_state, save_state
from sketchae.training.config import TrainConfig

RESULT = "result.safetensors"
_MAY_CHANGE = {"n_steps", "n_epochs", "checkpoint_every", "seed"}  # between the parts of one run

Record = dict[str, float | int | None]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """One seed's training.

    Attributes:
        weight, start_weight: W after and before training; nearly, not exactly, orthogonal (see `sketchae.basis.finalize`).
        history: one record a validation, step 0 included: `step`, `epoch`; `train_*` (average since the record
            before, None at step 0) and `val_*` of `loss` (weighted total) and its terms `orthogonality`, `semantic`,
            `style`; `orthogonality_error` = ||W^T W - I||_F; `angle_from_start_deg`, the largest principal angle
            between the spans of the first k rows of W now and at the start; `lr`; `wall_s`.
        config: the settings, with this seed.
        data: sizes and origin of the latents.
        wall_s: seconds, over all interruptions, that all `n_together` seeds took side by side.
        n_together: how many seeds were trained side by side.
        stopped_early: whether a plateau ended it.
    """

    weight: Float[Tensor, "channels channels"]
    start_weight: Float[Tensor, "channels channels"]
    history: list[Record]
    config: TrainConfig
    data: dict[str, Any]
    wall_s: float
    n_together: int
    stopped_early: bool

    @property
    def n_steps(self) -> int:
        """Steps that were taken."""
        return int(self.history[-1]["step"])

    def save(self, folder: str | Path) -> Path:
        """Write `result.safetensors` into `folder`."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if "weight" not in f.name}
        facts["config"] = dataclasses.asdict(self.config)
        return save_state(Path(folder) / RESULT, {"weight": self.weight, "start_weight": self.start_weight}, facts)

    @classmethod
    def load(cls, folder: str | Path) -> "TrainResult":
        """Read what `save` wrote; raises MissingFileError where training has not finished, BadInputError if damaged."""
        tensors, facts = load_state(Path(folder) / RESULT)
        return cls(**tensors, **{**facts, "config": TrainConfig(**facts["config"])})


def run_facts(train: Latents, val: Latents, config: TrainConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """What a checkpoint must share with the run that continues it."""
    data = {
        "latent_shape": train.latent_shape,
        "embed_dim": train.embed_dim,
        "n_train": len(train),
        "n_val": len(val),
        "configuration": getattr(train, "configuration", None),
    }
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in _MAY_CHANGE}
    facts = {"seeds": list(seeds), "settings": settings, "data": data}
    return json.loads(json.dumps(facts))  # as it will be read back: tuples become lists


def check_same_run(saved: dict[str, Any], now: dict[str, Any], path: Path, step: int, n_steps: int) -> None:
    """Refuse to continue, or to take for finished, what was made with other settings or data."""
    differences = [
        f"{name} was {old!r}, is {new!r}"
        for part in ("settings", "data")
        for name in sorted({*saved[part], *now[part]})
        if (old := saved[part].get(name)) != (new := now[part].get(name))
    ]
    if saved["seeds"] != now["seeds"]:
        differences.append(f"seeds were {saved['seeds']}, are {now['seeds']}")
    if step > n_steps:
        differences.append(f"it is at step {step}, {n_steps} are asked for")
    if differences:
        raise BadInputError(
            f"{path} belongs to another run ({'; '.join(differences)}): choose another folder, or delete this one to "
            "train afresh."
        )


def finished_result(folder: Path, train: Latents, val: Latents, config: TrainConfig) -> TrainResult | None:
    """The result in `folder`; None if there is none yet, or one of fewer steps (which its checkpoint continues)."""
    if not (folder / RESULT).is_file():
        return None
    result = TrainResult.load(folder)
    n_steps, now = config.steps(len(train)), run_facts(train, val, config, [config.seed])
    saved = {**run_facts(train, val, result.config, [result.config.seed]), "data": result.data}
    # A plateau may have ended the run at a step beyond what is asked for now only if more was asked for then.
    check_same_run(saved, now, folder / RESULT, result.n_steps, n_steps)
    return result if result.stopped_early or result.n_steps == n_steps else None
