"""Sets of pictures: how far two are apart, and how good the best of one is.

*Fréchet distance*: the formula of the FID (Heusel et al. 2017) in the feature space of a judge. With means m and covariances S (divided by
n - 1) of the features of two sets of pictures:

    d² = |m₁ - m₂|² + tr(S₁ + S₂ - 2 (S₁^½ S₂ S₁^½)^½)

The square is what is called FID, and what stands here. Its estimate is too large for a finite n: two sets of the same kind of pictures are not
at 0 but at `frechet_floor`, and numbers compare at equal n only. In float64; the square roots are of symmetric matrices.

*Best of n*: what choosing among n pictures of a prompt brings, and whether it pays to choose among sketches before painting.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import Interval, bootstrap_ci, generator, interval, resample_counts

Features = Float[np.ndarray, "n features"] | Float[Tensor, "n features"]
OtherFeatures = Float[np.ndarray, "_ _"] | Float[Tensor, "_ _"]
Scores = Float[np.ndarray, "prompts pool"]
OtherScores = Float[np.ndarray, "_ _"]
PerPrompt = Float[np.ndarray, " prompts"]

NAN = float("nan")


class Result:
    """A frozen dataclass of numbers."""

    def values(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts, for recording; None for what could not be measured."""
        return plain(dataclasses.asdict(self))  # type: ignore[call-overload]


# --- Fréchet distance -------------------------------------------------------------------------------------------------


