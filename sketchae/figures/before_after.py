"""What a split does to pictures of one's own: pairs of originals, their swaps both ways, and a random basis's."""

from collections.abc import Collection
from typing import Any

from matplotlib.figure import Figure

from sketchae.errors import BadInputError
from sketchae.figures.grids import _grid
from sketchae.figures.style import PAGE_WIDTH_IN, styled

COLUMNS = (
    "a",
    "b",
    "semantic a\nstyle b",
    "semantic b\nstyle a",
    "random basis\n“semantic” a",
    "random basis\n“semantic” b",
)


@styled
def before_after(
    a: Collection[Any],
    b: Collection[Any],
    a_with_style_of_b: Collection[Any],
    b_with_style_of_a: Collection[Any],
    random_a: Collection[Any],
    random_b: Collection[Any],
    *,
    title: str | None = None,
) -> Figure:
    """One row a pair of pictures (see `style.to_pixels` for types): the originals, the swaps, the random basis's swaps.

    Raises:
        BadInputError: no pair, or columns of different lengths.
    """
    columns = (a, b, a_with_style_of_b, b_with_style_of_a, random_a, random_b)
    if len({len(column) for column in columns}) != 1 or not len(a):
        raise BadInputError("before_after needs the same number of pictures (at least one) in every column.")
    return _grid(list(zip(*columns, strict=True)), None, list(COLUMNS), title, PAGE_WIDTH_IN)
