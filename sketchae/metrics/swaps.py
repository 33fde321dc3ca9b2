"""Swap score and counterfactual score: the two numbers that say how well a split moves meaning.

Take pairs of scenes (a, b) and decode the picture with a's semantic and b's style block. Semantic factors should
then follow a, style factors b.

*Swap score.* A judge reads the picture. For each factor, over the pairs in which it differs: `follows` is the share
that shows the value of the image it should follow, `other` the share that shows the other's value, `neither` the
rest; the factor's score is follows − other. Semantic factors are averaged, style factors are averaged, and the two
halves are averaged: 1 is perfect, 0 no preference, −1 the wrong way round. The same average of `neither` stands
beside it, and the *ceiling*: the same figure for unswapped reconstructions (a with a).

*Counterfactual score.* With R the distance of the decoded swap from the true counterfactual picture, C that of the
codec's own reconstruction of it, and N that of the better trivial answer (a or b reconstructed, whichever is nearer,
pair by pair): (N − R) / (N − C), from averages over pairs. 1 is as good as the codec allows, 0 no better than not
editing.

All intervals are 95 % percentile bootstraps over pairs (all factors of a pair are resampled together). Pairs should
share as few pictures as possible (`evaluation.pair_indices`): a bootstrap takes them as independent.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError
from sketchae.metrics import distances
from sketchae.metrics.bootstrap import Interval, interval, resample_counts

Readings = Mapping[str, np.ndarray | Tensor]  # factor -> integer values, shape (n_pairs,)


@dataclasses.dataclass(frozen=True)
class FactorScore:
    """One factor over the `n_pairs` pairs in which it differs; NaN where it differs in none."""

    kind: str
    follows: float
    other: float
    neither: float
    score: float
    n_pairs: int
    ci95: Interval


@dataclasses.dataclass(frozen=True)
class SwapScore:
    """Swap score in [−1, 1] with its two halves, the share of neither, and 95 % intervals."""

    score: float
    semantic: float
    style: float
    neither: float
    score_ci95: Interval
    semantic_ci95: Interval
    style_ci95: Interval
    neither_ci95: Interval
    n_pairs: int
    per_factor: dict[str, FactorScore]

    def as_dict(self) -> dict:
        """Plain numbers, lists and dicts, for recording."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class CounterfactualScore:
    """(N − R) / (N − C) with its 95 % interval, and the three average distances that it is made of."""

    score: float
    ci95: Interval
    swapped: float
    trivial: float
    codec: float

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


def score_swaps(
    predictions: Readings,
    factors_a: Readings,
    factors_b: Readings,
    kinds: Mapping[str, str],
    *,
    n_boot: int = 1000,
    name: str = "swaps",
) -> SwapScore:
    """Swap score of pictures with a's semantic and b's style block, from a judge's readings.

    `predictions`, `factors_a` and `factors_b` map factor names to integer values, one for each pair; `kinds` maps
    each factor to score to "semantic" or "style" (for Scenes: `{f.name: f.kind for f in FACTORS.values()}`). A factor
    that differs in no pair has NaN as its score and is left out of its half. `name` seeds the bootstrap.

    Raises:
        BadInputError: no pairs, a factor without readings, unequal lengths, or a half without any factor that differs.
    """
    follows_a = {factor: kind == "semantic" for factor, kind in kinds.items()}
    return _score(predictions, factors_a, factors_b, kinds, follows_a, n_boot, name)


def score_unswapped(
    predictions: Readings,
    factors_a: Readings,
    factors_b: Readings,
    kinds: Mapping[str, str],
    *,
    n_boot: int = 1000,
    name: str = "swaps",
) -> SwapScore:
    """The ceiling: the same figure for reconstructions of a (a with a), where *every* factor should follow a."""
    return _score(predictions, factors_a, factors_b, kinds, dict.fromkeys(kinds, True), n_boot, name)


