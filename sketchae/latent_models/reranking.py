"""Does it pay to draw many pictures of a caption and to let CLIP choose (Ramesh et al. 2021, section 2.6)?

What is counted is the share of the caption's factors that a judge reads as asked, with chance subtracted: for a factor of K values, equally
likely in Scenes, (equal - 1/K) / (1 - 1/K), averaged over the factors that the caption names. 0 is chance, 1 always.

Of a pool of N candidates, the best of n is an expectation over all subsets of n, computed exactly (`diffusion.picture_sets.expected_best`): every
n uses the same candidates, so gains are paired. 95 % intervals are over captions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from sketchae.backbones import ClipEmbedder
from sketchae.diffusion.evaluation import PromptSet
from sketchae.diffusion.picture_sets import Result, Scores, expected_best
from sketchae.diffusion.readings import KINDS, Readings, by_prompt, checked_columns
from sketchae.diffusion.studio import clip_scores
from sketchae.errors import BadInputError
from sketchae.latent_models.dvae import DiscreteVAE
from sketchae.latent_models.prior import TokenPrior, paint_prompts
from sketchae.metrics.bootstrap import Interval, bootstrap_ci
from sketchae.progress import hide_if
from sketchae.scenes import FACTORS
from sketchae.scenes.judges import Judge


@dataclass(frozen=True)
class Candidates:
    """Pictures drawn for captions, as a judge and CLIP see them.

    Attributes:
        readings: the judge's, one a picture, caption after caption.
        scores: cosine of CLIP's embeddings of a picture and of its caption.
        pictures: of the first captions, for looking at.
    """

    readings: dict[str, np.ndarray]
    scores: Float[Tensor, "prompts candidates"]
    pictures: UInt8[Tensor, "shown candidates 3 height width"]


@dataclass(frozen=True)
class Reranked(Result):
    """The best of `n` candidates by CLIP: factors obeyed, chance subtracted, and what that is more than a single candidate's."""

    n: int
    mean: float
    mean_ci95: Interval
    semantic: float
    semantic_ci95: Interval
    style: float
    style_ci95: Interval
    gain: float
    gain_ci95: Interval


def draw_candidates(
    prior: TokenPrior,
    codec: DiscreteVAE,
    clip: ClipEmbedder,
    prompts: PromptSet,
    n_candidates: int,
    judge: Judge,
    *,
    n_shown: int = 4,
    batch_size: int = 128,
    progress: bool = True,
    **options,
) -> Candidates:
    """Draw `n_candidates` pictures for every caption, from seeds 0, 1 … in the order of the readings. `options` are those of `TokenPrior.draw`."""
    if n_candidates < 1:
        raise BadInputError(f"{n_candidates} candidates: give at least one.")
    texts = prompts.repeated(n_candidates)
    readings, scores, shown = [], [], []
    with tqdm(total=len(texts), desc="candidates", mininterval=5, **hide_if(not progress)) as bar:
        for start in range(0, len(texts), batch_size):
            some = texts[start : start + batch_size]
            images = paint_prompts(prior, codec, clip, some, range(start, start + len(some)), batch_size=batch_size, progress=False, **options)
            readings.append(judge.predict(images))
            scores.append(clip_scores(clip, images, some))
            if start < n_shown * n_candidates:
                shown.append((images * 255).round().to(torch.uint8))
            bar.update(len(some))
    read = {factor: torch.cat([part[factor] for part in readings]).numpy() for factor in readings[0]}
    kept = torch.cat(shown)[: min(n_shown, len(prompts)) * n_candidates]
    return Candidates(read, torch.cat(scores).unflatten(0, (len(prompts), n_candidates)), kept.unflatten(0, (-1, n_candidates)))


def above_chance(readings: Readings, prompts: PromptSet, kinds: Mapping[str, str] = KINDS) -> Scores:
    """Of every picture, the mean of (equal - 1/K) / (1 - 1/K) over the factors of `kinds` that its caption names; NaN where it names none.

    Raises:
        BadInputError: readings that do not fit the captions, or a factor missing.
    """
    read = by_prompt(readings, kinds, "the readings", len(prompts))
    wanted = checked_columns(prompts.wanted, kinds, "the prompts")
    total, named = 0.0, 0.0
    for factor in kinds:
        chance, asked = 1 / len(FACTORS[factor].values), (wanted[factor] >= 0)[:, None]
        total = total + asked * ((read[factor] == wanted[factor][:, None]) - chance) / (1 - chance)
        named = named + asked
    return np.where(named > 0, total / np.maximum(named, 1), np.nan)


def reranking(candidates: Candidates, prompts: PromptSet, ns: Sequence[int] | None = None, *, n_boot: int = 1000) -> list[Reranked]:
    """`Reranked` for 1, 2, 4 … candidates up to the pool's size, or for `ns`."""
    n_pool = candidates.scores.shape[1]
    by = candidates.scores.double().numpy()
    halves = {kind: {f: k for f, k in KINDS.items() if k == kind} for kind in ("semantic", "style")}
    scores = {"mean": above_chance(candidates.readings, prompts)}
    scores |= {kind: above_chance(candidates.readings, prompts, factors) for kind, factors in halves.items()}
    rows = []
    for n in ns or [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= n_pool]:
        found: dict[str, float | Interval] = {}
        for key, values in scores.items():
            named = np.isfinite(values).all(1)
            best = expected_best(values[named], n, by[named])
            found |= {key: float(best.mean()), f"{key}_ci95": bootstrap_ci(best, n_boot=n_boot, name="reranking")}
            if key == "mean":
                gain = best - values[named].mean(1)
                found |= {"gain": float(gain.mean()), "gain_ci95": bootstrap_ci(gain, n_boot=n_boot, name="reranking")}
        rows.append(Reranked(n=n, **found))
    return rows
