"""What notebook 05 asks of the splits, beyond their scores: pictures, planes, what is readable, and the proxies."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae import edits
from sketchae.basis import OrthogonalBasis, plane_angle, random_basis
from sketchae.basis.augmentation import augmentation_split
from sketchae.data.picture_pairs import PicturePairs, picture_pairs
from sketchae.latents import LatentsTable
from sketchae.metrics.bootstrap import p_value
from sketchae.metrics.disentanglement import dci, factor_vae_score, mig, sap
from sketchae.metrics.erasure import Erasure, fit_erasure, remaining
from sketchae.metrics.evaluation import SwapBench
from sketchae.metrics.probes import LeakageMatrix, Reading
from sketchae.metrics.proxies import ProxyBench
from sketchae.profiles import Profile
from sketchae.scenes import FACTORS, captions, load_judge, render, split_scenes
from sketchae.sweeps import N_PAIRS, validation_pairs

Scores = Mapping[str, Mapping[str, Any]]
N_METRIC_ROWS = 2048
METRICS = ("score", "semantic", "style", "neither", "counterfactual_mse", "counterfactual_ssim")


def key(name: str) -> str:
    """A name as part of a recorded key: "the paper's recipe" becomes the_papers_recipe."""
    return "".join(c for c in name.replace(" ", "_").replace("-", "_") if c.isalnum() or c == "_").lower()


@torch.no_grad()
def training_pictures(profile: Profile, vae: Any, train: LatentsTable) -> Float[Tensor, "n 3 height width"]:
    """The pictures of the first `profile.n_fit_pictures` rows of `train`: drawn again where they are Scenes, else as the codec reconstructs them."""
    n = min(profile.n_fit_pictures, len(train))
    if profile.source == "scenes":
        return render(split_scenes("train", n, dependence=profile.dependence)).images
    z = train.gather(range(n))[0]
    return torch.cat([vae.decode(part.to(vae.device)).cpu() for part in z.split(32)])


def table(scores: Scores, ceiling: Mapping[str, Any]) -> str:
    """Swap and counterfactual scores as text, one line a split."""
    lines = [f"{'':30} pairs          swap       semantic  style  neither   counterfactual: pixels   SSIM"]
    for name, s in scores.items():
        low, high = s["score_ci95"]
        lines.append(
            f"{name:30} {s['n_pairs']:5} {s['score']:+6.2f} [{low:+.2f}, {high:+.2f}]   {s['semantic']:+6.2f}  {s['style']:+6.2f}   "
            f"{s['neither']:6.2f}   {s['counterfactual_mse']:+22.2f}  {s['counterfactual_ssim']:+6.2f}"
        )
    lines.append(f"ceiling: {ceiling['score']:.2f} (judge b), {ceiling['judges']['a']['score']:.2f} (judge a)")
    return "\n".join(lines)


def values(scores: Scores, seeds: Mapping[str, Scores], bench: SwapBench) -> dict[str, Any]:
    """Numbers for `Recorder.value`, by name; None where a score does not exist.

    `scores` are by split, `seeds` by method and seed.
    """
    found: dict[str, Any] = {"n_pairs": bench.n_pairs, "ceiling": bench.ceiling["score"]}
    for name, s in scores.items():
        for metric in METRICS:
            found |= {f"{key(name)}.{metric}": s[metric], f"{key(name)}.{metric}_ci95": s[f"{metric}_ci95"]}
        found[f"{key(name)}.judge_a"] = s["judges"]["a"]["score"]
        found |= {f"{key(name)}.per_factor.{factor}": f["score"] for factor, f in s["per_factor"].items()}
    for name, of_seed in seeds.items():
        found |= {f"{key(name)}.by_seed.{metric}": [s[metric] for s in of_seed.values()] for metric in METRICS}
    finite = lambda value: None if isinstance(value, float) and not np.isfinite(value) else value  # noqa: E731
    return {name: finite(value) for name, value in found.items()}


@dataclass(frozen=True)
class SwapPictures:
    """Rows of pictures: a, b, the swaps of each split, and on Scenes what a perfect swap would show."""

    rows: list[Any]
    labels: list[str]


@torch.no_grad()
def swap_pictures(profile: Profile, vae: Any, splits: Mapping[str, OrthogonalBasis], n_pairs: int = 5) -> SwapPictures:
    """The content of the first picture in the style of the second, by every split, for pairs of the profile's test pictures."""
    pairs = picture_pairs(profile, n_pairs=n_pairs)
    z_a, z_b = (vae.encode(images.to(vae.device)) for images in (pairs.originals, pairs.targets))
    rows = [pairs.originals, pairs.targets, *(vae.decode(edits.swap(basis, z_a, z_b)).cpu() for basis in splits.values())]
    labels = ["content of", "style of", *(name.replace(" ", "\n", 1) for name in splits)]
    if profile.source == "scenes":
        scenes = split_scenes("test", 2 * len(pairs.originals), seed=profile.test_seed, dependence=profile.dependence)
        rows.append(render(_counterfactual(scenes)).images)
        labels.append("a perfect swap")
    return SwapPictures(rows, labels)