@runtime_checkable
class FeatureReader(Protocol):
    """`features` of pictures in [0, 1]; `sketchae.scenes.Judge` is one."""

    def features(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Frechet(Result):
    """d² of two sets of `n` pictures each, with its 95 % interval at that n."""

    distance: float
    ci95: Interval
    n: int
    n_features: int


@torch.no_grad()
def judge_features(judge: FeatureReader, images: Float[Tensor, "n 3 height width"], batch_size: int = 64) -> Float[np.ndarray, "n features"]:
    """The judge's features of pictures in [0, 1], as float64.

    Raises:
        BadInputError: no picture.
    """
    if not len(images):
        raise BadInputError("judge_features reads pictures: give at least one.")
    return torch.cat([judge.features(batch) for batch in images.split(batch_size)]).double().cpu().numpy()


def frechet_distance(first: Features, second: OtherFeatures, *, n_boot: int = 200, name: str = "frechet") -> Frechet:
    """d² of two sets of as many features, in squared units of these; 0 for equal sets.

    The interval is a bootstrap over the pictures of both sets, each resampled by itself. Resamples hold fewer different pictures and lie
    further apart than the sets themselves, so theirs is moved to have the value as its mean, and cut at 0: it tells how much the number
    would vary with other pictures at this n, not how large it would be for infinitely many. Near the floor, where d² is mostly chance, it is
    up to twice as wide as need be. `n_boot` of 0 leaves it out (NaN).

    Raises:
        BadInputError: sets of unequal size, other features in one than in the other, features that are not finite, or no more pictures
            than features (a covariance of too few pictures has no inverse, and d² would mostly count them).
    """
    x, y = (np.asarray(side.detach().cpu() if isinstance(side, Tensor) else side, dtype=np.float64) for side in (first, second))
    _check(x, y)
    n = len(x)
    value = _distance(*_moments(x, np.ones(n)), *_moments(y, np.ones(n)))
    pairs = zip(resample_counts(n, n_boot, f"{name}/first"), resample_counts(n, n_boot, f"{name}/second"), strict=True)
    replicates = np.array([_distance(*_moments(x, a), *_moments(y, b)) for a, b in pairs])
    spread = interval((value + replicates - replicates.mean()).clip(0)) if n_boot else (NAN, NAN)
    return Frechet(distance=value, ci95=spread, n=n, n_features=x.shape[1])


def frechet_floor(real: Features, *, n_boot: int = 200, name: str = "frechet floor") -> Frechet:
    """d² between two halves of one set of pictures: what sets of this kind are apart at n, half their number, for being finite.

    Give 2 n real pictures to have the floor of a distance at n. `name` decides who comes into which half; of an odd number one stays out.

    Raises:
        BadInputError: as `frechet_distance`, of the halves.
    """
    order, half = generator(f"{name}/halves").permutation(len(real)), len(real) // 2
    return frechet_distance(real[order[:half]], real[order[half : 2 * half]], n_boot=n_boot, name=name)


# --- best of n --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BestOf(Result):
    """Expected score of the best of `n` draws for a prompt, averaged over prompts, with its interval (NaN for a single prompt)."""

    expected: float
    ci95: Interval
    n: float
    n_pool: int
    n_prompts: int


@dataclass(frozen=True)
class SketchChoice(Result):
    """The best of n sketches, painted (`early`), and the best of as many finished pictures as cost the same (`late`).

    `one` is a picture that nobody chose; `gain` is early - late, its interval over prompts, paired.
    """

    early: BestOf
    late: BestOf
    one: BestOf
    gain: float
    gain_ci95: Interval


def best_of_n(scores: Scores, n: float | int, chosen_by: OtherScores | None = None, *, n_boot: int = 1000, name: str = "best of n") -> BestOf:
    """Expected score of the best of `n` of a prompt's pool, drawn without replacement: exact, and unbiased for n independent draws.

    Of a pool of N, the one of rank i (from below) is the best of n with probability C(i - 1, n - 1) / C(N, n); equal ones share theirs.
    An n between two whole numbers is the one or the other by chance, n on average.

    Args:
        scores: what is counted, one row a prompt.
        chosen_by: what the best is chosen by, if not by `scores`: another judge, or the score of the preview.

    Raises:
        BadInputError: n below 1 or above the size of the pool, no prompt, a score that is not finite, or another shape of `chosen_by`.
    """
    return _summary(expected_best(scores, n, chosen_by), n, scores.shape[1], n_boot, name)


def finished_for_sketches(n_sketches: int, n_steps: int, n_semantic_steps: int, n_preview: int = 1) -> float:
    """How many finished pictures cost as many evaluations of the network as `n_sketches` sketches of which one is painted.

    A sketch takes `n_semantic_steps`, and one more if its preview is that of the first step of painting (`n_preview` = 1, no second
    evaluation for the one that is painted) instead of that of the last semantic step (0); a finished picture takes `n_steps`.
    Guidance doubles all of them.

    Raises:
        BadInputError: no sketch, or steps that leave none for one of the blocks.
    """
    if n_sketches < 1 or not 0 < n_semantic_steps < n_steps or n_preview not in (0, 1):
        raise BadInputError(
            f"{n_sketches} sketches of {n_semantic_steps} in {n_steps} steps with {n_preview} for a preview: give at least one sketch, "
            "steps for both blocks, and 0 or 1 for the preview."
        )
    sketch = n_semantic_steps + n_preview
    return (n_sketches * sketch + n_steps - sketch) / n_steps


def choose_sketches(
    preview_scores: Scores,
    finished_scores: OtherScores,
    n_sketches: int,
    *,
    n_steps: int,
    n_semantic_steps: int,
    n_preview: int = 1,
    chosen_by: OtherScores | None = None,
    n_boot: int = 1000,
    name: str = "sketches",
) -> SketchChoice:
    """Does it pay to choose among sketches before painting? Entry (i, j) of all scores is picture j of prompt i.

    Args:
        preview_scores: by which sketches are chosen.
        finished_scores: what is counted at the end. Count by a judge that did not choose, or its mistakes look like success.
        chosen_by: by which finished pictures are chosen; `finished_scores` by default.

    Raises:
        BadInputError: as `best_of_n` and `finished_for_sketches`.
    """
    n_finished = finished_for_sketches(n_sketches, n_steps, n_semantic_steps, n_preview)
    n_pool = finished_scores.shape[1]
    ways = ((n_sketches, preview_scores), (n_finished, chosen_by), (1, None))
    means = [expected_best(finished_scores, n, by) for n, by in ways]
    early, late, one = (_summary(mean, n, n_pool, n_boot, name) for mean, (n, _) in zip(means, ways, strict=True))
    gain = means[0] - means[1]
    return SketchChoice(early, late, one, float(gain.mean()), _over_prompts(gain, n_boot, name))


# --- parts ------------------------------------------------------------------------------------------------------------


def _moments(x: Float[np.ndarray, "n features"], counts: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    mean = counts @ x / len(x)
    centred = x - mean
    return mean, (centred * counts[:, None]).T @ centred / (len(x) - 1)


def _distance(mean_1: np.ndarray, covariance_1: np.ndarray, mean_2: np.ndarray, covariance_2: np.ndarray) -> float:
    values, vectors = np.linalg.eigh(covariance_1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = root @ covariance_2 @ root
    cross = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    return max(0.0, float(((mean_1 - mean_2) ** 2).sum() + np.trace(covariance_1) + np.trace(covariance_2) - 2 * cross))


def _check(x: np.ndarray, y: np.ndarray) -> None:
    if len(x) != len(y):
        raise BadInputError(f"Fréchet distances depend on the number of pictures, and {len(x)} and {len(y)} were given: give as many of each.")
    if x.shape[1] != y.shape[1]:
        raise BadInputError(f"One set has {x.shape[1]} features a picture, the other {y.shape[1]}: let one judge read both.")
    if len(x) < x.shape[1] + 1:
        raise BadInputError(
            f"{len(x)} pictures a set are too few for a covariance of {x.shape[1]} features: give at least {x.shape[1] + 1}, or fewer features."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise BadInputError("A feature is NaN or infinite: leave out the pictures that the judge could not read.")


def expected_best(scores: Scores, n: float | int, chosen_by: OtherScores | None = None) -> PerPrompt:
    """`best_of_n` prompt by prompt."""
    by = scores if chosen_by is None else chosen_by
    if by.shape != scores.shape:
        raise BadInputError(f"Scores of shape {scores.shape} cannot be chosen by scores of shape {by.shape}: give one for each picture.")
    n_prompts, n_pool = scores.shape
    if not n_prompts or not 1 <= n <= n_pool:
        raise BadInputError(f"The best of {n:g} cannot be had for {n_prompts} prompts with {n_pool} pictures each: draw more, or ask for fewer.")
    if not (np.isfinite(scores).all() and np.isfinite(by).all()):
        raise BadInputError("A score is NaN or infinite: leave out the prompts that cannot be scored.")
    low, share = math.floor(n), n - math.floor(n)
    chances = _chances(n_pool, low) if not share else (1 - share) * _chances(n_pool, low) + share * _chances(n_pool, low + 1)
    best = np.empty(n_prompts)
    for row in range(n_prompts):
        _, rank, size = np.unique(by[row], return_inverse=True, return_counts=True)
        ends = np.cumsum(size)
        total = np.diff(np.cumsum(chances)[ends - 1], prepend=0)  # of each group of equals
        best[row] = (total / size)[rank] @ scores[row]
    return best


def _chances(n_pool: int, n: int) -> Float[np.ndarray, " pool"]:
    """Of each rank from below, the chance to be the best of n."""
    return np.array([math.comb(rank, n - 1) / math.comb(n_pool, n) for rank in range(n_pool)])


def _summary(best: PerPrompt, n: float | int, n_pool: int, n_boot: int, name: str) -> BestOf:
    return BestOf(float(best.mean()), _over_prompts(best, n_boot, name), float(n), n_pool, len(best))


def _over_prompts(values: PerPrompt, n_boot: int, name: str) -> Interval:
    return bootstrap_ci(values, n_boot=n_boot, name=name) if len(values) > 1 else (NAN, NAN)


def plain(value: Any) -> Any:
    """Tuples as lists, and None for numbers that are not finite, at any depth: for JSON and for recording."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
