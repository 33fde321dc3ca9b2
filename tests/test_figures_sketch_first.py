import io

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from sketchae.errors import BadInputError
from sketchae.figures import SEMANTIC_COLOUR, STYLE_COLOUR, change_plane, cost_curves, film_strip, render_png

AXES = {"x_label": "style changed", "y_label": "content kept"}
POINTS = {"sketch held": {"x": 0.6, "y": 0.9, "x_ci95": (0.55, 0.66), "y_ci95": (0.86, 0.93)}, "another seed": {"x": 0.83, "y": 0.2}}
CURVES = {"SDEdit": [{"x": s * 0.8, "y": 1 - s * 0.8, "x_ci95": (s * 0.7, s * 0.9), "text": f"{s:g}"} for s in (0.2, 0.6, 1.0)]}
LINES = {
    "semantics first": [{"x": x, "y": 1 - 1 / x, "y_ci95": (0.9 - 1 / x, 1.1 - 1 / x)} for x in (2, 4, 8)],
    "joint": [{"x": 4, "y": 0.3, "y_ci95": [0.2, 0.4]}, {"x": 8, "y": 0.5}],
}
PICTURES = list(np.random.default_rng(0).random((3, 3, 16, 16)))
LEVELS = {"joint": [(1.0, 1.0), (0.5, 0.5), (0.25, 0.25)], "semantics first": [(1.0, 1.0), (0.0, 0.4)]}


def strip() -> Figure:
    return film_strip({"joint": PICTURES, "semantics first": PICTURES[:2]}, LEVELS)


DRAWINGS = {
    "change_plane": lambda: change_plane(POINTS, CURVES, **AXES),
    "change_plane_points": lambda: change_plane(POINTS, good="lower left", **AXES),
    "cost_curves": lambda: cost_curves(LINES, x_label="evaluations", y_label="κ", chance=0.0, logx=True),
    "film_strip": strip,
    "film_strip_long": lambda: film_strip({"a strip with a long name": PICTURES * 4}, {"a strip with a long name": [(0.5, 1)] * 12}),
    "film_strip_single": lambda: film_strip({"one": PICTURES[:1]}, {"one": [(0, 1)]}),
}


def legend(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("name", DRAWINGS)
def test_it_draws_and_fits_a_page(name):
    drawn = render_png(DRAWINGS[name]())
    image = Image.open(io.BytesIO(drawn))
    assert image.width <= 7.3 * 200
    assert np.asarray(image.convert("L")).std() > 5, "the figure is blank"
    assert render_png(DRAWINGS[name]()) == drawn


def test_points_intervals_and_curves_lie_where_they_should():
    ax = change_plane(POINTS, CURVES, **AXES).axes[0]
    marked = {line.get_label(): line for line in ax.lines if line.get_marker() != "None"}
    assert list(marked) == ["sketch held", "another seed", "SDEdit"]
    assert marked["sketch held"].get_xydata().tolist() == [[0.6, 0.9]] and marked["sketch held"].get_linestyle() == "None"
    assert marked["SDEdit"].get_ydata() == pytest.approx([1 - 0.8 * s for s in (0.2, 0.6, 1.0)])
    assert marked["SDEdit"].get_linestyle() == "-"
    bars = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() == "None"]
    assert bars[:2] == [[[0.55, 0.9], [0.66, 0.9]], [[0.6, 0.86], [0.6, 0.93]]] and len(bars) == 5
    assert len({(line.get_color(), line.get_marker()) for line in marked.values()}) == 3
    assert [text.get_text() for text in ax.texts] == ["0.2", "0.6", "1"]
    assert np.allclose([text.xy for text in ax.texts], [(0.8 * s, 1 - 0.8 * s) for s in (0.2, 0.6, 1.0)])
    assert ax.get_xlim() == ax.get_ylim() == (0, 1)


def test_every_method_has_a_look_of_its_own_and_its_name_outside_the_plane():
    many = {f"method {i}": {"x": i / 12, "y": 0.5} for i in range(12)}
    figure = change_plane(many, **AXES)
    assert legend(figure) == list(many)
    looks = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in figure.axes[0].lines}
    assert len(looks) == 12
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().x0 > figure.axes[0].get_window_extent().x1


