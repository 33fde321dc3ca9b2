"""The diagram of the method: a change of basis between the VAE's latents and two blocks."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from sketchae.figures.style import PAGE_WIDTH_IN, SEMANTIC_COLOUR, STYLE_COLOUR, styled

TILE, STEP = 0.9, 0.17  # side of a channel map and the shift between two of a stack, in drawing units


@styled
def change_of_basis(n_channels: int = 4, n_semantic: int = 2) -> Figure:
    """picture → encoder → z (mixed channels) → Q → semantic and style blocks → edit → Qᵀ → decoder → picture.

    Channels of z are drawn half in the colour of each block, because each carries some of both; channels of x = Qz have
    one colour and, for print, one hatching. At most four channels a stack are drawn.
    """
    figure = Figure(figsize=(PAGE_WIDTH_IN, 2.25), layout="constrained")
    ax = figure.subplots()
    ax.set_xlim(-0.3, 14.0)
    ax.set_ylim(-2.3, 2.2)
    ax.set_aspect("equal")
    ax.set_axis_off()

    _box(ax, 0.65, 0, "encoder")
    _stack(ax, 2.3, 0, ["mixed"] * min(n_channels, 4))
    ax.text(2.75, -1.15, f"$z$: {n_channels} channels,\nmeaning mixed", ha="center", va="top", fontsize=7.5)
    _box(ax, 4.75, 0, "$x = Q\\,z$", square=True)
    ax.text(4.75, -1.15, "$Q^\\top Q = I$", ha="center", va="top", fontsize=7.5)

    n_style = n_channels - n_semantic
    _stack(ax, 6.35, 1.0, ["semantic"] * min(n_semantic, 4))
    _stack(ax, 6.35, -0.95, ["style"] * min(n_style, 4))
    ax.text(
        6.8, 1.85, f"semantic: {n_semantic} channels", ha="center", va="bottom", fontsize=7.5, color=SEMANTIC_COLOUR
    )
    ax.text(6.8, -1.75, f"style: {n_style} channels", ha="center", va="top", fontsize=7.5, color=STYLE_COLOUR)
    _box(ax, 9.0, 1.0, "keep, or lerp", colour=SEMANTIC_COLOUR)
    _box(ax, 9.0, -0.95, "keep, or lerp", colour=STYLE_COLOUR)
    ax.text(9.0, 0.03, "towards the blocks\nof another picture", ha="center", va="center", fontsize=7)
    _box(ax, 11.2, 0, "$z' = Q^\\top x'$", square=True)
    _box(ax, 13.1, 0, "decoder")

    for start, end in (
        ((1.3, 0), (2.2, 0)),
        ((3.75, 0), (4.1, 0)),
        ((5.4, 0.25), (6.25, 0.9)),
        ((5.4, -0.25), (6.25, -0.85)),
        ((7.6, 1.0), (8.1, 1.0)),
        ((7.6, -0.95), (8.1, -0.95)),
        ((9.9, 1.0), (10.5, 0.3)),
        ((9.9, -0.95), (10.5, -0.3)),
        ((11.85, 0), (12.45, 0)),
        ((-0.3, 0), (0.0, 0)),
        ((13.75, 0), (14.0, 0)),
    ):
        ax.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=8, linewidth=0.9, color="black", shrinkA=0, shrinkB=0
            )
        )
    return figure


def _stack(ax: Axes, left: float | int, middle: float | int, kinds: Sequence[str]) -> None:
    """Channel maps behind one another, the last one in front."""
    shift = STEP * (len(kinds) - 1) / 2
    for number, kind in enumerate(kinds):
        x, y = left + STEP * number, middle + shift - STEP * number - TILE / 2
        if kind == "mixed":
            half = TILE / 2
            _tile(ax, x, y, half, TILE, SEMANTIC_COLOUR, "")
            _tile(ax, x + half, y, half, TILE, STYLE_COLOUR, "///")
            ax.add_patch(Rectangle((x, y), TILE, TILE, fill=False, linewidth=0.8))
        else:
            colour, hatch = (SEMANTIC_COLOUR, "") if kind == "semantic" else (STYLE_COLOUR, "///")
            _tile(ax, x, y, TILE, TILE, colour, hatch, outline=0.8)


def _tile(
    ax: Axes,
    x: float | int,
    y: float | int,
    width: float | int,
    height: float | int,
    colour: str,
    hatch: str,
    outline: float | int = 0,
) -> None:
    ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, linewidth=0))
    if hatch:
        ax.add_patch(Rectangle((x, y), width, height, fill=False, hatch=hatch, edgecolor="white", linewidth=0))
    if outline:
        ax.add_patch(Rectangle((x, y), width, height, fill=False, linewidth=outline))


def _box(ax: Axes, x: float | int, y: float | int, text: str, *, square: bool = False, colour: str = "black") -> None:
    width, height = (1.3, 1.3) if square else ((1.8, 0.7) if colour != "black" else (1.3, 0.9))
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor="white",
            edgecolor=colour,
            linewidth=1.1,
        )
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=8 if not square else 8.5)
