"""MIG, DCI, SAP and the FactorVAE score: is every factor held by one dimension of a representation, alone?

All take a representation (n, d) and discrete factors (name -> n integers). They ask about single *dimensions*, while Q
promises only that a factor lies in one *block*, and a rotation inside a block changes every one of these scores: they
are here to connect to the literature, and `sketchae.metrics.probes.leakage` is the measure that fits the claim.

Definitions follow the papers, with the choices of the package `disent` 0.8.0 where a paper leaves one open;
tests/test_disentanglement.py compares the two. Where they differ on purpose, the function says so.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import generator
from sketchae.metrics.probes import MIN_ROWS, Factors, factor_columns

N_BINS = 20  # of each dimension's histogram, in MIG
SVM_C = 0.01  # of SAP's linear classifiers
SEED = 0  # of scikit-learn's estimators

Representation = Float[np.ndarray, "n d"] | Float[Tensor, "n d"]
OtherRepresentation = Float[np.ndarray, "_ _"] | Float[Tensor, "_ _"]
Columns = Mapping[str, Int[np.ndarray, " n"]]


@dataclasses.dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness, each in [0, 1], and the importances behind the first two.

    Attributes:
        informativeness, informativeness_train: mean accuracy over factors, on test and on training rows.
        importance: how much of the reading of each factor is due to each dimension; a column sums to 1, or to 0 where
            no dimension was of use.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    informativeness_train: float
    importance: Float[np.ndarray, "d factors"]
    model: str

    def as_dict(self) -> dict:
        """Plain numbers and lists, for recording."""
        return {**dataclasses.asdict(self), "importance": self.importance.tolist()}


@dataclasses.dataclass(frozen=True)
class FactorVAEScore:
    """Accuracy in [0, 1] of the majority vote, on fresh votes and on those that it was made from."""

    score: float
    score_train: float
    n_active: int  # dimensions that vary at all

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


def mig(representation: Representation, factors: Factors, *, n_bins: int = N_BINS) -> float:
    """Mutual information gap (Chen et al. 2018, eq. 6), in [0, 1]; 1: each factor is known from one dimension alone.

    The mean over factors of (I₁ − I₂) / H: the two largest mutual informations of the factor with single dimensions,
    each cut into `n_bins` bins of equal width, over the factor's entropy.

    Raises:
        BadInputError: too few rows, fewer than two dimensions, values that are not finite, or a factor that takes one
            value only.
    """
    from sklearn.metrics import mutual_info_score

    x, columns = _checked(representation, factors, "the rows")
    binned = [np.digitize(column, np.histogram(column, n_bins)[1][:-1]) for column in x.T]
    gaps = []
    for column in columns.values():
        information = np.sort([mutual_info_score(column, cut) for cut in binned])
        gaps.append((information[-1] - information[-2]) / mutual_info_score(column, column))
    return float(np.mean(gaps))


def dci(
    representation_train: Representation,
    factors_train: Factors,
    representation_test: OtherRepresentation,
    factors_test: Factors,
    *,
    model: str = "boosting",
) -> DCI:
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018, section 2).

    One classifier a factor gives the importances R (d, factors). Disentanglement: 1 − the entropy of each row (to the
    base of the number of factors), rows weighted by their share of R. Completeness: 1 − the entropy of each column (to
    the base d), columns weighted alike. Informativeness: accuracy on the test rows. A row or column of zeros counts as
    not disentangled or not complete, with weight 0; where no importance is above 0, both scores are 0.

    `model` is scikit-learn's `GradientBoostingClassifier` ("boosting", as in disent) or `RandomForestClassifier`
    ("forest", one of the paper's two), both with scikit-learn's default settings and seed `SEED`, except that the
    forest, too, weighs all dimensions at every split: with the default of √d at random, useless dimensions are chosen
    for want of others and look important. The scores depend on the choice: compare only like with like.

    Raises:
        BadInputError: as `mig`, or fewer than two factors, another width or other factors in the test rows, an
            unknown model.
    """
    from sklearn.base import clone
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

    models = {
        "boosting": GradientBoostingClassifier(random_state=SEED),
        "forest": RandomForestClassifier(random_state=SEED, max_features=None),
    }
    if model not in models:
        raise BadInputError(f"Unknown model {model!r}: choose one of {', '.join(models)}.")
    x, columns = _checked(representation_train, factors_train, "the training rows")
    x_test, columns_test = _checked_test(representation_test, factors_test, x, columns)
    if len(columns) < 2:
        raise BadInputError("Disentanglement compares factors: give at least two.")
    importance, accuracies, accuracies_train = [], [], []
    for name, column in columns.items():
        fitted = clone(models[model]).fit(x, column)
        importance.append(np.abs(fitted.feature_importances_))
        accuracies.append(np.mean(fitted.predict(x_test) == columns_test[name]))
        accuracies_train.append(np.mean(fitted.predict(x) == column))
    matrix = np.stack(importance, axis=1)
    return DCI(
        disentanglement=_concentration(matrix),
        completeness=_concentration(matrix.T),
        informativeness=float(np.mean(accuracies)),
        informativeness_train=float(np.mean(accuracies_train)),
        importance=matrix,
        model=model,
    )


