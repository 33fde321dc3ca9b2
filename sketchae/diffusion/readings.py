"""Readings of many pictures a prompt, checked and grouped, and means of what is counted from them, with their bootstrap replicates."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from sketchae.diffusion.picture_sets import NAN
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import resample_counts
from sketchae.scenes import FACTORS

Readings = Mapping[str, np.ndarray | Tensor]  # factor -> integer values, one a picture
Replicates = Float[np.ndarray, " replicates"]  # the value itself first, then those of the bootstrap

KIND_NAMES = ("semantic", "style")
KINDS = {name: factor.kind for name, factor in FACTORS.items()}


def bootstrap_weights(n: int, n_boot: int, name: str) -> Float[np.ndarray, "replicates n"]:
    return np.concatenate([np.ones((1, n)), resample_counts(n, n_boot, name)])


def kind_means(values: Mapping[str, Replicates], kinds: Mapping[str, str]) -> dict[str, Replicates]:
    """The mean over the factors of each kind; NaN where it has none."""
    nothing = np.full_like(next(iter(values.values())), NAN)
    return {half: nanmean(np.stack([nothing, *(values[f] for f, kind in kinds.items() if kind == half)])) for half in KIND_NAMES}


def one_hot(values: Int[np.ndarray, "prompts samples"], size: int | None = None) -> Float[np.ndarray, "prompts samples values"]:
    return np.eye(int(values.max()) + 1 if size is None else size)[values]


def paired(
    first: Readings, second: Readings, kinds: Mapping[str, str], of_first: str, of_second: str, n_samples: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    n = [len(next(iter(checked_columns(readings, kinds, what).values()))) for readings, what in ((first, of_first), (second, of_second))]
    if n[0] != n[1]:
        raise BadInputError(f"{n[0]} pictures in {of_first} and {n[1]} in {of_second}: they go together one by one, so give as many.")
    if n_samples < 1 or n[0] % n_samples:
        raise BadInputError(f"{n[0]} pictures are not {n_samples} for every prompt: give the number that was drawn for each.")
    n_prompts = n[0] // n_samples
    return by_prompt(first, kinds, of_first, n_prompts), by_prompt(second, kinds, of_second, n_prompts)


def by_prompt(readings: Readings, kinds: Mapping[str, str], what: str, n_prompts: int) -> dict[str, Int[np.ndarray, "_ _"]]:
    """Readings as (prompts, samples)."""
    columns = checked_columns(readings, kinds, what)
    n = len(next(iter(columns.values())))
    if not n or not n_prompts or n % n_prompts:
        raise BadInputError(f"{what[0].upper()}{what[1:]} are of {n} pictures for {n_prompts} prompts: give as many of every prompt, at least one.")
    if any(values.min() < 0 for values in columns.values()):
        raise BadInputError(f"A value in {what} is negative: readings count the values of a factor from 0.")
    return {factor: values.reshape(n_prompts, -1) for factor, values in columns.items()}


def checked_columns(source: Readings, kinds: Mapping[str, str], what: str) -> dict[str, np.ndarray]:
    if not kinds or set(kinds.values()) - set(KIND_NAMES):
        raise BadInputError(f'Give at least one factor, each of kind "semantic" or "style"; got {dict(kinds)}.')
    missing = [factor for factor in kinds if factor not in source]
    if missing:
        raise BadInputError(f"{', '.join(missing)} missing from {what}: give `kinds` of factors that are there.")
    columns = {factor: source[factor] for factor in kinds}
    columns = {factor: values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values) for factor, values in columns.items()}
    if len({values.shape for values in columns.values()}) > 1 or next(iter(columns.values())).ndim != 1:
        raise BadInputError(f"The factors in {what} differ in length, or have several axes: give one value for each picture.")
    if any(values.dtype.kind not in "iub" for values in columns.values()):
        raise BadInputError(f"A factor in {what} is not of whole numbers: give indices of values.")
    return {factor: values.astype(np.int64) for factor, values in columns.items()}


def safe_ratio(parts: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return parts / np.where(whole > 1e-12, whole, NAN)


def nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without NaNs; NaN, not a warning, where nothing is left."""
    return safe_ratio(np.nansum(values, axis=0), np.isfinite(values).sum(axis=0))
