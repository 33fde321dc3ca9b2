"""Pictures and matrices in rows and columns."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sketchae.errors import BadInputError
from sketchae.figures.style import (
    DIVERGING,
    PAGE_WIDTH_IN,
    SEQUENTIAL,
    check_count,
    styled,
    to_array,
    to_pixels,
)

CHANNEL_PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))  # the paper's six, of four channels

LABEL_IN, TITLE_IN = 0.95, 0.24  # room for a row label and for a line of column labels, inches


@styled
def image_grid(
    rows: Collection[Collection[Any]],
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    width_in: float = PAGE_WIDTH_IN,
) -> Figure:
    """Pictures in a grid; rows may be shorter than the first (None leaves a hole). See `style.to_pixels` for types."""
    return _grid(rows, row_labels, column_labels, title, width_in)


@styled
def lerp_pictures(
    original: Collection[Any],
    target: Collection[Any],
    semantic: Collection[Any],
    style: Collection[Any],
    pairs: Mapping[str, Collection[Any]],
    *,
    alpha: float = 0.9,
) -> Figure:
    """The paper's figure, one row a scene pair: original, target, lerp of the semantic and of the style block, then
    lerp of each raw channel pair (`pairs` maps "0-1" and so on to one picture a row)."""
    columns = [original, target, semantic, style, *pairs.values()]
    if len({len(column) for column in columns}) != 1 or not len(original):
        raise BadInputError("lerp_pictures needs the same number of pictures (at least one) in every column.")
    names = ["original", "target", "semantic\n(Q)", "style\n(Q)", *(f"channels\n{pair}" for pair in pairs)]
    figure = _grid(list(zip(*columns, strict=True)), None, names, None, PAGE_WIDTH_IN)
    figure.supxlabel(
        f"all but the first two: original moved to target by {alpha:g} in the named channels only", fontsize=7.5
    )
    return figure


@styled
def lerp_strips(
    strips: Mapping[str, Collection[Any]], alphas: Collection[float | int], *, title: str | None = None
) -> Figure:
    """One row for each named edit, one column for each α from the original (0) towards the target (1)."""
    for images in strips.values():
        check_count(images, list(alphas), "picture")
    labels = [f"α = {alpha:g}" if i == 0 else f"{alpha:g}" for i, alpha in enumerate(alphas)]
    return _grid(list(strips.values()), list(strips), labels, title, PAGE_WIDTH_IN)


@styled
def mix_grid(
    images: Collection[Collection[Any]],
    semantic: Collection[float | int],
    style: Collection[float | int],
    *,
    width_in: float = 5.0,
) -> Figure:
    """The explorer's still picture: semantic mix downwards, style mix to the right, 0 original and 1 target."""
    figure = _grid(
        images, [f"{value:g}" for value in semantic], [f"{value:g}" for value in style], None, width_in, 0.35
    )
    figure.supxlabel("style mix →", fontsize=8)
    figure.supylabel("← semantic mix", fontsize=8)
    return figure


@styled
def channel_panels(
    latents: Mapping[str, Any], *, pictures: Mapping[str, Any] | None = None, limit: float = 3.0
) -> Figure:
    """Channel maps (c, h, w) of several named latents, one row each, on one symmetric scale of ±`limit`.

    `pictures` puts the picture that a row belongs to in front. Labels under the maps number the channels.
    """
    arrays = {name: to_array(values) for name, values in latents.items()}
    n_channels = max(len(array) for array in arrays.values())
    extra = 1 if pictures else 0
    figure, axes = _axes(len(arrays), n_channels + extra, PAGE_WIDTH_IN, 1.0, list(arrays), None, colorbar=True)
    for row, (name, array) in enumerate(arrays.items()):
        if pictures and name in pictures:
            axes[row, 0].imshow(to_pixels(pictures[name]))
        for channel, values in enumerate(array):
            drawn = axes[row, channel + extra].imshow(
                values, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest"
            )
            axes[row, channel + extra].set_title(f"{channel}", pad=2)
    figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=30, pad=0.01, label="latent value")
    return figure


