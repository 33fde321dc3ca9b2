"""LEACE on planted latents: the erased factor is gone for a linear probe, and the others stay."""

import numpy as np
import pytest
import torch

from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import generator
from sketchae.metrics.erasure import fit_erasure, remaining
from sketchae.metrics.probes import read_factors

SIZES = {"shape": 4, "colour": 3, "light": 2}


def planted(n: int, name: str) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Latents (n, 3, 4, 4) of correlated noise with a pattern for each value of each factor, in all channels."""
    random = generator(f"test_erasure/{name}")
    factors = {factor: random.integers(size, size=n) for factor, size in SIZES.items()}
    z = random.standard_normal((n, 48)) @ generator("test_erasure/mix").standard_normal((48, 48)) / 48**0.5
    for factor, size in SIZES.items():
        z += generator(f"test_erasure/pattern/{factor}").standard_normal((size, 48))[factors[factor]]
    return torch.from_numpy(z).float().reshape(n, 3, 4, 4), factors


TRAIN, TEST = planted(800, "train"), planted(400, "test")
ERASURE = fit_erasure(*TRAIN, "colour")


def test_no_linear_probe_reads_the_erased_factor_on_the_training_rows():
    erased = ERASURE(TRAIN[0])
    before = read_factors(*TRAIN, *TRAIN)
    after = read_factors(erased, TRAIN[1], erased, TRAIN[1])
    assert before["colour"].score > 0.95
    assert abs(after["colour"].score) < 0.01
    for factor in ("shape", "light"):
        assert after[factor].score > 0.95


def test_class_means_coincide_after_erasure():
    erased = ERASURE(TRAIN[0]).double()
    means = torch.stack([erased[torch.from_numpy(TRAIN[1]["colour"] == value)].mean(0) for value in range(3)])
    assert (means - means.mean(0)).abs().max() < 1e-5
    assert (erased.mean(0) - TRAIN[0].double().mean(0)).abs().max() < 1e-5


def test_erased_latents_keep_their_shape_and_move_little():
    for dtype in (torch.float32, torch.float64):
        z = TEST[0].to(dtype)
        erased = ERASURE(z)
        assert erased.shape == z.shape and erased.dtype == dtype
    delta = (ERASURE(TEST[0]) - TEST[0]).flatten(1)
    # Three values span two directions at most.
    assert torch.linalg.matrix_rank(delta.double(), rtol=1e-4) == 2
    assert 0 < ERASURE.variance_ratio < 1.1
    np.testing.assert_allclose(
        ERASURE.variance_ratio,
        float(ERASURE(TRAIN[0]).double().flatten(1).var(0).sum() / TRAIN[0].double().flatten(1).var(0).sum()),
        rtol=1e-4,
    )


def test_a_row_is_erased_alike_alone_and_in_a_batch():
    torch.testing.assert_close(ERASURE(TEST[0][:1]), ERASURE(TEST[0])[:1], rtol=1e-5, atol=1e-6)


def test_fresh_probes_read_the_others_before_and_after():
    found = remaining(ERASURE, *TRAIN, *TEST, n_boot=50)
    assert set(found) == {"linear", "conv"}
    for states in found.values():
        assert states["before"]["colour"].score > 0.8 and abs(states["after"]["colour"].score) < 0.25
        assert states["after"]["shape"].score > 0.8


def test_several_factors_are_erased_together():
    both = fit_erasure(*TRAIN, ("colour", "light"))
    erased = both(TRAIN[0])
    after = read_factors(erased, TRAIN[1], erased, TRAIN[1])
    assert both.factors == ("colour", "light")
    assert abs(after["colour"].score) < 0.01 and abs(after["light"].score) < 0.01 and after["shape"].score > 0.95


def test_fewer_rows_than_features_still_erase():
    few = TRAIN[0][:40], {"colour": TRAIN[1]["colour"][:40]}
    erased = fit_erasure(*few, "colour")(few[0]).double()
    means = torch.stack([erased[torch.from_numpy(few[1]["colour"] == value)].mean(0) for value in range(3)])
    assert (means - means.mean(0)).abs().max() < 1e-5


def test_what_cannot_be_erased_is_refused():
    z, factors = TRAIN
    with pytest.raises(BadInputError, match="missing"):
        fit_erasure(z, factors, "size")
    with pytest.raises(BadInputError, match="only one value"):
        fit_erasure(z, {"colour": np.zeros(len(z), int)}, "colour")
    with pytest.raises(BadInputError, match="NaN"):
        fit_erasure(z * float("nan"), factors, "colour")
    with pytest.raises(BadInputError, match="same latents"):
        fit_erasure(torch.ones(800, 3, 4, 4), factors, "colour")
    with pytest.raises(BadInputError, match="at least"):
        fit_erasure(z[:3], {"colour": np.array([0, 1, 2])}, "colour")
    with pytest.raises(BadInputError, match="no factors"):
        fit_erasure(z, factors, ())
    with pytest.raises(BadInputError, match="fitted to latents of shape"):
        ERASURE(z[:, :2])
