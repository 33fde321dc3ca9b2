"""What can be read from each block: probes of two strengths, and the leakage matrix that they fill.

A split is clean, as far as *information* goes, when the semantic factors are read from the semantic block and not from
the style block, and the reverse. A probe is trained on a block of training rows to name a factor's value, and judged on
test rows. Accuracies are rescaled, score = (accuracy − chance) / (1 − chance), with chance the share of the most
frequent value among the training rows: 1 is always right, 0 is no better than that constant answer; a little below 0
is chance too. That a factor can be read from a block does not say that the decoder uses it (`sketchae.metrics.swaps`
measures that).

Two probes, because what one cannot read another may: "linear" is a ridge regression, "conv" a small convolutional
network (`sketchae.metrics.probe_models`).

The intervals are 95 % percentile bootstraps over test rows, all factors and blocks of a row resampled together, with
the trained probe and chance held fixed: they do not contain the spread over training rows or seeds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sketchae.edits import Split
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import Interval, generator, interval, resample_counts
from sketchae.metrics.probe_models import conv_predictions, ridge_predictions
from sketchae.scenes.factors import FACTORS

BLOCKS = ("semantic", "style", "both", "shuffled")
"""Columns of the leakage matrix; "shuffled" is "both" with its rows permuted against the labels, a null."""

PROBES = ("linear", "conv")
MIN_ROWS = 10

Factors = Mapping[str, Any]  # factor -> integer values, one a row: an array, a tensor or a list
Latents = Float[Tensor, "n channels height width"]
OtherLatents = Float[Tensor, "_ _ _ _"]  # agreement with the training rows is checked in the function


@dataclasses.dataclass(frozen=True)
class Reading:
    """How well one factor is read from one block: accuracy on test rows, chance, and the rescaled score."""

    accuracy: float
    chance: float
    score: float
    ci95: Interval


@dataclasses.dataclass(frozen=True)
class LeakageMatrix:
    """Rescaled scores of every factor (rows) read from every block (columns), at most 1, about 0 at chance."""

    probe: str
    blocks: tuple[str, ...]
    factors: tuple[str, ...]
    kinds: dict[str, str]  # factor -> "semantic", "style", or "" where it is not known
    score: Float[np.ndarray, "factors blocks"]
    ci95: Float[np.ndarray, "factors blocks 2"]
    accuracy: Float[np.ndarray, "factors blocks"]
    chance: Float[np.ndarray, " factors"]
    n_train: int
    n_test: int

    def at(self, factor: str, block: str) -> float:
        """The score of one factor in one block."""
        return float(self.score[self._index(self.factors, factor, "factor"), self._index(self.blocks, block, "block")])

    def mean(self, kind: str, block: str) -> float:
        """The mean score of all factors of a kind ("semantic" or "style") in one block."""
        rows = [i for i, factor in enumerate(self.factors) if self.kinds[factor] == kind]
        if not rows:
            raise BadInputError(f"No factor of this leakage matrix is of kind {kind!r}: pass `kinds` to `leakage`.")
        return float(self.score[rows, self._index(self.blocks, block, "block")].mean())

    def as_dict(self) -> dict:
        """Plain numbers, lists and dicts, for recording."""
        plain = {name: getattr(self, name).tolist() for name in ("score", "ci95", "accuracy", "chance")}
        shared = {name: getattr(self, name) for name in ("probe", "n_train", "n_test")}
        return {
            **shared,
            "blocks": list(self.blocks),
            "factors": list(self.factors),
            "kinds": dict(self.kinds),
            **plain,
        }

    @staticmethod
    def _index(names: Sequence[str], name: str, what: str) -> int:
        if name not in names:
            raise BadInputError(
                f"There is no {what} {name!r} in this leakage matrix: choose one of {', '.join(names)}."
            )
        return names.index(name)


def leakage(
    basis: Split,
    z_train: Latents,
    factors_train: Factors,
    z_test: OtherLatents,
    factors_test: Factors,
    probe: str = "linear",
    *,
    kinds: Mapping[str, str] | None = None,
    n_boot: int = 1000,
    name: str = "leakage",
) -> LeakageMatrix:
    """The leakage matrix of a split: every factor, read from each of `BLOCKS` by a probe ("linear" or "conv").

    Args:
        basis: anything with `to_semantic_style`, such as `sketchae.basis.OrthogonalBasis`.
        z_train, z_test: scaled latents (n, channels, height, width); test rows must not be among the training rows.
        factors_train, factors_test: factor -> integer values, one a row; the factors of `factors_train` are read.
        kinds: factor -> "semantic" or "style"; by default those of Scenes.
        name: seeds the probe, the permutation of the shuffled block and the bootstrap.

    Raises:
        BadInputError: too few rows, unequal lengths or shapes, values that are not finite, an unknown probe, or a
            factor that takes only one value among the training rows.
    """
    semantic_train, style_train = basis.to_semantic_style(z_train)
    semantic_test, style_test = basis.to_semantic_style(z_test)
    both_train, both_test = torch.cat([semantic_train, style_train], 1), torch.cat([semantic_test, style_test], 1)
    order_train = generator(f"{name}/shuffled/train").permutation(len(z_train))
    order_test = generator(f"{name}/shuffled/test").permutation(len(z_test))
    pairs = {
        "semantic": (semantic_train, semantic_test),
        "style": (style_train, style_test),
        "both": (both_train, both_test),
        "shuffled": (both_train[order_train], both_test[order_test]),
    }
    readings = {
        block: read_factors(train, factors_train, test, factors_test, probe, n_boot=n_boot, name=name)
        for block, (train, test) in pairs.items()
    }
    factors = tuple(factors_train)
    known = {factor: FACTORS[factor].kind for factor in factors if factor in FACTORS} if kinds is None else kinds
    table = [[readings[block][factor] for block in BLOCKS] for factor in factors]
    return LeakageMatrix(
        probe=probe,
        blocks=BLOCKS,
        factors=factors,
        kinds={factor: known.get(factor, "") for factor in factors},
        score=np.array([[cell.score for cell in row] for row in table]),
        ci95=np.array([[cell.ci95 for cell in row] for row in table]),
        accuracy=np.array([[cell.accuracy for cell in row] for row in table]),
        chance=np.array([row[0].chance for row in table]),
        n_train=len(z_train),
        n_test=len(z_test),
    )


def read_factors(
    x_train: Latents,
    factors_train: Factors,
    x_test: OtherLatents,
    factors_test: Factors,
    probe: str = "linear",
    *,
    n_boot: int = 1000,
    name: str = "probe",
) -> dict[str, Reading]:
    """Train a probe on one block and read every factor of `factors_train` from the test rows.

    Raises as `leakage` does. A value that occurs only among the test rows can never be read and counts as wrong.
    """
    if probe not in PROBES:
        raise BadInputError(f"Unknown probe {probe!r}: choose one of {', '.join(PROBES)}.")
    _check_blocks(x_train, x_test)
    columns_train = factor_columns(factors_train, len(x_train), "the training rows")
    columns_test = factor_columns(factors_test, len(x_test), "the test rows", names=list(columns_train))
    values, codes = {}, {}
    for factor, column in columns_train.items():
        values[factor], codes[factor] = np.unique(column, return_inverse=True)
        if len(values[factor]) < 2:
            raise BadInputError(
                f"Factor {factor!r} takes only one value among the training rows: there is nothing to read; leave it out."
            )
    sizes = {factor: len(known) for factor, known in values.items()}
    predict = ridge_predictions if probe == "linear" else conv_predictions
    predicted = predict(x_train, codes, sizes, x_test, name)

    resamples = resample_counts(len(x_test), n_boot, name)
    readings = {}
    for factor, known in values.items():
        correct = (known[predicted[factor]] == columns_test[factor]).astype(np.float64)
        chance = np.bincount(codes[factor]).max() / len(codes[factor])
        replicates = (resamples @ correct / len(correct) - chance) / (1 - chance)
        accuracy = float(correct.mean())
        readings[factor] = Reading(
            accuracy=accuracy,
            chance=float(chance),
            score=float((accuracy - chance) / (1 - chance)),
            ci95=interval(replicates),
        )
    return readings


def factor_columns(
    factors: Factors, n_rows: int, what: str, *, names: Sequence[str] | None = None
) -> dict[str, Int[np.ndarray, " rows"]]:
    """The factors as integer arrays of `n_rows` values each, in the order of `names` (all of them unless given).

    Raises BadInputError without factors, for a missing one, for another number of values, and for values that are not
    integers; `what` names the rows in the message.
    """
    names = list(factors) if names is None else names
    if not names:
        raise BadInputError(f"There are no factors for {what}: pass a mapping from names to integer values.")
    columns = {}
    for name in names:
        if name not in factors:
            raise BadInputError(f"Factor {name!r} is missing from {what}: give the same factors everywhere.")
        column = factors[name]
        column = column.detach().cpu().numpy() if isinstance(column, Tensor) else np.asarray(column)
        if column.shape != (n_rows,):
            raise BadInputError(
                f"Factor {name!r} has shape {column.shape} for {n_rows} rows: give {what} one value each."
            )
        if column.dtype.kind not in "iu":
            raise BadInputError(f"Factor {name!r} holds {column.dtype} values: number its values with integers.")
        columns[name] = column.astype(np.int64)
    return columns


def _check_blocks(x_train: Tensor, x_test: Tensor) -> None:
    if x_train.shape[1:] != x_test.shape[1:]:
        raise BadInputError(
            f"Training rows of shape {tuple(x_train.shape[1:])} and test rows of shape {tuple(x_test.shape[1:])}: "
            "take both from one VAE and one split."
        )
    if len(x_train) < MIN_ROWS or not len(x_test):
        raise BadInputError(
            f"A probe needs at least {MIN_ROWS} training rows and one test row, got {len(x_train)} and {len(x_test)}."
        )
    if not (torch.isfinite(x_train).all() and torch.isfinite(x_test).all()):
        raise BadInputError("The latents hold NaN or infinite values: encode the pictures again.")
