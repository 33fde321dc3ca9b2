import warnings

import numpy as np
import pytest
import torch
from toys import KINDS, N_VALUES, ToyCodec, ToyJudge, ToySplit, toy_images, toy_scenes

from sketchae.errors import BadInputError
from sketchae.metrics import (
    SwapBench,
    bootstrap_ci,
    counterfactual_from_distances,
    counterfactual_score,
    p_value,
    pair_indices,
    score_swaps,
    score_unswapped,
)

FOUR = {"object": "semantic", "terrain": "semantic", "palette": "style", "medium": "style"}


def factors(seed: int, n: int = 400, values: int = 6) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.integers(values, size=n) for name in FOUR}


A, B = factors(0), factors(1)
RIGHT = {name: (A if kind == "semantic" else B)[name] for name, kind in FOUR.items()}
WRONG = {name: (B if kind == "semantic" else A)[name] for name, kind in FOUR.items()}


def test_perfect_readings_score_1_and_the_wrong_way_round_minus_1():
    perfect, wrong = score_swaps(RIGHT, A, B, FOUR), score_swaps(WRONG, A, B, FOUR)
    assert (perfect.score, perfect.semantic, perfect.style, perfect.neither) == (1, 1, 1, 0)
    assert (wrong.score, wrong.semantic, wrong.style, wrong.neither) == (-1, -1, -1, 0)
    assert perfect.score_ci95 == (1, 1)
    assert perfect.per_factor["object"].n_pairs == (A["object"] != B["object"]).sum()


def test_random_readings_score_about_0():
    score = score_swaps(factors(3), A, B, FOUR)
    assert abs(score.score) < 0.06
    assert score.neither == pytest.approx(4 / 6, abs=0.05)
    assert score.score_ci95[0] < 0 < score.score_ci95[1]


def test_a_constant_reading_scores_about_0():
    score = score_swaps({name: np.zeros(400, int) for name in FOUR}, A, B, FOUR)
    assert abs(score.score) < 0.1
    assert score.per_factor["medium"].follows == pytest.approx(1 / 6, abs=0.06)


def test_everything_in_one_block_shows_in_the_halves():
    score = score_swaps(A, A, B, FOUR)  # the picture is a: the semantic block holds everything
    assert (score.score, score.semantic, score.style, score.neither) == (0, 1, -1, 0)
    ceiling = score_unswapped(A, A, B, FOUR)
    assert (ceiling.score, ceiling.semantic, ceiling.style) == (1, 1, 1)


def test_a_tiny_example_by_hand():
    kinds = {"object": "semantic", "palette": "style"}
    a = {"object": np.array([0, 0, 1, 2]), "palette": np.array([0, 1, 1, 1])}
    b = {"object": np.array([1, 0, 2, 1]), "palette": np.array([2, 2, 1, 0])}
    read = {"object": np.array([0, 0, 2, 0]), "palette": np.array([2, 1, 1, 0])}
    score = score_swaps(read, a, b, kinds)
    # object differs in pairs 0, 2, 3: shows a, b, neither. palette differs in 0, 1, 3: shows b, a, b.
    assert (score.per_factor["object"].follows, score.per_factor["object"].other) == (1 / 3, 1 / 3)
    assert score.per_factor["object"].neither == pytest.approx(1 / 3)
    assert score.semantic == pytest.approx(0)
    assert score.style == pytest.approx(1 / 3)
    assert score.score == pytest.approx(1 / 6)
    assert score.neither == pytest.approx(1 / 6)


def test_halves_weigh_the_same_however_many_factors_they_have():
    kinds = {"object": "semantic", "terrain": "semantic", "palette": "style"}
    read = {"object": A["object"], "terrain": A["terrain"], "palette": A["palette"]}
    assert score_swaps(read, A, B, kinds).score == 0


def test_a_factor_that_never_differs_is_nan_and_left_out():
    same = {**B, "terrain": A["terrain"]}
    score = score_swaps({**RIGHT}, A, same, FOUR)
    assert np.isnan(score.per_factor["terrain"].score)
    assert score.per_factor["terrain"].n_pairs == 0
    assert score.score == 1


def test_a_rare_factor_does_not_spoil_the_interval():
    same = {**B, "terrain": np.where(np.arange(400) == 7, A["terrain"] + 1, A["terrain"])}
    score = score_swaps(RIGHT, A, same, FOUR)
    assert score.per_factor["terrain"].n_pairs == 1
    assert np.isfinite(score.score_ci95).all()