@styled
def matrix_heatmap(
    matrices: Mapping[str, Any],
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    limit: float | None = 1.0,
    digits: int = 2,
) -> Figure:
    """Matrices side by side (Q, R, a covariance …) with their entries written in, on one symmetric scale."""
    arrays = {name: to_array(matrix) for name, matrix in matrices.items()}
    largest = limit or max(np.abs(array).max() for array in arrays.values())
    size = min(PAGE_WIDTH_IN / len(arrays), 2.6)
    figure = Figure(figsize=(size * len(arrays) + 0.5, size + 0.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(arrays)))
    for ax, (name, array) in zip(axes, arrays.items(), strict=True):
        drawn = ax.imshow(array, cmap=DIVERGING, vmin=-largest, vmax=largest)
        ax.set_title(name)
        ax.set_xticks(range(array.shape[1]), column_labels or range(array.shape[1]))
        ax.set_yticks(range(array.shape[0]), row_labels or range(array.shape[0]))
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        if max(array.shape) <= 8:  # beyond, the numbers would not fit into their squares
            for (i, j), value in np.ndenumerate(array):
                colour = "white" if abs(value) > 0.6 * largest else "black"
                ax.text(j, i, f"{value:.{digits}f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(drawn, ax=list(axes), shrink=0.8, aspect=25)
    return figure


@styled
def heat_grid(
    values: Any, row_labels: Sequence[str], column_labels: Sequence[str], *, label: str, digits: int = 2
) -> Figure:
    """One table of non-negative numbers as shades with the numbers written in (accuracies, angles)."""
    array = to_array(values)
    figure = Figure(
        figsize=(min(PAGE_WIDTH_IN, 1.6 + 0.55 * array.shape[1]), 0.8 + 0.28 * array.shape[0]), layout="constrained"
    )
    ax = figure.subplots()
    drawn = ax.imshow(array, cmap=SEQUENTIAL, aspect="auto")
    ax.set_xticks(range(array.shape[1]), column_labels, rotation=35, ha="right")
    ax.set_yticks(range(array.shape[0]), row_labels)
    middle = (np.nanmin(array) + np.nanmax(array)) / 2
    for (i, j), value in np.ndenumerate(array):
        ax.text(
            j,
            i,
            f"{value:.{digits}f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if value < middle else "black",
        )
    figure.colorbar(drawn, ax=ax, label=label)
    return figure


def _grid(
    rows: Collection[Collection[Any]],
    row_labels: Sequence[str] | None,
    column_labels: Sequence[str] | None,
    title: str | None,
    width_in: float,
    label_in: float = LABEL_IN,
) -> Figure:
    if not len(rows) or not len(rows[0]):
        raise BadInputError("A picture grid needs at least one picture.")
    check_count(rows, row_labels, "row")
    check_count(rows[0], column_labels, "column")
    pixels = [[None if image is None else to_pixels(image) for image in row] for row in rows]
    first = next(image for row in pixels for image in row if image is not None)
    figure, axes = _axes(
        len(rows),
        max(len(row) for row in rows),
        width_in,
        first.shape[0] / first.shape[1],
        row_labels,
        column_labels,
        title=title,
        label_in=label_in,
    )
    for ax_row, row in zip(axes, pixels, strict=True):
        for ax, image in zip(ax_row, row, strict=False):
            if image is not None:
                ax.imshow(image, interpolation="nearest" if image.shape[1] < 200 else "antialiased")
    return figure


def _axes(
    n_rows: int,
    n_columns: int,
    width_in: float,
    aspect: float,
    row_labels: Sequence[str] | None,
    column_labels: Sequence[str] | None,
    *,
    title: str | None = None,
    label_in: float = LABEL_IN,
    colorbar: bool = False,
) -> tuple[Figure, np.ndarray]:
    """Bare axes whose cells have the pictures' own aspect, so that nothing is cropped and no room is wasted."""
    left = label_in if row_labels else 0
    cell = (width_in - left - (0.6 if colorbar else 0)) / n_columns
    lines = max((label.count("\n") + 1 for label in column_labels), default=0) if column_labels else 0
    height = n_rows * (cell * aspect + (0.2 if colorbar else 0.04)) + lines * 0.16 + 0.3 + (TITLE_IN if title else 0)
    figure = Figure(figsize=(width_in, height), layout="compressed")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes: np.ndarray = figure.subplots(n_rows, n_columns, squeeze=False)
    ax: Axes
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    for ax, label in zip(axes[:, 0], row_labels or [], strict=False):
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    for ax, label in zip(axes[0], column_labels or [], strict=False):
        ax.set_title(label, pad=3)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure, axes
