"""What follows b and what is dragged along while one block of a moves to b: one panel an edit, one colour a split."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sketchae.errors import BadInputError
from sketchae.figures.style import COLOURS, DASHES, MARKERS, PAGE_WIDTH_IN, styled, to_array

EDITS = {"semantic": "style", "style": "semantic"}  # the block that moves: the kind that should stay
HEADROOM = 0.32  # above 1, for the legend of the two line styles: the curves may need all the room below
SHADE = "#DDEBF5"  # a light COLOURS[0]


@styled
def lerp_curves(curves: Mapping[str, Any]) -> Figure:
    """Solid, the share of factors that should follow b and do; dashed, of those that should stay and show b all the same.

    `curves` maps a split to a `sketchae.metrics.lerps.LerpCurves`, or to its `values()`: `alphas`, and `moved` and
    `dragged` with one curve each for "semantic" and "style". The area between the two, an edit's selectivity, is shaded
    for the first split.

    Raises:
        BadInputError: no split, or a curve that does not have one value for each alpha.
    """
    if not curves:
        raise BadInputError("lerp_curves needs at least one split.")
    figure = Figure(figsize=(PAGE_WIDTH_IN, 3.1), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (edit, other) in zip(axes, EDITS.items(), strict=True):
        for number, (name, split) in enumerate(curves.items()):
            alphas, moved, dragged = _curves(name, split, edit)
            look = {**_look(number), "clip_on": False}
            if number == 0:
                ax.fill_between(alphas, dragged, moved, color=SHADE, linewidth=0, zorder=0)
            ax.plot(alphas, moved, linestyle=DASHES[0], **look)
            # Hollow and on top: where two curves of different splits are the same, both can be seen.
            ax.plot(alphas, dragged, linestyle=DASHES[1], **{**look, "markerfacecolor": "white", "zorder": 2.5})
        ax.legend(
            [Line2D([], [], color="black", linestyle=dash) for dash in DASHES[:2]],
            [f"{edit} factors: should follow b, up to 1", f"{other} factors: should stay, at 0"],
            loc="upper left",
            borderaxespad=0,
            handlelength=2.6,
        )
        ax.set_title(f"{edit} edit: only the {edit} block moves")
        ax.set(xlim=(0, 1), ylim=(0, 1 + HEADROOM), yticks=[0, 0.25, 0.5, 0.75, 1])
        ax.set_xlabel("α: share of b in the moved block")
        ax.spines["left"].set_bounds(0, 1)
        ax.hlines(ax.get_yticks(), 0, 1, color="#E5E5E5", linewidth=0.5, zorder=0.5)
    axes[0].set_ylabel("share of differing factors\nthat show b")
    splits = [Line2D([], [], **_look(number)) for number in range(len(curves))]
    first, *others = curves
    figure.legend(
        [*splits, Patch(color=SHADE)],
        [first, *others, f"shaded: selectivity of {first}"],
        loc="outside lower center",
        ncols=min(4, len(curves) + 1),
    )
    return figure


def _curves(name: str, split: Any, edit: str) -> tuple:
    entry = split.__getitem__ if isinstance(split, Mapping) else lambda key: getattr(split, key)
    alphas, *found = (to_array(values) for values in (entry("alphas"), entry("moved")[edit], entry("dragged")[edit]))
    if any(curve.shape != alphas.shape for curve in found):
        lengths = " and ".join(str(curve.size) for curve in found)
        raise BadInputError(f"{name} has {alphas.size} alphas and curves of {lengths} values: give one for each alpha.")
    return alphas, *found


def _look(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
