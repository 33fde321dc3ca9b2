"""The recipe's choices one at a time, its stability, and a second pair of backbones: sweeps too long for a notebook.

    python -m sketchae.ablation          # part of `make sweeps`; interrupted, it continues where it was

Every choice is trained as `02_train` does, from at least `N_SEEDS` starts, and every plane is scored on one fixed set of pairs of *validation*
scenes (`sweeps.validation_bench`). Besides scores, each row says where its plane lies: how far from its start, from the plane that the
orthogonality term alone would have reached (`training.penalty`), and from the recipe's own plane of the same seed, which had the same start.

Two choices are fitted rather than trained: the augmentation eigenproblem (its seeds are two halves of the pictures) and the effect objective
(its seeds are draws of batches).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from sketchae.ablation_data import DEPENDENCE, SECOND, Data
from sketchae.backbones import load_clip, load_vae
from sketchae.basis import OrthogonalBasis, finalize, plane_angle
from sketchae.basis.augmentation import augmentation_split
from sketchae.evidence import key as key_of
from sketchae.metrics.evaluation import SwapBench
from sketchae.profiles import TRACKED, Profile, find_root, load_profile
from sketchae.rivals import mean_captions
from sketchae.scenes import SCENES_VERSION
from sketchae.sweeps import KEYS, SWEEPS, is_about, load_sweep, validation_bench, write_sweep
from sketchae.training import TrainConfig, TrainResult, train_seeds
from sketchae.training.effect import EffectObjective, fit_effect
from sketchae.training.penalty import train_without_data

N_SEEDS, N_PAIRS, N_FIT_PICTURES, N_EFFECT_STEPS = 5, 128, 256, 50
FACTS = ("from_start_deg", "orthogonality_error", "val_semantic", "val_style", "from_penalty_deg", "from_recipe_deg")
RECIPE, EIGENPROBLEM, EFFECT = "the recipe", "eigenproblem", "effect objective"


@dataclass(frozen=True)
class Choice:
    """One way to make splits.

    Attributes:
        name: as tables show it. method: "recipe", "augmentation" or "effect".
        data: which pictures, captions and backbones: a key of `Data.TABLES`.
        changes: fields of `TrainConfig` that differ from the recipe's.
        finish: how W becomes orthogonal, "qr" or "polar".
        n_seeds: of starts; for "effect", draws of batches; for "augmentation", parts of the pictures.
    """

    name: str
    method: str = "recipe"
    data: str = "as it is"
    changes: Mapping[str, Any] = field(default_factory=dict)
    finish: str = "qr"
    n_seeds: int = N_SEEDS


CHOICES = (
    Choice(RECIPE, n_seeds=10),
    Choice("polar factor, not QR", finish="polar", n_seeds=10),
    Choice("learning rate 1e-3", changes={"lr": 1e-3}),
    Choice("exactly orthogonal W", changes={"parametrization": "orthogonal"}),
    Choice("exactly orthogonal W, learning rate 1e-3", changes={"parametrization": "orthogonal", "lr": 1e-3}),
    Choice("L1, not MSE", changes={"loss": "l1"}),
    Choice("L1, penalty summed (the author's code)", changes={"loss": "l1", "orthogonality_reduction": "sum"}),
    Choice("penalty times 0.1", changes={"orthogonality_weight": 0.1}),
    Choice("penalty times 10", changes={"orthogonality_weight": 10.0}),
    Choice("embedders of one block", changes={"n_blocks": 1}),
    Choice("a third of the steps", changes={"n_steps": 3000}),
    Choice("first half of the pictures", data="first half"),
    Choice("second half of the pictures", data="second half"),
    Choice("a quarter of the pictures", data="a quarter"),
    Choice("a sixteenth of the pictures", data="a sixteenth"),
    Choice("style words in captions", data="style words"),
    Choice("dependent factors", data="dependent"),
    Choice(EIGENPROBLEM, "augmentation", n_seeds=2),
    Choice(f"{EIGENPROBLEM}, dependent factors", "augmentation", "dependent", n_seeds=2),
    Choice(EFFECT, "effect", n_seeds=3),
    Choice(f"{EFFECT}, dependent factors", "effect", "dependent", n_seeds=3),
    Choice("another CLIP", data="another CLIP"),
    Choice("another VAE and CLIP", data="another VAE and CLIP"),
    Choice(f"{EIGENPROBLEM}, another VAE", "augmentation", "another VAE", n_seeds=2),
    Choice(f"{EFFECT}, another VAE and CLIP", "effect", "another VAE and CLIP", n_seeds=3),
)

SAME_BUT_BACKBONES = (
    (RECIPE, "another VAE and CLIP"),
    (EIGENPROBLEM, f"{EIGENPROBLEM}, another VAE"),
    (EFFECT, f"{EFFECT}, another VAE and CLIP"),
)


def sweep_ablation(profile: Profile, file: Path, work_dir: Path, choices: Sequence[Choice] = CHOICES, progress: bool = True) -> dict[str, Any]:
    """Make, score and store every choice that `file` does not hold yet; one row a choice and seed, in the order of `choices`."""
    about = ablation_about(load_vae(profile.vae), load_clip(profile.clip), profile)
    rows = load_sweep(file, about)["rows"] if is_about(file, about) else []
    data, benches, names = Data(profile, work_dir), {}, [choice.name for choice in choices]
    for choice in choices:
        if any(row["choice"] == choice.name for row in rows):
            continue
        vae = data.vae(choice.data)
        bench = benches.setdefault(vae.id, validation_bench(vae, about["n_pairs"]))
        made = _trained(choice, profile, data, progress) if choice.method == "recipe" else _fitted(choice, profile, data, progress)
        for seed, (basis, facts) in enumerate(made):
            rows.append({"choice": choice.name, "seed": seed, **_scores(bench, basis), **facts, "Q": basis.Q.double().numpy().round(6).tolist()})
        rows.sort(key=lambda row: names.index(row["choice"]) if row["choice"] in names else len(names))
        write_sweep(file, about, rows, "python -m sketchae.ablation")
        if progress:
            print(choice.name, [row["score"] for row in rows if row["choice"] == choice.name], flush=True)
    return load_sweep(file, about)


def _scores(bench: SwapBench, basis: OrthogonalBasis) -> dict[str, Any]:
    found = bench.score(basis)
    kept = {key: round(float(found[key]), 4) for key in KEYS} | {"judge_a": round(float(found["judges"]["a"]["score"]), 4)}
    return kept | {"per_factor": [round(float(f["score"]), 4) for f in found["per_factor"].values()]}


def _trained(choice: Choice, profile: Profile, data: Data, progress: bool) -> list[tuple[OrthogonalBasis, dict[str, Any]]]:
    """Bases of all seeds, and where their planes lie, angles in degrees (largest principal angle)."""
    results = _training(choice, profile, data, progress)
    k = results[0].config.n_semantic
    recipe = _training(CHOICES[0], profile, data, progress)
    made = []
    for seed, result in enumerate(results):
        last, basis = result.history[-1], finalize(result.weight, k).basis(choice.finish)
        facts = {"from_start_deg": last["angle_from_start_deg"], "orthogonality_error": last["orthogonality_error"]}
        facts |= {f"val_{term}": last[f"val_{term}"] for term in ("semantic", "style")}
        facts["from_recipe_deg"] = float(plane_angle(basis.Q, finalize(recipe[seed].weight, k).Q, k).max())
        if result.config.parametrization == "penalty":
            facts["from_penalty_deg"] = float(plane_angle(basis.Q, train_without_data(result), k).max())
        made.append((basis, dict.fromkeys(FACTS) | {name: round(value, 5) for name, value in facts.items()}))
    return made


def _training(choice: Choice, profile: Profile, data: Data, progress: bool) -> list[TrainResult]:
    config = TrainConfig.from_profile(profile, **choice.changes)
    name = "-".join([choice.data, *(f"{key}={value}" for key, value in sorted(choice.changes.items()))]).replace(" ", "_")
    found = train_seeds(*data.tables(choice.data), config, data.work_dir / "training" / name, range(choice.n_seeds), progress=progress)
    return [found[seed] for seed in range(choice.n_seeds)]


def _fitted(choice: Choice, profile: Profile, data: Data, progress: bool) -> list[tuple[OrthogonalBasis, dict[str, Any]]]:
    vae, k = data.vae(choice.data), profile.n_semantic
    images = data.pictures(choice.data, min(N_FIT_PICTURES, profile.n_train))
    nothing = dict.fromkeys(FACTS)
    if choice.method == "augmentation":
        return [(augmentation_split(vae, part).basis(k), nothing) for part in images.tensor_split(choice.n_seeds)]
    train, start = data.tables(choice.data)[0], augmentation_split(vae, images).basis(k)
    rows = np.arange(len(images))
    z, clip_img = train.gather(rows)
    texts = torch.as_tensor(np.asarray(train.clip_txt[: int(train.caption_starts[len(rows)])])).float()
    objective = EffectObjective(vae, data.clip(choice.data), z, clip_img, mean_captions(train, rows), texts)
    made = []
    for seed in range(choice.n_seeds):
        found = fit_effect(objective, [start], n_steps=min(N_EFFECT_STEPS, profile.n_effect_steps), name=f"effect/{seed}", progress=progress)
        turned = float(plane_angle(found.basis.Q, start.Q, k).max())
        made.append((found.basis, nothing | {"from_start_deg": round(turned, 5)}))
    return made


def ablation_about(vae: Any, clip: Any, profile: Profile) -> dict[str, Any]:
    """What a stored ablation belongs to."""
    size = {"n_train": profile.n_train, "n_steps": profile.n_steps, "n_pairs": min(N_PAIRS, profile.n_pairs)}
    return {"vae_id": vae.id, "clip_id": clip.id, "scenes_version": SCENES_VERSION, "dependence": DEPENDENCE, "second": SECOND, **size}


def find_ablation(vae: Any, clip: Any, profile: Profile, folder: Path | None = None) -> "Ablation | None":
    """The stored ablation if it was made for these backbones and sizes, else None."""
    file, about = (folder or SWEEPS) / "ablation.json", ablation_about(vae, clip, profile)
    return Ablation(load_sweep(file, about)["rows"]) if is_about(file, about) else None


@dataclass(frozen=True)
class Ablation:
    """The rows of a stored ablation, one a choice and seed, in the order of `CHOICES`."""

    rows: list[dict[str, Any]]

    @property
    def choices(self) -> list[str]:
        return list(dict.fromkeys(row["choice"] for row in self.rows))

    def column(self, choice: str, key: str) -> np.ndarray:
        """One number (or vector) of every seed of a choice."""
        return np.array([row[key] for row in self.rows if row["choice"] == choice])

    def panels(self) -> dict[str, dict[str, np.ndarray]]:
        """For every choice what a figure shows: "score", "apart_deg" (between seeds) and, where W was trained, "from_penalty_deg"."""
        found = {}
        for choice in self.choices:
            found[choice] = {"score": self.column(choice, "score"), "apart_deg": self.between_seeds(choice)}
            angles = self.column(choice, "from_penalty_deg")
            if None not in angles:
                found[choice]["from_penalty_deg"] = angles
        return found

    def between_seeds(self, choice: str, k: int = 2) -> Float[np.ndarray, " pairs"]:
        """Largest principal angle in degrees between the planes of every two seeds; [0] of a single one."""
        q = self.column(choice, "Q")
        angles = [plane_angle(q[i], q[j], k).max() for i in range(len(q)) for j in range(i)]
        return np.array(angles or [0.0])

    def between(self, one: str, other: str, k: int = 2) -> Float[np.ndarray, " pairs"]:
        """The same between the planes of two choices, seed by seed."""
        return np.array([plane_angle(a, b, k).max() for a, b in zip(self.column(one, "Q"), self.column(other, "Q"), strict=False)])

    def factor_correlation(self, one: str, other: str) -> float:
        """Correlation over factors of two choices' mean scores factor by factor: do they move the same things?"""
        means = [self.column(choice, "per_factor").mean(axis=0) for choice in (one, other)]
        return float(np.corrcoef(*means)[0, 1])

    def values(self) -> dict[str, Any]:
        """Numbers for `Recorder.value`: for each choice the mean, SD and list of scores and the median angles."""
        found: dict[str, Any] = {}
        for choice in self.choices:
            score = self.column(choice, "score")
            of_choice = {"mean": score.mean(), "sd": score.std(ddof=1), "scores": score, "apart_deg": np.median(self.between_seeds(choice))}
            for key in ("semantic", "style", "counterfactual_mse", "counterfactual_ssim"):
                of_choice[key] = self.column(choice, key).mean()
            for key in ("from_penalty_deg", "from_recipe_deg"):
                if None not in (angles := self.column(choice, key)):
                    of_choice[key] = np.median(angles)
            found[key_of(choice)] = of_choice
        found["same_factors"] = {key_of(one): self.factor_correlation(one, other) for one, other in SAME_BUT_BACKBONES}
        found["halves_deg"] = np.median(self.between("first half of the pictures", "second half of the pictures"))
        return found

    def __str__(self) -> str:
        lines = [f"{'':40} seeds    swap ± SD       semantic  style   apart  from the recipe  from the penalty alone"]
        for choice in self.choices:
            score, recipe, penalty = (self.column(choice, key).astype(float) for key in ("score", "from_recipe_deg", "from_penalty_deg"))
            halves = (self.column(choice, key).mean() for key in ("semantic", "style"))
            lines.append(
                f"{choice:40} {len(score):5}   {score.mean():+.2f} ± {score.std(ddof=1):.2f}   "
                + "  ".join(f"{half:+8.2f}" for half in halves)
                + f"  {np.median(self.between_seeds(choice)):5.0f}°  {_degrees(recipe):>15}  {_degrees(penalty):>15}"
            )
        return "\n".join(lines)


def _degrees(angles: np.ndarray) -> str:
    return "" if np.isnan(angles).any() else f"{np.median(angles):.1f}°"


def main() -> None:
    profile = load_profile(TRACKED)
    print(Ablation(sweep_ablation(profile, SWEEPS / "ablation.json", find_root() / "build" / "ablation")["rows"]))


if __name__ == "__main__":
    main()
