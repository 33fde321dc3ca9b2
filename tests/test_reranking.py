"""Choosing among candidates: known answers, no gain from a chooser that knows nothing, all of it from one that knows everything."""

import numpy as np
import pytest
import torch
from tiny import tiny_clip

from sketchae.backbones import load_clip
from sketchae.diffusion.evaluation import PromptSet
from sketchae.diffusion.studio import clip_scores
from sketchae.errors import BadInputError
from sketchae.latent_models.dvae import DiscreteVAE
from sketchae.latent_models.prior import TokenPrior, paint_prompts
from sketchae.latent_models.reranking import Candidates, above_chance, draw_candidates, reranking
from sketchae.scenes import FACTORS
from sketchae.scenes.judges import make_judge

KINDS = {"count": "semantic", "tone": "style"}


def prompts(n: int, seed: int = 0) -> PromptSet:
    rng = np.random.default_rng(seed)
    return PromptSet([f"caption {i}" for i in range(n)], {f: rng.integers(0, len(factor.values), n) for f, factor in FACTORS.items()})


def readings(wanted: PromptSet, n_candidates: int, share_right: float, seed: int = 1) -> dict[str, np.ndarray]:
    """Every factor is right with some probability, and otherwise a value at random."""
    rng = np.random.default_rng(seed)
    found = {}
    for factor, values in wanted.wanted.items():
        asked = np.repeat(values, n_candidates)
        guess = rng.integers(0, len(FACTORS[factor].values), len(asked))
        found[factor] = np.where(rng.random(len(asked)) < share_right, asked, guess)
    return found


def pool(wanted: PromptSet, n_candidates: int, share_right: float, scores: torch.Tensor | None = None) -> Candidates:
    read = readings(wanted, n_candidates, share_right)
    known = torch.from_numpy(above_chance(read, wanted)).float()
    return Candidates(read, known if scores is None else scores, torch.zeros(0, n_candidates, 3, 2, 2, dtype=torch.uint8))


def test_all_right_is_one_and_guessing_is_nought():
    wanted = prompts(2000)
    right = above_chance({f: v for f, v in wanted.wanted.items()}, wanted)
    assert np.allclose(right, 1)
    assert abs(above_chance(readings(wanted, 1, 0.0), wanted).mean()) < 0.02
    assert above_chance(readings(wanted, 1, 0.4), wanted).mean() == pytest.approx(0.4, abs=0.02)


def test_pictures_that_are_all_alike_obey_nobody():
    """A reader that always says the same is right by chance only, and shuffled readings likewise."""
    wanted = prompts(2000)
    same = {factor: np.zeros_like(values) for factor, values in wanted.wanted.items()}
    assert abs(above_chance(same, wanted).mean()) < 0.02
    rng = np.random.default_rng(0)
    shuffled = {factor: rng.permutation(np.where(values < 0, 0, values)) for factor, values in wanted.wanted.items()}
    assert abs(above_chance(shuffled, wanted).mean()) < 0.03


def test_one_factor_by_hand():
    wanted = PromptSet(["a", "b"], {"count": np.array([0, -1]), "tone": np.array([1, 1])})
    scores = above_chance({"count": np.array([0, 2]), "tone": np.array([0, 1])}, wanted, KINDS)
    # count right (1), tone wrong: (0 - 1/2) / (1/2) = -1, mean 0; the second names the tone only
    assert scores[:, 0] == pytest.approx([0, 1])
    assert np.isnan(above_chance({"count": np.array([0, 2]), "tone": np.array([0, 1])}, wanted, {"count": "semantic"})[1, 0])


def test_a_chooser_that_knows_gains_and_one_that_guesses_does_not():
    wanted = prompts(300)
    knowing = reranking(pool(wanted, 16, 0.5), wanted)
    assert [row.n for row in knowing] == [1, 2, 4, 8, 16]
    assert [row.mean for row in knowing] == sorted(row.mean for row in knowing)
    assert knowing[0].gain == pytest.approx(0, abs=1e-9) and knowing[-1].gain_ci95[0] > 0.1
    guessing = reranking(pool(wanted, 16, 0.5, torch.rand(300, 16, generator=torch.Generator().manual_seed(0))), wanted)
    assert abs(guessing[-1].gain) < 0.03 and guessing[-1].gain_ci95[0] < 0 < guessing[-1].gain_ci95[1]


def test_the_best_of_the_whole_pool_is_the_one_with_the_highest_score():
    wanted = prompts(20)
    candidates = pool(wanted, 4, 0.5, torch.rand(20, 4, generator=torch.Generator().manual_seed(1)))
    values = above_chance(candidates.readings, wanted)
    chosen = values[np.arange(20), candidates.scores.argmax(1).numpy()]
    assert reranking(candidates, wanted, [4])[0].mean == pytest.approx(chosen.mean())


def test_more_candidates_than_there_are_is_an_error():
    wanted = prompts(5)
    with pytest.raises(BadInputError):
        reranking(pool(wanted, 2, 0.5), wanted, [3])


def test_candidates_are_drawn_read_and_scored_one_by_one(tmp_path):
    clip = load_clip(tiny_clip(tmp_path), device="cpu")
    codec = DiscreteVAE(codebook_size=8, code_dim=3, widths=(4, 8), n_blocks=(0, 1), patch=8).eval()
    prior = TokenPrior(len(clip.tokenizer), codebook_size=8, grid=8, max_text=clip.max_tokens, width=16, n_layers=1, n_heads=2).eval()
    wanted, judge = prompts(3), make_judge("a").eval().requires_grad_(False)
    drawn = draw_candidates(prior, codec, clip, wanted, 2, judge, n_shown=2, batch_size=4, progress=False)
    images = paint_prompts(prior, codec, clip, wanted.repeated(2), range(6), progress=False)
    assert drawn.scores.shape == (3, 2) and drawn.pictures.shape == (2, 2, 3, 128, 128)
    assert (drawn.pictures.flatten(0, 1) == (images[:4] * 255).round().to(torch.uint8)).all()
    assert all((drawn.readings[f] == values.numpy()).all() for f, values in judge.predict(images).items())
    assert torch.allclose(drawn.scores.flatten(), clip_scores(clip, images, wanted.repeated(2)), atol=1e-5)
    with pytest.raises(BadInputError, match="at least one"):
        draw_candidates(prior, codec, clip, wanted, 0, judge)
