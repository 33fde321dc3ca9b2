"""The one style of all figures: legible in print at column width, and safe for colour-blind readers."""

import functools
import io
from collections.abc import Callable, Collection
from typing import ParamSpec

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from sketchae.errors import BadInputError

# Okabe & Ito 2008, in the order in which curves take them (black last, for references).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SEMANTIC_COLOUR, STYLE_COLOUR, NEITHER_COLOUR, NULL_COLOUR = "#0072B2", "#D55E00", "#D9D9D9", "#8C8C8C"
DIVERGING, SEQUENTIAL = "RdBu_r", "cividis"  # both keep their order without red-green vision
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (2, 1)), (0, (6, 2)), (0, (3, 1, 1, 1, 1, 1)))
PAGE_WIDTH_IN, DPI = 7.0, 200

P = ParamSpec("P")

RC = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so the same bytes come out on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.dpi": 110,
    "savefig.dpi": DPI,
    "figure.facecolor": "white",
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a drawing function under the style, whatever the caller's own matplotlib settings are."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", RC]):
            return draw(*args, **kwargs)

    return wrapper


def render_png(figure: Figure, **metadata: str) -> bytes:
    """The figure as a PNG at print resolution; the same figure gives the same bytes, whatever the caller's settings.

    `metadata` become text chunks. Neither date nor library version is written: they would change the bytes although
    the picture is the same.
    """
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", RC]):  # ticks are made, and take their style, only when drawn
        figure.savefig(
            buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.03, metadata={"Software": None, **metadata}
        )
    return buffer.getvalue()


def to_array(values: object) -> np.ndarray:
    """A tensor, list or array as a float64 array on the CPU."""
    return np.asarray(values.detach().cpu().float() if isinstance(values, Tensor) else values, dtype=np.float64)


def to_pixels(image: object) -> np.ndarray:
    """One picture as (height, width, 3) in [0, 1], from (3, h, w) or (h, w, 3) floats, a uint8 array or a PIL image."""
    array = np.asarray(image.detach().cpu().float() if isinstance(image, Tensor) else image)
    array = array / 255 if array.dtype == np.uint8 else array
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[2] != 3:
        raise BadInputError(f"A picture to draw must be (3, height, width) or (height, width, 3), got {array.shape}.")
    return array.clip(0, 1)


def check_count(items: Collection, labels: Collection | None, what: str) -> None:
    """Raise BadInputError if there are not as many labels as items."""
    if labels is not None and len(labels) != len(items):
        raise BadInputError(f"{len(labels)} {what} labels for {len(items)} {what}s: give one for each.")
