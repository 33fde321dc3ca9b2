"""What sketch-first sampling gives: what a redraw changes, what quality costs, and how a picture comes out of the noise."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from sketchae.errors import BadInputError
from sketchae.figures.grids import LABEL_IN
from sketchae.figures.style import (
    COLOURS,
    DASHES,
    MARKERS,
    NEITHER_COLOUR,
    NULL_COLOUR,
    PAGE_WIDTH_IN,
    SEMANTIC_COLOUR,
    STYLE_COLOUR,
    styled,
    to_pixels,
)

CORNERS = {"upper right": "↗", "upper left": "↖", "lower right": "↘", "lower left": "↙"}
LABEL_WIDTH = 26  # characters of a line of the legend
MAX_PICTURE_IN, GAP_IN, BAR_IN = 1.1, 0.06, 0.055  # of a film strip: a picture's side, what lies between, a level's bar
MAX_TICKS = 10
EDGE = 0.06  # of the plane: nearer to an axis, a text goes to a marker's other side

Point = Mapping[str, Any]


@styled
def change_plane(
    points: Mapping[str, Point],
    curves: Mapping[str, Sequence[Point]] | None = None,
    *,
    x_label: str,
    y_label: str,
    good: str = "upper right",
) -> Figure:
    """Two shares or agreements, at most 1, against each other, such as what a redraw changes of the style and what it keeps of the content.

    Args:
        points: label -> {"x", "y"}, and optionally their 95 % intervals "x_ci95" and "y_ci95" as (low, high).
        curves: label -> such points in order, joined by a line (a method at several strengths); "text" is written beside its marker,
            on the side away from `good`.
        good: the corner where a method should lie, said above the plane.

    Raises:
        BadInputError: nothing to draw, a point without x or y, a number outside [-1, 1], or no such corner.
    """
    curves = curves or {}
    if not points and not any(curves.values()):
        raise BadInputError("change_plane needs at least one point or curve.")
    if good not in CORNERS:
        raise BadInputError(f"good is {good!r}: choose one of {', '.join(CORNERS)}.")
    figure = Figure(figsize=(PAGE_WIDTH_IN, 4.7), layout="constrained")
    ax = figure.subplots()
    vertical, horizontal = good.split()
    sides = -1 if horizontal == "right" else 1, -1 if vertical == "upper" else 1
    every = [*points.values(), *(point for row in curves.values() for point in row)]
    lows = {key: [0.0, *(point.get(f"{key}_ci95", (point.get(key, 0),))[0] for point in every)] for key in ("x", "y")}
    for number, (label, row) in enumerate([*points.items(), *curves.items()]):
        joined = number >= len(points)
        row = row if joined else [row]
        xs, ys = (_column(row, key, label, share=True) for key in ("x", "y"))
        look = _look(number)
        for point, x, y in zip(row, xs, ys, strict=True):
            thin = {"color": look["color"], "linewidth": 0.7 if joined else 1, "alpha": 0.7 if joined else 1, "clip_on": False, "zorder": 2.5}
            if "x_ci95" in point:
                ax.plot(point["x_ci95"], [y, y], **thin)
            if "y_ci95" in point:
                ax.plot([x, x], point["y_ci95"], **thin)
            if "text" in point:
                beside = sides if all(EDGE < at < 1 - EDGE for at in (x, y)) else (-sides[0], -sides[1])  # else it would lie on an axis
                ax.annotate(
                    str(point["text"]),
                    (x, y),
                    xytext=(4 * beside[0], 3 * beside[1]),
                    textcoords="offset points",
                    ha="right" if beside[0] < 0 else "left",
                    va="top" if beside[1] < 0 else "bottom",
                    fontsize=6.5,
                    color=look["color"],
                    annotation_clip=False,
                    path_effects=[withStroke(linewidth=1.5, foreground="white")],
                    zorder=5,
                )
        line = DASHES[(number - len(points)) % len(DASHES)] if joined else "none"
        look = {**look, "markersize": 3.5 if joined else 6, "linewidth": 1, "zorder": 3 if joined else 4}
        ax.plot(xs, ys, linestyle=line, label=textwrap.fill(label, LABEL_WIDTH), clip_on=False, **look)
    ax.set(xlim=(min(0, *lows["x"]), 1), ylim=(min(0, *lows["y"]), 1), xlabel=x_label, ylabel=y_label, aspect="equal")
    ax.set_title(f"{CORNERS[good]} {good} is better", loc=horizontal, fontsize=7.5, color="#666666")
    ax.grid(color="#E5E5E5", linewidth=0.5)
    ax.set_axisbelow(True)
    figure.legend(loc="outside right center", labelspacing=0.8)
    return figure


@styled
def cost_curves(
    lines: Mapping[str, Sequence[Point]], *, x_label: str, y_label: str, chance: float | int | None = None, logx: bool = False
) -> Figure:
    """A measure against what it costs, one line a method, with its 95 % interval shaded.

    Args:
        lines: label -> points {"x", "y"} in order, and optionally "y_ci95" as (low, high).
        chance: what costs nothing, a dashed grey line.
        logx: a logarithmic x axis; its ticks, as those of a linear one, are the values of x where they are few.

    Raises:
        BadInputError: no line, a line without points, a point without x or y, or an x of 0 or less on a logarithmic axis.
    """
    if not lines or not all(len(row) for row in lines.values()):
        raise BadInputError("cost_curves needs at least one line, and at least one point of each.")
    figure = Figure(figsize=(PAGE_WIDTH_IN, 2.9), layout="constrained")
    ax = figure.subplots()
    ticks: set[float] = set()
    for number, (label, row) in enumerate(lines.items()):
        xs, ys = (_column(row, key, label) for key in ("x", "y"))
        if logx and min(xs) <= 0:
            raise BadInputError(f"{label} has an x of {min(xs):g}, and a logarithmic axis has none: drop the point, or logx.")
        look = _look(number)
        bounded = [(x, *point["y_ci95"]) for x, point in zip(xs, row, strict=True) if "y_ci95" in point]
        if len(bounded) == 1:  # nothing to shade between
            ax.plot([bounded[0][0]] * 2, bounded[0][1:], color=look["color"], linewidth=1)
        elif bounded:
            ax.fill_between(*zip(*bounded, strict=True), color=look["color"], alpha=0.15, linewidth=0)
        ax.plot(xs, ys, linestyle=DASHES[number % len(DASHES)], label=textwrap.fill(label, LABEL_WIDTH), **look)
        ticks.update(xs)
    if chance is not None:
        ax.axhline(chance, color=NULL_COLOUR, linewidth=1, linestyle=DASHES[1], label="chance", zorder=1)
    if logx:
        ax.set_xscale("log")
    if len(ticks) <= MAX_TICKS:
        ax.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
        ax.set_xticks([], minor=True)
    ax.set(xlabel=x_label, ylabel=y_label)
    ax.grid(color="#E5E5E5", linewidth=0.5)
    ax.set_axisbelow(True)
    figure.legend(loc="outside right center", labelspacing=0.8)
    return figure


@styled
def film_strip(strips: Mapping[str, Collection[Any]], levels: Mapping[str, Sequence[tuple[float | int, float | int]]]) -> Figure:
    """Pictures on their way from noise, a row a strip; the bars under a picture say how much noise each block still holds.

    Args:
        strips: label -> pictures (see `style.to_pixels` for types), such as the decoded previews of a `Trajectory`.
        levels: label -> (t_semantic, t_style) in [0, 1] of each picture: 1, a full bar, is pure noise, and 0, an empty one, clean.

    Raises:
        BadInputError: no picture, labels of one without the other, another number of levels than of pictures, or one outside [0, 1].
    """
    if not strips or not all(len(row) for row in strips.values()):
        raise BadInputError("film_strip needs at least one strip, and at least one picture of each.")
    if set(strips) != set(levels):
        raise BadInputError(f"Strips are {', '.join(strips)}, levels are of {', '.join(levels) or 'none'}: give levels for each strip.")
    for label, row in strips.items():
        if len(row) != len(levels[label]):
            raise BadInputError(f"{label} has {len(row)} pictures and {len(levels[label])} pairs of levels: give one pair for each picture.")
        if not all(0 <= t <= 1 for pair in levels[label] for t in pair):
            raise BadInputError(f"A noise level of {label} lies outside [0, 1]: 0 is clean, and 1 is pure noise.")
    pixels = {label: [to_pixels(image) for image in row] for label, row in strips.items()}
    n_columns = max(len(row) for row in pixels.values())
    side = min((PAGE_WIDTH_IN - LABEL_IN) / n_columns - GAP_IN, MAX_PICTURE_IN)
    first = next(iter(pixels.values()))[0]
    tall = side * first.shape[0] / first.shape[1]
    row_in = tall + 2 * BAR_IN + 4 * GAP_IN
    width, height = LABEL_IN + n_columns * (side + GAP_IN), len(pixels) * row_in + 0.25
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1))  # one, in inches: from the upper left corner
    ax.set_axis_off()
    for row, (label, images) in enumerate(pixels.items()):
        top = row * row_in
        ax.text(LABEL_IN - 2 * GAP_IN, top + tall / 2, textwrap.fill(label, 14), ha="right", va="center", fontsize=8)
        for column, image in enumerate(images):
            left = LABEL_IN + column * (side + GAP_IN)
            interpolation = "nearest" if image.shape[1] < 200 else "antialiased"
            ax.imshow(image, extent=(left, left + side, top + tall, top), interpolation=interpolation)
            _bars(ax, left, top + tall + GAP_IN / 2, side, levels[label][column])
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    texts = ((SEMANTIC_COLOUR, "noise left in the semantic block (upper bar)"), (STYLE_COLOUR, "in the style block (lower bar)"))
    handles = [Patch(color=colour, label=text) for colour, text in texts]
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=((LABEL_IN + width) / 2 / width, 0), ncols=2, borderaxespad=0, borderpad=0)
    return figure


def _bars(ax: Axes, left: float, top: float, width: float, levels: tuple[float | int, float | int]) -> None:
    for number, (level, colour) in enumerate(zip(levels, (SEMANTIC_COLOUR, STYLE_COLOUR), strict=True)):
        corner = left, top + number * (BAR_IN + GAP_IN / 3)
        ax.add_patch(Rectangle(corner, width, BAR_IN, color=NEITHER_COLOUR, linewidth=0))
        ax.add_patch(Rectangle(corner, width * level, BAR_IN, color=colour, linewidth=0))


def _column(row: Sequence[Point], key: str, label: str, share: bool = False) -> list[float]:
    missing = [point for point in row if key not in point]
    if missing:
        raise BadInputError(f"A point of {label} has no {key}: give each point its x and y.")
    values = [float(point[key]) for point in row]
    if share and any(not -1 <= value <= 1 for value in values):
        raise BadInputError(f"{label} has a {key} outside [-1, 1]: give shares or agreements, not percentages.")
    return values


def _look(number: int) -> dict[str, Any]:
    """A colour and a marker; after the last, the same again with hollow markers."""
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    return {"color": colour, "marker": marker, "markerfacecolor": colour if number < len(COLOURS) else "white"}