def sap(
    representation_train: Representation,
    factors_train: Factors,
    representation_test: OtherRepresentation,
    factors_test: Factors,
) -> float:
    """Separated attribute predictability (Kumar et al. 2018, section 3), in [0, 1 − 1/values].

    The mean over factors of the gap between the two best single dimensions, each scored by the test accuracy of a
    linear classifier of the factor from that dimension alone. The classifier is a linear support vector machine with
    C = 0.01 and balanced class weights (disent's choice). Two limits of the definition: the second best dimension is
    never worse than guessing, so that a binary factor scores at most about 0.5; and linear classifiers on one
    dimension, one against the rest, miss middle values, so that a factor of many values scores low even where a
    dimension holds it alone.

    Raises BadInputError as `dci` does.
    """
    from sklearn.svm import LinearSVC

    x, columns = _checked(representation_train, factors_train, "the training rows")
    x_test, columns_test = _checked_test(representation_test, factors_test, x, columns)
    gaps = []
    for name, column in columns.items():
        accuracies = []
        for dimension in range(x.shape[1]):
            machine = LinearSVC(C=SVM_C, class_weight="balanced", random_state=SEED)
            machine.fit(x[:, dimension, None], column)
            accuracies.append(np.mean(machine.predict(x_test[:, dimension, None]) == columns_test[name]))
        best = np.sort(accuracies)
        gaps.append(best[-1] - best[-2])
    return float(np.mean(gaps))


def factor_vae_score(
    representation: Representation,
    factors: Factors,
    *,
    batch_size: int = 64,
    n_train: int = 10_000,
    n_eval: int = 5_000,
    name: str = "factor_vae",
) -> FactorVAEScore:
    """The FactorVAE score (Kim & Mnih 2018, section 4): does the dimension that stays still name the fixed factor?

    One vote: choose a factor, take a batch in which it is fixed, and name the dimension whose variance in the batch,
    over its variance among all rows, is least. The classifier maps each dimension to the factor that it was most often
    named for, among `n_train` votes; the score is its accuracy on `n_eval` others. Guessing gives 1 / factors.

    The original draws new pictures with the factor fixed. Here a batch is drawn, with replacement, from the given rows
    that have the same value as a row chosen at random: values come as often as in the rows, and the other factors
    vary as they do among those rows. Give enough rows for every value to have many. Dimensions that never vary are left
    out (the paper's pruning; disent 0.8.0 keeps them and divides by zero); with none left the score is 0.

    Raises:
        BadInputError: as `mig` (one dimension is enough), or counts below 1, or a batch of fewer than two rows.
    """
    x, columns = _checked(representation, factors, "the rows", least=1)
    if batch_size < 2 or n_train < 1 or n_eval < 1:
        raise BadInputError("The FactorVAE score needs batches of two rows or more, and one vote of each kind or more.")
    variance = x.var(0, ddof=1)
    active = variance > 1e-12 * (x**2).mean(0)
    if not active.any():
        return FactorVAEScore(score=0.0, score_train=0.0, n_active=0)
    scaled = (x[:, active] - x[:, active].mean(0)) / np.sqrt(variance[active])
    train = _votes(scaled, columns, batch_size, n_train, f"{name}/train")
    fresh = _votes(scaled, columns, batch_size, n_eval, f"{name}/eval")
    named, dimensions = train.argmax(0), np.arange(train.shape[1])
    return FactorVAEScore(
        score=float(fresh[named, dimensions].sum() / n_eval),
        score_train=float(train[named, dimensions].sum() / n_train),
        n_active=int(active.sum()),
    )


