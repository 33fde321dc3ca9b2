"""All planes at a glance: how a score is distributed over them, and whether a training loss knows."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from sketchae.errors import BadInputError
from sketchae.figures.style import COLOURS, MARKERS, NULL_COLOUR, PAGE_WIDTH_IN, styled, to_array


@styled
def plane_landscape(
    scores: Any,
    losses: Any,
    marked: Mapping[str, tuple[float | int, float | int]],
    *,
    score_label: str = "swap score",
    loss_label: str = "training loss, linear readers",
) -> Figure:
    """Left, the distribution of a score over random planes; right, the same score against a loss; named planes in both.

    Args:
        scores, losses: one of each for every random plane.
        marked: name -> (score, loss) of planes to point at.
    """
    scores, losses = to_array(scores), to_array(losses)
    if len(scores) != len(losses) or len(scores) < 2:
        raise BadInputError(f"{len(scores)} scores and {len(losses)} losses: give one of each for at least two planes.")
    figure = Figure(figsize=(PAGE_WIDTH_IN, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25), sharey=True)
    left.hist(scores, bins=40, orientation="horizontal", color=NULL_COLOUR, alpha=0.7)
    left.set(xlabel="random planes", ylabel=score_label)
    right.plot(losses, scores, ".", color=NULL_COLOUR, markersize=3, alpha=0.6, label=f"{len(scores):,} random planes")
    for number, (name, (score, loss)) in enumerate(marked.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        left.axhline(score, color=colour, linewidth=1.2)
        right.plot(loss, score, marker, color=colour, markersize=7, markeredgecolor="white", label=name)
    right.set(xlabel=loss_label)
    for ax in (left, right):
        ax.axhline(0, color="black", linewidth=0.6)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
