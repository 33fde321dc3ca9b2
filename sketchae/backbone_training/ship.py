"""Train the networks of the embedded world, and put them where the package finds them.

`python -m sketchae.backbone_training` trains (resuming what was begun) and `--install` copies the result to
`sketchae/assets`. One network at a time: `--only vae`.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from sketchae.atomic import atomic_write_text
from sketchae.backbone_training.clip import MINIMAL_FACTOR, train_clip
from sketchae.backbone_training.judges import train_judge
from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool
from sketchae.backbone_training.provenance import install_finished, is_finished, write_provenance
from sketchae.backbone_training.sketch import (
    N_SEMANTIC,
    RECONSTRUCTION_ONLY,
    ClipEffect,
    SketchVAE,
    SketchWeights,
    deepened,
    sketch_targets,
    train_sketch,
)
from sketchae.backbone_training.vae import train_vae
from sketchae.backbones import load_clip, load_vae, own_basis
from sketchae.backbones.adapter import LatentAdapter
from sketchae.basis.augmentation import augmentation_split
from sketchae.errors import BadInputError
from sketchae.scenes import SCENES_VERSION
from sketchae.scenes.judges import ASSETS
from sketchae.training.effect import Rotated

NETWORKS = ("judge_a", "judge_b", "vae", "clip")
SKETCH_NETWORKS = ("sketch", "sketch_twin", "sketch_adapter", "sketch_strict")
"""Made from the finished VAE and CLIP: the sketch autoencoder, the same VAE trained as long for reconstruction only, the adapter, and the
sketch autoencoder carried on with CLIP ten times as loud."""
STRICT = SketchWeights(effect=0.03)


@dataclass(frozen=True)
class BackboneBudget:
    """Steps of each training and scenes in each pool; the defaults are what ships."""

    vae_steps: int = 2800
    clip_steps: int = 2600
    clip_hard_steps: int = 2000
    judge_a_steps: int = 1200
    judge_b_steps: int = 1000
    n_backbone_scenes: int = 48_000
    n_minimal_scenes: int = 12_000
    n_judge_scenes: int = 24_000
    sketch_steps: int = 1200
    sketch_strict_steps: int = 700
    n_sketch_scenes: int = 16_384


def train_backbones(
    folder: Path, budget: BackboneBudget = BackboneBudget(), only: tuple[str, ...] = NETWORKS, clip_start: Path | None = None, seed: int = 0
) -> Path:
    """Train the networks named in `only`, each into a folder of its own under `folder`; finished ones are kept.

    `clip_start` is a folder with an earlier CLIP, whose training the second stage then carries on. Another `seed` than
    that of what ships gives another start and another order of the same scenes: an independently trained network.

    Raises:
        BadInputError: for a name that is neither in `NETWORKS` nor in `SKETCH_NETWORKS`.
    """
    folder = Path(folder)
    for name in only:
        if name not in NETWORKS + SKETCH_NETWORKS:
            raise BadInputError(f"There is no network '{name}' to train; choose from {', '.join(NETWORKS + SKETCH_NETWORKS)}.")
        if not is_finished(folder / name):
            _train_one(name, folder, budget, clip_start, seed)
    return folder


def _train_one(name: str, folder: Path, budget: BackboneBudget, clip_start: Path | None, seed: int) -> None:
    out, pool_dir = folder / name, folder / "pool"
    training = folder / "training" / name
    out.mkdir(parents=True, exist_ok=True)
    if name == "vae":
        pool, config = ImagePool(pool_dir, "backbones", budget.n_backbone_scenes), LoopConfig(n_steps=budget.vae_steps, lr=2e-3, seed=seed)
        model, record = train_vae(pool, training, config)
        model.to(memory_format=torch.contiguous_format).save_pretrained(out)
    elif name == "clip":
        pool = ImagePool(pool_dir, "backbones", budget.n_backbone_scenes)
        minimal_pool = ImagePool(pool_dir, "backbones", budget.n_minimal_scenes, vary=MINIMAL_FACTOR)
        config = LoopConfig(n_steps=budget.clip_steps, lr=1e-3, weight_decay=0.05, seed=seed)
        hard_config = LoopConfig(n_steps=budget.clip_hard_steps, lr=5e-4, weight_decay=0.05, n_warmup=50, seed=seed + 1)
        model, processor, record = train_clip(pool, minimal_pool, training, config, hard_config, start=clip_start)
        model.save_pretrained(out)
        processor.save_pretrained(out)
    elif name in SKETCH_NETWORKS:
        pool = ImagePool(pool_dir, "backbones", budget.n_sketch_scenes)
        model, record = _train_sketch(name, folder, pool, budget, seed)
        _save_sketch(model, name, out)
    else:
        which = name[-1]
        pool = ImagePool(pool_dir, name, budget.n_judge_scenes)
        steps = budget.judge_a_steps if which == "a" else budget.judge_b_steps
        model, record = train_judge(which, pool, training, LoopConfig(n_steps=steps, lr=2e-3, weight_decay=0.05, seed=seed))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "model.safetensors")
        atomic_write_text(out / "config.json", json.dumps({"judge": which, "scenes_version": SCENES_VERSION}, indent=1) + "\n")
    write_provenance(out, _about(name, len(pool), seed), record, sum(p.numel() for p in model.parameters()))


def _train_sketch(name: str, folder: Path, pool: ImagePool, budget: BackboneBudget, seed: int) -> tuple[SketchVAE, dict]:
    codec, clip, n_pictures = load_vae(device="cpu"), load_clip(device="cpu"), len(pool)
    config = LoopConfig(n_steps=budget.sketch_steps, lr=1e-3, n_warmup=50, ema_decay=0.995, seed=seed, checkpoint_every=100)
    weights = RECONSTRUCTION_ONLY if name == "sketch_twin" else SketchWeights()
    if name == "sketch_strict":
        finished = folder / "sketch" if is_finished(folder / "sketch") else "sketch"
        same = deepened(load_vae(finished, device="cpu").vae, 0, 0)  # without the name of the folder that it came from
        model, weights = SketchVAE(same, Rotated(own_basis(finished))), STRICT
        config = replace(config, n_steps=budget.sketch_strict_steps, lr=5e-4, seed=seed + 1)  # other pictures first than those that it began with
    else:
        start = augmentation_split(codec, pool.images(np.arange(min(256, n_pictures)))).basis(N_SEMANTIC)
        adapted = name == "sketch_adapter"
        model = SketchVAE(codec.vae, LatentAdapter(start)) if adapted else SketchVAE(deepened(codec.vae), Rotated(start))
    effect = ClipEffect(clip, sketch_targets(pool, clip, n_pictures)) if weights.effect else None
    return model, train_sketch(model, pool, n_pictures, folder / "training" / name, config, weights, effect=effect)


def _save_sketch(model: SketchVAE, name: str, out: Path) -> None:
    """A sketch autoencoder with its own basis in the subfolder `basis`, its twin without, or an adapter alone."""
    if isinstance(model.split, LatentAdapter):
        model.split.save(out)
        return
    model.vae.to(memory_format=torch.contiguous_format).save_pretrained(out)
    if name != "sketch_twin":
        model.split.basis(vae=name, vae_id=load_vae(out, device="cpu").id).save(out / "basis")


def _about(name: str, n_scenes: int, seed: int) -> dict[str, str]:
    notebook = "06_sketch_autoencoder" if name in SKETCH_NETWORKS else "00_backbones"
    return {
        "network": name,
        "made_by": f"python -m sketchae.backbone_training --only {name}" + (f" --seed {seed}" if seed else ""),
        "trained_on": f"the first {n_scenes:,} scenes of the split '{name if name.startswith('judge') else 'backbones'}'",
        "results": f"measured afresh by notebooks/{notebook}; see results/values.json, keys {notebook[3:]}.*",
    }


def install_backbones(folder: Path, assets: Path = ASSETS, only: tuple[str, ...] = NETWORKS) -> None:
    """Copy the finished networks named in `only` from `folder` into the package's assets.

    Raises:
        MissingFileError: where one is not finished.
    """
    folders = {name: Path(folder) / name for name in only}
    remedies = {source: f"python -m sketchae.backbone_training --only {name}" for name, source in folders.items()}
    install_finished({source: assets / name for name, source in folders.items()}, remedies)
