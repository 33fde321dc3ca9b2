"""Sweeps too long for a notebook: computed once, shipped in sketchae/assets/sweeps with their manifest, repeated by one command.

    python -m sketchae.sweeps            # or `make sweeps`; interrupted, it continues where it was

`haar.json` holds `N_PLANES` random (Haar) planes, each scored on one fixed set of pairs of *validation* scenes by both judges:
the null distribution of every score, the landscape of the swap score, and the start of the search for its optimum.
`optimum.json` holds where that search ended: from the `N_STARTS` best of them, uphill on the swap score itself by a random walk, and by gradient
(`training.labelled`), both through the decoder and with the factors as labels, as read by judge a on validation scenes that no other sweep
looks at: an upper reference, not a rival.
The same searches on other codecs: `sketchae.other_codecs`.
A stored sweep names the VAE, the scenes and the settings that it was made with; `load_sweep` refuses it for any other.
"""

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from sketchae.atomic import atomic_write_text
from sketchae.basis import OrthogonalBasis, random_basis
from sketchae.basis.grassmann import ascend, plane_basis
from sketchae.basis.planes import as_float64
from sketchae.errors import BadInputError, MissingFileError
from sketchae.metrics.evaluation import SwapBench, pair_indices
from sketchae.profiles import TRACKED, load_profile
from sketchae.progress import hide_if
from sketchae.scenes import SCENES_VERSION, load_judge, split_scenes
from sketchae.scenes.factors import Scenes
from sketchae.scenes.judges import ASSETS
from sketchae.training.labelled import fit_labelled

N_PLANES = 1000
N_PAIRS = 64
KEYS = ("score", "semantic", "style", "neither", "counterfactual_mse", "counterfactual_ssim")
N_STARTS, N_STEPS, N_PAIRS_OPTIMUM, N_GRADIENT_STEPS = 3, 30, 128, 60
LABEL_TAU, LABEL_LR = 5.0, 0.1  # wide enough for the judge's margins, which are 8 to 18; chosen in a trial
SEARCHED = 1024  # the first validation scene that the searches with labels use; all others stay before it
SWEEPS = ASSETS / "sweeps"
_SAVE_EVERY = 20


def validation_pairs(n_pairs: int = N_PAIRS, first: int = 0) -> tuple[Scenes, Scenes]:
    """The fixed pairs of validation scenes, from number `first` on, that every sweep uses; no scene occurs twice."""
    scenes = split_scenes("val", first + 2 * n_pairs)[first:]
    a, b = pair_indices(2 * n_pairs, n_pairs, name="sweep")
    return scenes[a], scenes[b]


def validation_bench(vae: Any, n_pairs: int = N_PAIRS, first: int = 0, n_boot: int = 10) -> SwapBench:
    """A bench on `validation_pairs`, read by judge b; judge a, which may be used for choices, under `judges`."""
    scenes_a, scenes_b = validation_pairs(n_pairs, first)
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
    about = _haar_about(vae, n_pairs, n_semantic)
    rows = load_sweep(file, about)["rows"] if is_about(file, about) else []
    if len(rows) < n_planes:
        bench = validation_bench(vae, n_pairs)
        for seed in tqdm(range(len(rows), n_planes), initial=len(rows), total=n_planes, desc="random planes", **hide_if(not progress)):
            rows.append(plane_scores(bench, random_basis(vae.latent_channels, n_semantic, seed)))
            if len(rows) % _SAVE_EVERY == 0 or len(rows) == n_planes:
                write_sweep(file, about, rows)
    return load_sweep(file, about)


def sweep_optimum(vae: Any, file: Path, haar: dict[str, Any], progress: bool = True) -> dict[str, Any]:
    """Climb the swap score by judge a from the best planes of `haar`, step by step and by gradient; the rows are the ends, the best first."""
    about = _optimum_about(vae)
    if not is_about(file, about):
        bench, k = validation_bench(vae, N_PAIRS_OPTIMUM, SEARCHED), about["n_semantic"]
        rows = []
        for seed in np.argsort(haar["columns"]["judge_a"])[::-1][:N_STARTS]:
            start = random_basis(vae.latent_channels, k, int(seed))
            for how, basis in climb(vae, bench, start, f"optimum/{seed}", progress).items():
                rows.append({"start": int(seed), "how": how, "Q": as_float64(basis.Q).round(6).tolist(), **plane_scores(bench, basis)})
        write_sweep(file, about, sorted(rows, key=lambda row: -row["judge_a"]))
    return load_sweep(file, about)


