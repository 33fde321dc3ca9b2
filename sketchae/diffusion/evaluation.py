"""What pictures drawn from prompts show: do they obey, do they differ, does a held block hold, does the sketch tell the end.

All numbers come from readings: a judge's integer value of every factor of every picture. Where several pictures belong to one prompt, they
stand prompt after prompt, as `PromptSet.repeated` orders them, and are resampled together: intervals are 95 % percentile bootstraps over
prompts. A mean over a kind is one over its factors, whatever the number of prompts that name each.

*Agreement* of two readings, or of a reading and what a prompt wants, is Cohen's kappa (1960):

    κ = (p_equal - p_chance) / (1 - p_chance),    p_chance = Σ_v p_first(v) p_second(v)

1 where both always agree, 0 where they agree as often as if they were independent: a judge that always reads one value gets 0.

How far sets of pictures are apart and how good the best of a set is: `sketchae.diffusion.picture_sets`.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sketchae.diffusion.picture_sets import NAN, Result, Scores
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import Interval, interval, resample_counts
from sketchae.scenes import FACTORS, Scenes
from sketchae.scenes.captions import captions_with_factors
from sketchae.scenes.factors import hash_seeds

Readings = Mapping[str, np.ndarray | Tensor]  # factor -> integer values, one a picture
Replicates = Float[np.ndarray, " replicates"]  # the value itself first, then those of the bootstrap

KIND_NAMES = ("semantic", "style")
KINDS = {name: factor.kind for name, factor in FACTORS.items()}


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
    read = _grouped(readings, kinds, "the readings", len(prompts))
    wanted = _columns(prompts.wanted, kinds, "the prompts")
    named = {factor: wanted[factor] >= 0 for factor in kinds}
    if not any(rows.any() for rows in named.values()):
        raise BadInputError(f"No prompt names {' or '.join(kinds)}: use prompts that do.")
    # Where a factor is not named, the wanted value is never looked at: its prompt does not count.
    asked = {factor: np.broadcast_to(np.maximum(wanted[factor], 0)[:, None], read[factor].shape) for factor in kinds}
    return _agreement(asked, read, named, kinds, n_boot, name)


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
    first, second = _two(preview, finished, kinds, "the previews", "the pictures", n_samples)
    everywhere = {factor: np.ones(len(values), dtype=bool) for factor, values in first.items()}
    return _agreement(first, second, everywhere, kinds, n_boot, name)


def obeyed(readings: Readings, prompts: PromptSet, kinds: Mapping[str, str] = KINDS) -> Scores:
    """Score of every picture in [0, 1]: the share of the factors its prompt names that are read as wanted; NaN where it names none of `kinds`.

    Raises:
        BadInputError: readings that do not fit the prompts, or a factor missing.
    """
    read = _grouped(readings, kinds, "the readings", len(prompts))
    wanted = _columns(prompts.wanted, kinds, "the prompts")
    right = sum((read[factor] == wanted[factor][:, None]).astype(np.float64) for factor in kinds)  # -1 is never read
    return _ratio(right, sum((wanted[factor] >= 0).astype(np.float64) for factor in kinds)[:, None])


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
    read = _grouped(readings, kinds, "the readings", len(prompts))
    named = {factor: values >= 0 for factor, values in _columns(prompts.wanted, kinds, "the prompts").items()}
    n_prompts, n_samples = next(iter(read.values())).shape
    if n_samples < 2:
        raise BadInputError("Diversity compares pictures of one prompt: draw at least two of each, with different seeds.")
    weights = _weights(n_prompts, n_boot, name)
    differs, expected, per_factor = {}, {}, {}
    for factor, kind in kinds.items():
        counts = _one_hot(read[factor]).sum(1)  # (prompts, values)
        w = weights * ~named[factor]
        same = (counts**2).sum(1)
        total, squares = w.sum(1), (w**2).sum(1)
        within = _ratio(w @ (same - n_samples), total * n_samples * (n_samples - 1))
        between = _ratio(((w @ counts) ** 2).sum(1) - w**2 @ same, (total**2 - squares) * n_samples**2)
        differs[factor], expected[factor] = 1 - within, 1 - between
        ratio = _ratio(1 - within, 1 - between)
        per_factor[factor] = FactorDiversity(
            kind, float(1 - within[0]), float(1 - between[0]), float(ratio[0]), interval(ratio[1:]), int((~named[factor]).sum())
        )
    measured = {factor: np.isfinite(differs[factor]) & np.isfinite(expected[factor]) for factor in kinds}
    open_, independent = (
        _kind_means({factor: np.where(measured[factor], values, NAN) for factor, values in shares.items()}, kinds)
        for shares in (differs, expected)
    )
    ratios = {kind: _ratio(open_[kind], independent[kind]) for kind in KIND_NAMES}
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


# --- control ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Control(Result):
    """For each kind of factors, the share that a redraw kept and the share that it changed (1 less the first), with intervals.

    `per_factor` is the share kept of each; NaN where no picture counts.
    """

    kept: dict[str, float]
    changed: dict[str, float]
    kept_ci95: dict[str, Interval]
    changed_ci95: dict[str, Interval]
    n_pictures: int
    per_factor: dict[str, float]


def control(
    readings_before: Readings,
    readings_after: Readings,
    kinds: Mapping[str, str] = KINDS,
    *,
    counted: Mapping[str, np.ndarray] | None = None,
    n_samples: int = 1,
    n_boot: int = 1000,
    name: str = "control",
) -> Control:
    """What a redraw keeps and changes, picture by picture, whatever drew it: a held block, SDEdit, other words in the prompt.

    Args:
        counted: for each factor, which prompts count (boolean, one a prompt); all by default. A prompt that names a style asks a redraw to
            keep it: `{factor: ~named for factor, named in prompts.named.items()}` looks at what it leaves open.
        n_samples: every so many pictures in a row share a prompt (or an original) and are resampled together.

    Raises:
        BadInputError: other numbers before than after or in `counted`, or a factor missing.
    """
    before, after = _two(readings_before, readings_after, kinds, "the readings before", "the readings after", n_samples)
    n = len(next(iter(before.values())))
    rows = {factor: np.ones(n, dtype=bool) for factor in kinds} if counted is None else _columns(counted, kinds, "`counted`")
    if len(next(iter(rows.values()))) != n:
        raise BadInputError(f"`counted` has {len(next(iter(rows.values())))} entries for {n} prompts: give one for each.")
    weights = _weights(n, n_boot, name)
    shares = {}
    for factor in kinds:
        w = weights * rows[factor].astype(bool)
        shares[factor] = _ratio(w @ (before[factor] == after[factor]).mean(1), w.sum(1))
    kept = _kind_means(shares, kinds)
    return Control(
        kept={kind: float(values[0]) for kind, values in kept.items()},
        changed={kind: float(1 - values[0]) for kind, values in kept.items()},
        kept_ci95={kind: interval(values[1:]) for kind, values in kept.items()},
        changed_ci95={kind: interval(1 - values[1:]) for kind, values in kept.items()},
        n_pictures=n * n_samples,
        per_factor={factor: float(values[0]) for factor, values in shares.items()},
    )


@dataclass(frozen=True)
class Matched(Result):
    """The strength at which a rival changes as much as was asked, and the shares that it changes there, between its measured strengths."""

    strength: float
    changed: dict[str, float]


def matched(curve: Mapping[float | int, Control], target: float | int, by: str = "style") -> Matched:
    """The lowest strength at which `changed[by]` is `target`, by linear interpolation between the strengths of `curve`.

    For intervals, draw the rival again at that strength and give its pictures to `control`.

    Raises:
        BadInputError: fewer than two strengths, an unknown kind, a strength that changed nothing measurable, or a target outside the curve.
    """
    if by not in KIND_NAMES:
        raise BadInputError(f'A rival is matched by what it changes of one kind, "semantic" or "style", not {by!r}.')
    if len(curve) < 2:
        raise BadInputError("A strength is interpolated between others: measure the rival at two strengths or more.")
    strengths = sorted(curve)
    changes = [curve[strength].changed[by] for strength in strengths]
    if not np.isfinite(changes).all():
        raise BadInputError(f"No {by} factor was measured at some strength: match by the other kind, or count more factors.")
    for i, (low, high) in enumerate(itertools.pairwise(changes)):
        if min(low, high) <= target <= max(low, high):
            share = 0.0 if low == high else (target - low) / (high - low)
            ends = strengths[i : i + 2]
            mixed = {kind: _between(*(curve[s].changed[kind] for s in ends), share) for kind in KIND_NAMES}
            return Matched(_between(*ends, share), mixed)
    raise BadInputError(
        f"The rival changes {min(changes):.3f} to {max(changes):.3f} of the {by} factors, never {target:.3f}: measure it at other strengths."
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _agreement(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    kinds: Mapping[str, str],
    n_boot: int,
    name: str,
) -> Agreement:
    n = len(next(iter(first.values())))
    weights = _weights(n, n_boot, name)
    kappas, per_factor = {}, {}
    for factor, kind in kinds.items():
        w = weights * counts[factor]
        total, size = w.sum(1), int(max(first[factor].max(), second[factor].max())) + 1
        share = _ratio(w @ (first[factor] == second[factor]).mean(1), total)
        p, q = (_ratio(w @ _one_hot(values, size).mean(1), total[:, None]) for values in (first[factor], second[factor]))
        chance = (p * q).sum(1)
        kappa = _ratio(share - chance, 1 - chance)
        kappas[factor] = kappa
        per_factor[factor] = FactorAgreement(
            kind, float(share[0]), float(chance[0]), float(kappa[0]), interval(kappa[1:]), int(counts[factor].sum())
        )
    means = _kind_means(kappas, kinds)
    both = _nanmean(np.stack([means[kind] for kind in KIND_NAMES]))
    return Agreement(
        semantic=float(means["semantic"][0]),
        style=float(means["style"][0]),
        mean=float(both[0]),
        semantic_ci95=interval(means["semantic"][1:]),
        style_ci95=interval(means["style"][1:]),
        mean_ci95=interval(both[1:]),
        n_prompts=n,
        per_factor=per_factor,
    )


def _weights(n: int, n_boot: int, name: str) -> Float[np.ndarray, "replicates n"]:
    return np.concatenate([np.ones((1, n)), resample_counts(n, n_boot, name)])


def _kind_means(values: Mapping[str, Replicates], kinds: Mapping[str, str]) -> dict[str, Replicates]:
    """The mean over the factors of each kind; NaN where it has none."""
    nothing = np.full_like(next(iter(values.values())), NAN)
    return {half: _nanmean(np.stack([nothing, *(values[f] for f, kind in kinds.items() if kind == half)])) for half in KIND_NAMES}


def _one_hot(values: Int[np.ndarray, "prompts samples"], size: int | None = None) -> Float[np.ndarray, "prompts samples values"]:
    return np.eye(int(values.max()) + 1 if size is None else size)[values]


def _two(
    first: Readings, second: Readings, kinds: Mapping[str, str], of_first: str, of_second: str, n_samples: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    n = [len(next(iter(_columns(readings, kinds, what).values()))) for readings, what in ((first, of_first), (second, of_second))]
    if n[0] != n[1]:
        raise BadInputError(f"{n[0]} pictures in {of_first} and {n[1]} in {of_second}: they go together one by one, so give as many.")
    if n_samples < 1 or n[0] % n_samples:
        raise BadInputError(f"{n[0]} pictures are not {n_samples} for every prompt: give the number that was drawn for each.")
    n_prompts = n[0] // n_samples
    return _grouped(first, kinds, of_first, n_prompts), _grouped(second, kinds, of_second, n_prompts)


def _grouped(readings: Readings, kinds: Mapping[str, str], what: str, n_prompts: int) -> dict[str, Int[np.ndarray, "_ _"]]:
    """Readings as (prompts, samples)."""
    columns = _columns(readings, kinds, what)
    n = len(next(iter(columns.values())))
    if not n or not n_prompts or n % n_prompts:
        raise BadInputError(f"{what[0].upper()}{what[1:]} are of {n} pictures for {n_prompts} prompts: give as many of every prompt, at least one.")
    if any(values.min() < 0 for values in columns.values()):
        raise BadInputError(f"A value in {what} is negative: readings count the values of a factor from 0.")
    return {factor: values.reshape(n_prompts, -1) for factor, values in columns.items()}


def _columns(source: Readings, kinds: Mapping[str, str], what: str) -> dict[str, np.ndarray]:
    if not kinds or set(kinds.values()) - set(KIND_NAMES):
        raise BadInputError(f'Give at least one factor, each of kind "semantic" or "style"; got {dict(kinds)}.')
    missing = [factor for factor in kinds if factor not in source]
    if missing:
        raise BadInputError(f"{', '.join(missing)} missing from {what}: give `kinds` of factors that are there.")
    columns = {factor: source[factor] for factor in kinds}
    columns = {factor: values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values) for factor, values in columns.items()}
    if len({values.shape for values in columns.values()}) > 1 or next(iter(columns.values())).ndim != 1:
        raise BadInputError(f"The factors in {what} differ in length, or have several axes: give one value for each picture.")
    if any(values.dtype.kind not in "iub" for values in columns.values()):
        raise BadInputError(f"A factor in {what} is not of whole numbers: give indices of values.")
    return {factor: values.astype(np.int64) for factor, values in columns.items()}


def _ratio(parts: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return parts / np.where(whole > 1e-12, whole, NAN)


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without NaNs; NaN, not a warning, where nothing is left."""
    return _ratio(np.nansum(values, axis=0), np.isfinite(values).sum(axis=0))


def _between(low: float | int, high: float | int, share: float | int) -> float:
    return float(low + share * (high - low))
