"""What pictures drawn from prompts show: do they obey, do they differ, does the sketch tell the end.

All numbers come from readings: a judge's integer value of every factor of every picture. Where several pictures belong to one prompt, they
stand prompt after prompt, as `PromptSet.repeated` orders them, and are resampled together: intervals are 95 % percentile bootstraps over
prompts. A mean over a kind is one over its factors, whatever the number of prompts that name each.

*Agreement* of two readings, or of a reading and what a prompt wants, is Cohen's kappa (1960):

    κ = (p_equal - p_chance) / (1 - p_chance),    p_chance = Σ_v p_first(v) p_second(v)

1 where both always agree, 0 where they agree as often as if they were independent: a judge that always reads one value gets 0.

What a redraw keeps: `sketchae.diffusion.redraws`. How far sets of pictures are apart, how good the best of one is: `picture_sets`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from sketchae.diffusion.picture_sets import NAN, Result, Scores
from sketchae.diffusion.readings import (
    KIND_NAMES,
    KINDS,
    Readings,
    bootstrap_weights,
    by_prompt,
    checked_columns,
    kind_means,
    nanmean,
    one_hot,
    paired,
    safe_ratio,
)
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import Interval, interval
from sketchae.scenes import Scenes
from sketchae.scenes.captions import captions_with_factors
from sketchae.scenes.factors import hash_seeds

# --- prompts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptSet:
    """Prompts, and for every factor the value that each prompt asks for, -1 where it does not name the factor."""

    prompts: list[str]
    wanted: dict[str, Int[np.ndarray, " prompts"]]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def named(self) -> dict[str, Bool[np.ndarray, " prompts"]]:
        """For every factor, which prompts name it."""
        return {factor: values >= 0 for factor, values in self.wanted.items()}

    def repeated(self, n_samples: int) -> list[str]:
        """Every prompt `n_samples` times, prompt after prompt: the order of readings in this module."""
        return [prompt for prompt in self.prompts for _ in range(n_samples)]


def prompt_set(scenes: Scenes, kind: str = "both", seed: int = 0, min_factors: int = 3) -> PromptSet:
    """One prompt of every scene, a caption of its content, its style or both; another seed gives other words and names other factors.

    Neither the order nor the number of the scenes changes the prompt of one.

    Raises:
        BadInputError: no scene, or an unknown kind.
    """
    if not len(scenes):
        raise BadInputError("A prompt is a caption of a scene: give at least one scene.")
    reseeded = dataclasses.replace(scenes, content_jitter_seed=hash_seeds(scenes.content_jitter_seed, f"prompts {seed}"))
    rows = [row[0] for row in captions_with_factors(reseeded, kind, 1, min_factors)]
    wanted = {}
    for factor, values in scenes.factors.items():
        wanted[factor] = np.where([factor in named for _, named in rows], values, -1)
    return PromptSet([prompt for prompt, _ in rows], wanted)


# --- agreement --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FactorAgreement:
    """One factor over the `n_prompts` that count for it: the share of equal values, the share expected by chance, and κ with its interval.

    κ is NaN where there is nothing to agree on: no prompt, or one and the same value throughout.
    """

    kind: str
    share: float
    chance: float
    kappa: float
    ci95: Interval
    n_prompts: int


@dataclass(frozen=True)
class Agreement(Result):
    """κ averaged over the factors of each kind, and over the two kinds; NaN for a kind without factors, and `mean` is then the other's."""

    semantic: float
    style: float
    mean: float
    semantic_ci95: Interval
    style_ci95: Interval
    mean_ci95: Interval
    n_prompts: int
    per_factor: dict[str, FactorAgreement]


def obedience(readings: Readings, prompts: PromptSet, kinds: Mapping[str, str] = KINDS, *, n_boot: int = 1000, name: str = "obedience") -> Agreement:
    """κ between what prompts want and what a judge reads in their pictures: for each factor, over the prompts that name it.

    `readings` holds the pictures of every prompt, as many of each, prompt after prompt. `kinds` says which factors to look at.

    Raises:
        BadInputError: readings that do not fit the prompts, a factor missing, or no prompt that names any of the factors.
    """
    return _agreement(*_kappas(*_asked(readings, prompts, kinds), kinds, n_boot, name), len(prompts))


@dataclass(frozen=True)
class Gain(Result):
    """How much κ is larger in one arm than in another, averaged as in `Agreement`; intervals over prompts, paired."""

    semantic: float
    style: float
    mean: float
    semantic_ci95: Interval
    style_ci95: Interval
    mean_ci95: Interval


