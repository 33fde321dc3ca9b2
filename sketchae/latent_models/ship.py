"""Train the latent models that ship, and put them where the package finds them (`python -m sketchae.latent_models`)."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sketchae.atomic import atomic_write_text
from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool
from sketchae.diffusion.training import open_pool
from sketchae.errors import BadInputError, MissingFileError
from sketchae.latent_models.dvae import train_dvae
from sketchae.latent_models.networks import n_parameters
from sketchae.latent_models.vqvae import train_vqvae
from sketchae.profiles import find_root
from sketchae.scenes import SCENES_VERSION
from sketchae.scenes.judges import ASSETS, load_judge


@dataclass(frozen=True)
class Workshop:
    """What a training is given: drawn scenes, a folder for its checkpoints, its settings, and where finished models lie."""

    pool: ImagePool
    training: Path
    config: LoopConfig
    finished: Path


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    Attributes:
        train: from a `Workshop` to the model and the loop's record.
        config: of the loop; what ships was trained with it.
        n_scenes: the first so many scenes of the split "backbones".
        about: what the model is, in a line, for provenance.
    """

    train: Callable[[Workshop], tuple[nn.Module, dict]]
    config: LoopConfig
    n_scenes: int
    about: str


RECIPES: dict[str, Recipe] = {
    "vqvae": Recipe(
        lambda w: train_vqvae(w.pool, w.training, w.config),
        LoopConfig(n_steps=1800, lr=2e-3, ema_decay=0.995),
        48_000,
        "VQ-VAE, 32x32 codes of 9 bits",
    ),
    "dvae": Recipe(
        lambda w: train_dvae(w.pool, w.training, w.config, judge=load_judge("a")),
        LoopConfig(n_steps=2400, lr=1e-3, n_warmup=50, ema_decay=0.995),
        48_000,
        "dVAE, 8x8 codes of 10 bits",
    ),
}


def train_model(name: str, folder: Path, *, n_steps: int | None = None, n_scenes: int | None = None, pool: Path | None = None) -> Path:
    """Train one model of `RECIPES` into `folder`/`name`; interrupted it resumes, finished it is kept.

    Args:
        n_steps, n_scenes: other than the recipe's, for a trial.
        pool: the folder of drawn scenes, by default that of the backbones.

    Raises:
        BadInputError: an unknown name.
    """
    if name not in RECIPES:
        raise BadInputError(f"There is no latent model '{name}'; choose from {', '.join(RECIPES)}.")
    out, recipe = Path(folder) / name, RECIPES[name]
    if (out / "provenance.json").exists():
        return out
    scenes = open_pool(pool or find_root() / "build" / "backbones" / "pool", n_scenes or recipe.n_scenes)
    config = replace(recipe.config, n_steps=n_steps or recipe.config.n_steps)
    model, record = recipe.train(Workshop(scenes, Path(folder) / "training" / name, config, Path(folder)))
    model.save_pretrained(out)  # type: ignore[operator]  # every model here is one of diffusers' or transformers'
    _write_provenance(out, name, recipe, record, model, n_scenes or recipe.n_scenes)
    return out


def install_model(name: str, folder: Path, assets: Path = ASSETS) -> None:
    """Copy a finished model from `folder` into the package's assets.

    Raises:
        MissingFileError: where it is not finished.
    """
    if not (Path(folder) / name / "provenance.json").exists():
        raise MissingFileError(f"{Path(folder) / name} holds no finished model: train it with python -m sketchae.latent_models --only {name} first.")
    shutil.copytree(Path(folder) / name, assets / "latent_models" / name, dirs_exist_ok=True)


def shipped(name: str, folder: Path | None = None) -> Path:
    """Where a finished model lies: in `folder`, if it was trained there, or else in the package.

    Raises:
        MissingFileError: where it lies in neither.
    """
    for place in ([Path(folder) / name] if folder else []) + [ASSETS / "latent_models" / name]:
        if (place / "provenance.json").exists():
            return place
    raise MissingFileError(f"No trained '{name}': reinstall sketchae, or run python -m sketchae.latent_models --only {name}.")


def provenance(name: str, folder: Path | None = None) -> dict[str, Any]:
    """How, on what and for how long a finished model was trained."""
    return json.loads((shipped(name, folder) / "provenance.json").read_text())


def _write_provenance(out: Path, name: str, recipe: Recipe, record: dict, model: nn.Module, n_scenes: int) -> None:
    """Written last, so that its presence means finished."""
    about = {
        "model": name,
        "about": recipe.about,
        "made_by": f"python -m sketchae.latent_models --only {name}",
        "trained_on": record.get("trained_on", f"the first {n_scenes:,} scenes of the split 'backbones'"),
        "scenes_version": SCENES_VERSION,
        "n_parameters": n_parameters(model),
        "duration_s": round(record["duration_s"]),
        "n_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "loop": record["config"],
        "last_losses": record["log"][-1],
        "licence": "MIT",
    }
    rows = record["log"][:: max(1, len(record["log"]) // 200)]
    atomic_write_text(out / "training_log.json", json.dumps(rows) + "\n")
    atomic_write_text(out / "provenance.json", json.dumps(about, indent=1) + "\n")
