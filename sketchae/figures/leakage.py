"""What can be read from each block, as a table of shades with the numbers written in."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sketchae.errors import BadInputError
from sketchae.figures.style import PAGE_WIDTH_IN, SEMANTIC_COLOUR, SEQUENTIAL, STYLE_COLOUR, styled, to_array

KIND_COLOURS = {"semantic": SEMANTIC_COLOUR, "style": STYLE_COLOUR}


@styled
def leakage_heatmap(matrices: Any, *, digits: int = 2) -> Figure:
    """Factors downwards (semantic ones first), blocks across, one panel for each probe or basis, on one scale of 0 to 1.

    A thick frame marks the block that should hold a factor: a clean split is bright inside the frames and dark in the
    other of the two. Scores below 0 are drawn as 0 and written as they are.

    Args:
        matrices: panel title -> `LeakageMatrix` or its `as_dict()`, at most three; or one of these alone. Needed of a
            dictionary are "score" (factors, blocks), "factors", "blocks" and "kinds" (factor -> "semantic" or "style").
        digits: decimals of the numbers.

    Raises:
        BadInputError: no panel or more than three, scores that do not fit their names, or panels of other factors.
    """
    alone = hasattr(matrices, "as_dict") or "score" in matrices
    panels = {"": matrices} if alone else dict(matrices)
    panels = {title: panel.as_dict() if hasattr(panel, "as_dict") else panel for title, panel in panels.items()}
    if not 1 <= len(panels) <= 3:
        raise BadInputError(f"leakage_heatmap draws one to three leakage matrices, got {len(panels)}.")
    first = next(iter(panels.values()))
    rank = {"semantic": 0, "style": 1}
    factors = sorted(first["factors"], key=lambda factor: rank.get(first["kinds"].get(factor), 2))
    for panel in panels.values():
        if to_array(panel["score"]).shape != (len(panel["factors"]), len(panel["blocks"])):
            raise BadInputError("A leakage matrix needs one score for each of its factors and blocks.")
        if set(panel["factors"]) != set(factors):
            raise BadInputError("The leakage matrices have different factors: draw them one by one.")

    width = min(PAGE_WIDTH_IN, 1.7 + 2.2 * len(panels))
    figure = Figure(figsize=(width, 0.95 + 0.25 * len(factors)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        blocks = list(panel["blocks"])
        score = to_array(panel["score"])[[list(panel["factors"]).index(factor) for factor in factors]]
        drawn = ax.imshow(score, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(score):
            text = f"{value:.{digits}f}".replace("-", "−")
            text = text.removeprefix("−") if not text.strip("−0.") else text  # no minus zero
            colour = "black" if value > 0.5 else "white"
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        kinds = [panel["kinds"].get(factor) for factor in factors]
        for kind, colour in KIND_COLOURS.items():
            rows = [row for row, known in enumerate(kinds) if known == kind]
            if rows and kind in blocks:
                corner = (blocks.index(kind) - 0.5, rows[0] - 0.5)
                frame = Rectangle(
                    corner, 1, len(rows), fill=False, edgecolor=colour, linewidth=2, clip_on=False, zorder=3
                )
                ax.add_patch(frame)
        for row in range(1, len(kinds)):
            if kinds[row] != kinds[row - 1]:
                ax.axhline(row - 0.5, color="white", linewidth=2)
        ax.set_xticks(range(len(blocks)), blocks)
        ax.set_title(title)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    axes[0].set_yticks(range(len(factors)), factors)
    for label, factor in zip(axes[0].get_yticklabels(), factors, strict=True):
        label.set_color(KIND_COLOURS.get(first["kinds"].get(factor), "black"))
    figure.supxlabel("block that the probe reads", fontsize=8)
    figure.colorbar(drawn, ax=list(axes), aspect=25, pad=0.01, label="(accuracy − chance) / (1 − chance)")
    return figure