def _score(
    predictions: Readings,
    factors_a: Readings,
    factors_b: Readings,
    kinds: Mapping[str, str],
    follows_a: Mapping[str, bool],
    n_boot: int,
    name: str,
) -> SwapScore:
    unknown = set(kinds.values()) - {"semantic", "style"}
    if unknown:
        raise BadInputError(f'A factor is "semantic" or "style", not {", ".join(sorted(map(repr, unknown)))}.')
    if not kinds:
        raise BadInputError("The swap score needs at least one semantic and one style factor; `kinds` is empty.")
    factors = list(kinds)
    read = _columns(predictions, factors, "the judge's readings")
    values_a = _columns(factors_a, factors, "the factors of a")
    values_b = _columns(factors_b, factors, "the factors of b")
    if not read.shape == values_a.shape == values_b.shape:
        raise BadInputError(
            f"{len(read)} readings for {len(values_a)} and {len(values_b)} scenes: give one reading for each pair."
        )
    if len(read) == 0:
        raise BadInputError("The swap score needs at least one pair.")

    to_a = np.array([follows_a[factor] for factor in factors])
    expected, other = np.where(to_a, values_a, values_b), np.where(to_a, values_b, values_a)
    differs = (expected != other).astype(np.float64)
    shares = np.stack([differs, differs * (read == expected), differs * (read == other)])
    weights = np.concatenate([np.ones((1, len(read))), resample_counts(len(read), n_boot, name)])
    counts = weights @ shares  # (3, 1 + n_boot, factors); row 0 is the sample itself
    with np.errstate(invalid="ignore", divide="ignore"):
        follows, wrong = counts[1] / counts[0], counts[2] / counts[0]
    scores, neither = follows - wrong, 1 - follows - wrong

    halves, neither_halves = {}, {}
    for half in ("semantic", "style"):
        members = [i for i, factor in enumerate(factors) if kinds[factor] == half and counts[0, 0, i] > 0]
        if not members:
            raise BadInputError(
                f"No {half} factor differs in any pair, so its half of the swap score does not exist: "
                f"use other pairs, or more than {len(read)}."
            )
        halves[half], neither_halves[half] = _nanmean(scores[:, members]), _nanmean(neither[:, members])
    total = (halves["semantic"] + halves["style"]) / 2
    neither_total = (neither_halves["semantic"] + neither_halves["style"]) / 2
    return SwapScore(
        score=float(total[0]),
        semantic=float(halves["semantic"][0]),
        style=float(halves["style"][0]),
        neither=float(neither_total[0]),
        score_ci95=interval(total[1:]),
        semantic_ci95=interval(halves["semantic"][1:]),
        style_ci95=interval(halves["style"][1:]),
        neither_ci95=interval(neither_total[1:]),
        n_pairs=len(read),
        per_factor={
            factor: FactorScore(
                kind=kinds[factor],
                follows=float(follows[0, i]),
                other=float(wrong[0, i]),
                neither=float(neither[0, i]),
                score=float(scores[0, i]),
                n_pairs=int(counts[0, 0, i]),
                ci95=interval(scores[1:, i]),
            )
            for i, factor in enumerate(factors)
        },
    )


def counterfactual_score(
    swapped: distances.Images,
    counterfactual: distances.OtherImages,
    recon_counterfactual: distances.OtherImages,
    recon_a: distances.OtherImages,
    recon_b: distances.OtherImages,
    distance: str = "mse",
    *,
    n_boot: int = 1000,
    name: str = "swaps",
) -> CounterfactualScore:
    """Counterfactual score from five pictures a pair, each in [0, 1]; `distance` is "mse", "ssim" or "gradient"."""
    measure = distance_function(distance)
    return counterfactual_from_distances(
        measure(swapped, counterfactual),
        measure(recon_counterfactual, counterfactual),
        measure(recon_a, counterfactual),
        measure(recon_b, counterfactual),
        n_boot=n_boot,
        name=name,
    )


def counterfactual_from_distances(
    swapped: Float[Tensor, " _"],
    codec: Float[Tensor, " _"],
    trivial_a: Float[Tensor, " _"],
    trivial_b: Float[Tensor, " _"],
    *,
    n_boot: int = 1000,
    name: str = "swaps",
) -> CounterfactualScore:
    """Counterfactual score from the distances of four pictures a pair to the true counterfactual.

    NaN, with a warning, where the codec's own reconstruction is no nearer than the trivial answer (N ≤ C): such a
    codec leaves nothing to measure. Raises BadInputError without pairs or with unequal lengths.
    """
    columns = (swapped, codec, torch.minimum(trivial_a, trivial_b)) if trivial_a.shape == trivial_b.shape else ()
    if not columns or not len(swapped) == len(codec) == len(trivial_a):
        raise BadInputError("The counterfactual score needs one distance of each kind for every pair.")
    if len(swapped) == 0:
        raise BadInputError("The counterfactual score needs at least one pair.")
    values = torch.stack(columns, 1).double().cpu().numpy()
    weights = np.concatenate([np.ones((1, len(values))), resample_counts(len(values), n_boot, name)])
    reached, floor, trivial = (weights @ values / len(values)).T
    if trivial[0] <= floor[0]:
        warnings.warn(
            "The codec's reconstruction of the counterfactual is no nearer to it than not editing: "
            "the counterfactual score does not exist for this codec (NaN).",
            stacklevel=2,
        )
    room = np.where(trivial > floor, trivial - floor, np.nan)
    scores = (trivial - reached) / room
    return CounterfactualScore(
        score=float(scores[0]),
        ci95=interval(scores[1:]),
        swapped=float(reached[0]),
        trivial=float(trivial[0]),
        codec=float(floor[0]),
    )


def distance_function(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance of that name, one number a picture, 0 for equal: "mse", "ssim" (1 − SSIM) or "gradient"."""
    known = {
        "mse": distances.mse,
        "ssim": lambda a, b: 1 - distances.ssim(a, b),
        "gradient": distances.gradient_distance,
    }
    if name not in known:
        raise BadInputError(f"Unknown distance {name!r}: choose one of {', '.join(known)}.")
    return known[name]


def _nanmean(columns: np.ndarray) -> np.ndarray:
    present = np.isfinite(columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(present, columns, 0).sum(1) / present.sum(1)


def _columns(source: Readings, factors: list[str], what: str) -> np.ndarray:
    missing = [factor for factor in factors if factor not in source]
    if missing:
        raise BadInputError(f"{', '.join(missing)} missing from {what}: score only factors that all three have.")
    columns = [source[factor] for factor in factors]
    columns = [column.cpu().numpy() if isinstance(column, Tensor) else np.asarray(column) for column in columns]
    if len({len(column) for column in columns}) > 1:
        raise BadInputError(f"The factors in {what} have unequal lengths: give one value for each pair.")
    return np.stack(columns, axis=1)
