"""What `06_sketch_autoencoder` measures: the sketch autoencoders and the adapter beside the best splits of the VAE as it was."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae import edits, evidence, sweeps
from sketchae.backbones import LatentCodec, load_vae, own_basis
from sketchae.backbones.adapter import LatentAdapter
from sketchae.basis import OrthogonalBasis
from sketchae.metrics import backbones as measure
from sketchae.metrics import channel_statistics
from sketchae.metrics.bootstrap import Interval, bootstrap_ci
from sketchae.metrics.evaluation import SwapBench
from sketchae.metrics.latent_stats import ChannelStatistics
from sketchae.metrics.probes import LeakageMatrix, leakage
from sketchae.profiles import Profile
from sketchae.rivals import AUGMENTATION, OPTIMUM
from sketchae.scenes import Scenes, counterfactual, load_judge, render, split_scenes

SKETCH = "sketch autoencoder"
STRICT = "sketch autoencoder, strict"
ADAPTER = "adapter, VAE unchanged"
SHOWN = (AUGMENTATION, ADAPTER, SKETCH, STRICT)


@dataclass(frozen=True)
class SplitCodec:
    """A VAE and the splits of its latents, by name."""

    vae: LatentCodec
    splits: dict[str, edits.Split]


def load_codecs(folder: Path) -> dict[str, SplitCodec]:
    """The stock VAE with the split that training started from, the best plane found with labels and the adapter; the twin; both sketch autoencoders.

    Raises:
        MissingFileError, BadInputError: a network is missing from `folder` or cannot be read.
    """
    stock = load_vae()
    adapter = LatentAdapter.load(folder / "sketch_adapter")
    start = OrthogonalBasis.from_matrix(adapter.Q.double(), adapter.k)
    splits = {AUGMENTATION: start, OPTIMUM: sweeps.optimum_basis(stock), ADAPTER: adapter}
    codecs = {"stock": SplitCodec(stock, splits), "twin": SplitCodec(load_vae(folder / "sketch_twin"), {})}
    for name, label, source in (("sketch", SKETCH, folder / "sketch"), ("strict", STRICT, folder / "sketch_strict")):
        vae, basis = load_vae(source), own_basis(source)
        basis.check_vae(vae)
        codecs[name] = SplitCodec(vae, {label: basis})
    return codecs


def training_logs(folder: Path) -> dict[str, list[dict[str, float]]]:
    """The loss terms of each training, as they were logged."""
    names = ("sketch", "sketch_twin", "sketch_adapter", "sketch_strict")
    return {name: json.loads((folder / name / "training_log.json").read_text(encoding="utf-8")) for name in names}


@dataclass(frozen=True)
class Reconstruction:
    """Mean peak signal-to-noise ratio over pictures, in dB, with its 95 % interval."""

    psnr_db: float
    psnr_db_ci95: Interval


def reconstruction(vae: LatentCodec, images: Float[Tensor, "n 3 height width"]) -> Reconstruction:
    """How well a VAE reconstructs pictures."""
    _, again = measure.reconstruct(vae, images)
    psnr = measure.psnr_db(images, again).numpy()
    return Reconstruction(float(psnr.mean()), bootstrap_ci(psnr, name="psnr"))


def truths(scenes: Scenes) -> Float[Tensor, "pairs 3 128 128"]:
    """The perfect swap of each pair: scenes 0 and 1, 2 and 3, and so on."""
    return render(counterfactual(scenes[::2], scenes[1::2])).images


def pair_bench(vae: LatentCodec, scenes: Scenes, perfect: Float[Tensor, "pairs 3 128 128"], n_boot: int = 1000) -> SwapBench:
    """The bench for one VAE on those pairs, read by judge b, judge a beside it."""
    judges = {"other_judges": {"a": load_judge("a")}, "n_boot": n_boot, "device": vae.device}
    return SwapBench(vae, load_judge("b"), scenes[::2], scenes[1::2], counterfactual_images=perfect, **judges)


def table(scores: evidence.Scores, ceilings: Mapping[str, Any]) -> str:
    """Scores as text, one line a split, each with its VAE's ceiling and the share of it that is reached."""
    lines = [f"{'':30} swap                   ceiling  share   semantic  style   counterfactual: pixels   SSIM   gradients"]
    for name, s in scores.items():
        low, high = s["score_ci95"]
        top = ceilings[name]["score"]
        lines.append(
            f"{name:30} {s['score']:+.2f} [{low:+.2f}, {high:+.2f}]   {top:7.2f}  {s['score'] / top:5.0%}   "
            f"{s['semantic']:+8.2f}  {s['style']:+5.2f}   "
            f"{s['counterfactual_mse']:+22.2f}  {s['counterfactual_ssim']:+5.2f}   {s['counterfactual_gradient']:+9.2f}"
        )
    return "\n".join(lines)


