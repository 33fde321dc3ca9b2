"""Proxies of the swap score beside the swap score, over many bases."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sketchae.errors import BadInputError
from sketchae.figures.style import COLOURS, MARKERS, NULL_COLOUR, PAGE_WIDTH_IN, check_count, styled, to_array

N_COLUMNS = 3


@styled
def proxy_scatter(
    swap_scores: Sequence[float | int] | np.ndarray,
    proxies: Mapping[str, Sequence[float | int] | np.ndarray],
    *,
    agreement: Mapping[str, Mapping[str, Any]] | None = None,
    groups: Sequence[str] | None = None,
    titles: Mapping[str, str] | None = None,
    x_label: str = "swap score",
) -> Figure:
    """One panel for each proxy, one mark for each basis: the proxy against the swap score.

    Args:
        swap_scores: one a basis, in [-1, 1]; or one half of it, with `x_label` to say so.
        proxies: proxy -> one value a basis.
        agreement: what `sketchae.metrics.agreement.proxy_agreement` found; ρ and its interval go into the title.
        groups: the kind of every basis ("random", "axis pair" …), a marker and a colour each; the first is grey.
        titles: proxy -> panel title, the proxy's own name unless given.

    Raises:
        BadInputError: no proxy, no basis, or not one value (and group) for each basis.
    """
    x = to_array(swap_scores)
    if not proxies or not len(x):
        raise BadInputError("proxy_scatter needs at least one proxy and one basis.")
    for name, values in proxies.items():
        if len(values) != len(x):
            raise BadInputError(f"{name} has {len(values)} values for {len(x)} bases: give one for each.")
    check_count(x, groups, "basis group")
    kinds = list(dict.fromkeys(groups)) if groups is not None else [None]
    of_kind = [
        np.ones(len(x), bool) if kind is None else np.array([group == kind for group in groups]) for kind in kinds
    ]
    columns = min(N_COLUMNS, len(proxies))
    rows = -(-len(proxies) // columns)
    figure = Figure(figsize=(PAGE_WIDTH_IN, 0.35 + 2.15 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, (name, values) in zip(axes.flat, proxies.items()):
        y = to_array(values)
        ax.axhline(0, color="black", linewidth=0.5)
        ax.axvline(0, color="black", linewidth=0.5)
        for number, (kind, chosen) in enumerate(zip(kinds, of_kind)):
            ax.plot(
                x[chosen],
                y[chosen],
                MARKERS[number % len(MARKERS)],
                color=NULL_COLOUR if number == 0 and len(kinds) > 1 else COLOURS[(number - 1) % len(COLOURS)],
                markersize=3 if number == 0 else 4.5,
                label=kind,
                linestyle="none",
            )
        title = (titles or {}).get(name, name.replace("_", " "))
        if agreement and name in agreement:
            low, high = agreement[name]["ci95"]
            title += f"\nρ = {agreement[name]['spearman']:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
        ax.set_title(title)
        ax.grid(color="#E5E5E5", linewidth=0.5)
        ax.set_axisbelow(True)
    for ax in list(axes.flat)[len(proxies) :]:
        ax.set_visible(False)
    figure.supxlabel(x_label, fontsize=8)
    figure.supylabel("proxy", fontsize=8)
    if len(kinds) > 1:
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(kinds))
    return figure
