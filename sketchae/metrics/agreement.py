"""How well a measure that needs no factors follows the swap score, over bases: rank correlations with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float

from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import generator, interval

MIN_BASES = 4


def proxy_agreement(
    swap_scores: Sequence[float | int] | np.ndarray,
    proxies: Mapping[str, Sequence[float | int] | np.ndarray],
    *,
    n_boot: int = 1000,
    name: str = "proxy_agreement",
) -> dict[str, dict[str, Any]]:
    """Spearman's rank correlation of every proxy with the swap score over bases.

    A proxy of one side stands for that half of the swap score: bases that put more into the semantic block gain content
    and lose style, so compare it with `semantic` or `style` too, not with the whole score only.

    Returns proxy -> {"spearman": in [−1, 1], "ci95": 95 % percentile bootstrap over bases, "n": number of bases}. The
    interval says what other bases would have given, on the same pairs.

    Raises:
        BadInputError: fewer than four bases, unequal lengths, a value that is not finite, or one value for all bases.
    """
    scores = _over_bases(swap_scores, "swap score")
    n = len(scores)
    rows = np.concatenate([np.arange(n)[None], generator(name).integers(n, size=(n_boot, n))])
    result = {}
    for proxy, values in proxies.items():
        column = _over_bases(values, proxy)
        if len(column) != n:
            raise BadInputError(f"{proxy} has {len(column)} values for {n} swap scores: give one for each basis.")
        correlations = _rank_correlations(scores[rows], column[rows])
        result[proxy] = {"spearman": float(correlations[0]), "ci95": list(interval(correlations[1:])), "n": n}
    return result


def _over_bases(values: Any, what: str) -> Float[np.ndarray, " bases"]:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) < MIN_BASES or not np.isfinite(column).all():
        raise BadInputError(
            f"A rank correlation needs finite values of at least {MIN_BASES} bases; {what} does not have them."
        )
    if column.min() == column.max():
        raise BadInputError(
            f"{what} is the same for every basis, so nothing can agree with it: judge bases that differ."
        )
    return column


def _rank_correlations(x: Float[np.ndarray, "rows n"], y: Float[np.ndarray, "rows n"]) -> Float[np.ndarray, " rows"]:
    """Spearman's correlation row by row, ties by mean rank; NaN where a row (a resample) has one value only."""
    x, y = (scipy.stats.rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
