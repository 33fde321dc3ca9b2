"""The choices of a training run, checked when they are made."""

import dataclasses

from sketchae.errors import BadInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The paper's recipe by default; every field is a choice that somebody may want to vary.

    Attributes:
        n_semantic: k, channels of the semantic block.
        n_steps: optimiser steps. The author's five epochs of COCO are about 9,000; fewer leave Q where it started.
        n_epochs: passes over the data instead of `n_steps`, if given.
        batch_size: pictures a step, over all processes together.
        lr, weight_decay: of AdamW; the learning rate is constant.
        loss: "mse" (the paper) or "l1" (the author's code), for both embedders.
        orthogonality_weight, orthogonality_reduction: of the penalty on W^T W - I; "mean" (the paper) or "sum".
        parametrization: "penalty", or "orthogonal", where W is exactly orthogonal at every step and the penalty zero.
        seed: decides the start and the order of pictures and captions.
        n_blocks, stem_channels: of the embedders.
        val_every: steps between two validations (and entries of the history).
        checkpoint_every: steps between two checkpoints.
        plateau_patience: stop after so many validations without a lower total loss; None: never.
        plateau_tolerance: by what share the loss must fall to count as lower.
        precision: "fp32", "bf16" (mixed), or "auto": bf16 on GPUs that have it, and fp32 elsewhere.

    Raises:
        BadInputError: a value that no run could use.
    """

    n_semantic: int = 2
    n_steps: int = 9000
    n_epochs: float | None = None
    batch_size: int = 64
    lr: float = 1e-4
    weight_decay: float = 0.01
    loss: str = "mse"
    orthogonality_weight: float = 1.0
    orthogonality_reduction: str = "mean"
    parametrization: str = "penalty"
    seed: int = 0
    n_blocks: int = 3
    stem_channels: int = 4
    val_every: int = 500
    checkpoint_every: int = 1000
    plateau_patience: int | None = None
    plateau_tolerance: float = 1e-3
    precision: str = "auto"

    def __post_init__(self):
        choices = {
            "loss": ("mse", "l1"),
            "orthogonality_reduction": ("mean", "sum"),
            "parametrization": ("penalty", "orthogonal"),
            "precision": ("auto", "fp32", "bf16"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise BadInputError(f"{field}={getattr(self, field)!r} is unknown: choose one of {', '.join(allowed)}.")
        for field in (
            "n_semantic",
            "n_steps",
            "batch_size",
            "n_blocks",
            "stem_channels",
            "val_every",
            "checkpoint_every",
        ):
            if getattr(self, field) < 1:
                raise BadInputError(f"{field}={getattr(self, field)} must be at least 1.")
        if not self.lr > 0:
            raise BadInputError(f"lr={self.lr} must be more than 0.")
        for field in ("weight_decay", "orthogonality_weight", "plateau_tolerance"):
            if not getattr(self, field) >= 0:
                raise BadInputError(f"{field}={getattr(self, field)} must be 0 or more.")
        if self.n_epochs is not None and not self.n_epochs > 0:
            raise BadInputError(f"n_epochs={self.n_epochs} must be more than 0, or None for n_steps.")
        if self.plateau_patience is not None and self.plateau_patience < 1:
            raise BadInputError(
                f"plateau_patience={self.plateau_patience} must be at least 1, or None for no early stop."
            )

    @classmethod
    def from_profile(cls, profile, **changes) -> "TrainConfig":
        """The settings that a profile (`sketchae.profiles`) makes, with single fields replaced."""
        shared = {field.name for field in dataclasses.fields(cls)}
        from_profile = {name: getattr(profile, name) for name in shared if hasattr(profile, name)}
        return cls(**{**from_profile, **changes})

    def steps(self, n_examples: int) -> int:
        """Optimiser steps of the whole run over `n_examples` pictures."""
        return self.n_steps if self.n_epochs is None else max(1, round(self.n_epochs * n_examples / self.batch_size))