def obedience_gain(
    readings: Readings, others: Readings, prompts: PromptSet, kinds: Mapping[str, str] = KINDS, *, n_boot: int = 1000, name: str = "obedience"
) -> Gain:
    """κ of `readings` less κ of `others`, pictures of the same prompts (and best of the same seeds), prompts resampled together.

    Raises:
        BadInputError: as `obedience`, for either.
    """
    first, second = (_kappas(*_asked(each, prompts, kinds), kinds, n_boot, name)[0] for each in (readings, others))
    gains = {half: first[half] - second[half] for half in first}
    spread = {half: interval(values[1:]) for half, values in gains.items()}
    return Gain(*(float(gains[half][0]) for half in gains), *(spread[half] for half in gains))


def preview_agreement(
    preview: Readings,
    finished: Readings,
    kinds: Mapping[str, str] = KINDS,
    *,
    n_samples: int = 1,
    n_boot: int = 1000,
    name: str = "preview",
) -> Agreement:
    """κ between the readings of previews and of the pictures that came of them, picture by picture.

    The preview after the semantic stage is `Trajectory.previews[n_semantic_steps]` of a path with offset 1: its semantic factors should
    agree, its style is not painted yet. Every `n_samples` pictures in a row share a prompt and are resampled together.

    Raises:
        BadInputError: other numbers of previews than of pictures, or a factor missing.
    """
    first, second = paired(preview, finished, kinds, "the previews", "the pictures", n_samples)
    everywhere = {factor: np.ones(len(values), dtype=bool) for factor, values in first.items()}
    return _agreement(*_kappas(first, second, everywhere, kinds, n_boot, name), len(next(iter(first.values()))))


def obeyed(readings: Readings, prompts: PromptSet, kinds: Mapping[str, str] = KINDS) -> Scores:
    """Score of every picture in [0, 1]: the share of the factors its prompt names that are read as wanted; NaN where it names none of `kinds`.

    Raises:
        BadInputError: readings that do not fit the prompts, or a factor missing.
    """
    read = by_prompt(readings, kinds, "the readings", len(prompts))
    wanted = checked_columns(prompts.wanted, kinds, "the prompts")
    right = sum((read[factor] == wanted[factor][:, None]).astype(np.float64) for factor in kinds)  # -1 is never read
    return safe_ratio(right, sum((wanted[factor] >= 0).astype(np.float64) for factor in kinds)[:, None])


# --- diversity --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FactorDiversity:
    """One factor over the `n_prompts` that do not name it; the fields are those of `Diversity`."""

    kind: str
    differs: float
    expected: float
    ratio: float
    ci95: Interval
    n_prompts: int


@dataclass(frozen=True)
class Diversity(Result):
    """How much pictures of one prompt differ in what the prompt leaves open, for each kind of factors.

    Attributes:
        differs: share of pairs of pictures of one prompt in which a factor that it does not name is read differently; mean over factors.
        expected: the same share for pairs of pictures of different prompts, none of which names the factor: independent draws.
        ratio: of the two, with its interval: 1 is as diverse as the model's own pictures at large, 0 always the same picture.
        feature_distance: mean Euclidean distance of the features of two pictures of one prompt; NaN where none were given.
    """

    differs: dict[str, float]
    expected: dict[str, float]
    ratio: dict[str, float]
    ratio_ci95: dict[str, Interval]
    feature_distance: float
    feature_distance_ci95: Interval
    n_prompts: int
    n_samples: int
    per_factor: dict[str, FactorDiversity]


