"""Sweeps too long for a notebook: computed once, stored under results/sweeps/ with their manifest, repeated by one command.

    python -m sketchae.sweeps            # or `make sweeps`; interrupted, it continues where it was

`haar.json` holds `N_PLANES` random (Haar) planes, each scored on one fixed set of pairs of *validation* scenes by both judges:
the null distribution of every score, the landscape of the swap score, and the start of the search for its optimum.
A stored sweep names the VAE, the scenes and the settings that it was made with; `load_sweep` refuses it for any other.
"""

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from sketchae.atomic import atomic_write_text
from sketchae.basis import random_basis
from sketchae.errors import BadInputError, MissingFileError
from sketchae.metrics.evaluation import SwapBench, pair_indices
from sketchae.profiles import TRACKED, load_profile
from sketchae.scenes import SCENES_VERSION, load_judge, split_scenes
from sketchae.scenes.factors import Scenes

N_PLANES = 1000
N_PAIRS = 64
KEYS = ("score", "semantic", "style", "neither", "counterfactual_mse", "counterfactual_ssim")
_SAVE_EVERY = 20


def validation_pairs(n_pairs: int = N_PAIRS) -> tuple[Scenes, Scenes]:
    """The fixed pairs of validation scenes that every sweep and every search uses; no scene occurs twice."""
    scenes = split_scenes("val", 2 * n_pairs)
    a, b = pair_indices(2 * n_pairs, n_pairs, name="sweep")
    return scenes[a], scenes[b]


def validation_bench(vae: Any, n_pairs: int = N_PAIRS, n_boot: int = 10) -> SwapBench:
    """A bench on `validation_pairs`, read by judge b; judge a, which may be used for choices, under `judges`."""
    scenes_a, scenes_b = validation_pairs(n_pairs)
    return SwapBench(vae, load_judge("b"), scenes_a, scenes_b, other_judges={"a": load_judge("a")}, n_boot=n_boot, device=vae.device)


def plane_scores(bench: SwapBench, basis: Any) -> dict[str, float]:
    """What a sweep keeps of one split: `KEYS` by the bench's judge, and `judge_a`, `judge_a_semantic`, `judge_a_style`."""
    found = bench.score(basis)
    other = found["judges"]["a"]
    kept = {key: found[key] for key in KEYS} | {"judge_a": other["score"]}
    kept |= {"judge_a_semantic": other["semantic"], "judge_a_style": other["style"]}
    return {key: round(float(value), 4) for key, value in kept.items()}


def sweep_haar(vae: Any, file: Path, n_planes: int = N_PLANES, n_pairs: int = N_PAIRS, n_semantic: int = 2, progress: bool = True) -> dict[str, Any]:
    """Score the bases `random_basis(seed)` for seeds 0 … n_planes - 1; continues what `file` holds of the same sweep."""
    about = {"vae_id": vae.id, "scenes_version": SCENES_VERSION, "n_pairs": n_pairs, "n_semantic": n_semantic}
    rows = load_sweep(file, about)["rows"] if file.exists() and _about(file) == about else []
    if len(rows) < n_planes:
        bench = validation_bench(vae, n_pairs)
        for seed in tqdm(range(len(rows), n_planes), initial=len(rows), total=n_planes, desc="random planes", disable=not progress):
            rows.append(plane_scores(bench, random_basis(vae.latent_channels, n_semantic, seed)))
            if len(rows) % _SAVE_EVERY == 0 or len(rows) == n_planes:
                _write(file, about, rows)
    return load_sweep(file, about)


def load_sweep(file: Path, about: dict[str, Any]) -> dict[str, Any]:
    """A stored sweep: "about", "versions", "rows" and, for every key of the rows, an array under "columns".

    Raises:
        MissingFileError: there is none. BadInputError: it was made with another VAE, other scenes or other settings.
    """
    if not file.is_file():
        raise MissingFileError(f"{file} is missing: make it by `python -m sketchae.sweeps`.")
    stored = json.loads(file.read_text())
    differing = [key for key, value in about.items() if stored["about"].get(key) != value]
    if differing:
        raise BadInputError(
            f"{file} was made with another {', '.join(differing)}: remove it and make it again by `python -m sketchae.sweeps`."
        )
    columns = {key: np.array([row[key] for row in stored["rows"]]) for key in stored["rows"][0]}
    return stored | {"columns": columns}


def haar_sweep(vae: Any, folder: Path | None = None) -> dict[str, Any]:
    """The stored `haar.json`, for `vae`; raises as `load_sweep`."""
    about = {"vae_id": vae.id, "scenes_version": SCENES_VERSION, "n_pairs": N_PAIRS, "n_semantic": 2}
    return load_sweep((folder or sweeps_dir()) / "haar.json", about)


def sweeps_dir() -> Path:
    """results/sweeps of the project."""
    return load_profile(TRACKED).root / "results" / "sweeps"


def _about(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())["about"]


def _write(file: Path, about: dict[str, Any], rows: list[dict[str, float]]) -> None:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "numpy")}
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = json.dumps({"about": about, "versions": versions, "made_by": "python -m sketchae.sweeps"})
    atomic_write_text(file, f'{head[:-1]}, "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    from sketchae import load_vae

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-planes", type=int, default=N_PLANES)
    arguments = parser.parse_args()
    sweep_haar(load_vae(load_profile(TRACKED).vae), sweeps_dir() / "haar.json", arguments.n_planes)
