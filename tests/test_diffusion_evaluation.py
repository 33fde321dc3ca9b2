"""What pictures drawn from prompts are worth, on readings whose answer is known, and from prompt to number with a network that knows nothing."""

import itertools
import json

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.metrics import cohen_kappa_score
from tiny import tiny_clip

from sketchae.backbones import load_clip
from sketchae.basis import random_basis
from sketchae.diffusion import SketchDiffusion, build_unet, embed_prompts, generate, sample
from sketchae.diffusion.evaluation import (
    PromptSet,
    diversity,
    obedience,
    obeyed,
    preview_agreement,
    prompt_set,
)
from sketchae.diffusion.picture_sets import (
    best_of_n,
    choose_sketches,
    finished_for_sketches,
    frechet_distance,
    frechet_floor,
    judge_features,
)
from sketchae.diffusion.readings import KINDS
from sketchae.diffusion.redraws import control, matched
from sketchae.errors import BadInputError
from sketchae.scenes import FACTORS, SEMANTIC_FACTORS, STYLE_FACTORS, sample_scenes
from sketchae.scenes.judges import make_judge

TOY = {"shape": "semantic", "place": "semantic", "colour": "style"}
N_VALUES = {"shape": 4, "place": 2, "colour": 3}


def toy_prompts(n: int, seed: int = 0, named: float = 0.6) -> PromptSet:
    """Prompts that name each factor with that probability, the shape always."""
    random = np.random.default_rng(seed)
    wanted = {f: np.where((random.random(n) < named) | (f == "shape"), random.integers(v, size=n), -1) for f, v in N_VALUES.items()}
    return PromptSet([f"prompt {i}" for i in range(n)], wanted)


