"""Many ways to make a split, several seeds each: where every single seed ended."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sketchae.errors import BadInputError
from sketchae.figures.style import COLOURS, NEITHER_COLOUR, PAGE_WIDTH_IN, styled, to_array


@styled
def choice_dots(
    values: Mapping[str, Mapping[str, Any]],
    panels: Mapping[str, str],
    *,
    bands: Mapping[str, tuple[float | int, float | int]] | None = None,
    limits: Mapping[str, tuple[float | int, float | int]] | None = None,
    emphasis: tuple[str, ...] = (),
) -> Figure:
    """Choices downwards, one panel a measure, one dot a seed and a bar at their mean.

    Args:
        values: choice -> {measure: values}; a measure that a choice does not have is left out, and its row stays empty.
        panels: measure -> panel title.
        bands: measure -> (low, high), shaded grey: what chance gives.
        limits: measure -> the axis's ends.
        emphasis: choices drawn in another colour.

    Raises:
        BadInputError: no choice, or no panel.
    """
    if not values or not panels:
        raise BadInputError("choice_dots needs at least one choice and one panel.")
    figure = Figure(figsize=(PAGE_WIDTH_IN, 0.75 + 0.2 * len(values)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for ax, (measure, title) in zip(axes, panels.items(), strict=True):
        if bands and measure in bands:
            ax.axvspan(*bands[measure], color=NEITHER_COLOUR, alpha=0.6, linewidth=0)
        for row, (choice, found) in enumerate(values.items()):
            dots = to_array(found.get(measure, []))
            colour = COLOURS[1] if choice in emphasis else COLOURS[0]
            ax.plot(dots, np.full(len(dots), row), "o", color=colour, markersize=3, alpha=0.6, markeredgewidth=0)
            if len(dots):
                ax.plot([dots.mean()] * 2, [row - 0.32, row + 0.32], color=colour, linewidth=1.4)
        if limits and measure in limits:
            ax.set_xlim(*limits[measure])
        ax.set_title(textwrap.fill(title, 24))
        ax.grid(axis="both", color="#E5E5E5", linewidth=0.5)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(values)), list(values))
    axes[0].set_ylim(len(values) - 0.4, -0.6)
    return figure
