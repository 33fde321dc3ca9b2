"""Curves over training steps, and the isotropy of latents."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from sketchae.errors import BadInputError
from sketchae.figures.style import COLOURS, DASHES, MARKERS, PAGE_WIDTH_IN, styled, to_array


@styled
def training_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    panels: Mapping[str, Sequence[str] | Mapping[str, str]],
    *,
    log_panels: Sequence[str] = (),
    columns: int = 3,
) -> Figure:
    """One panel for each title in `panels`, with the named history entries against `step`; one thin line a run.

    `histories` maps a run ("seed 0") to its rows; a row without an entry is skipped (validation runs seldom). `panels`
    maps a title to the entries drawn there, or to {entry: label}. Entries differ by colour and dash. Titles in
    `log_panels` get a logarithmic axis.

    Raises:
        BadInputError: an entry that no row of any run has.
    """
    if not histories or not panels:
        raise BadInputError("training_curves needs at least one run and one panel.")
    columns = min(columns, len(panels))
    n_rows = -(-len(panels) // columns)
    figure = Figure(figsize=(PAGE_WIDTH_IN, 2.1 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, columns, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, entries) in zip(axes.flat, panels.items(), strict=False):
        labels = dict(entries) if isinstance(entries, Mapping) else {entry: entry for entry in entries}
        for number, entry in enumerate(labels):
            curves = [
                [(row["step"], row[entry]) for row in rows if row.get(entry) is not None] for rows in histories.values()
            ]
            if not any(curves):
                known = sorted({key for rows in histories.values() for row in rows for key in row})
                raise BadInputError(f"No run has the entry {entry!r}; there are: {', '.join(known)}.")
            for curve in filter(None, curves):
                steps, values = zip(*curve, strict=True)
                ax.plot(
                    steps,
                    to_array(values),
                    color=_pick(COLOURS, number),
                    linestyle=_pick(DASHES, number),
                    alpha=1 if len(histories) == 1 else 0.75,
                    linewidth=1.2 if len(histories) == 1 else 0.8,
                )
        ax.set_title(title)
        ax.set_xlabel("step")
        if title in log_panels:
            ax.set_yscale("log")
        if len(labels) > 1:
            ax.legend(
                [Line2D([], [], color=_pick(COLOURS, i), linestyle=_pick(DASHES, i)) for i in range(len(labels))],
                list(labels.values()),
                loc="best",
            )
    return figure


@styled
def isotropy(statistics: Mapping[str, Mapping[str, Any]]) -> Figure:
    """How far latents are from N(0, I): eigenvalues of the covariance, and each channel's deviation and kurtosis.

    `statistics` maps a name ("z", "x = Qz") to arrays `eigenvalues`, `std` and `kurtosis` (excess). Dashed lines mark
    what N(0, I) would have.
    """
    panels = (
        ("eigenvalues", "eigenvalue of the covariance", 1.0, True),
        ("std", "standard deviation", 1.0, False),
        ("kurtosis", "excess kurtosis", 0.0, False),
    )
    figure = Figure(figsize=(PAGE_WIDTH_IN, 2.1), layout="constrained")
    for ax, (key, label, ideal, log) in zip(figure.subplots(1, 3), panels, strict=True):
        ax.axhline(ideal, color="black", linewidth=0.8, linestyle=DASHES[1], label="N(0, I)")
        for number, (name, arrays) in enumerate(statistics.items()):
            values = to_array(arrays[key])
            offset = 0.12 * (number - (len(statistics) - 1) / 2)  # side by side where values coincide
            ax.plot(
                np.arange(len(values)) + offset,
                values,
                linestyle="",
                marker=_pick(MARKERS, number),
                color=_pick(COLOURS, number),
                label=name,
            )
        ax.set_xticks(range(len(values)) if len(values) <= 8 else np.arange(0, len(values), 8))
        ax.set_xlabel("rank" if key == "eigenvalues" else "channel")
        ax.set_title(label)
        if log:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter("")
    ax.legend(loc="best")
    return figure


def _pick(options: Sequence, number: int) -> Any:
    return options[number % len(options)]