@torch.no_grad()
def pair_pictures(bench: SwapBench, splits: Mapping[str, OrthogonalBasis], pairs: Mapping[str, int]) -> SwapPictures:
    """The same for single pairs of a bench; a and b as the codec reconstructs them, the perfect swap as it is drawn."""
    rows = list(pairs.values())
    z_a, z_b = bench.z_a[rows].to(bench.device), bench.z_b[rows].to(bench.device)
    latents = {"content of": z_a, "style of": z_b, **{name.replace(" ", "\n", 1): edits.swap(basis, z_a, z_b) for name, basis in splits.items()}}
    pictures = [bench.codec.decode(z).cpu() for z in latents.values()]
    return SwapPictures([*pictures, bench.counterfactual_images[rows].float()], [*latents, "a perfect swap"])


def codec_values(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the rows of `sketchae.other_codecs`: the random splits' mean, SD and 95 % range, every other split's scores and p-value, the ceiling."""
    null = np.array([row["score"] for row in rows if row["split"].startswith("random")])
    summary = {"mean": null.mean(), "sd": null.std(), "max": null.max(), "range95": np.quantile(null, [0.025, 0.975]).tolist()}
    found: dict[str, Any] = {"random": {"n": len(null)} | summary}
    for row in rows:
        if not row["split"].startswith("random"):
            found[key(row["split"])] = {m: row[m] for m in METRICS} | {"p_value": p_value(row["score"], null)}
    return found | {"ceiling": rows[0]["ceiling"]}


def codec_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same as lines of text."""
    values = codec_values(rows)
    r = values["random"]
    lines = [f"{'random splits':40} swap {r['mean']:+.2f} ± {r['sd']:.2f}, at most {r['max']:+.2f} of {r['n']}"]
    named = [row for row in rows if not row["split"].startswith("random")]
    lines += [
        f"{row['split']:40} swap {row['score']:+.2f} (p {values[key(row['split'])]['p_value']:.3f})   semantic {row['semantic']:+.2f}   "
        f"style {row['style']:+.2f}   counterfactual {row['counterfactual_mse']:+.2f}, {row['counterfactual_ssim']:+.2f}"
        for row in named
    ]
    return [*lines, f"{'ceiling':40} swap {rows[0]['ceiling']:+.2f}"]


def _counterfactual(scenes: Any) -> Any:
    from sketchae.scenes import counterfactual

    return counterfactual(scenes[::2], scenes[1::2])


def plane_angles(bases: Sequence[OrthogonalBasis], n_semantic: int) -> Float[np.ndarray, " pairs"]:
    """Largest principal angle in degrees between the semantic planes of every two bases; [0] of a single one."""
    angles = [plane_angle(a.Q, b.Q, n_semantic).max() for a, b in itertools.combinations(bases, 2)]
    return np.array(angles or [0.0])


def half_angle(vae: Any, images: Float[Tensor, "n 3 h w"], n_semantic: int) -> float:
    """Largest principal angle in degrees between the eigenproblem's planes from two halves of the pictures."""
    halves = [augmentation_split(vae, part).basis(n_semantic) for part in images.tensor_split(2)]
    return float(plane_angle(halves[0].Q, halves[1].Q, n_semantic).max())


@dataclass(frozen=True)
class FactorTable:
    """The factors of the profile's scenes."""

    profile: Profile

    def train(self, n: int) -> dict[str, np.ndarray]:
        return split_scenes("train", n, dependence=self.profile.dependence).factors

    def test(self, n: int) -> dict[str, np.ndarray]:
        return split_scenes("test", n, seed=self.profile.test_seed, dependence=self.profile.dependence).factors


def factors(profile: Profile) -> FactorTable:
    """Factors of the first rows of train and test; for profiles on Scenes."""
    return FactorTable(profile)


def leakage_means(matrix: LeakageMatrix) -> dict[str, float]:
    """Mean rescaled readability of semantic and of style factors from each block."""
    return {f"{kind}_from_{block}": matrix.mean(kind, block) for kind in ("semantic", "style") for block in matrix.blocks}


@dataclass(frozen=True)
class Removal:
    """A factor removed linearly: what probes still read (1 perfect, 0 chance), and what judges read from decoded pictures."""

    factor: str
    variance_kept: float
    probes: dict[str, dict[str, dict[str, Reading]]]
    judged: dict[str, float]  # "before" and "after": rescaled accuracy of judge b on decoded pictures
    others: dict[str, float]  # the same, averaged over the other factors

    def values(self) -> dict[str, float]:
        found = {f"{probe}_{when}": self.probes[probe][when][self.factor].score for probe in self.probes for when in ("before", "after")}
        return {
            **found,
            **{f"judge_{when}": value for when, value in self.judged.items()},
            **{f"judge_others_{when}": value for when, value in self.others.items()},
            "variance_kept": self.variance_kept,
        }

    def __str__(self) -> str:
        v = self.values()
        readers = [*self.probes, "judge"]
        lines = [f"{self.factor} removed by LEACE; {v['variance_kept']:.0%} of the latents' variance kept"]
        for reader in readers:
            what = f"{reader} probe, latents" if reader != "judge" else "judge, decoded pictures"
            lines.append(f"  {what:28} {v[f'{reader}_before']:+.2f} -> {v[f'{reader}_after']:+.2f}")
        return "\n".join([*lines, f"  {'judge, the other factors':28} {v['judge_others_before']:+.2f} -> {v['judge_others_after']:+.2f}"])


def erase(vae: Any, factor: str, z_train: Tensor, factors_train: Any, z_test: Tensor, factors_test: Any, *, n_pictures: int = 128) -> Removal:
    """Remove `factor` from the flattened latents by LEACE, probe what is left, and decode `n_pictures` of the test rows."""
    erasure = fit_erasure(z_train, factors_train, factor)
    read = remaining(erasure, z_train, factors_train, z_test, factors_test)
    rows = slice(0, min(n_pictures, len(z_test)))
    accuracy = {when: _judged(vae, z, factors_test) for when, z in _before_and_after(erasure, z_test[rows]).items()}
    others = {when: float(np.mean([score for name, score in found.items() if name != factor])) for when, found in accuracy.items()}
    return Removal(factor, float(erasure.variance_ratio), read, {when: found[factor] for when, found in accuracy.items()}, others)


def _before_and_after(erasure: Erasure, z: Tensor) -> dict[str, Tensor]:
    return {"before": z, "after": erasure(z)}


@torch.no_grad()
def _judged(vae: Any, z: Tensor, truth: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Accuracy of judge b on decoded latents, rescaled so that 0 is chance (factors are uniform) and 1 perfect."""
    judge = load_judge("b")
    read = [judge.predict(vae.decode(part.to(vae.device)).float()) for part in z.split(32)]
    scores = {}
    for name, values in truth.items():
        answers = np.concatenate([np.asarray(part[name].cpu()) for part in read])
        chance = 1 / len(FACTORS[name].values)
        scores[name] = float(((answers == values[: len(answers)]).mean() - chance) / (1 - chance))
    return scores


def disentanglement(
    splits: Mapping[str, OrthogonalBasis], z_train: Tensor, factors_train: Any, z_test: Tensor, factors_test: Any
) -> dict[str, dict[str, float]]:
    """MIG, SAP, DCI and FactorVAE score of the channels' spatial means, for z and for x = Qz of every split.

    Probes are fitted to the first `N_METRIC_ROWS` of the training rows.
    """
    spaces = {"z": lambda z: z, **{name: basis.encode for name, basis in splits.items()}}
    rows, n = {}, min(N_METRIC_ROWS, len(z_train))
    z_train, factors_train = z_train[:n], {factor: values[:n] for factor, values in factors_train.items()}
    for name, encode in spaces.items():
        x_train, x_test = (encode(z).mean(dim=(2, 3)).numpy() for z in (z_train, z_test))
        parts = dci(x_train, factors_train, x_test, factors_test)
        rows[name] = {
            "MIG": float(mig(x_train, factors_train)),
            "SAP": float(sap(x_train, factors_train, x_test, factors_test)),
            "DCI_disentanglement": float(parts.disentanglement),
            "DCI_completeness": float(parts.completeness),
            "DCI_informativeness": float(parts.informativeness),
            "FactorVAE": float(factor_vae_score(x_train, factors_train).score),
        }
    return rows


def metric_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Rows of named numbers as text."""
    names = list(next(iter(rows.values())))
    lines = [" " * 30 + "  ".join(f"{name:>12.12}" for name in names)]
    return "\n".join(lines + [f"{name:30}" + "  ".join(f"{row[n]:12.2f}" for n in names) for name, row in rows.items()])


@dataclass(frozen=True)
class ProxyScores:
    """Proxies of named splits, and of the random bases 0, 1, 2 … (`columns`: proxy -> one value a basis)."""

    splits: dict[str, dict[str, float]]
    columns: dict[str, list[float]]
    n_pairs: int

    def matched(self, scores: Float[np.ndarray, " planes"]) -> Float[np.ndarray, " bases"]:
        """The entries of a sweep's column that belong to the same random bases."""
        return scores[: len(next(iter(self.columns.values())))]

    def __str__(self) -> str:
        random = {name: f"{np.mean(values):+.2f} ± {np.std(values):.2f}" for name, values in self.columns.items()}
        lines = [f"{self.n_pairs} pairs" + " " * 20 + "  ".join(f"{name:>14.14}" for name in random)]
        lines += [f"{split:28.28}" + "  ".join(f"{row[name]:+14.2f}" for name in random) for split, row in self.splits.items()]
        return "\n".join([*lines, f"{'random bases':28}" + "  ".join(f"{text:>14}" for text in random.values())])


def proxy_scores(
    profile: Profile, vae: Any, clip: Any, splits: Mapping[str, OrthogonalBasis], *, n_bases: int = 40, n_pairs: int = 16
) -> ProxyScores:
    """Proxies without ground truth; on Scenes for the pairs of the stored sweep, else for `n_pairs` pairs of test pictures.

    Only proxies that need no captions are measured where the pictures come without them.
    """
    if profile.source == "scenes":
        scenes_a, scenes_b = validation_pairs(N_PAIRS)
        pairs = PicturePairs(render(scenes_a).images, render(scenes_b).images)
        bench = ProxyBench(vae, clip, pairs.originals, pairs.targets, captions(scenes_a), captions(scenes_b), device=vae.device)
    else:
        pairs = picture_pairs(profile, n_pairs=n_pairs)
        bench = ProxyBench(vae, None, pairs.originals, pairs.targets, device=vae.device)
    first = next(iter(splits.values()))
    scored = {name: bench.score(basis) for name, basis in splits.items()}
    random = [bench.score(random_basis(first.channels, first.n_semantic, seed)) for seed in range(n_bases)]
    names = [name for name in (*bench.names, "combined") if name in random[0]]
    return ProxyScores(
        {name: {proxy: float(s[proxy]) for proxy in names} for name, s in scored.items()},
        {proxy: [float(s[proxy]) for s in random] for proxy in names},
        len(pairs.originals),
    )
