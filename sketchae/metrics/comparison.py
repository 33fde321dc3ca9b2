"""The learned splits beside what they must beat: raw channel pairs, doing nothing, and random bases, judged alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sketchae.basis import OrthogonalBasis, axis_pair_basis, axis_pairs, random_basis
from sketchae.errors import BadInputError
from sketchae.latents import LatentsTable
from sketchae.metrics.bootstrap import p_value
from sketchae.metrics.evaluation import SwapBench, pair_indices
from sketchae.profiles import Profile
from sketchae.scenes import load_judge, split_scenes

RECIPE = "Q (the paper's recipe)"
OWN = "Q (the VAE's own)"
N_NULL_PAIRS = 128  # random bases are many, so each is judged on fewer pairs
METRICS = {"score": "swap score", "counterfactual_mse": "counterfactual, pixels", "counterfactual_ssim": "counterfactual, SSIM"}

Score = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Scores as `SwapBench.score` returns them.

    Attributes:
        seeds: training seed -> score; median_seed: the seed whose swap score is the (lower) median, never the best.
        pairs, trivial: name -> score of the raw channel pairs, and of showing a or b unchanged.
        null: scores of random (Haar) bases, each on the first `N_NULL_PAIRS` pairs.
        recipe_on_null_pairs: the median seed's score on those pairs, for the p-value.
        ceiling: what the judges read from unswapped reconstructions.
        own: of the basis that the VAE brings with it, where it brings one.
    """

    seeds: dict[int, Score]
    median_seed: int
    pairs: dict[str, Score]
    trivial: dict[str, Score]
    null: list[Score]
    recipe_on_null_pairs: Score
    ceiling: Score
    n_pairs: int
    own: Score | None = None

    @property
    def recipe(self) -> Score:
        """The median seed's score: the headline."""
        return self.seeds[self.median_seed]

    @property
    def table(self) -> dict[str, Score]:
        """Everything with a name, the recipe first."""
        return {RECIPE: self.recipe, **({OWN: self.own} if self.own else {}), **self.pairs, **self.trivial}

    @property
    def null_values(self) -> dict[str, np.ndarray]:
        return {metric: np.array([score[metric] for score in self.null]) for metric in METRICS}

    @property
    def p_value(self) -> float:
        """Share of random bases, the recipe counted among them, whose swap score is at least as high."""
        return float(p_value(self.recipe_on_null_pairs["score"], self.null_values["score"]))

    @property
    def best_pair(self) -> str:
        return max(self.pairs, key=lambda name: self.pairs[name]["score"])

    def __str__(self) -> str:
        lines = [f"{'':24}   swap  semantic   style  neither   counterfactual: pixels    SSIM"]
        for name, s in self.table.items():
            lines.append(
                f"{name:24} {s['score']:+6.2f}    {s['semantic']:+6.2f}  {s['style']:+6.2f}   {s['neither']:6.2f}"
                f"   {s['counterfactual_mse']:+22.2f}  {s['counterfactual_ssim']:+6.2f}"
            )
        for metric, title in METRICS.items():
            values = self.null_values[metric]
            lines.append(f"{len(values)} random bases, {title}: {values.mean():+.2f} ± {values.std():.2f}")
        lines.append(f"ceiling: {self.ceiling['score']:.2f} (judge b), {self.ceiling['judges']['a']['score']:.2f} (judge a)")
        return "\n".join(lines)

    def values(self) -> dict[str, Any]:
        """Numbers for `Recorder.value`, by name."""
        keys = ("score", "semantic", "style", "neither", "counterfactual_mse", "counterfactual_ssim")
        with_intervals = [key + suffix for key in keys for suffix in ("", "_ci95")]
        found = {f"recipe.{key}": self.recipe[key] for key in with_intervals}
        found |= {f"recipe.judge_a.{key}": self.recipe["judges"]["a"][key] for key in keys[:4]}
        found |= {f"recipe.per_factor.{n}": _finite(f["score"]) for n, f in self.recipe["per_factor"].items()}
        found |= {f"recipe.by_seed.{key}": [s[key] for s in self.seeds.values()] for key in keys}
        if self.own:
            found |= {f"own.{key}": self.own[key] for key in with_intervals}
        for name, score in {**self.pairs, **self.trivial}.items():
            found |= {f"{name.replace(' ', '_')}.{key}": score[key] for key in keys}
        for metric, values in self.null_values.items():
            found |= {f"random.{metric}_mean": values.mean(), f"random.{metric}_std": values.std(), f"random.{metric}_max": values.max()}
        found |= {f"ceiling.{key}": self.ceiling[key] for key in ("score", "score_ci95", "semantic", "style")}
        found["ceiling.judge_a"] = self.ceiling["judges"]["a"]["score"]
        found |= {"p_value": self.p_value, "n_random_bases": len(self.null), "n_pairs": self.n_pairs, "median_seed": self.median_seed}
        found |= {"best_pair": self.best_pair, "best_pair_score": self.pairs[self.best_pair]["score"]}
        return {key: _finite(value) for key, value in found.items()}


