"""Disentanglement metrics on representations whose scores can be worked out, and beside disent 0.8.0."""

import numpy as np
import pytest
import torch

from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import generator
from sketchae.metrics.disentanglement import dci, factor_vae_score, mig, sap

NAMES = ("a", "b", "c")


def grid(sizes: tuple[int, ...], n: int) -> dict[str, np.ndarray]:
    """`n` rows that go through all combinations of values in turn."""
    columns, period = {}, 1
    for name, size in zip(NAMES, sizes):
        columns[name] = np.arange(n) // period % size
        period *= size
    return columns


def representations(factors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    identity = np.stack(list(factors.values()), axis=1).astype(np.float64)
    order = generator("test_disentanglement/shuffled").permutation(len(identity))
    return {
        "identity": identity,
        "constant": np.ones_like(identity),
        "duplicated": np.concatenate([identity, identity], axis=1),
        "shuffled": identity[order],
    }


FACTORS = grid((3, 4, 2), 480)
KINDS = representations(FACTORS)


def scores(metric, kinds=KINDS, factors=FACTORS):
    return {kind: metric(x, factors) for kind, x in kinds.items()}


def test_mig():
    found = scores(mig)
    assert found["identity"] == pytest.approx(1)
    assert found["constant"] == 0
    assert found["duplicated"] == 0
    assert 0 <= found["shuffled"] < 0.02


@pytest.mark.parametrize("model", ["forest", "boosting"])
def test_dci(model):
    factors = grid((3, 2, 2), 120)
    found = {kind: dci(x, factors, x, factors, model=model) for kind, x in representations(factors).items()}
    identity = found["identity"]
    assert identity.disentanglement > 0.99 and identity.completeness > 0.99 and identity.informativeness == 1
    assert identity.importance == pytest.approx(np.eye(3), abs=0.01)
    constant = found["constant"]
    assert constant.disentanglement == constant.completeness == 0
    assert constant.informativeness == pytest.approx(np.mean([1 / 3, 1 / 2, 1 / 2]))
    duplicated = found["duplicated"]
    assert duplicated.disentanglement > 0.99 and duplicated.informativeness == 1
    assert duplicated.completeness < 0.75  # shared by two of six dimensions: 1 − log 2 / log 6 = 0.61 if evenly
    shuffled = dci(*halves(factors), model=model)
    assert shuffled.as_dict() == dci(*halves(factors), model=model).as_dict()
    assert shuffled.disentanglement < 0.3 and shuffled.completeness < 0.3
    assert abs(shuffled.informativeness - np.mean([1 / 3, 1 / 2, 1 / 2])) < 0.15
    assert identity.as_dict()["importance"] == identity.importance.tolist() and identity.model == model


def head(n: int) -> dict[str, np.ndarray]:
    return {name: column[:n] for name, column in FACTORS.items()}


def halves(factors):
    """The shuffled representation, half of its rows to train on and half to test on."""
    x = representations(factors)["shuffled"]
    order = generator("test_disentanglement/halves").permutation(len(x))
    even, odd = order[::2], order[1::2]
    return x[even], {k: v[even] for k, v in factors.items()}, x[odd], {k: v[odd] for k, v in factors.items()}


def test_sap():
    """A binary factor that one dimension holds alone: 1 for that dimension, 1/2 for the next, so a gap of 1/2."""
    factors = grid((2, 2, 2), 400)
    found = {kind: sap(x, factors, x, factors) for kind, x in representations(factors).items()}
    assert found["identity"] == pytest.approx(0.5)
    assert found["constant"] == 0
    assert found["duplicated"] == 0
    assert found["shuffled"] < 0.06


def test_factor_vae_score():
    found = {kind: factor_vae_score(x, FACTORS, n_train=1500, n_eval=1500) for kind, x in KINDS.items()}
    assert found["identity"].score == found["identity"].score_train == 1 and found["identity"].n_active == 3
    assert found["constant"].score == 0 and found["constant"].n_active == 0
    assert found["duplicated"].score == 1 and found["duplicated"].n_active == 6
    assert 1 / 3 - 0.05 < found["shuffled"].score < 0.55
    padded = np.concatenate([KINDS["constant"], KINDS["identity"]], axis=1)
    assert factor_vae_score(padded, FACTORS, n_train=500, n_eval=500).score == 1
    assert found["identity"].as_dict() == {"score": 1.0, "score_train": 1.0, "n_active": 3}


# What disent 0.8.0 computes (with scikit-learn 1.9.1, numpy 2.4.6) for the representations below, its imports of torchvision
# and lightning replaced by empty stubs: `_mig._compute_mig`, `_dci._compute_dci` (its GradientBoostingClassifier given
# random_state=0), `_sap._compute_sap(..., continuous_factors=False)` and, after np.random.seed(0),
# `metric_factor_vae.unwrap(dataset, mixed, batch_size=...)["factor_vae.eval_accuracy"]`, the dataset drawing every factor
# uniformly and showing the factors themselves.
DISENT = {
    "mig": 0.2599241523144457,
    "informativeness_train": 0.9777777777777779,
    "informativeness": 0.81,
    "disentanglement": 0.3582286650642612,
    "completeness": 0.30137044180205697,
    "sap": 0.1411111111111111,
}
DISENT_FACTOR_VAE = {3: 0.764, 4: 0.8596, 8: 0.9798}  # batch size -> accuracy on 5,000 votes


def mixed(factors: dict[str, np.ndarray], noise: float = 0.0, seed: int = 0) -> np.ndarray:
    a, b, c = (column.astype(np.float64) for column in factors.values())
    x = np.stack([a + 0.3 * b, b + 0.2 * c, c - 0.5 * a, a + b + c])
    return (x + noise * np.random.default_rng(seed).standard_normal(x.shape)).T


def test_the_metrics_agree_with_disent():
    train, test = grid((3, 4, 2), 600), grid((3, 4, 2), 300)
    x_train, x_test = mixed(train, 0.5, seed=1), mixed(test, 0.5, seed=2)
    assert mig(x_train, train) == pytest.approx(DISENT["mig"], abs=1e-9)
    assert sap(x_train, train, x_test, test) == pytest.approx(DISENT["sap"], abs=0.01)  # an iterative solver
    found = dci(x_train, train, x_test, test)
    for name in ("disentanglement", "completeness", "informativeness", "informativeness_train"):
        assert getattr(found, name) == pytest.approx(DISENT[name], abs=0.005), name  # ties in trees may break otherwise


@pytest.mark.parametrize("batch_size", DISENT_FACTOR_VAE)
def test_the_factor_vae_score_agrees_with_disent(batch_size):
    """Both are means of 5,000 votes, each with a standard error of at most 0.006."""
    factors = grid((3, 4, 2), 24)
    found = factor_vae_score(mixed(factors), factors, batch_size=batch_size)
    assert found.score == pytest.approx(DISENT_FACTOR_VAE[batch_size], abs=0.025)


def test_tensors_and_row_order_change_nothing():
    order = generator("test_disentanglement/order").permutation(480)
    x = mixed(FACTORS)
    shuffled = {name: torch.from_numpy(column[order]) for name, column in FACTORS.items()}
    assert mig(torch.from_numpy(x[order]), shuffled) == pytest.approx(mig(x, FACTORS))


def test_what_cannot_be_scored_is_refused():
    x = KINDS["identity"]
    with pytest.raises(BadInputError, match="at least 2"):
        mig(x[:, :1], FACTORS)
    with pytest.raises(BadInputError, match="one value each"):
        mig(x[:100], FACTORS)
    with pytest.raises(BadInputError, match="NaN"):
        mig(x * float("nan"), FACTORS)
    with pytest.raises(BadInputError, match="only one value"):
        factor_vae_score(x, {"a": np.zeros(480, int)})
    with pytest.raises(BadInputError, match="rows"):
        mig(x[:3], head(3))
    with pytest.raises(BadInputError, match="at least two"):
        dci(x, {"a": FACTORS["a"]}, x, FACTORS)
    with pytest.raises(BadInputError, match="Unknown model"):
        dci(x, FACTORS, x, FACTORS, model="lasso")
    with pytest.raises(BadInputError, match="same representation"):
        sap(x, FACTORS, x[:, :2], FACTORS)
    with pytest.raises(BadInputError, match="missing from the test rows"):
        sap(x, FACTORS, x, {"a": FACTORS["a"]})
    with pytest.raises(BadInputError, match="batches"):
        factor_vae_score(x, FACTORS, batch_size=1)
