"""Figures, drawn from arrays only: nothing here loads, decodes or measures.

Every function returns a `matplotlib.figure.Figure` of its own (no pyplot state), in one style: 7 inches wide for a
page, 8-point text, Okabe-Ito colours, and a marker or line style besides colour wherever curves must be told apart.
"""

from sketchae.figures.before_after import before_after
from sketchae.figures.choices import choice_dots
from sketchae.figures.curves import isotropy, training_curves
from sketchae.figures.diagram import change_of_basis
from sketchae.figures.grids import (
    CHANNEL_PAIRS,
    channel_panels,
    heat_grid,
    image_grid,
    lerp_pictures,
    lerp_strips,
    matrix_heatmap,
    mix_grid,
)
from sketchae.figures.landscape import plane_landscape
from sketchae.figures.latent_models import code_maps, contact_sheets
from sketchae.figures.leakage import leakage_heatmap
from sketchae.figures.lerp_curves import lerp_curves
from sketchae.figures.proxies import proxy_scatter
from sketchae.figures.scores import per_factor_scores, score_dots
from sketchae.figures.sketch_first import change_plane, cost_curves, film_strip
from sketchae.figures.style import COLOURS, SEMANTIC_COLOUR, STYLE_COLOUR, render_png

__all__ = [
    "CHANNEL_PAIRS",
    "COLOURS",
    "SEMANTIC_COLOUR",
    "STYLE_COLOUR",
    "before_after",
    "change_of_basis",
    "change_plane",
    "channel_panels",
    "choice_dots",
    "code_maps",
    "contact_sheets",
    "cost_curves",
    "film_strip",
    "heat_grid",
    "image_grid",
    "isotropy",
    "leakage_heatmap",
    "lerp_curves",
    "lerp_pictures",
    "lerp_strips",
    "matrix_heatmap",
    "mix_grid",
    "per_factor_scores",
    "plane_landscape",
    "proxy_scatter",
    "render_png",
    "score_dots",
    "training_curves",
]