def _votes(
    scaled: Float[np.ndarray, "n d"], columns: Columns, batch_size: int, n_votes: int, name: str
) -> Int[np.ndarray, "factors d"]:
    """How often each dimension was the stillest while each factor was fixed."""
    random = generator(name)
    chosen = random.integers(len(columns), size=n_votes)
    rows = random.integers(len(scaled), size=n_votes)
    places = random.random((n_votes, batch_size))
    votes = np.zeros((len(columns), scaled.shape[1]), dtype=np.int64)
    for number, column in enumerate(columns.values()):
        # Rows sorted by value: those of one value stand together, from starts[row] on.
        order = np.argsort(column, kind="stable")
        starts = np.searchsorted(column[order], column)
        counts = np.searchsorted(column[order], column, side="right") - starts
        for vote in np.flatnonzero(chosen == number):
            row = rows[vote]
            batch = order[starts[row] + (places[vote] * counts[row]).astype(np.int64)]
            votes[number, scaled[batch].var(0).argmin()] += 1
    return votes


def _concentration(importance: Float[np.ndarray, "rows columns"]) -> float:
    """The mean over rows of 1 − entropy of the row's shares, to the base of the columns, weighted by the row's sum."""
    sums = importance.sum(1)
    if sums.sum() == 0:
        return 0.0
    shares = importance / np.where(sums > 0, sums, 1)[:, None]
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1) / np.log(importance.shape[1])
    return float(((1 - entropy) * sums).sum() / sums.sum())


def _checked(
    representation: Any, factors: Factors, what: str, *, least: int = 2
) -> tuple[Float[np.ndarray, "n d"], dict[str, np.ndarray]]:
    x = _array(representation)
    if len(x) < MIN_ROWS:
        raise BadInputError(f"These scores need at least {MIN_ROWS} rows, got {len(x)}.")
    if x.shape[1] < least:
        raise BadInputError(f"This score compares dimensions: give at least {least}, not {x.shape[1]}.")
    columns = factor_columns(factors, len(x), what)
    for name, column in columns.items():
        if (column == column[0]).all():
            raise BadInputError(f"Factor {name!r} takes only one value among {what}: leave it out.")
    return x, columns


def _checked_test(
    representation: Any, factors: Factors, x_train: np.ndarray, columns_train: Columns
) -> tuple[Float[np.ndarray, "m d"], dict[str, np.ndarray]]:
    x = _array(representation)
    if len(x) == 0 or x.shape[1] != x_train.shape[1]:
        raise BadInputError(
            f"The test rows have shape {x.shape} for training rows of {x_train.shape[1]} dimensions: "
            "give at least one row of the same representation."
        )
    return x, factor_columns(factors, len(x), "the test rows", names=list(columns_train))


def _array(representation: Any) -> Float[np.ndarray, "n d"]:
    x = representation.detach().cpu().double().numpy() if isinstance(representation, Tensor) else representation
    x = np.asarray(x, dtype=np.float64)
    if not np.isfinite(x).all():
        raise BadInputError("The representation holds NaN or infinite values: encode the pictures again.")
    return x
