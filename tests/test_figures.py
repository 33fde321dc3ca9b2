import io

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from sketchae import figures
from sketchae.errors import BadInputError

RANDOM = np.random.default_rng(0)
PICTURES = list(RANDOM.random((5, 3, 16, 16)).astype(np.float32))
SCORES = {
    "Q": {"score": 0.3, "score_ci95": [0.2, 0.4], "style": 0.2},
    "0-1": {"score": 0.0, "score_ci95": (-0.1, 0.1), "style": 0.1},
}
FACTOR = {"kind": "semantic", "follows": 0.5, "other": 0.2, "neither": 0.3, "score": 0.3}
PER_FACTOR = {"palette": {**FACTOR, "kind": "style"}, "object": FACTOR, "sun": {**FACTOR, "follows": float("nan")}}
HISTORY = [{"step": i, "loss": 1 / (i + 1), **({"val": 0.5} if i % 3 == 0 else {})} for i in range(9)]
STATISTICS = {"eigenvalues": [2.0, 1, 0.5, 0.2], "std": [1.0, 1, 1, 1], "kurtosis": [0.0, 0.1, 2, -1]}

DRAWINGS = {
    "image_grid": lambda: figures.image_grid([PICTURES, [*PICTURES[:3], None]], row_labels=["a", "b"], title="t"),
    "lerp_pictures": lambda: figures.lerp_pictures(
        *[PICTURES[:2]] * 4, {f"{i}-{j}": PICTURES[:2] for i, j in figures.CHANNEL_PAIRS}
    ),
    "lerp_strips": lambda: figures.lerp_strips({"semantic": PICTURES, "style": PICTURES}, np.linspace(0, 1, 5)),
    "mix_grid": lambda: figures.mix_grid(torch.rand(5, 5, 3, 16, 16), [0, 0.25, 0.5, 0.75, 1], np.linspace(0, 1, 5)),
    "channel_panels": lambda: figures.channel_panels(
        {"z": torch.randn(4, 8, 8), "x = Qz": torch.randn(4, 8, 8)}, pictures={"z": PICTURES[0]}
    ),
    "matrix_heatmap": lambda: figures.matrix_heatmap({"Q": RANDOM.normal(size=(4, 4)), "R": np.eye(4)}, limit=None),
    "matrix_heatmap_wide": lambda: figures.matrix_heatmap({"Q": RANDOM.normal(size=(32, 32))}),
    "heat_grid": lambda: figures.heat_grid(RANDOM.random((3, 4)), list("abc"), list("wxyz"), label="accuracy"),
    "training_curves": lambda: figures.training_curves(
        {"seed 0": HISTORY, "seed 1": HISTORY}, {"loss": {"loss": "train", "val": "validation"}, "log": ["loss"]},
        log_panels=["log"],
    ),
    "isotropy": lambda: figures.isotropy({"z": STATISTICS, "x = Qz": STATISTICS}),
    "score_dots": lambda: figures.score_dots(
        SCORES, metrics={"score": "swap score", "style": "style half"}, ceiling={"score": 0.9},
        null={"score": RANDOM.normal(size=20), "style": RANDOM.normal(size=20)},
        points={"Q": {"score": [0.2, 0.3], "style": []}},
    ),
    "per_factor_scores": lambda: figures.per_factor_scores(PER_FACTOR, ceiling={"object": 0.9}),
    "change_of_basis": lambda: figures.change_of_basis(),
    "choice_dots": lambda: figures.choice_dots(
        {"recipe": {"score": [0.1, 0.2], "angle": [3.0]}, "L1": {"score": np.array([0.0])}}, {"score": "swap score", "angle": "degrees"},
        bands={"score": (-0.2, 0.2)}, limits={"angle": (0, 90)}, emphasis=("recipe",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_draws_and_fits_a_page(name):
    figure = DRAWINGS[name]()
    image = Image.open(io.BytesIO(figures.render_png(figure)))
    assert image.width <= 7.3 * 200
    assert np.asarray(image.convert("L")).std() > 5, "the figure is blank"


def test_the_caller_s_settings_neither_leak_in_nor_change():
    before = figures.render_png(figures.per_factor_scores(PER_FACTOR))
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert figures.render_png(figures.per_factor_scores(PER_FACTOR)) == before
        assert matplotlib.rcParams["font.size"] == 30


def test_the_same_arrays_give_the_same_bytes():
    assert figures.render_png(DRAWINGS["change_of_basis"]()) == figures.render_png(DRAWINGS["change_of_basis"]())
    assert figures.render_png(figures.score_dots(SCORES)) == figures.render_png(figures.score_dots(SCORES))


def test_colours_stay_apart_in_grey_or_have_another_sign():
    """Semantic and style must be told apart without colour: their luminances differ."""
    red, green, blue = 0.2126, 0.7152, 0.0722
    levels = [
        np.dot(matplotlib.colors.to_rgb(colour), (red, green, blue))
        for colour in (figures.SEMANTIC_COLOUR, figures.STYLE_COLOUR)
    ]
    assert abs(levels[0] - levels[1]) > 0.05


def test_pictures_may_be_tensors_arrays_bytes_or_pil():
    as_bytes = (np.moveaxis(PICTURES[0], 0, -1) * 255).astype(np.uint8)
    figures.image_grid(
        [[torch.tensor(PICTURES[0]), np.moveaxis(PICTURES[0], 0, -1), as_bytes, Image.fromarray(as_bytes)]]
    )


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.image_grid([]), "at least one picture"),
        (lambda: figures.image_grid([PICTURES], column_labels=["a"]), "1 column labels for 5 columns"),
        (lambda: figures.image_grid([[np.zeros((4, 4))]]), "must be"),
        (lambda: figures.training_curves({"seed 0": HISTORY}, {"loss": ["lss"]}), "'lss'; there are: loss, step, val"),
        (lambda: figures.training_curves({}, {"loss": ["loss"]}), "at least one run"),
        (lambda: figures.score_dots({}), "at least one method"),
        (lambda: figures.choice_dots({}, {"score": "swap score"}), "at least one choice"),
        (lambda: figures.per_factor_scores({}), "at least one factor"),
        (lambda: figures.lerp_pictures([], [], [], [], {}), "at least one"),
    ],
)
def test_bad_input_is_one_clear_sentence(draw, message):
    with pytest.raises(BadInputError, match=message):
        draw()
