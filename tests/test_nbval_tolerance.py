"""What two runs on two processors may print, and what they may not."""

import operator

import pytest
from nbval_tolerance import Printed, close

SCORE = "swap +0.15 [+0.13, +0.17]   72% of the best, n 1,024, p 0.028, 26.45 dB\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [("+0.15", "+0.14"), ("+0.13", "+0.15"), ("72%", "70%"), ("0.028", "0.030"), ("26.45", "26.60"), ("swap +0.15", "swap     +0.16")],
)
def test_rounding_is_let_through(old, new):
    assert close(SCORE, SCORE.replace(old, new)) and Printed(SCORE) == Printed(SCORE.replace(old, new))
    assert not operator.ne(Printed(SCORE), Printed(SCORE.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+0.15", "+0.18"),
        ("+0.15", "-0.15"),
        ("72%", "76%"),
        ("72%", "0.72"),
        ("1,024", "1,025"),
        ("26.45", "27.00"),
        ("best", "worst"),
        ("n 1,024, ", ""),
        ("+0.15", "nan"),
        ("\n", "\nmore\n"),
        ("p 0.028", "p 0"),
    ],
)
def test_anything_else_is_not(old, new):
    assert not close(SCORE, SCORE.replace(old, new)) and Printed(SCORE) != Printed(SCORE.replace(old, new))


@pytest.mark.parametrize(("old", "new"), [("0.0004", "0.0100"), ("1.2e-07", "1.2e-03"), ("0.0133", "0.0158"), ("0.154", "0.162")])
def test_small_numbers_are_held_to_their_own_places(old, new):
    assert not close(f"error {old}", f"error {new}") and close(f"error {old}", f"error {old}")
    assert close("0.0133", "0.0136") and close("1.2e-07", "1.3e-07") and close("+0.154", "+0.152")


def test_numbers_just_beside_zero_may_change_their_sign():
    assert close("gain +0.00", "gain -0.01") and not close("gain +0.02", "gain -0.02")
