"""Lerp curves: what follows b, and what is dragged along, while one block of a moves to b; and single pairs ranked.

For a pair (a, b) and an α, the *semantic edit* moves only the semantic block of a by α towards b (`edits.lerp_blocks`),
the *style edit* only the style block; a judge reads the decoded picture. For each factor, over the pairs in which it
differs: the share that shows b's value, and the share that shows a's; both are averaged over the factors of a kind.
An edit has three curves over α:

    moved     factors of the edit's own kind that show b's value     wanted: rises to 1
    dragged   factors of the other kind that show b's value          wanted: stays 0
    kept      factors of the other kind that still show a's value    wanted: stays 1 (the rest shows neither)

Its *selectivity* is the area between `moved` and `dragged`, by the trapezium rule over α in [0, 1]; that of a split is
the mean of its two edits'. It lies in [−1, 1], 0 is no preference, and exchanging the two blocks changes its sign. A
perfect split does not reach 1: it has 1 − α* if every factor turns at α*, 0.5 if half-way.

The ends are known from elsewhere: α = 0 is the reconstruction of a, and the style edit at α = 1 is the picture that the
swap score judges. All intervals are 95 % percentile bootstraps over pairs, as in `metrics.swaps`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sketchae import edits
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import Interval, interval, resample_counts
from sketchae.metrics.evaluation import SwapBench

EDITS = ("semantic", "style")  # an edit is called after the block that it moves
CURVES = ("moved", "dragged", "kept")
ALPHAS = (0, 0.2, 0.4, 0.6, 0.8, 1)

Curve = Float[np.ndarray, " alphas"]
Values = Int[np.ndarray, "pairs factors"]


@dataclasses.dataclass(frozen=True)
class LerpCurves:
    """`moved`, `dragged`, `kept`: one curve for each edit, "semantic" and "style"; selectivities with 95 % intervals."""

    alphas: Curve
    moved: dict[str, Curve]
    dragged: dict[str, Curve]
    kept: dict[str, Curve]
    selectivity: float
    selectivity_ci95: Interval
    edit_selectivity: dict[str, float]
    edit_selectivity_ci95: dict[str, Interval]
    n_pairs: int

    def values(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts, for recording; the figure draws them too."""
        curves = {key: {edit: getattr(self, key)[edit].tolist() for edit in EDITS} for key in CURVES}
        return {
            "alphas": self.alphas.tolist(),
            **curves,
            "selectivity": self.selectivity,
            "selectivity_ci95": list(self.selectivity_ci95),
            "edit_selectivity": dict(self.edit_selectivity),
            "edit_selectivity_ci95": {edit: list(ends) for edit, ends in self.edit_selectivity_ci95.items()},
            "n_pairs": self.n_pairs,
        }

    def __str__(self) -> str:
        rows = {f"{edit} edit, {key}": getattr(self, key)[edit] for edit in EDITS for key in CURVES}
        table = {f"{self.n_pairs} pairs, α": self.alphas, **rows}
        lines = [f"{name:24}" + "".join(f"{value:7.2f}" for value in row) for name, row in table.items()]
        areas = {f"{edit} edit": (self.edit_selectivity[edit], self.edit_selectivity_ci95[edit]) for edit in EDITS}
        for name, (value, (low, high)) in {**areas, "split": (self.selectivity, self.selectivity_ci95)}.items():
            lines.append(f"{f'selectivity, {name}':26} {value:+.2f}  [{low:+.2f}, {high:+.2f}]")
        return "\n".join(lines)


def lerp_curves(
    bench: SwapBench,
    basis: edits.Split,
    alphas: Sequence[float | int] | Float[np.ndarray, " _"] | Int[np.ndarray, " _"] = ALPHAS,
    n_pairs: int | None = None,
) -> LerpCurves:
    """Lerp curves of a split by the bench's headline judge, optionally on the first `n_pairs` pairs only.

    `alphas` increase from 0 to 1. Both edits at α = 0 are one picture, decoded and read once: a pair costs
    2 · len(alphas) − 1 pictures. `n_boot` and `name` of the bench steer the bootstrap.

    Raises:
        BadInputError: other alphas, more pairs than the bench has, a factor that the judge does not read, or a kind
            ("semantic", "style") without any factor that differs.
    """
    steps = _check_alphas(alphas)
    n = bench._count(n_pairs)
    a, b = _values(bench, n)
    differs = a != b
    members = {kind: np.array([kind == bench.kinds[factor] for factor in bench.kinds]) for kind in EDITS}
    for kind, own in members.items():
        if not differs[:, own].any():
            raise BadInputError(
                f"No {kind} factor differs in any pair, so what follows b cannot be told from what stays: "
                f"use other pairs, or more than {n}."
            )
    read = _read_lerps(bench, basis, steps, n)
    weights = np.concatenate([np.ones((1, n)), resample_counts(n, bench.n_boot, bench.name)])
    shows_a, shows_b = (
        {kind: _mean_share(weights, differs[:, own], shown[..., own]) for kind, own in members.items()}
        for shown in (read == a, read == b)
    )
    moved = {edit: shows_b[edit][:, i] for i, edit in enumerate(EDITS)}
    dragged, kept = ({edit: shows[_other(edit)][:, i] for i, edit in enumerate(EDITS)} for shows in (shows_b, shows_a))
    areas = {edit: np.trapezoid(moved[edit] - dragged[edit], steps, axis=-1) for edit in EDITS}
    both = np.mean(list(areas.values()), axis=0)
    return LerpCurves(
        alphas=steps,
        moved={edit: curves[0] for edit, curves in moved.items()},
        dragged={edit: curves[0] for edit, curves in dragged.items()},
        kept={edit: curves[0] for edit, curves in kept.items()},
        selectivity=float(both[0]),
        selectivity_ci95=interval(both[1:]),
        edit_selectivity={edit: float(area[0]) for edit, area in areas.items()},
        edit_selectivity_ci95={edit: interval(area[1:]) for edit, area in areas.items()},
        n_pairs=n,
    )