def test_tensors_and_arrays_read_alike():
    tensors = {name: torch.from_numpy(values) for name, values in RIGHT.items()}
    assert score_swaps(tensors, A, B, FOUR).as_dict() == score_swaps(RIGHT, A, B, FOUR).as_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, A, B, FOUR), "missing from the judge's readings"),
        (({k: v[:0] for k, v in A.items()},) * 3 + (FOUR,), "at least one pair"),
        (({k: v[:9] for k, v in A.items()}, A, B, FOUR), "one reading for each pair"),
        (({**A, "object": A["object"][:9]}, A, B, FOUR), "unequal lengths"),
        ((A, A, {**B, "palette": A["palette"], "medium": A["medium"]}, FOUR), "No style factor differs"),
        ((A, A, B, {"object": "semantic"}), "No style factor"),
        ((A, A, B, {**FOUR, "object": "content"}), "'content'"),
        ((A, A, B, {}), "`kinds` is empty"),
    ],
)
def test_bad_input_is_one_clear_sentence(arguments, message):
    with pytest.raises(BadInputError, match=message):
        score_swaps(*arguments)


def test_bootstrap_depends_on_the_name_only():
    read = factors(2)
    first = score_swaps(read, A, B, FOUR, name="x")
    np.random.default_rng(0).normal(size=99)
    assert score_swaps(read, A, B, FOUR, name="x") == first
    assert score_swaps(read, A, B, FOUR, name="y").score_ci95 != first.score_ci95


def test_bootstrap_interval_of_a_mean_has_the_textbook_width():
    values = np.random.default_rng(0).normal(size=500)
    low, high = bootstrap_ci(values, n_boot=4000)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 500**0.5, rel=0.06)
    median = bootstrap_ci(values, statistic=np.median, n_boot=200)
    assert median[0] < np.median(values) < median[1]
    assert median == bootstrap_ci(values, statistic=np.median, n_boot=200)
    with pytest.raises(BadInputError, match="empty"):
        bootstrap_ci([])
    with pytest.raises(BadInputError, match="finite"):
        bootstrap_ci([1.0, float("nan")])


def test_p_value_counts_the_null():
    assert p_value(0.5, [0.1, 0.6, 0.2]) == 0.5
    assert p_value(9, np.zeros(99)) == 0.01
    with pytest.raises(BadInputError, match="p-value"):
        p_value(0.5, [])


def test_counterfactual_score_by_hand():
    pictures = {value: torch.full((2, 3, 16, 16), value) for value in (0.0, 0.1, 0.2, 0.4, 0.5)}
    score = counterfactual_score(
        swapped=pictures[0.2], counterfactual=pictures[0.0], recon_counterfactual=pictures[0.1],
        recon_a=pictures[0.4], recon_b=pictures[0.5],
    )  # fmt: skip
    assert score.score == pytest.approx((0.16 - 0.04) / (0.16 - 0.01), abs=1e-5)
    assert (score.swapped, score.codec, score.trivial) == pytest.approx((0.04, 0.01, 0.16))


@pytest.mark.parametrize("distance", ["mse", "ssim", "gradient"])
def test_counterfactual_score_is_1_at_the_codec_and_0_for_the_better_trivial_answer(distance):
    truth, a, b, noise = torch.rand(4, 6, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    recon = truth + 0.05 * noise
    nearer_a = torch.arange(6) % 2 == 0
    recon_a = torch.where(nearer_a[:, None, None, None], 0.7 * truth + 0.3 * a, a)
    recon_b = torch.where(nearer_a[:, None, None, None], b, 0.7 * truth + 0.3 * b)
    trivial = torch.where(nearer_a[:, None, None, None], recon_a, recon_b)
    assert counterfactual_score(recon, truth, recon, recon_a, recon_b, distance).score == pytest.approx(1)
    assert counterfactual_score(trivial, truth, recon, recon_a, recon_b, distance).score == pytest.approx(0, abs=1e-6)
    assert counterfactual_score(recon_a, truth, recon, recon_a, recon_b, distance).score < 0


def test_counterfactual_trivial_answer_is_chosen_pair_by_pair():
    score = counterfactual_from_distances(
        torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0])
    )
    assert score.trivial == 1
    assert score.score == 0.5


def test_counterfactual_score_without_room_is_nan_with_a_warning():
    ones = torch.ones(4)
    with pytest.warns(UserWarning, match="does not exist for this codec"):
        assert np.isnan(counterfactual_from_distances(ones, ones, ones, ones).score)


def test_counterfactual_score_refuses_bad_input():
    ones = torch.ones(4)
    with pytest.raises(BadInputError, match="at least one pair"):
        counterfactual_from_distances(*[torch.empty(0)] * 4)
    with pytest.raises(BadInputError, match="every pair"):
        counterfactual_from_distances(ones, ones, ones, torch.ones(3))
    with pytest.raises(BadInputError, match="Unknown distance"):
        counterfactual_score(*[torch.rand(1, 3, 16, 16)] * 5, distance="lpips")