def diversity(
    readings: Readings,
    prompts: PromptSet,
    features: Float[np.ndarray, "pictures features"] | None = None,
    kinds: Mapping[str, str] = KINDS,
    *,
    n_boot: int = 1000,
    name: str = "diversity",
) -> Diversity:
    """How much several pictures of one prompt differ; `readings` and `features` hold them prompt after prompt.

    A factor that all prompts name, or all but one, has NaN; so has a kind that has no other factors.

    Raises:
        BadInputError: fewer than two pictures a prompt, readings that do not fit the prompts, features of other pictures, or a factor missing.
    """
    read = by_prompt(readings, kinds, "the readings", len(prompts))
    named = {factor: values >= 0 for factor, values in checked_columns(prompts.wanted, kinds, "the prompts").items()}
    n_prompts, n_samples = next(iter(read.values())).shape
    if n_samples < 2:
        raise BadInputError("Diversity compares pictures of one prompt: draw at least two of each, with different seeds.")
    weights = bootstrap_weights(n_prompts, n_boot, name)
    differs, expected, per_factor = {}, {}, {}
    for factor, kind in kinds.items():
        counts = one_hot(read[factor]).sum(1)  # (prompts, values)
        w = weights * ~named[factor]
        same = (counts**2).sum(1)
        total, squares = w.sum(1), (w**2).sum(1)
        within = safe_ratio(w @ (same - n_samples), total * n_samples * (n_samples - 1))
        between = safe_ratio(((w @ counts) ** 2).sum(1) - w**2 @ same, (total**2 - squares) * n_samples**2)
        differs[factor], expected[factor] = 1 - within, 1 - between
        ratio = safe_ratio(1 - within, 1 - between)
        per_factor[factor] = FactorDiversity(
            kind, float(1 - within[0]), float(1 - between[0]), float(ratio[0]), interval(ratio[1:]), int((~named[factor]).sum())
        )
    measured = {factor: np.isfinite(differs[factor]) & np.isfinite(expected[factor]) for factor in kinds}
    open_, independent = (
        kind_means({factor: np.where(measured[factor], values, NAN) for factor, values in shares.items()}, kinds)
        for shares in (differs, expected)
    )
    ratios = {kind: safe_ratio(open_[kind], independent[kind]) for kind in KIND_NAMES}
    distance, distance_ci95 = NAN, (NAN, NAN)
    if features is not None:
        if len(features) != n_prompts * n_samples or not np.isfinite(features).all():
            raise BadInputError(f"Diversity needs the finite features of its {n_prompts * n_samples} pictures; {len(features)} were given.")
        grouped = np.asarray(features, dtype=np.float64).reshape(n_prompts, n_samples, -1)
        gaps = [np.linalg.norm(own[:, None] - own[None], axis=-1).sum() / (n_samples * (n_samples - 1)) for own in grouped]
        replicates = weights @ np.array(gaps) / n_prompts
        distance, distance_ci95 = float(replicates[0]), interval(replicates[1:])
    return Diversity(
        differs={kind: float(values[0]) for kind, values in open_.items()},
        expected={kind: float(values[0]) for kind, values in independent.items()},
        ratio={kind: float(values[0]) for kind, values in ratios.items()},
        ratio_ci95={kind: interval(values[1:]) for kind, values in ratios.items()},
        feature_distance=distance,
        feature_distance_ci95=distance_ci95,
        n_prompts=n_prompts,
        n_samples=n_samples,
        per_factor=per_factor,
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _asked(
    readings: Readings, prompts: PromptSet, kinds: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """By factor: what is wanted of each picture, what is read in it, and which prompts count."""
    read = by_prompt(readings, kinds, "the readings", len(prompts))
    wanted = checked_columns(prompts.wanted, kinds, "the prompts")
    named = {factor: wanted[factor] >= 0 for factor in kinds}
    if not any(rows.any() for rows in named.values()):
        raise BadInputError(f"No prompt names {' or '.join(kinds)}: use prompts that do.")
    # Where a factor is not named, the wanted value is never looked at: its prompt does not count.
    asked = {factor: np.broadcast_to(np.maximum(wanted[factor], 0)[:, None], read[factor].shape) for factor in kinds}
    return asked, read, named


def _agreement(means: Mapping[str, np.ndarray], per_factor: dict[str, FactorAgreement], n_prompts: int) -> Agreement:
    values = (float(means[half][0]) for half in means)
    return Agreement(*values, *(interval(means[half][1:]) for half in means), n_prompts, per_factor)


def _kappas(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    kinds: Mapping[str, str],
    n_boot: int,
    name: str,
) -> tuple[dict[str, np.ndarray], dict[str, FactorAgreement]]:
    """κ and its replicates for "semantic", "style" and their "mean"; and every factor's."""
    n = len(next(iter(first.values())))
    weights = bootstrap_weights(n, n_boot, name)
    kappas, per_factor = {}, {}
    for factor, kind in kinds.items():
        w = weights * counts[factor]
        total, size = w.sum(1), int(max(first[factor].max(), second[factor].max())) + 1
        share = safe_ratio(w @ (first[factor] == second[factor]).mean(1), total)
        p, q = (safe_ratio(w @ one_hot(values, size).mean(1), total[:, None]) for values in (first[factor], second[factor]))
        chance = (p * q).sum(1)
        kappa = safe_ratio(share - chance, 1 - chance)
        kappas[factor] = kappa
        per_factor[factor] = FactorAgreement(
            kind, float(share[0]), float(chance[0]), float(kappa[0]), interval(kappa[1:]), int(counts[factor].sum())
        )
    means = kind_means(kappas, kinds)
    return means | {"mean": nanmean(np.stack([means[kind] for kind in KIND_NAMES]))}, per_factor
