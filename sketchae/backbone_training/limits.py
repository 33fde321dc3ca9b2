"""What limits the sketch autoencoder: carried on alike, with what CLIP knows, or the size of the latent, or the loss, replaced by something better.

    python -m sketchae.backbone_training.limits                 # every arm, one after the other; resumes, keeps what is finished
    python -m sketchae.backbone_training.limits --arm labels    # some of them: several processes share the work

Every arm starts from the sketch autoencoder that ships and takes `N_STEPS` more steps on the same pictures in the same order. The arms differ in
what the swaps must please (`sketch.Effect`), in the number of latent channels, and in what reconstruction weighs (`ARMS`). Those
with labels or the renderer are upper references, not rivals. Scores are by judge b, on the pairs of test scenes of
`06_sketch_autoencoder`; `assets/sweeps/sketch_limits.json` keeps them, and `sketch_limits.safetensors` some of the swaps.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sketchae import edits, sketch_evidence
from sketchae.atomic import atomic_path, atomic_write_text
from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool
from sketchae.backbone_training.sketch import (
    RECONSTRUCTION_ONLY,
    ClipEffect,
    Effect,
    SketchVAE,
    SketchWeights,
    picture_distance,
    sketch_targets,
    train_sketch,
)
from sketchae.backbones import LatentCodec, load_clip, load_vae, own_basis
from sketchae.basis import OrthogonalBasis
from sketchae.errors import BadInputError
from sketchae.profiles import find_root
from sketchae.scenes import FACTORS, SCENES_VERSION, Scenes, counterfactual, load_judge, render, split_scenes, to_uint8
from sketchae.sweeps import LABEL_TAU, SWEEPS, load_sweep, write_sweep
from sketchae.training.effect import Rotated
from sketchae.training.labelled import label_halves

N_STEPS, N_PICTURES, LR = 300, 4096, 5e-4
N_PAIRS, N_SHOWN = 512, 4
FILE, PICTURES = "sketch_limits.json", "sketch_limits.safetensors"
_KEPT = ("score", "semantic", "style", "counterfactual_mse", "counterfactual_ssim")
AS_BEFORE, LOUD, TRUTHS = SketchWeights(), SketchWeights(effect=0.03), SketchWeights(effect=1.0)


@dataclass(frozen=True)
class Arm:
    """What the swaps should please ("clip", "labels", "pictures"), what each term weighs, the number of latent channels, and what learns."""

    teacher: str
    weights: SketchWeights = AS_BEFORE
    channels: int = 4
    decoder_only: bool = False


ARMS = {
    "carried on": Arm("clip"),  # as before: what more steps alone give
    "carried on, ten times": Arm("clip", LOUD),  # CLIP ten times as loud
    "labels": Arm("labels"),  # judge a with the true values of every factor: perfect knowledge, as loud as CLIP was
    "labels, ten times": Arm("labels", LOUD),
    "true swaps": Arm("pictures", TRUTHS),  # the drawn picture of every swap as its target: perfect knowledge of what to paint
    "carried on, eight channels": Arm("clip", channels=8),  # twice the latent, the new channels unheard at the start
    "true swaps, eight channels": Arm("pictures", TRUTHS, 8),
    "reconstruction ten times": Arm("clip", SketchWeights(reconstruction=10.0)),  # what the other terms take from reconstruction
    "reconstruction only": Arm("clip", RECONSTRUCTION_ONLY),  # what these networks give where the split may go
    "reconstruction only, decoder": Arm("clip", RECONSTRUCTION_ONLY, decoder_only=True),  # what the latents still hold
}
SHIPPED = "as it ships"


class LabelEffect:
    """1 - J by a judge and the true factors (`training.labelled`): an upper reference."""

    def __init__(self, judge: nn.Module, scenes: Scenes):
        self.judge, self.scenes = judge.eval().requires_grad_(False), scenes
        self.factors = {name: torch.from_numpy(scenes.factors[name]).long() for name in FACTORS}
        self.kinds = {name: factor.kind for name, factor in FACTORS.items()}

    def __len__(self) -> int:
        return len(self.scenes)

    def __call__(self, swapped: Float[Tensor, "n 3 height width"], a: np.ndarray, b: np.ndarray) -> Float[Tensor, ""]:
        rows = (torch.from_numpy(a), torch.from_numpy(b))
        return 2 - label_halves(self.judge(swapped), self.factors, self.kinds, *rows, LABEL_TAU).mean(0).sum()


class TrueSwaps:
    """The distance of swaps from their drawn truth: an upper reference."""

    def __init__(self, scenes: Scenes):
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __call__(self, swapped: Float[Tensor, "n 3 height width"], a: np.ndarray, b: np.ndarray) -> Float[Tensor, ""]:
        return picture_distance(swapped, render(counterfactual(self.scenes[a], self.scenes[b])).images)


def widened(vae: AutoencoderTiny, n_channels: int) -> AutoencoderTiny:
    """The same VAE with more latent channels: the new ones are read from the picture at random, and the decoder does not hear them yet."""
    n_more = n_channels - vae.config.latent_channels
    if n_more < 0:
        raise BadInputError(f"The VAE has {vae.config.latent_channels} latent channels already: ask for as many or more, not {n_channels}.")
    config = {key: value for key, value in vae.config.items() if not key.startswith("_") and key != "block_out_channels"}
    wide = AutoencoderTiny.from_config({**config, "latent_channels": n_channels})
    state, fresh = vae.state_dict(), wide.state_dict()
    for key in (key for key, value in fresh.items() if value.shape != state[key].shape):
        if key.startswith("encoder"):
            state[key] = torch.cat([state[key], fresh[key][-n_more:]])
        else:
            state[key] = torch.cat([state[key], torch.zeros_like(fresh[key][:, -n_more:])], 1)
    wide.load_state_dict(state)
    return wide


def widened_basis(basis: OrthogonalBasis, n_channels: int) -> OrthogonalBasis:
    """The same split with the new channels halved between its blocks."""
    channels, k = basis.channels, basis.n_semantic
    q = torch.eye(n_channels, dtype=torch.float64)
    q[:channels, :channels] = basis.Q.double()
    n_more = (n_channels - channels) // 2
    order = [*range(k), *range(channels, channels + n_more), *range(k, channels), *range(channels + n_more, n_channels)]
    return OrthogonalBasis.from_matrix(q[order], k + n_more)


def train_arm(name: str, folder: Path, n_steps: int = N_STEPS, n_pictures: int = N_PICTURES, batch_size: int = 8) -> Path:
    """Train one arm into a folder of its own under `folder`, if it is not there yet; resumes.

    Raises:
        BadInputError: no arm of that name.
    """
    if name not in ARMS:
        raise BadInputError(f"There is no arm '{name}'; choose from {', '.join(ARMS)}.")
    out, arm = _folder(folder, name), ARMS[name]
    if (out / "basis").is_dir():
        return out
    pool = ImagePool(Path(folder) / "pool", "backbones", n_pictures)
    torch.manual_seed(0)
    vae, basis = load_vae("sketch", device="cpu").vae, own_basis("sketch")
    if arm.channels > basis.channels:
        vae, basis = widened(vae, arm.channels), widened_basis(basis, arm.channels)
    model = SketchVAE(vae, Rotated(basis))
    if arm.decoder_only:
        model.vae.encoder.requires_grad_(False)
        model.split.requires_grad_(False)
    config = LoopConfig(n_steps=n_steps, lr=LR, n_warmup=20, ema_decay=0.98, checkpoint_every=40)
    effect = _effect(arm, pool) if arm.weights.effect else None
    train_sketch(model, pool, n_pictures, out / "training", config, arm.weights, effect=effect, batch_size=batch_size)
    model.vae.to(memory_format=torch.contiguous_format).save_pretrained(out)
    model.split.basis(vae=name, vae_id=load_vae(out, device="cpu").id).save(out / "basis")
    return out


def _effect(arm: Arm, pool: ImagePool) -> Effect:
    if arm.teacher == "labels":
        return LabelEffect(load_judge("a"), pool.scenes)
    if arm.teacher == "pictures":
        return TrueSwaps(pool.scenes)
    clip = load_clip(device="cpu")
    return ClipEffect(clip, sketch_targets(pool, clip, len(pool)))


def score_arm(name: str, vae: LatentCodec, basis: OrthogonalBasis, n_pairs: int = N_PAIRS) -> tuple[dict[str, Any], Tensor]:
    """One row of the table, and the first `N_SHOWN` swaps as (n, 3, 128, 128) bytes."""
    scenes = split_scenes("test", 2 * n_pairs)
    bench = sketch_evidence.pair_bench(vae, scenes, sketch_evidence.truths(scenes))
    found = bench.score(basis)
    row = {"arm": name, "channels": basis.channels, "ceiling": round(float(bench.ceiling["score"]), 4)}
    for key in _KEPT:
        row |= {key: round(float(found[key]), 4), f"{key}_ci95": [round(float(v), 4) for v in found[f"{key}_ci95"]]}
    row |= {f"follows.{factor}": round(float(value["score"]), 4) for factor, value in found["per_factor"].items()}
    pictures = render(scenes[: 2 * N_SHOWN]).images
    row["psnr_db"] = round(sketch_evidence.reconstruction(vae, render(scenes[:512]).images).psnr_db, 2)
    with torch.no_grad():
        z = vae.encode(pictures)
        return row, torch.from_numpy(to_uint8(vae.decode(edits.swap(basis, z[::2], z[1::2]))))


def sweep_limits(folder: Path, arms: Sequence[str] = tuple(ARMS), out: Path = SWEEPS, n_pairs: int = N_PAIRS, **options: Any) -> bool:
    """Train and score `arms` under `folder`; once every arm is there, write the sweep to `out`, and say whether it was written."""
    sketch = load_vae("sketch", device="cpu")
    for name in arms:
        trained = train_arm(name, folder, **options)
        _score(name, trained, load_vae(trained, device="cpu"), own_basis(trained), n_pairs)
    shipped = Path(folder) / "shipped"
    _score(SHIPPED, shipped, sketch, own_basis("sketch"), n_pairs)
    folders = [shipped, *(_folder(folder, name) for name in ARMS)]
    if not all((one / "row.json").is_file() for one in folders):
        return False
    with atomic_path(out / PICTURES) as path:
        save_file({json.loads((one / "row.json").read_text())["arm"]: load_file(one / "swaps.safetensors")["swaps"] for one in folders}, path)
    rows = [json.loads((one / "row.json").read_text()) for one in folders]
    write_sweep(out / FILE, limits_about(sketch), rows, "python -m sketchae.backbone_training.limits")
    return True


def limits_about(sketch: LatentCodec) -> dict[str, Any]:
    """What the stored sweep was made with."""
    about = {"vae_id": sketch.id, "scenes_version": SCENES_VERSION, "n_pairs": N_PAIRS, "n_steps": N_STEPS, "n_pictures": N_PICTURES}
    return about | {"lr": LR, "label_tau": LABEL_TAU, "arms": {name: asdict(arm) for name, arm in ARMS.items()}}


def find_limits(sketch: LatentCodec, folder: Path = SWEEPS) -> tuple[list[dict[str, Any]], dict[str, Float[Tensor, "n 3 128 128"]]] | None:
    """The stored rows, "as it ships" first, and for each arm some swaps: of the first test scenes, 0 with 1, 2 with 3 and so on.

    None where they were made from another autoencoder than `sketch`, or with other settings.
    """
    file, about = folder / FILE, limits_about(sketch)
    if not file.is_file() or json.loads(file.read_text(encoding="utf-8"))["about"] != about:
        return None
    rows, swaps = load_sweep(file, about)["rows"], load_file(folder / PICTURES)
    return rows, {row["arm"]: swaps[row["arm"]].permute(0, 3, 1, 2).float() / 255 for row in rows}


def _folder(folder: Path, name: str) -> Path:
    return Path(folder) / name.replace(", ", "-").replace(" ", "_")


def _score(name: str, out: Path, vae: LatentCodec, basis: OrthogonalBasis, n_pairs: int) -> None:
    """Once: `row.json`, and `swaps.safetensors` before it."""
    if not (out / "row.json").is_file():
        row, swaps = score_arm(name, vae, basis, n_pairs)
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(out / "swaps.safetensors") as path:
            save_file({"swaps": swaps}, path)
        atomic_write_text(out / "row.json", json.dumps(row))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", action="append", help=f"of {', '.join(ARMS)}; default: all")
    parser.add_argument("--folder", type=Path, default=None, help="where the trainings live (default: build/limits)")
    arguments = parser.parse_args()
    if arguments.arm or find_limits(load_vae("sketch", device="cpu")) is None:
        done = sweep_limits(arguments.folder or find_root() / "build" / "limits", tuple(arguments.arm or ARMS))
        print(f"{SWEEPS / FILE} is written." if done else "Other arms are still missing; the sweep is written once all are there.")