def pair_scores(bench: SwapBench, basis: edits.Split, n_pairs: int | None = None) -> Float[np.ndarray, " pairs"]:
    """The swap score of each pair alone, in [−1, 1], by the bench's headline judge.

    Of the picture with a's semantic and b's style block: over the semantic factors that differ in the pair, the mean of
    (shows a's value) − (shows b's); over the style factors, (shows b's) − (shows a's); then the mean of the two halves.
    A half without a factor that differs is left out; NaN if none differs at all. The mean over pairs is the bench's
    swap score where every factor differs in every pair, else only near it: there each factor has its own pairs.

    Raises:
        BadInputError: more pairs than the bench has, or a factor that the judge does not read.
    """
    n = bench._count(n_pairs)
    a, b = _values(bench, n)
    read = np.concatenate([_read(bench, edits.swap(basis, *_latents(bench, rows))) for rows in bench._batches(n)])
    right_way = np.array([1 if bench.kinds[factor] == "semantic" else -1 for factor in bench.kinds])
    scores = right_way * ((read == a).astype(np.float64) - (read == b))  # 0 where a and b do not differ
    halves = [
        _ratio(scores[:, right_way == side].sum(axis=1), (a != b)[:, right_way == side].sum(axis=1)) for side in (1, -1)
    ]
    return _nanmean(np.stack(halves, axis=1))


def ranked_pairs(scores: Sequence[float | int] | Float[np.ndarray, " _"]) -> dict[str, int]:
    """The rows of the "best", the "median" and the "worst" score; NaN never, and of equal scores the lowest row.

    Of an even number of scores the median is the lower of the two in the middle, so that it is one of the pairs.

    Raises:
        BadInputError: there is no score that is a number.
    """
    values = np.asarray(scores, dtype=np.float64)
    ordered = np.sort(values[~np.isnan(values)])
    if not len(ordered):
        raise BadInputError("Ranking needs a score that is not NaN: use pairs in which at least one factor differs.")
    chosen = {"best": ordered[-1], "median": ordered[(len(ordered) - 1) // 2], "worst": ordered[0]}
    return {name: int(np.flatnonzero(values == score)[0]) for name, score in chosen.items()}


def _read_lerps(bench: SwapBench, basis: edits.Split, alphas: Curve, n: int) -> Int[np.ndarray, "edits alphas _ _"]:
    """What the judge reads: (edits, alphas, pairs, factors)."""

    def read(z_a: Tensor, z_b: Tensor, **alpha: float) -> Values:
        return _read(bench, edits.lerp_blocks(basis, z_a, z_b, **alpha))

    batches = []
    for rows in bench._batches(n):
        z = _latents(bench, rows)
        start = read(*z)
        batches.append([[start, *(read(*z, **{edit: float(alpha)}) for alpha in alphas[1:])] for edit in EDITS])
    return np.concatenate([np.array(batch) for batch in batches], axis=2)


@torch.inference_mode()
def _read(bench: SwapBench, z: Tensor) -> Values:
    found = bench.judge.predict(bench._decode(z))
    missing = [factor for factor in bench.kinds if factor not in found]
    if missing:
        raise BadInputError(f"The judge does not read {', '.join(missing)}: give the bench `kinds` that it reads.")
    return np.stack([np.asarray(found[factor].cpu()) for factor in bench.kinds], axis=1)


def _latents(bench: SwapBench, rows: slice) -> tuple[Tensor, Tensor]:
    return bench._z(bench.z_a, rows), bench._z(bench.z_b, rows)


def _values(bench: SwapBench, n: int) -> tuple[Values, Values]:
    both = (bench.factors_a, bench.factors_b)
    a, b = (np.stack([factors[factor][:n] for factor in bench.kinds], axis=1) for factors in both)
    return a, b


def _mean_share(
    weights: Float[np.ndarray, "replicates pairs"],
    differs: Bool[np.ndarray, "pairs factors"],
    shown: Bool[np.ndarray, "edits alphas pairs factors"],
) -> Float[np.ndarray, "replicates edits alphas"]:
    """Of the pairs in which a factor differs, the share that shows it; the mean over factors. NaN where none differs."""
    counts = np.tensordot(weights, (shown & differs).astype(np.float64), axes=(1, 2))
    return _nanmean(_ratio(counts, (weights @ differs)[:, None, None]))


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaNs; NaN, not a warning, where nothing is left."""
    return _ratio(np.nansum(values, axis=-1), np.isfinite(values).sum(axis=-1))


def _ratio(parts: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return parts / np.where(whole > 0, whole, np.nan)


def _other(edit: str) -> str:
    return "style" if edit == "semantic" else "semantic"


def _check_alphas(alphas: Any) -> Curve:
    steps = np.asarray(alphas, dtype=np.float64)
    if len(steps) < 2 or steps[0] != 0 or steps[-1] != 1 or not (np.diff(steps) > 0).all():
        raise BadInputError(f"alphas must increase from 0 to 1, as in {ALPHAS}; got {steps.tolist()}.")
    return steps