def test_pairs_are_ordered_distinct_and_never_reversed():
    for n in (7, 8, 100):
        a, b = pair_indices(n, n)
        pairs = set(zip(a.tolist(), b.tolist(), strict=True))
        assert len(pairs) == n
        assert not pairs & {(y, x) for x, y in pairs}
        assert sorted(a) == sorted(b) == list(range(n))
        a, b = pair_indices(n, n // 2)
        assert len({*a, *b}) == 2 * (n // 2), "half as many pairs as scenes share no scene"
    assert np.array_equal(pair_indices(100, 50)[0], pair_indices(100, 50)[0])
    assert not np.array_equal(pair_indices(100, 50)[0], pair_indices(100, 50, "other")[0])
    with pytest.raises(BadInputError, match="Cannot draw 9 pairs"):
        pair_indices(8, 9)


@pytest.fixture
def bench() -> SwapBench:
    a, b = toy_scenes(150, 0), toy_scenes(150, 1)
    codec = ToyCodec()
    return SwapBench(
        codec, ToyJudge(), a, b,
        z_a=codec.encode(toy_images(**a.factors)), z_b=codec.encode(toy_images(**b.factors)),
        counterfactual_images=toy_images(a.factors["shape"], b.factors["colour"]),
        kinds=KINDS, other_judges={"second": ToyJudge()}, batch_size=64, n_boot=100,
    )  # fmt: skip


def test_bench_scores_the_right_basis_1_and_the_flipped_one_minus_1(bench):
    right, flipped = bench.score(ToySplit()), bench.score(ToySplit(torch.tensor([[0.0, 1.0], [1.0, 0.0]])))
    assert (right["score"], right["neither"], right["counterfactual_mse"]) == pytest.approx((1, 0, 1), abs=1e-4)
    assert right["counterfactual_ssim"] == pytest.approx(1, abs=1e-3)
    assert flipped["score"] == -1
    assert flipped["counterfactual_mse"] < 0
    assert right["judges"]["second"]["score"] == 1
    assert bench.ceiling["score"] == bench.ceiling["judges"]["second"]["semantic"] == 1


def test_bench_judges_trivial_answers_alike(bench):
    shows_a = bench.score(lambda z_content, z_style: z_content)
    assert (shows_a["score"], shows_a["semantic"], shows_a["style"]) == (0, 1, -1)
    assert shows_a["counterfactual_mse"] <= 0
    pictures = bench.codec.decode(bench.z_a)
    assert bench.score_pictures(pictures) == shows_a
    before = bench.codec.n_decoded
    assert bench.score_unchanged("a") == shows_a
    assert bench.codec.n_decoded == before
    assert bench.score_unchanged("b", n_pairs=70) == bench.score(lambda z_content, z_style: z_style, n_pairs=70)


def test_bench_decodes_each_pair_once_for_each_basis(bench):
    before, encoded = bench.codec.n_decoded, bench.codec.n_encoded
    bench.score(ToySplit())
    _ = bench.ceiling
    assert bench.codec.n_decoded - before == 150
    assert bench.codec.n_encoded == encoded


def test_bench_does_not_depend_on_the_batch_size(bench):
    half = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
    with_64 = bench.score(ToySplit(half))
    bench.batch_size = 7
    with_7 = bench.score(ToySplit(half))
    assert with_7["per_factor"] == with_64["per_factor"]
    assert with_7["counterfactual_ssim"] == pytest.approx(with_64["counterfactual_ssim"], abs=1e-5)


def test_bench_can_score_the_first_pairs_only(bench):
    few = bench.score(ToySplit(), n_pairs=10)
    assert few["n_pairs"] == 10
    with pytest.raises(BadInputError, match="has 1 to 150"):
        bench.score(ToySplit(), n_pairs=151)


def test_bench_refuses_numbers_that_do_not_agree():
    a, b = toy_scenes(5, 0), toy_scenes(5, 1)
    images, codec = toy_images(**a.factors), ToyCodec()
    z = codec.encode(images)
    with pytest.raises(BadInputError, match="one per pair"):
        SwapBench(codec, ToyJudge(), a, b, z_a=z, z_b=z[:4], counterfactual_images=images, kinds=KINDS)
    empty = toy_scenes(0, 0)
    with pytest.raises(BadInputError, match="at least one pair"):
        SwapBench(codec, ToyJudge(), empty, empty, z_a=z, z_b=z, counterfactual_images=images, kinds=KINDS)


def test_random_toy_bases_have_no_preference(bench):
    scores = []
    for seed in range(40):
        q, _ = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(seed)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores.append(bench.score(ToySplit(q), n_pairs=50)["score"])
    assert abs(np.mean(scores)) < 0.3
    assert N_VALUES > 2