@pytest.mark.parametrize(("good", "ha", "va"), [("upper right", "right", "top"), ("lower left", "left", "bottom")])
def test_text_stands_away_from_the_good_corner(good, ha, va):
    ax = change_plane({}, CURVES, good=good, **AXES).axes[0]
    assert (ax.texts[0].get_ha(), ax.texts[0].get_va()) == (ha, va)
    assert good in ax.get_title(loc=good.split()[1])
    near = change_plane({}, {"SDEdit": [{"x": 0.01, "y": 0.5, "text": "0"}]}, **AXES).axes[0]
    assert near.texts[0].get_ha() == "left"  # else it would lie on the axis


def test_costs_are_lines_with_their_intervals_and_chance():
    figure = cost_curves(LINES, x_label="evaluations", y_label="κ", chance=0.1, logx=True)
    (ax,) = figure.axes
    assert ax.get_xscale() == "log" and [tick.get_text() for tick in ax.get_xticklabels()] == ["2", "4", "8"]
    first, bar, second, chance = ax.lines
    assert first.get_ydata().tolist() == [0.5, 0.75, 0.875] and second.get_xdata().tolist() == [4, 8]
    assert bar.get_xydata().tolist() == [[4, 0.2], [4, 0.4]] and chance.get_ydata()[0] == 0.1
    (shade,) = (item for item in ax.collections if isinstance(item, PolyCollection))
    vertices = {(round(x, 6), round(y, 6)) for x, y in shade.get_paths()[0].vertices}
    assert {(2, 0.4), (2, 0.6), (8, 0.775), (8, 0.975)} <= vertices
    assert legend(figure) == ["semantics first", "joint", "chance"]
    plain = cost_curves(LINES, x_label="evaluations", y_label="κ")
    assert plain.axes[0].get_xscale() == "linear" and legend(plain) == ["semantics first", "joint"]


def test_bars_under_each_picture_say_its_own_levels():
    figure = strip()
    (ax,) = figure.axes
    assert len(ax.images) == 5
    bars = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    shares = {colour: {} for colour in (SEMANTIC_COLOUR, STYLE_COLOUR)}
    side = ax.images[0].get_extent()[1] - ax.images[0].get_extent()[0]
    for bar in bars:
        colour = to_hex(bar.get_facecolor()).upper()
        if colour in shares:
            (number,) = (i for i, image in enumerate(ax.images) if _is_under(bar, image))
            shares[colour][number] = bar.get_width() / side
    levels = [*LEVELS["joint"], *LEVELS["semantics first"]]
    for colour, column in zip((SEMANTIC_COLOUR, STYLE_COLOUR), zip(*levels, strict=True), strict=True):
        assert [shares[colour][i] for i in range(5)] == pytest.approx(column)
    assert [text.get_text() for text in ax.texts] == ["joint", "semantics\nfirst"]
    assert "upper" in ax.get_legend().get_texts()[0].get_text()


def _is_under(bar: Rectangle, image) -> bool:
    left, _, bottom, top = image.get_extent()  # y runs downwards
    return bar.get_x() == pytest.approx(left) and bottom < bar.get_y() < bottom + 0.3 * (bottom - top)


def test_pictures_may_be_tensors():
    from_tensors = film_strip({"joint": torch.tensor(np.stack(PICTURES))}, {"joint": LEVELS["joint"]})
    assert render_png(from_tensors) == render_png(film_strip({"joint": PICTURES}, {"joint": LEVELS["joint"]}))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: change_plane({}, **AXES), "at least one point"),
        (lambda: change_plane({"a": {"x": 0.1}}, **AXES), "a has no y"),
        (lambda: change_plane({"a": {"x": 60, "y": 0.1}}, **AXES), "a has a x outside"),
        (lambda: change_plane(POINTS, good="top", **AXES), "choose one of upper right"),
        (lambda: cost_curves({}, **AXES), "at least one line"),
        (lambda: cost_curves({"a": []}, **AXES), "at least one point"),
        (lambda: cost_curves({"a": [{"x": 0, "y": 1}]}, logx=True, **AXES), "logarithmic"),
        (lambda: film_strip({}, {}), "at least one strip"),
        (lambda: film_strip({"a": []}, {"a": []}), "at least one picture"),
        (lambda: film_strip({"a": PICTURES}, {"b": [(1, 1)] * 3}), "levels are of b"),
        (lambda: film_strip({"a": PICTURES}, {"a": [(1, 1)]}), "3 pictures and 1 pairs of levels"),
        (lambda: film_strip({"a": PICTURES}, {"a": [(1, 1.5)] * 3}), "outside"),
    ],
)
def test_bad_input_is_one_clear_sentence(draw, message):
    with pytest.raises(BadInputError, match=message):
        draw()