def drawn(n: int, seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {factor: random.integers(values, size=n) for factor, values in N_VALUES.items()}


def obeying(prompts: PromptSet, n_samples: int = 1, share: float = 1.0, seed: int = 2) -> dict[str, np.ndarray]:
    """Readings of pictures that show what is wanted with probability `share`, else anything."""
    readings, random = drawn(len(prompts) * n_samples, seed), np.random.default_rng(seed + 1)
    for factor, values in prompts.wanted.items():
        asked = np.repeat(values, n_samples)
        readings[factor] = np.where((asked >= 0) & (random.random(len(asked)) < share), asked, readings[factor])
    return readings


def contains(ends, value):
    return ends[0] - 1e-12 <= value <= ends[1] + 1e-12


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_prompts_name_what_they_want_and_nothing_else():
    scenes = sample_scenes(range(40))
    prompts = prompt_set(scenes)
    assert len(prompts) == 40 and set(prompts.wanted) == set(FACTORS)
    for factor, values in prompts.wanted.items():
        named = prompts.named[factor]
        assert np.array_equal(values[named], scenes.factors[factor][named]) and (values[~named] == -1).all()
        assert named.any() and (named.all() == (factor == "object"))
    for row, prompt in enumerate(prompts.prompts):
        for factor in ("object", "palette"):  # of which a caption uses the value's own word
            word = scenes.value_names(factor)[row].replace("cactus", "cact")
            assert (word in prompt) == bool(prompts.named[factor][row]), prompt
    assert not any(prompt_set(scenes, "content").named[factor].any() for factor in STYLE_FACTORS)
    assert not any(prompt_set(scenes, "style").named[factor].any() for factor in SEMANTIC_FACTORS)


def test_a_scenes_prompt_depends_on_the_scene_and_the_seed_only():
    scenes = sample_scenes(range(12))
    prompts = prompt_set(scenes)
    assert prompt_set(scenes[5:8]).prompts == prompts.prompts[5:8] == prompt_set(scenes, seed=0).prompts[5:8]
    other = prompt_set(scenes, seed=1)
    assert sum(a != b for a, b in zip(prompts.prompts, other.prompts, strict=True)) > 9
    assert not np.array_equal(prompts.named["light"], other.named["light"])
    assert prompts.repeated(2)[:4] == [prompts.prompts[0]] * 2 + [prompts.prompts[1]] * 2


# --- obedience --------------------------------------------------------------------------------------------------------


def test_obedience_is_1_for_pictures_that_obey_and_0_for_a_reading_that_never_changes():
    prompts = toy_prompts(60)
    perfect = obedience(obeying(prompts, 2), prompts, TOY)
    assert (perfect.semantic, perfect.style, perfect.mean) == (1, 1, 1) and perfect.mean_ci95 == (1, 1)
    constant = obedience({factor: np.ones(60, dtype=int) for factor in TOY}, prompts, TOY)
    assert constant.mean == pytest.approx(0, abs=1e-12)
    assert constant.per_factor["shape"].share == (prompts.wanted["shape"] == 1).mean() > 0


def test_obedience_without_looking_at_the_prompt_is_about_0_and_half_of_it_about_a_half():
    prompts = toy_prompts(800)
    none, half = (obedience(obeying(prompts, share=share), prompts, TOY) for share in (0.0, 0.5))
    assert none.mean == pytest.approx(0, abs=0.05) and contains(none.mean_ci95, 0)
    assert half.mean == pytest.approx(0.5, abs=0.05) and half.mean_ci95[0] < half.mean < half.mean_ci95[1]
    assert none.semantic_ci95[1] < half.semantic_ci95[0]


def test_obedience_is_cohens_kappa_over_the_prompts_that_name_the_factor():
    prompts, n_samples = toy_prompts(50), 3
    readings = obeying(prompts, n_samples, share=0.6)
    result = obedience({factor: torch.from_numpy(values) for factor, values in readings.items()}, prompts, TOY)
    for factor, found in result.per_factor.items():
        named = np.repeat(prompts.named[factor], n_samples)
        asked = np.repeat(prompts.wanted[factor], n_samples)
        assert found.kappa == pytest.approx(cohen_kappa_score(asked[named], readings[factor][named]))
        assert found.share == pytest.approx((asked == readings[factor])[named].mean())
        assert found.n_prompts == prompts.named[factor].sum() and found.kind == TOY[factor] and contains(found.ci95, found.kappa)
    assert result.semantic == pytest.approx((result.per_factor["shape"].kappa + result.per_factor["place"].kappa) / 2)
    assert result.mean == pytest.approx((result.semantic + result.style) / 2)


def test_intervals_are_over_prompts_and_do_not_depend_on_copies():
    prompts = toy_prompts(40)
    readings = obeying(prompts, share=0.5)
    once = obedience(readings, prompts, TOY)
    copies = obedience({factor: np.repeat(values, 5) for factor, values in readings.items()}, prompts, TOY)
    assert copies.mean == pytest.approx(once.mean) and copies.mean_ci95 == pytest.approx(once.mean_ci95)
    many = toy_prompts(400)
    narrow = obedience(obeying(many, share=0.5), many, TOY)
    assert np.diff(narrow.mean_ci95) < np.diff(once.mean_ci95) / 2
    assert obedience(readings, prompts, TOY).values() == once.values()
    assert obedience(readings, prompts, TOY, name="another").mean_ci95 != once.mean_ci95


def test_a_kind_that_no_prompt_names_is_not_measured():
    prompts = toy_prompts(30)
    prompts.wanted["colour"][:] = -1
    result = obedience(obeying(prompts, share=0.7), prompts, TOY)
    assert np.isnan(result.style) and result.mean == result.semantic
    values = json.loads(json.dumps(result.values(), allow_nan=False))
    assert values["style"] is None and values["style_ci95"] == [None, None] and values["per_factor"]["shape"]["kind"] == "semantic"


def test_the_score_of_a_picture_is_the_share_of_what_its_prompt_names():
    prompts = PromptSet(["a", "b"], {"shape": np.array([3, 1]), "place": np.array([-1, 1]), "colour": np.array([-1, 2])})
    readings = {"shape": np.array([3, 0, 1, 1]), "place": np.array([0, 0, 1, 0]), "colour": np.array([0, 0, 2, 0])}
    assert np.allclose(obeyed(readings, prompts, TOY), [[1, 0], [1, 1 / 3]])
    style = obeyed(readings, prompts, {"colour": "style"})
    assert np.isnan(style[0]).all() and style[1].tolist() == [1, 0]


# --- diversity --------------------------------------------------------------------------------------------------------


def test_independent_pictures_are_fully_diverse_and_copies_not_at_all():
    prompts = toy_prompts(300, named=0.3)
    prompts.wanted["shape"][::2] = -1
    free = diversity(drawn(300 * 4), prompts, kinds=TOY)
    copies = diversity({factor: np.repeat(values, 4) for factor, values in drawn(300).items()}, prompts, kinds=TOY)
    for kind in ("semantic", "style"):
        assert free.ratio[kind] == pytest.approx(1, abs=0.06) and contains(free.ratio_ci95[kind], free.ratio[kind])
        assert copies.ratio[kind] == copies.differs[kind] == 0 and copies.expected[kind] > 0.4
    assert free.expected["style"] == pytest.approx(2 / 3, abs=0.02) and (free.n_prompts, free.n_samples) == (300, 4)
    assert np.isnan(free.feature_distance) and free.values()["feature_distance"] is None


def test_diversity_counts_pairs():
    prompts, n_samples = toy_prompts(9, named=0.4), 3
    readings, features = drawn(27), np.random.default_rng(0).normal(size=(27, 5))
    result = diversity(readings, prompts, features, TOY)
    pairs = list(itertools.combinations(range(27), 2))
    own = [(i, j) for i, j in pairs if i // n_samples == j // n_samples]
    assert result.feature_distance == pytest.approx(np.mean([np.linalg.norm(features[i] - features[j]) for i, j in own]))
    assert contains(result.feature_distance_ci95, result.feature_distance)
    for factor in ("place", "colour"):
        named, read = np.repeat(prompts.named[factor], n_samples), readings[factor]
        within = [read[i] != read[j] for i, j in own if not named[i]]
        across = [read[i] != read[j] for i, j in pairs if (i, j) not in own and not named[i] and not named[j]]
        found = result.per_factor[factor]
        assert found.differs == pytest.approx(np.mean(within)) and found.expected == pytest.approx(np.mean(across))
        assert found.ratio == pytest.approx(np.mean(within) / np.mean(across))
    shape = result.per_factor["shape"]  # that every prompt names
    assert np.isnan(shape.ratio) and shape.n_prompts == 0 and result.differs["semantic"] == result.per_factor["place"].differs


# --- control ----------------------------------------------------------------------------------------------------------


def test_control_tells_a_held_sketch_from_a_held_style():
    before, other = drawn(200), drawn(200, 5)
    held_sketch = control(before, {"shape": before["shape"], "place": before["place"], "colour": (before["colour"] + 1) % 3}, TOY)
    assert held_sketch.kept == {"semantic": 1, "style": 0} and held_sketch.changed == {"semantic": 0, "style": 1}
    assert held_sketch.kept_ci95["semantic"] == held_sketch.changed_ci95["style"] == (1, 1)
    redrawn = control(before, other, TOY)
    assert redrawn.kept["semantic"] == pytest.approx((1 / 4 + 1 / 2) / 2, abs=0.06) and redrawn.kept["style"] == pytest.approx(1 / 3, abs=0.1)
    assert redrawn.per_factor["shape"] == (before["shape"] == other["shape"]).mean()
    for kind in ("semantic", "style"):
        low, high = redrawn.kept_ci95[kind]
        assert low < redrawn.kept[kind] < high and redrawn.changed_ci95[kind] == pytest.approx((1 - high, 1 - low))
    assert json.loads(json.dumps(redrawn.values(), allow_nan=False))["n_pictures"] == 200


def test_control_counts_only_what_it_is_asked_to():
    prompts = toy_prompts(30)
    before, after = obeying(prompts, 2), obeying(prompts, 2, seed=8)
    named = control(before, after, TOY, counted=prompts.named, n_samples=2)
    assert named.kept == {"semantic": 1, "style": 1} and named.n_pictures == 60
    left_open = control(before, after, TOY, counted={factor: ~rows for factor, rows in prompts.named.items()}, n_samples=2)
    rows = np.repeat(~prompts.named["colour"], 2)
    assert left_open.kept["style"] == pytest.approx((before["colour"] == after["colour"])[rows].mean())
    assert np.isnan(left_open.per_factor["shape"]) and left_open.kept["semantic"] == left_open.per_factor["place"]


def test_a_rival_is_matched_where_it_changes_as_much():
    before = drawn(100)

    def changing(share):
        stays = np.arange(100) >= share
        return {factor: np.where(stays, values, (values + 1) % N_VALUES[factor]) for factor, values in before.items()}

    curve = {strength: control(before, changing(share), TOY) for strength, share in ((0.9, 80), (0.2, 10), (0.5, 40))}
    found = matched(curve, 0.6)
    assert found.strength == pytest.approx(0.7) and found.changed == pytest.approx({"semantic": 0.6, "style": 0.6})
    assert matched(curve, 0.1).strength == pytest.approx(0.2) and matched(curve, 0.8, by="semantic").strength == pytest.approx(0.9)
    assert matched({**curve, 1.0: curve[0.2]}, 0.4).strength == pytest.approx(0.5)  # the lowest that does
    for target in (0.05, 0.85):
        with pytest.raises(BadInputError, match="0.100 to 0.800"):
            matched(curve, target)
    with pytest.raises(BadInputError, match="two strengths"):
        matched({0.5: curve[0.5]}, 0.4)
    with pytest.raises(BadInputError, match="semantic"):
        matched(curve, 0.4, by="colour")


# --- feedback ---------------------------------------------------------------------------------------------------------


def test_previews_agree_in_what_they_tell():
    finished = drawn(400)
    preview = {**finished, "colour": np.random.default_rng(3).permutation(finished["colour"])}
    result = preview_agreement(preview, finished, TOY)
    assert result.semantic == 1 and result.style == pytest.approx(0, abs=0.12) and contains(result.style_ci95, result.style)
    assert result.per_factor["colour"].kappa == pytest.approx(cohen_kappa_score(preview["colour"], finished["colour"]))
    swapped = preview_agreement(finished, preview, TOY)
    assert swapped.values() == result.values()
    grouped = preview_agreement(preview, finished, TOY, n_samples=4)
    assert grouped.style == pytest.approx(result.style) and grouped.n_prompts == 100


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_the_best_of_n_is_the_mean_over_all_choices_of_n(n):
    scores = np.random.default_rng(0).normal(size=(3, 6))
    best = [np.mean([row[list(chosen)].max() for chosen in itertools.combinations(range(6), n)]) for row in scores]
    result = best_of_n(scores, n)
    assert result.expected == pytest.approx(np.mean(best)) and contains(result.ci95, result.expected)
    judged = np.random.default_rng(1).normal(size=(3, 6))
    by_another = [
        np.mean([row[max(chosen, key=by.__getitem__)] for chosen in itertools.combinations(range(6), n)])
        for row, by in zip(scores, judged, strict=True)
    ]
    assert best_of_n(scores, n, judged).expected == pytest.approx(np.mean(by_another))


def test_equal_scores_are_chosen_by_chance():
    scores = np.array([[0.0, 1.0, 2.0, 3.0, 4.0]])
    judged = np.array([[1.0, 1.0, 0.0, 1.0, 0.0]])
    expected = []
    for chosen in itertools.combinations(range(5), 3):
        top = max(judged[0, i] for i in chosen)
        expected.append(np.mean([scores[0, i] for i in chosen if judged[0, i] == top]))
    assert best_of_n(scores, 3, judged).expected == pytest.approx(np.mean(expected))
    assert best_of_n(scores, 2, np.zeros((1, 5))).expected == pytest.approx(2)
    assert np.isnan(best_of_n(scores, 2).ci95).all()


def test_a_fraction_of_a_picture_is_a_picture_by_chance():
    scores = np.random.default_rng(0).normal(size=(4, 7))
    two, three = (best_of_n(scores, n).expected for n in (2, 3))
    assert best_of_n(scores, 2.25).expected == pytest.approx(0.75 * two + 0.25 * three) and two < three
    assert best_of_n(scores, 7.0).expected == pytest.approx(scores.max(1).mean())


def test_sketches_cost_what_they_evaluate():
    # 8 sketches of 10 steps and a preview, then the 39 steps that are left of one.
    assert finished_for_sketches(8, 50, 10) == (8 * 11 + 39) / 50
    assert finished_for_sketches(8, 50, 10, n_preview=0) == (8 * 10 + 40) / 50
    assert finished_for_sketches(1, 50, 10) == finished_for_sketches(1, 50, 10, 0) == 1
    for arguments in ((0, 50, 10), (2, 50, 50), (2, 50, 0), (2, 50, 10, 2)):
        with pytest.raises(BadInputError, match="at least one sketch"):
            finished_for_sketches(*arguments)


def test_choosing_among_sketches_pays_where_the_preview_tells_the_end():
    random = np.random.default_rng(0)
    finished = random.normal(size=(60, 8))
    told = choose_sketches(finished, finished, 8, n_steps=50, n_semantic_steps=10)
    assert told.early.expected == pytest.approx(finished.max(1).mean()) and told.one.expected == pytest.approx(finished.mean())
    assert told.late.n == finished_for_sketches(8, 50, 10) and told.late.expected == best_of_n(finished, told.late.n).expected
    assert told.gain == pytest.approx(told.early.expected - told.late.expected) and 0 < told.gain_ci95[0] < told.gain < told.gain_ci95[1]
    blind = choose_sketches(random.normal(size=(60, 8)), finished, 8, n_steps=50, n_semantic_steps=10)
    assert blind.early.expected == pytest.approx(blind.one.expected, abs=0.3) and blind.gain_ci95[1] < 0
    judged = random.normal(size=(60, 8))
    assert choose_sketches(finished, finished, 8, n_steps=50, n_semantic_steps=10, chosen_by=judged).late.expected < told.late.expected
    assert json.loads(json.dumps(told.values(), allow_nan=False))["late"]["n_pool"] == 8


# --- Fréchet distance -------------------------------------------------------------------------------------------------


def gaussian(n: int, mean: np.ndarray, root: np.ndarray, seed: int) -> np.ndarray:
    """`n` features whose own mean and covariance are exactly `mean` and root root^T."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return white @ root.T + mean


def test_the_distance_of_gaussians_is_the_formula():
    d, shift = 4, np.array([1.0, -2.0, 0.5, 0.0])
    first = gaussian(40, np.zeros(d), np.eye(d), 0)
    assert frechet_distance(first, first, n_boot=0).distance == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, first + shift, n_boot=0).distance == pytest.approx((shift**2).sum())
    scaled = gaussian(40, shift, np.diag([1.0, 2.0, 3.0, 0.5]), 1)  # commuting covariances: (1 - s)² an axis
    result = frechet_distance(first, scaled, n_boot=50)
    assert result.distance == pytest.approx((shift**2).sum() + 0 + 1 + 4 + 0.25)
    assert result.ci95[0] < result.distance < result.ci95[1] and (result.n, result.n_features) == (40, 4)


def test_the_distance_is_that_of_matrix_roots_and_does_not_see_a_rotation():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 60, 5)) @ random.normal(size=(2, 5, 5))
    s, t = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
    found = frechet_distance(a, b, n_boot=0)
    assert found.distance == pytest.approx(expected) and found.values()["ci95"] == [None, None]
    assert frechet_distance(b, a, n_boot=0).distance == pytest.approx(expected)
    q = np.linalg.qr(random.normal(size=(5, 5)))[0]
    assert frechet_distance(torch.from_numpy(3 * a @ q), torch.from_numpy(3 * b @ q), n_boot=0).distance == pytest.approx(9 * expected)


def test_the_floor_is_what_equal_kinds_of_pictures_are_apart():
    real, fake = np.random.default_rng(0).normal(size=(2, 300, 6))
    floor = frechet_floor(real, n_boot=50)
    assert floor.n == 150 and 0 < floor.distance < 1 and contains(floor.ci95, floor.distance)
    assert floor.distance < frechet_floor(real[:60], n_boot=0).distance / 2  # the bias falls with n
    assert floor.distance < frechet_distance(real[:150], fake[:150] + 0.5, n_boot=0).distance
    assert floor.values() == frechet_floor(real, n_boot=50).values()
    moved = frechet_distance(real[:40], fake[:40] + 3, n_boot=50)
    again = [frechet_distance(*np.random.default_rng(i).normal([[[0]], [[3]]], 1, (2, 40, 6)), n_boot=0).distance for i in range(40)]
    assert np.diff(moved.ci95) == pytest.approx(np.quantile(again, 0.975) - np.quantile(again, 0.025), rel=0.5)


# --- bad input --------------------------------------------------------------------------------------------------------


def without(readings, factor):
    return {key: values for key, values in readings.items() if key != factor}


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda p, r: prompt_set(sample_scenes(range(0))), "at least one scene"),
        (lambda p, r: prompt_set(sample_scenes(range(2)), "poem"), "no 'poem' captions"),
        (lambda p, r: obedience(drawn(7), p, TOY), "7 pictures for 6 prompts"),
        (lambda p, r: obedience(without(r, "place"), p, TOY), "place missing from the readings"),
        (lambda p, r: obedience({**r, "place": r["place"][:3]}, p, TOY), "differ in length"),
        (lambda p, r: obedience({**r, "place": r["place"] / 2}, p, TOY), "whole numbers"),
        (lambda p, r: obedience({**r, "place": r["place"] - 2}, p, TOY), "negative"),
        (lambda p, r: obedience(r, p, {"shape": "content"}), 'of kind "semantic" or "style"'),
        (lambda p, r: obedience(r, PromptSet(p.prompts, {f: np.full(6, -1) for f in TOY}), TOY), "No prompt names"),
        (lambda p, r: diversity(r, p, kinds=TOY), "at least two"),
        (lambda p, r: diversity(drawn(12), p, np.zeros((6, 3)), TOY), "of its 12 pictures"),
        (lambda p, r: control(r, drawn(12), TOY), "6 pictures in the readings before and 12"),
        (lambda p, r: control(r, r, TOY, n_samples=4), "not 4 for every prompt"),
        (lambda p, r: control(r, r, TOY, n_samples=2, counted=p.named), "6 entries for 3 prompts"),
        (lambda p, r: preview_agreement(r, without(r, "colour"), TOY), "colour missing from the pictures"),
        (lambda p, r: best_of_n(np.zeros((2, 3)), 4), "draw more"),
        (lambda p, r: best_of_n(np.zeros((2, 3)), 0.5), "ask for fewer"),
        (lambda p, r: best_of_n(np.zeros((2, 3)), 2, np.zeros((3, 2))), "one for each picture"),
        (lambda p, r: best_of_n(np.array([[0, np.nan]]), 1), "NaN"),
        (lambda p, r: frechet_distance(np.zeros((9, 3)), np.zeros((8, 3))), "as many of each"),
        (lambda p, r: frechet_distance(np.zeros((9, 3)), np.zeros((9, 4))), "one judge"),
        (lambda p, r: frechet_distance(np.zeros((9, 9)), np.zeros((9, 9))), "at least 10"),
        (lambda p, r: frechet_distance(np.full((9, 2), np.nan), np.zeros((9, 2))), "infinite"),
        (lambda p, r: frechet_floor(np.zeros((9, 4))), "at least 5"),
        (lambda p, r: judge_features(make_judge("a"), torch.zeros(0, 3, 128, 128)), "at least one"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, remedy):
    prompts = toy_prompts(6)
    with pytest.raises(BadInputError, match=remedy):
        call(prompts, obeying(prompts))


# --- from prompt to number --------------------------------------------------------------------------------------------


class Codec:
    latent_channels, downsampling, id = 3, 16, "toy"

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, 16)

    def decode(self, z):
        return z.sigmoid().repeat_interleave(16, -1).repeat_interleave(16, -2)


def test_from_prompts_to_numbers(tmp_path):
    clip, codec, judge = load_clip(tiny_clip(tmp_path), device="cpu"), Codec(), make_judge("a").eval()
    torch.manual_seed(0)
    unet = build_unet(3, 8, text_dim=16, pooled_dim=16, block_out_channels=(8, 16), norm_num_groups=4, n_heads=2)
    model = SketchDiffusion(unet, random_basis(3, 2, 1), torch.zeros(3), torch.ones(3)).eval().requires_grad_(False)
    prompts, n_samples, n_semantic_steps = prompt_set(sample_scenes(range(5))), 2, 2
    told = prompts.repeated(n_samples)
    images = generate(model, told, codec, clip, n_steps=4, guidance=1.0, offset=1, n_semantic_steps=n_semantic_steps)
    finished, features = judge.predict(images), judge_features(judge, images, batch_size=4)
    assert features.shape == (10, 192) and features.dtype == np.float64
    assert np.allclose(features[:3], judge.features(images[:3]).detach().numpy(), atol=1e-4)

    path = sample(
        model, embed_prompts(clip, told), seeds=range(10), n_steps=4, offset=1, n_semantic_steps=n_semantic_steps, return_trajectory=True
    )
    sketch = path.previews[n_semantic_steps]
    assert torch.equal(sketch[:, :2], path.x[:, :2])  # the semantic block is as it will be
    preview = judge.predict(codec.decode(model.decode(sketch)))

    results = [
        obedience(finished, prompts),
        diversity(finished, prompts, features),
        control(finished, preview, n_samples=n_samples),
        preview_agreement(preview, finished, n_samples=n_samples),
        choose_sketches(
            obeyed(preview, prompts, {f: k for f, k in KINDS.items() if k == "semantic"}),
            obeyed(finished, prompts),
            2,
            n_steps=4,
            n_semantic_steps=n_semantic_steps,
        ),
        frechet_floor(features[:, :3], n_boot=10),
    ]
    assert all(json.dumps(result.values(), allow_nan=False) for result in results)
    assert set(results[0].per_factor) == set(KINDS) == set(results[2].per_factor)
    assert results[1].feature_distance > 0
    assert control(finished, finished).kept == {"semantic": 1, "style": 1}