def swap_rows(codecs: Mapping[str, SplitCodec], images_a: Tensor, images_b: Tensor, perfect: Tensor) -> evidence.SwapPictures:
    """Rows of pictures: content, style, the swap by every split, and the perfect swap."""
    rows, labels = [images_a, images_b], ["content of", "style of"]
    with torch.no_grad():
        for codec in codecs.values():
            z_a, z_b = (codec.vae.encode(images.to(codec.vae.device)) for images in (images_a, images_b))
            for name, split in codec.splits.items():
                rows.append(codec.vae.decode(edits.swap(split, z_a, z_b)).cpu())
                labels.append(name.replace(", ", ",\n") if "," in name else name.replace(" ", "\n", 1))
    return evidence.SwapPictures([*rows, perfect], [*labels, "a perfect swap"])


@torch.no_grad()
def block_statistics(vae: LatentCodec, split: edits.Split, images: Float[Tensor, "n 3 height width"]) -> ChannelStatistics:
    """Moments of x, semantic channels first."""
    parts = (images[i : i + 64].to(vae.device) for i in range(0, len(images), 64))
    return channel_statistics(torch.cat(split.to_semantic_style(vae.encode(part)), 1).cpu() for part in parts)


def read_blocks(splits: Mapping[str, tuple[LatentCodec, edits.Split]], profile: Profile) -> dict[str, LeakageMatrix]:
    """What a linear probe reads from each block of each split: trained on scenes of the split "train", tested on as many of "test"."""
    n = 4 * profile.n_sketch_pairs
    latents: dict[str, list[Tensor]] = {name: [] for name in splits}
    factors = []
    for part, seed in (("train", 0), ("test", profile.test_seed)):
        scenes = split_scenes(part, n, seed=seed)
        factors.append(scenes.factors)
        for i in range(0, n, 64):
            images = render(scenes[i : i + 64]).images
            for name, (vae, _) in splits.items():
                latents[name].append(vae.encode(images.to(vae.device)).cpu())
    found = {}
    for name, (_, split) in splits.items():
        train, test = torch.cat(latents[name]).split(n)
        found[name] = leakage(split, train, factors[0], test, factors[1])
    return found


def values(scores: evidence.Scores, ceilings: Mapping[str, Any], statistics: Mapping[str, ChannelStatistics]) -> dict[str, Any]:
    """Numbers for `Recorder.value`, by name."""
    found: dict[str, Any] = {}
    for name, s in scores.items():
        key, top = evidence.key(name), ceilings[name]["score"]
        for metric in (*evidence.METRICS, "counterfactual_gradient"):
            found |= {f"{key}.{metric}": s[metric], f"{key}.{metric}_ci95": s[f"{metric}_ci95"]}
        found |= {f"{key}.judge_a": s["judges"]["a"]["score"], f"{key}.ceiling": top, f"{key}.share_of_ceiling": s["score"] / top}
        found |= {f"{key}.per_factor.{factor}": f["score"] for factor, f in s["per_factor"].items()}
    for name, block in statistics.items():
        found |= {f"{evidence.key(name)}.std": block.std, f"{evidence.key(name)}.anisotropy": block.anisotropy}
    return {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in found.items()}
