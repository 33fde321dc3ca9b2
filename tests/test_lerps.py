import json
import math

import numpy as np
import pytest
import torch
from toys import N_VALUES, ToyCodec, ToyJudge, ToySplit, toy_images, toy_scenes

from sketchae.errors import BadInputError
from sketchae.metrics.evaluation import SwapBench
from sketchae.metrics.lerps import ALPHAS, EDITS, LerpCurves, lerp_curves, pair_scores, ranked_pairs

EXCHANGED = ToySplit(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
MIXED = ToySplit(torch.tensor([[0.8, 0.6], [-0.6, 0.8]]))
FOUR = {"shape": "semantic", "coarse shape": "semantic", "colour": "style", "coarse colour": "style"}


def with_coarse(read: dict) -> dict:
    return read | {f"coarse {name}": values // 4 for name, values in read.items()}


class FourJudge(ToyJudge):
    """Each factor a second time, in two values: it differs in fewer pairs."""

    def predict(self, images):
        return with_coarse(super().predict(images))


class StepJudge(ToyJudge):
    """Two values a factor, 0 and 7: the reading turns half-way."""

    def predict(self, images):
        return {name: values // 4 * 7 for name, values in super().predict(images).items()}


def make_bench(a, b, judge, kinds=None, **options) -> SwapBench:
    codec = ToyCodec()
    pictures = [toy_images(scenes.factors["shape"], scenes.factors["colour"]) for scenes in (a, b)]
    return SwapBench(
        codec, judge, a, b,
        z_a=codec.encode(pictures[0]), z_b=codec.encode(pictures[1]),
        counterfactual_images=toy_images(a.factors["shape"], b.factors["colour"]),
        kinds=kinds or {"shape": "semantic", "colour": "style"}, n_boot=100, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def opposite() -> SwapBench:
    """Every factor differs in every pair."""
    a, b = toy_scenes(60, 0), toy_scenes(60, 0)
    a.factors = {name: values % 2 * 7 for name, values in a.factors.items()}
    b.factors = {name: 7 - values for name, values in a.factors.items()}
    return make_bench(a, b, StepJudge(), batch_size=25)


@pytest.fixture(scope="module")
def four() -> SwapBench:
    a, b = toy_scenes(80, 0), toy_scenes(80, 1)
    a.factors, b.factors = with_coarse(a.factors), with_coarse(b.factors)
    return make_bench(a, b, FourJudge(), FOUR, batch_size=25)


def test_a_perfect_split_steps_to_1_and_drags_nothing(opposite):
    curves = lerp_curves(opposite, ToySplit())
    for edit in EDITS:
        assert curves.moved[edit].tolist() == [0, 0, 0, 1, 1, 1]
        assert curves.dragged[edit].tolist() == [0] * 6
        assert curves.kept[edit].tolist() == [1] * 6
        assert curves.edit_selectivity[edit] == pytest.approx(0.5)
        assert curves.edit_selectivity_ci95[edit] == pytest.approx((0.5, 0.5))
    assert curves.selectivity == pytest.approx(0.5)
    assert curves.n_pairs == 60


def test_many_values_make_a_ramp(four):
    curves = lerp_curves(four, ToySplit(), np.linspace(0, 1, 9))
    for edit in EDITS:
        assert (np.diff(curves.moved[edit]) >= 0).all()
        assert (curves.moved[edit][0], curves.moved[edit][-1]) == (0, 1)
        assert 0 < curves.moved[edit][5] < 1
        assert not curves.dragged[edit].any()


@pytest.mark.parametrize("split", [ToySplit(), MIXED])
def test_exchanging_the_blocks_changes_the_sign(four, split):
    curves = lerp_curves(four, split)
    exchanged = lerp_curves(four, ToySplit(split.matrix.flip(0)))
    assert curves.selectivity > 0.02
    assert exchanged.selectivity == pytest.approx(-curves.selectivity)
    assert exchanged.selectivity_ci95 == pytest.approx([-end for end in curves.selectivity_ci95[::-1]])
    assert exchanged.edit_selectivity["semantic"] == pytest.approx(-curves.edit_selectivity["style"])
    assert exchanged.moved["style"] == pytest.approx(curves.dragged["semantic"])


@pytest.mark.parametrize("n_semantic", [0, 2])
def test_everything_in_one_block_prefers_nothing(opposite, n_semantic):
    curves = lerp_curves(opposite, ToySplit(n_semantic=n_semantic))
    full, empty = EDITS if n_semantic else EDITS[::-1]
    assert curves.selectivity == pytest.approx(0)
    assert curves.moved[full].tolist() == curves.dragged[full].tolist() == [0, 0, 0, 1, 1, 1]
    assert not curves.moved[empty].any() and not curves.dragged[empty].any()
    assert curves.kept[empty].all()


def test_the_ends_are_the_reconstruction_and_the_swap(four):
    curves, swap = lerp_curves(four, MIXED), four.score(MIXED)
    assert curves.kept["style"][-1] - curves.dragged["style"][-1] == pytest.approx(swap["semantic"])
    follows = [factor["follows"] for factor in swap["per_factor"].values() if factor["kind"] == "style"]
    assert curves.moved["style"][-1] == pytest.approx(np.mean(follows))
    for edit, other in zip(EDITS, EDITS[::-1], strict=True):
        assert curves.moved[edit][0] == curves.dragged[other][0] == 0
        assert curves.kept[edit][0] == 1


def test_intervals_hold_the_estimate_and_depend_on_nothing_but_the_pairs(four):
    curves = lerp_curves(four, MIXED)
    low, high = curves.selectivity_ci95
    assert low < curves.selectivity < high
    assert lerp_curves(four, MIXED).values() == curves.values()
    wider = lerp_curves(four, MIXED, n_pairs=12)
    assert wider.n_pairs == 12
    assert np.diff(wider.selectivity_ci95) > high - low


def test_a_pair_costs_one_picture_for_each_alpha_and_edit_but_the_first_is_shared(four):
    before = four.codec.n_decoded
    lerp_curves(four, MIXED, [0, 0.5, 1], n_pairs=30)
    assert four.codec.n_decoded - before == 30 * 5
    pair_scores(four, MIXED)
    assert four.codec.n_decoded - before == 30 * 5 + 80


def test_the_batch_size_does_not_matter(four, monkeypatch):
    curves, scores = lerp_curves(four, MIXED), pair_scores(four, MIXED)
    monkeypatch.setattr(four, "batch_size", 80)
    assert lerp_curves(four, MIXED).values() == curves.values()
    np.testing.assert_array_equal(pair_scores(four, MIXED), scores)


def test_curves_can_be_recorded_and_printed(four):
    curves = lerp_curves(four, MIXED)
    values = json.loads(json.dumps(curves.values(), allow_nan=False))
    assert values["alphas"] == list(ALPHAS)
    assert values["kept"]["style"] == curves.kept["style"].tolist()
    assert values["edit_selectivity_ci95"]["semantic"] == list(curves.edit_selectivity_ci95["semantic"])
    assert set(values) == set(LerpCurves.__dataclass_fields__)
    text = str(curves)
    assert text.count("dragged") == 2 and text.splitlines()[0].startswith("80 pairs")
    assert text.splitlines()[-1].startswith("selectivity, split") and f"{curves.selectivity:+.2f}" in text
    assert max(map(len, text.splitlines())) < 80


def test_a_factor_that_never_differs_is_left_out():
    a, b = toy_scenes(40, 0), toy_scenes(40, 1)
    a.factors, b.factors = with_coarse(a.factors), with_coarse(b.factors)
    b.factors["coarse colour"] = a.factors["coarse colour"]
    bench = make_bench(a, b, FourJudge(), FOUR)
    with_it = lerp_curves(bench, MIXED)
    del bench.kinds["coarse colour"]
    assert lerp_curves(bench, MIXED).values() == with_it.values()


def test_pair_scores_average_to_the_swap_score_where_every_factor_differs(opposite):
    half_way = ToySplit(torch.tensor([[0.5, 0.5], [-0.5, 0.5]]) * 2**0.5)
    for split in (ToySplit(), EXCHANGED, MIXED, half_way):
        assert pair_scores(opposite, split).mean() == pytest.approx(opposite.score(split)["score"])
    assert pair_scores(opposite, ToySplit()).tolist() == [1] * 60
    assert pair_scores(opposite, EXCHANGED, n_pairs=7).tolist() == [-1] * 7


def test_pair_scores_leave_out_what_does_not_differ():
    a, b = toy_scenes(5, 0), toy_scenes(5, 0)
    a.factors = {"shape": np.array([1, 1, 1, 1, 1]), "colour": np.array([2, 2, 2, 2, 2])}
    b.factors = {"shape": np.array([1, 6, 6, 2, 1]), "colour": np.array([2, 2, 7, 2, 7])}
    a.factors, b.factors = with_coarse(a.factors), with_coarse(b.factors)
    bench = make_bench(a, b, FourJudge(), FOUR)
    right, exchanged = pair_scores(bench, ToySplit()), pair_scores(bench, EXCHANGED)
    assert np.isnan([right[0], exchanged[0]]).all()
    assert (right[1:].tolist(), exchanged[1:].tolist()) == ([1] * 4, [-1] * 4)
    # Everything in the style block: the picture is b, which is wrong for the shape and right for the colour.
    assert pair_scores(bench, ToySplit(n_semantic=0))[1:].tolist() == [-1, 0, -1, 1]


def test_pair_scores_by_hand_with_readings_that_are_neither():
    a, b = toy_scenes(1, 0), toy_scenes(1, 0)
    a.factors = {"shape": np.array([0]), "colour": np.array([0])}
    b.factors = {"shape": np.array([1]), "colour": np.array([6])}
    a.factors, b.factors = with_coarse(a.factors), with_coarse(b.factors)
    bench = make_bench(a, b, FourJudge(), FOUR)
    bench.judge.predict = lambda images: {
        "shape": torch.tensor([0]), "coarse shape": torch.tensor([0]),
        "colour": torch.tensor([5]), "coarse colour": torch.tensor([1]),
    }  # fmt: skip
    # Shape shows a (coarse shape does not differ): 1. Colour shows neither, coarse colour b: (0 + 1) / 2.
    assert pair_scores(bench, ToySplit()).tolist() == [0.75]


def test_ranked_pairs_take_the_lowest_row_of_equals_and_never_nan():
    nan = math.nan
    assert ranked_pairs([0.1, 0.9, -0.5]) == {"best": 1, "median": 0, "worst": 2}
    assert ranked_pairs([nan, 0.5, 1, 0, 1, 0, nan, 0.5]) == {"best": 2, "median": 1, "worst": 3}
    assert ranked_pairs([0.4, 0.1, 0.3, 0.2]) == {"best": 0, "median": 3, "worst": 1}
    assert ranked_pairs(np.zeros(4)) == {"best": 0, "median": 0, "worst": 0}
    assert ranked_pairs([nan, -1, nan]) == {"best": 1, "median": 1, "worst": 1}
    for empty in ([], [nan, nan]):
        with pytest.raises(BadInputError, match="not NaN"):
            ranked_pairs(empty)


@pytest.mark.parametrize("alphas", [(), (0,), (0, 0.5), (0.2, 1), (0, 0.6, 0.4, 1), (0, 0.5, 0.5, 1), (0, math.nan, 1)])
def test_alphas_increase_from_0_to_1(opposite, alphas):
    with pytest.raises(BadInputError, match="increase from 0 to 1"):
        lerp_curves(opposite, ToySplit(), alphas)


def test_bad_input_is_one_clear_sentence(opposite):
    for measure in (lerp_curves, pair_scores):
        with pytest.raises(BadInputError, match="has 1 to 60"):
            measure(opposite, ToySplit(), n_pairs=61)
    a, b = toy_scenes(6, 0), toy_scenes(6, 1)
    b.factors["colour"] = a.factors["colour"]
    a.factors["shape"] = (b.factors["shape"] + 1) % N_VALUES
    with pytest.raises(BadInputError, match="No style factor differs in any pair"):
        lerp_curves(make_bench(a, b, ToyJudge()), ToySplit())
    bench = make_bench(toy_scenes(6, 0), toy_scenes(6, 1), ToyJudge())
    bench.judge.predict = lambda images: {"shape": torch.zeros(len(images), dtype=torch.long)}
    for measure in (lerp_curves, pair_scores):
        with pytest.raises(BadInputError, match="does not read colour"):
            measure(bench, ToySplit())