def held_out_bench(profile: Profile, vae: Any, test: LatentsTable, n_pairs: int | None = None) -> SwapBench | None:
    """`n_pairs` (the profile's unless given, at most one a test scene) pairs of test scenes, read by judge b, judge a beside it.

    None where the pictures' factors are not known.
    """
    if profile.source != "scenes":
        return None
    scenes = split_scenes("test", len(test), seed=profile.test_seed, dependence=profile.dependence)
    a, b = pair_indices(len(test), min(n_pairs or profile.n_pairs, len(test)))
    return SwapBench(
        vae,
        load_judge("b"),
        scenes[a],
        scenes[b],
        z_a=test.gather(a)[0],
        z_b=test.gather(b)[0],
        other_judges={"a": load_judge("a")},
        n_boot=profile.n_boot,
        device=vae.device,
    )


def compare_splits(
    profile: Profile, vae: Any, bases: Mapping[int, OrthogonalBasis], test: LatentsTable, own: OrthogonalBasis | None = None
) -> Comparison | None:
    """Judge the trained bases, the VAE's own and their rivals on `profile.n_pairs` pairs of test scenes; None without known factors.

    Raises:
        BadInputError: the latents are not those of the profile's test scenes, or there is no basis.
    """
    if profile.source != "scenes":
        return None
    if not bases:
        raise BadInputError("There is no basis to judge: run 02_train and 03_qr_finalize with at least one seed.")
    bench = held_out_bench(profile, vae, test)
    k, channels = next(iter(bases.values())).n_semantic, vae.latent_channels
    seeds = {seed: bench.score(basis) for seed, basis in bases.items()}
    ranked = sorted(seeds, key=lambda seed: seeds[seed]["score"])
    median_seed = ranked[(len(ranked) - 1) // 2]
    n_null = min(N_NULL_PAIRS, bench.n_pairs)
    pairs = axis_pairs(channels, k)
    return Comparison(
        seeds=seeds,
        median_seed=median_seed,
        pairs={f"channels {'-'.join(map(str, pair))}": bench.score(axis_pair_basis(pair, channels)) for pair in pairs},
        trivial={f"{which} unchanged": bench.score_unchanged(which) for which in ("a", "b")},
        null=[bench.score(random_basis(channels, k, seed), n_pairs=n_null) for seed in range(profile.n_random_bases)],
        recipe_on_null_pairs=bench.score(bases[median_seed], n_pairs=n_null),
        ceiling=bench.ceiling,
        n_pairs=bench.n_pairs,
        own=bench.score(own) if own else None,
    )


def _finite(value: Any) -> Any:
    """None for a score that could not be measured (a factor that differs in no pair)."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
