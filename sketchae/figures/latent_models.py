"""Sheets of small pictures, and codes as pictures."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sketchae.errors import BadInputError
from sketchae.figures.style import PAGE_WIDTH_IN, SEQUENTIAL, styled, to_array, to_pixels


@styled
def contact_sheets(sheets: Mapping[str, Any], n_columns: int, *, width_in: float | int = PAGE_WIDTH_IN) -> Figure:
    """Many small pictures side by side in each titled panel, row by row, a pixel apart.

    Args:
        sheets: title -> pictures (n, 1 or 3, h, w) in [0, 1]; of a single channel, 1 is dark ink.

    Raises:
        BadInputError: nothing to draw, or pictures that do not fill the last row.
    """
    if not sheets:
        raise BadInputError("contact_sheets needs at least one sheet.")
    figure = Figure(figsize=(width_in, 1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(sheets)))
    ratio = 1.0
    for ax, (title, pictures) in zip(axes, sheets.items(), strict=True):
        array = to_array(pictures)
        array = np.pad(array, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0 if array.shape[1] == 1 else 1)  # white
        if not len(array) or len(array) % n_columns:
            raise BadInputError(f"{len(array)} pictures do not fill rows of {n_columns}: give a multiple.")
        tall = [np.concatenate(list(array[i : i + n_columns]), axis=2) for i in range(0, len(array), n_columns)]
        sheet = np.concatenate(tall, axis=1)
        if len(sheet) == 1:
            sheet = np.repeat(1 - sheet, 3, axis=0)
        ax.imshow(to_pixels(sheet.clip(0, 1)), interpolation="nearest")
        ax.set(xticks=[], yticks=[], title=title)
        ax.spines[:].set_visible(False)
        ratio = max(ratio if ax is not axes[0] else 0, sheet.shape[1] / sheet.shape[2])
    figure.set_size_inches(width_in, width_in / len(sheets) * ratio + 0.3)
    return figure


@styled
def code_maps(pictures: Any, indices: Any, decoded: Any, codebook_size: int) -> Figure:
    """Pictures (n, 3, h, w), the codes (n, gh, gw) that stand for them as shades, and what these decode to, column by column."""
    pictures, decoded, codes = (to_array(x) for x in (pictures, decoded, indices))
    if not len(pictures) == len(codes) == len(decoded) or not len(pictures):
        raise BadInputError(f"{len(pictures)} pictures, {len(codes)} grids of codes and {len(decoded)} decoded: give as many of each.")
    n = len(pictures)
    figure = Figure(figsize=(PAGE_WIDTH_IN, 3 * (PAGE_WIDTH_IN - 0.7) / n + 0.2), layout="compressed")
    axes = figure.subplots(3, n, squeeze=False)
    for column in range(n):
        axes[0, column].imshow(to_pixels(pictures[column]))
        axes[1, column].imshow(codes[column], cmap=SEQUENTIAL, vmin=0, vmax=codebook_size - 1, interpolation="nearest")
        axes[2, column].imshow(to_pixels(decoded[column]))
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, label in zip(axes[:, 0], ("picture", "codes", "decoded"), strict=True):
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    return figure
