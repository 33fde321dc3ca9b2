"""Probes on planted latents: what lives in a block is read there, and nothing is read where nothing was put."""

import numpy as np
import pytest
import torch
from toys import ToySplit

from sketchae import figures
from sketchae.errors import BadInputError
from sketchae.metrics import probe_models, probes
from sketchae.metrics.bootstrap import generator
from sketchae.metrics.probes import leakage, read_factors

SIZES = {"shape": 4, "count": 3, "colour": 5}
KINDS = {"shape": "semantic", "count": "semantic", "colour": "style"}
CHANNELS = {"shape": slice(0, 2), "count": slice(0, 2), "colour": slice(2, 4)}
SPLIT = ToySplit(torch.eye(4), n_semantic=2)


def planted(n: int, name: str, strength: float = 1.0) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Noise latents (n, 4, 8, 8); every value of a factor adds a pattern of its own to the channels of its block."""
    random = generator(f"test_probes/{name}")
    factors = {factor: random.integers(size, size=n) + 3 for factor, size in SIZES.items()}
    z = random.standard_normal((n, 4, 8, 8))
    for factor, size in SIZES.items():
        patterns = strength * generator(f"test_probes/pattern/{factor}").standard_normal((size + 3, 2, 8, 8))
        z[:, CHANNELS[factor]] += patterns[factors[factor]]
    return torch.from_numpy(z).float(), factors


TRAIN, TEST = planted(600, "train"), planted(400, "test")


@pytest.fixture(scope="module", params=probes.PROBES)
def matrix(request):
    return leakage(SPLIT, *TRAIN, *TEST, request.param, kinds=KINDS)


def test_a_factor_is_read_from_its_own_block_only(matrix):
    for factor, kind in KINDS.items():
        other = "style" if kind == "semantic" else "semantic"
        assert matrix.at(factor, kind) > 0.95 and matrix.at(factor, "both") > 0.95
        assert abs(matrix.at(factor, other)) < 0.15
        assert abs(matrix.at(factor, "shuffled")) < 0.15


def test_the_matrix_says_how_it_was_made(matrix):
    assert matrix.blocks == probes.BLOCKS and matrix.factors == tuple(SIZES) and matrix.kinds == KINDS
    assert (matrix.n_train, matrix.n_test) == (600, 400)
    for row, factor in enumerate(SIZES):
        share = np.bincount(TRAIN[1][factor]).max() / 600
        assert matrix.chance[row] == pytest.approx(share)
    chance = matrix.chance[:, None]
    assert matrix.score == pytest.approx((matrix.accuracy - chance) / (1 - chance))
    assert (matrix.ci95[..., 0] <= matrix.score).all() and (matrix.score <= matrix.ci95[..., 1]).all()
    low, high = matrix.ci95[0, matrix.blocks.index("style")]
    assert 0.02 < high - low < 0.25
    assert matrix.mean("semantic", "style") == pytest.approx(matrix.score[:2, 1].mean())
    plain = matrix.as_dict()
    assert plain["score"][2][0] == matrix.at("colour", "semantic") and plain["kinds"] == KINDS


def test_a_leakage_matrix_can_be_drawn(matrix):
    figure = figures.leakage_heatmap(matrix)
    assert figures.render_png(figure) == figures.render_png(figures.leakage_heatmap(matrix.as_dict()))
    several = figures.leakage_heatmap({"a": matrix, "b": matrix.as_dict(), "c": matrix})
    assert [ax.get_title() for ax in several.axes[:3]] == ["a", "b", "c"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["shape", "count", "colour"]
    written = [text.get_text() for text in figure.axes[0].texts]
    assert len(written) == 12 and written[0] == f"{matrix.at('shape', 'semantic'):.2f}"
    backwards = {**matrix.as_dict(), "factors": ["colour", "shape", "count"], "score": matrix.score[[2, 0, 1]].tolist()}
    redrawn = figures.leakage_heatmap(backwards)
    assert [text.get_text() for text in redrawn.axes[0].texts] == written
    for wrong in ({}, dict.fromkeys("abcd", matrix), {**backwards, "score": [[1.0]]}):
        with pytest.raises(BadInputError):
            figures.leakage_heatmap(wrong)


@pytest.mark.parametrize("probe", probes.PROBES)
def test_nothing_is_read_from_a_constant_block(probe):
    constant = torch.full((600, 2, 8, 8), 0.7), TRAIN[1], torch.full((400, 2, 8, 8), 0.7), TEST[1]
    for factor, reading in read_factors(*constant, probe).items():
        values, counts = np.unique(TRAIN[1][factor], return_counts=True)
        shares = [np.mean(TEST[1][factor] == value) for value in values]  # a constant answer is right this often
        assert abs(reading.score) < 0.1
        assert any(reading.accuracy == pytest.approx(share) for share in shares)
        if probe == "linear":  # in closed form the constant is the most frequent value
            assert reading.accuracy == pytest.approx(shares[counts.argmax()])


@pytest.mark.parametrize("probe", probes.PROBES)
def test_a_probe_repeats_itself_and_leaves_the_random_state_alone(probe):
    x_train, x_test = TRAIN[0][:128], TEST[0]
    f_train = {factor: column[:128] for factor, column in TRAIN[1].items()}
    torch.manual_seed(5)
    first = read_factors(x_train, f_train, x_test, TEST[1], probe)
    drawn = torch.rand(1)
    torch.manual_seed(6)
    assert read_factors(x_train, f_train, x_test, TEST[1], probe) == first
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)


def test_more_features_than_rows_gives_the_same_ridge():
    """Both ways through the eigenproblem solve the normal equations."""
    random = generator("test_probes/ridge")
    for n, d in ((30, 12), (12, 30)):
        x, y, new = (
            random.standard_normal((n, d)) * 3 + 1,
            random.standard_normal((n, 2)),
            random.standard_normal((5, d)),
        )
        path = probe_models._ridge_path(x, y, new, np.array([0.1, 2.0]))
        standard, standard_new = (x - x.mean(0)) / x.std(0), (new - x.mean(0)) / x.std(0)
        for strength, predicted in zip([0.1, 2.0], path, strict=True):
            normal = standard.T @ standard + strength * n * np.eye(d)
            expected = standard_new @ np.linalg.solve(normal, standard.T @ (y - y.mean(0))) + y.mean(0)
            np.testing.assert_allclose(predicted, expected, atol=1e-9)


def test_the_convolutional_probe_reads_what_a_linear_one_cannot():
    """The sign of a pattern times the sign of another: no linear function of the block knows the factor."""
    random = generator("test_probes/product")

    def rows(n):
        signs = random.choice([-1.0, 1.0], size=(n, 2))
        z = 0.3 * random.standard_normal((n, 2, 8, 8)) + signs[:, :, None, None]
        return torch.from_numpy(z).float(), {"product": (signs.prod(1) > 0).astype(np.int64)}

    train, test = rows(600), rows(400)
    assert abs(read_factors(*train, *test, "linear")["product"].score) < 0.2
    assert read_factors(*train, *test, "conv")["product"].score > 0.9


def test_scenes_factors_know_their_kinds():
    z = torch.randn(40, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    factors = {name: np.arange(40) % 2 for name in ("palette", "object", "other")}
    found = leakage(SPLIT, z, factors, z, factors, n_boot=10)
    assert found.kinds == {"palette": "style", "object": "semantic", "other": ""}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"probe": "forest"}, "Unknown probe"),
        ({"f_train": {"shape": np.zeros(600, int)}}, "only one value"),
        ({"f_train": {"shape": np.zeros(5, int)}}, "one value each"),
        ({"f_train": {"shape": np.linspace(0, 1, 600)}}, "integers"),
        ({"f_train": {}}, "no factors"),
        ({"f_test": {"count": TEST[1]["count"]}}, "missing from the test rows"),
        ({"x_test": TEST[0][:, :2]}, "one split"),
        ({"x_test": TEST[0][:0]}, "one test row"),
        ({"x_train": TRAIN[0] * float("nan")}, "NaN"),
    ],
)
def test_what_cannot_be_read_is_refused(change, message):
    given = {"x_train": TRAIN[0], "f_train": TRAIN[1], "x_test": TEST[0], "f_test": TEST[1], "probe": "linear"}
    with pytest.raises(BadInputError, match=message):
        read_factors(*(given | change).values())
