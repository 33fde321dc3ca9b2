"""A pytest plugin for nbval: printed numbers may differ as those of two processors do; everything else may not.

Convolutions round differently on processors with other vector units; a judge's reading of a picture at the border then turns, and an optimisation
that follows it ends a little elsewhere. So numbers with a decimal point may differ by `UNITS` of their last place, at most `ABSOLUTE`, or by
`RELATIVE`, whichever is more; percentages by `POINTS`; whole numbers (counts) and all text must be equal. So a small number that is printed
with many places, such as an error of orthogonality, is held to these. Run by `-p nbval_tolerance`.
"""

import re

UNITS, ABSOLUTE, RELATIVE, POINTS = 5, 0.02, 0.01, 3.0
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?%?")


def close(reference: str, printed: str) -> bool:
    """Whether two texts say the same, up to the tolerances and to the width of columns."""
    if _skeleton(reference) != _skeleton(printed):
        return False
    pairs = zip(_NUMBER.findall(reference), _NUMBER.findall(printed), strict=True)
    return all(a == b or _near(a, b) for a, b in pairs)


def _skeleton(text: str) -> str:
    return re.sub(r"[ \t]+", " ", _NUMBER.sub("#", text))


def _near(a: str, b: str) -> bool:
    percent = a.endswith("%")
    if percent != b.endswith("%") or not (percent or ("." in a and "." in b)):
        return False
    x, y = (float(number.rstrip("%").replace(",", "")) for number in (a, b))
    if percent:
        return abs(x - y) <= POINTS
    mantissa, _, exponent = a.lower().partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(x - y) <= max(min(ABSOLUTE, UNITS * unit), RELATIVE * abs(x)) * (1 + 1e-6)


class Printed(str):
    """A cell's output, equal to another one if they are `close`."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and close(str(self), str(other))

    def __ne__(self, other: object) -> bool:
        return not self == other


def pytest_configure(config) -> None:
    """Let nbval compare `Printed`: what it reads from the file and what the cell has printed pass through `sanitize` both."""
    from nbval.plugin import IPyNbCell

    exact = IPyNbCell.sanitize

    def sanitize(self, text):
        cleaned = exact(self, text)
        return Printed(cleaned) if isinstance(cleaned, str) else cleaned

    IPyNbCell.sanitize = sanitize
