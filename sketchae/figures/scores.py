"""Scores of methods beside a null distribution, and what single factors did."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sketchae.errors import BadInputError
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
    to_array,
)


@styled
def score_dots(
    scores: Mapping[str, Mapping[str, Any]],
    *,
    metrics: Mapping[str, str] | None = None,
    null: Mapping[str, Any] | None = None,
    null_label: str = "random bases",
    ceiling: Mapping[str, float | int] | None = None,
    points: Mapping[str, Mapping[str, Any]] | None = None,
    emphasis: bool = True,
) -> Figure:
    """Methods downwards, one panel for each metric, a dot with its 95 % interval for each method.

    Args:
        scores: method -> {metric: value, metric + "_ci95": (low, high)}; the interval is optional.
        metrics: metric -> panel title; by default the swap score.
        null: metric -> scores of random bases, drawn as a row of their own and as a band of their central 95 %.
        ceiling: metric -> the value that no split can beat, a dashed line.
        points: method -> {metric: values}, small dots beside the method (single training seeds).
        emphasis: the first method is the one that it is about, and drawn so.
    """
    metrics = dict(metrics or {"score": "swap score"})
    if not scores:
        raise BadInputError("score_dots needs at least one method.")
    methods = list(scores)
    rows = methods + ([null_label] if null else [])
    figure = Figure(figsize=(PAGE_WIDTH_IN, 0.75 + 0.22 * len(rows)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(metrics), sharey=True))
    for ax, (metric, title) in zip(axes, metrics.items(), strict=True):
        ax.axvline(0, color="black", linewidth=0.6)
        if null:
            values = to_array(null[metric])
            ax.axvspan(*np.quantile(values, [0.025, 0.975]), color=NEITHER_COLOUR, alpha=0.6, linewidth=0)
            # Fixed spread by rank, not random jitter: the same data give the same picture.
            spread = 0.3 * (np.arange(len(values)) * 0.618 % 1 - 0.5) * 2
            ax.plot(values, len(methods) + spread, ".", color=NULL_COLOUR, markersize=2.5)
        if ceiling and metric in ceiling:
            ax.axvline(ceiling[metric], color=COLOURS[2], linewidth=1, linestyle=DASHES[1])
            ax.annotate(
                "ceiling",
                (ceiling[metric], 1),
                xycoords=("data", "axes fraction"),
                xytext=(-2, -2),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=6.5,
                color=COLOURS[2],
                rotation=90,
            )
        for row, method in enumerate(methods):
            if metric not in scores[method]:
                continue
            first = emphasis and row == 0
            colour = COLOURS[0] if first else "black"
            low, high = scores[method].get(f"{metric}_ci95", (None, None))
            if low is not None:
                ax.plot([low, high], [row, row], color=colour, linewidth=1.6 if first else 1)
            ax.plot(scores[method][metric], row, MARKERS[0], color=colour, markersize=5 if first else 4)
            if points and method in points:
                values = to_array(points[method][metric])
                ax.plot(values, np.full(len(values), row + 0.25), "|", color=colour, markersize=4)
        ax.set_title(title)
        ax.grid(axis="x", color="#E5E5E5", linewidth=0.5)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


@styled
def per_factor_scores(
    per_factor: Mapping[str, Mapping[str, Any]],
    *,
    ceiling: Mapping[str, float | int] | None = None,
    order: Sequence[str] | None = None,
) -> Figure:
    """One bar a factor: the share that followed the right image, that showed neither, and that followed the other.

    `per_factor` is the entry of that name in `SwapBench.score`; semantic factors stand first. `ceiling` maps a factor
    to the share that the judge reads from unswapped reconstructions, a tick on the bar.
    """
    names = list(order or sorted(per_factor, key=lambda name: per_factor[name]["kind"] != "semantic"))
    if not names:
        raise BadInputError("per_factor_scores needs at least one factor.")
    figure = Figure(figsize=(PAGE_WIDTH_IN, 0.8 + 0.24 * len(names)), layout="constrained")
    ax = figure.subplots()
    for row, name in enumerate(names):
        factor = per_factor[name]
        colour = SEMANTIC_COLOUR if factor["kind"] == "semantic" else STYLE_COLOUR
        if not np.isfinite(factor["follows"]):
            ax.text(0.5, row, "differs in no pair", ha="center", va="center", fontsize=7)
            continue
        ax.barh(row, factor["follows"], color=colour, height=0.72)
        ax.barh(row, factor["neither"], left=factor["follows"], color=NEITHER_COLOUR, height=0.72)
        ax.barh(
            row,
            factor["other"],
            left=factor["follows"] + factor["neither"],
            color="white",
            edgecolor=colour,
            hatch="////",
            linewidth=0.6,
            height=0.72,
        )
        ax.text(1.015, row, f"{factor['score']:+.2f}", va="center", fontsize=7.5)
        if ceiling and name in ceiling:
            ax.plot([ceiling[name]] * 2, [row - 0.42, row + 0.42], color="black", linewidth=1.4)
    ax.text(1.015, -0.85, "score", fontsize=7.5, va="center")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the pairs in which the factor differs")
    handles = [
        Patch(color=SEMANTIC_COLOUR, label="semantic factor: follows"),
        Patch(color=STYLE_COLOUR, label="style factor: follows"),
        Patch(color=NEITHER_COLOUR, label="neither"),
        Patch(facecolor="white", edgecolor="black", hatch="////", label="the other image"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure
