import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from PIL import Image

from sketchae.errors import BadInputError
from sketchae.figures.lerp_curves import lerp_curves
from sketchae.figures.style import COLOURS, DASHES, render_png

ALPHAS = (0, 0.5, 1)
PLAIN = {
    "alphas": list(ALPHAS),
    "moved": {"semantic": [0.0, 0.4, 0.9], "style": [0.0, 0.5, 0.8]},
    "dragged": {"semantic": [0.0, 0.1, 0.3], "style": [0.0, 0.1, 0.2]},
}


def as_object(turn) -> SimpleNamespace:
    curves = {key: {edit: turn(curve) for edit, curve in PLAIN[key].items()} for key in ("moved", "dragged")}
    return SimpleNamespace(alphas=turn(PLAIN["alphas"]), **curves)


def test_it_draws_and_fits_a_page():
    names = ["Q", "random basis", "axis pair 0-1", "PCA", "a split with a longer name"]
    image = Image.open(io.BytesIO(render_png(lerp_curves(dict.fromkeys(names, PLAIN)))))
    assert image.width <= 7.3 * 200
    assert np.asarray(image.convert("L")).std() > 5, "the figure is blank"


def test_objects_dicts_arrays_and_tensors_are_drawn_alike():
    expected = render_png(lerp_curves({"Q": PLAIN}))
    assert render_png(lerp_curves({"Q": as_object(np.array)})) == expected
    tensors = lerp_curves({"Q": as_object(torch.tensor)})
    assert tensors.axes[0].lines[0].get_ydata() == pytest.approx(PLAIN["moved"]["semantic"])


def test_each_panel_shows_its_edit_solid_for_moved_and_dashed_for_dragged():
    figure = lerp_curves({"Q": PLAIN, "other": {**PLAIN, "moved": PLAIN["dragged"], "dragged": PLAIN["moved"]}})
    for ax, edit, other in zip(figure.axes, ("semantic", "style"), ("style", "semantic"), strict=True):
        assert ax.get_title().startswith(f"{edit} edit")
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        assert texts[0].startswith(f"{edit} factors: should follow b")
        assert texts[1].startswith(f"{other} factors: should stay")
        moved, dragged, swapped_moved, swapped_dragged = ax.lines
        assert moved.get_ydata().tolist() == PLAIN["moved"][edit] == swapped_dragged.get_ydata().tolist()
        assert dragged.get_ydata().tolist() == PLAIN["dragged"][edit]
        assert moved.get_linestyle() == DASHES[0] != dragged.get_linestyle()
        assert (moved.get_color(), dragged.get_color(), swapped_moved.get_color()) == (COLOURS[0], *COLOURS[:2])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["Q", "other", "shaded: selectivity of Q"]


def test_only_the_first_split_is_shaded():
    for ax in lerp_curves({"Q": PLAIN, "other": PLAIN, "third": PLAIN}).axes:
        assert sum(isinstance(item, PolyCollection) for item in ax.collections) == 1


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(BadInputError, match="at least one split"):
        lerp_curves({})
    with pytest.raises(BadInputError, match="Q has 2 alphas and curves of 3 and 3 values"):
        lerp_curves({"Q": {**PLAIN, "alphas": [0, 1]}})
