"""What a redraw of a picture keeps and what it changes, and the strength at which a rival changes as much."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sketchae.diffusion.picture_sets import Result
from sketchae.diffusion.readings import (
    KIND_NAMES,
    KINDS,
    Readings,
    bootstrap_weights,
    checked_columns,
    kind_means,
    paired,
    safe_ratio,
)
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import Interval, interval


@dataclass(frozen=True)
class Control(Result):
    """For each kind of factors, the share that a redraw kept and the share that it changed (1 less the first), with intervals.

    `per_factor` is the share kept of each; NaN where no picture counts.
    """

    kept: dict[str, float]
    changed: dict[str, float]
    kept_ci95: dict[str, Interval]
    changed_ci95: dict[str, Interval]
    n_pictures: int
    per_factor: dict[str, float]


def control(
    readings_before: Readings,
    readings_after: Readings,
    kinds: Mapping[str, str] = KINDS,
    *,
    counted: Mapping[str, np.ndarray] | None = None,
    n_samples: int = 1,
    n_boot: int = 1000,
    name: str = "control",
) -> Control:
    """What a redraw keeps and changes, picture by picture, whatever drew it: a held block, SDEdit, other words in the prompt.

    Args:
        counted: for each factor, which prompts count (boolean, one a prompt); all by default. A prompt that names a style asks a redraw to
            keep it: `{factor: ~named for factor, named in prompts.named.items()}` looks at what it leaves open.
        n_samples: every so many pictures in a row share a prompt (or an original) and are resampled together.

    Raises:
        BadInputError: other numbers before than after or in `counted`, or a factor missing.
    """
    before, after = paired(readings_before, readings_after, kinds, "the readings before", "the readings after", n_samples)
    n = len(next(iter(before.values())))
    rows = {factor: np.ones(n, dtype=bool) for factor in kinds} if counted is None else checked_columns(counted, kinds, "`counted`")
    if len(next(iter(rows.values()))) != n:
        raise BadInputError(f"`counted` has {len(next(iter(rows.values())))} entries for {n} prompts: give one for each.")
    counts = bootstrap_weights(n, n_boot, name)
    shares = {}
    for factor in kinds:
        w = counts * rows[factor].astype(bool)
        shares[factor] = safe_ratio(w @ (before[factor] == after[factor]).mean(1), w.sum(1))
    kept = kind_means(shares, kinds)
    return Control(
        kept={kind: float(values[0]) for kind, values in kept.items()},
        changed={kind: float(1 - values[0]) for kind, values in kept.items()},
        kept_ci95={kind: interval(values[1:]) for kind, values in kept.items()},
        changed_ci95={kind: interval(1 - values[1:]) for kind, values in kept.items()},
        n_pictures=n * n_samples,
        per_factor={factor: float(values[0]) for factor, values in shares.items()},
    )


@dataclass(frozen=True)
class Matched(Result):
    """The strength at which a rival changes as much as was asked, and the shares that it changes there, between its measured strengths."""

    strength: float
    changed: dict[str, float]


def matched(curve: Mapping[float | int, Control], target: float | int, by: str = "style") -> Matched:
    """The lowest strength at which `changed[by]` is `target`, by linear interpolation between the strengths of `curve`.

    For intervals, draw the rival again at that strength and give its pictures to `control`.

    Raises:
        BadInputError: fewer than two strengths, an unknown kind, a strength that changed nothing measurable, or a target outside the curve.
    """
    if by not in KIND_NAMES:
        raise BadInputError(f'A rival is matched by what it changes of one kind, "semantic" or "style", not {by!r}.')
    if len(curve) < 2:
        raise BadInputError("A strength is interpolated between others: measure the rival at two strengths or more.")
    strengths = sorted(curve)
    changes = [curve[strength].changed[by] for strength in strengths]
    if not np.isfinite(changes).all():
        raise BadInputError(f"No {by} factor was measured at some strength: match by the other kind, or count more factors.")
    for i, (low, high) in enumerate(itertools.pairwise(changes)):
        if min(low, high) <= target <= max(low, high):
            share = 0.0 if low == high else (target - low) / (high - low)
            ends = strengths[i : i + 2]
            mixed = {kind: _between(*(curve[s].changed[kind] for s in ends), share) for kind in KIND_NAMES}
            return Matched(_between(*ends, share), mixed)
    raise BadInputError(
        f"The rival changes {min(changes):.3f} to {max(changes):.3f} of the {by} factors, never {target:.3f}: measure it at other strengths."
    )


def _between(low: float | int, high: float | int, share: float | int) -> float:
    return float(low + share * (high - low))
