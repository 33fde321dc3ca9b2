"""Percentile bootstrap over pairs, with resamples that depend on a name and not on the order of calls."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from sketchae.errors import BadInputError

Interval = tuple[float, float]


def generator(name: str) -> np.random.Generator:
    """A random generator whose seed is derived from a name (SHA-256), the same on every machine and in any order."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def resample_counts(n: int, n_boot: int, name: str) -> Float[np.ndarray, "n_boot n"]:
    """How often each of `n` items occurs in each of `n_boot` resamples with replacement.

    Counts instead of indices: any statistic that is made of sums over items becomes one matrix product.
    """
    return generator(name).multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64)


def interval(replicates: Float[np.ndarray, "*shape"], level: float = 0.95) -> Interval:
    """The central `level` interval of bootstrap replicates; replicates that are NaN are left out.

    (A resample can miss every pair in which a rare factor differs.)
    """
    values = replicates[np.isfinite(replicates)]
    if not len(values):
        return (float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high))


def bootstrap_ci(
    values: Sequence[float | int] | np.ndarray,
    *,
    statistic: Callable[[np.ndarray], float] | None = None,
    n_boot: int = 1000,
    level: float = 0.95,
    name: str = "bootstrap",
) -> Interval:
    """Percentile interval of a statistic (the mean unless given) of `values`, items in the first axis.

    Raises:
        BadInputError: there is nothing to resample, or a value is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        raise BadInputError("A confidence interval needs at least one value; the list is empty.")
    if not np.isfinite(values).all():
        raise BadInputError("A confidence interval needs finite values; drop or explain the NaNs first.")
    if statistic is None:
        return interval(resample_counts(len(values), n_boot, name) @ values / len(values), level)
    random = generator(name)
    replicates = [statistic(values[random.integers(len(values), size=len(values))]) for _ in range(n_boot)]
    return interval(np.array(replicates, dtype=np.float64), level)


def p_value(score: float | int, null_scores: Sequence[float | int] | np.ndarray) -> float:
    """One-sided Monte Carlo p-value of `score` against a null distribution: (1 + #{null ≥ score}) / (1 + n)."""
    null_scores = np.asarray(null_scores, dtype=np.float64)
    if len(null_scores) == 0 or not np.isfinite([score, *null_scores]).all():
        raise BadInputError("A p-value needs a finite score and at least one finite null score.")
    return float((1 + (null_scores >= score).sum()) / (1 + len(null_scores)))