def climb(vae: Any, bench: SwapBench, start: OrthogonalBasis, name: str, progress: bool) -> dict[str, OrthogonalBasis]:
    """Where a random walk and a gradient ascent end that start at `start`: both use the factors of the bench's scenes, and judge a."""
    k = start.n_semantic
    objective = lambda plane: plane_scores(bench, plane_basis(plane))["judge_a"]  # noqa: E731
    plane, _ = ascend(objective, [as_float64(start.Q)[:k]], n_steps=N_STEPS, name=name, progress=progress)
    return {"random walk": plane_basis(plane), "gradient": label_trained(vae, bench, start, name, progress)}


def label_trained(vae: Any, bench: SwapBench, start: OrthogonalBasis, name: str, progress: bool = True) -> OrthogonalBasis:
    """A basis trained on the factors themselves, through the decoder and judge a, on all scenes of `bench` (`training.labelled`)."""
    z = torch.cat([bench.z_a, bench.z_b])
    factors = {factor: np.concatenate([bench.factors_a[factor], bench.factors_b[factor]]) for factor in bench.kinds}
    options = {"tau": LABEL_TAU, "lr": LABEL_LR, "n_steps": N_GRADIENT_STEPS, "name": name, "progress": progress}
    return fit_labelled(vae, load_judge("a"), z, factors, [start], **options).basis


def optimum_basis(vae: Any, folder: Path | None = None) -> OrthogonalBasis:
    """The best split that the stored search found on validation scenes; raises as `load_sweep`."""
    stored = load_sweep((folder or SWEEPS) / "optimum.json", _optimum_about(vae))
    q = np.linalg.qr(np.array(stored["rows"][0]["Q"]).T)
    return OrthogonalBasis.from_matrix((q.Q * np.sign(np.diag(q.R))).T, stored["about"]["n_semantic"])


def _optimum_about(vae: Any) -> dict[str, Any]:
    climb = {"n_planes": N_PLANES, "n_starts": N_STARTS, "n_steps": N_STEPS, "n_gradient_steps": N_GRADIENT_STEPS}
    climb |= {"tau": LABEL_TAU, "lr": LABEL_LR, "n_pairs": N_PAIRS_OPTIMUM, "searched": SEARCHED}
    return {"vae_id": vae.id, "scenes_version": SCENES_VERSION, "n_semantic": 2, **climb}


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


def find_haar(vae: Any, folder: Path | None = None) -> dict[str, Any] | None:
    """The stored `haar.json` if it was made for this `vae` and these scenes, else None."""
    file, about = (folder or SWEEPS) / "haar.json", _haar_about(vae, N_PAIRS, 2)
    return load_sweep(file, about) if is_about(file, about) else None


def _haar_about(vae: Any, n_pairs: int, n_semantic: int) -> dict[str, Any]:
    return {"vae_id": vae.id, "scenes_version": SCENES_VERSION, "n_pairs": n_pairs, "n_semantic": n_semantic}


def is_about(file: Path, about: dict[str, Any]) -> bool:
    """Whether there is a stored sweep, made with all that `about` says."""
    return file.is_file() and about.items() <= json.loads(file.read_text())["about"].items()


def write_sweep(file: Path, about: dict[str, Any], rows: list[dict[str, Any]], made_by: str = "python -m sketchae.sweeps") -> None:
    """Store rows with what they were made from (see `load_sweep`); a half-written file never takes the place of a whole one."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "numpy")}
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = json.dumps({"about": about, "versions": versions, "made_by": made_by})
    atomic_write_text(file, f'{head[:-1]}, "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    from sketchae import load_vae

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-planes", type=int, default=N_PLANES)
    arguments = parser.parse_args()
    vae = load_vae(load_profile(TRACKED).vae)
    planes = sweep_haar(vae, SWEEPS / "haar.json", arguments.n_planes)
    sweep_optimum(vae, SWEEPS / "optimum.json", planes)
