"""Every split that the recipe is compared with, made from the training pictures alone and given the same care."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.basis import OrthogonalBasis, axis_pair_basis, axis_pairs, pca_basis, random_basis
from sketchae.basis.augmentation import AugmentationSplit, augmentation_split
from sketchae.basis.targets import RidgeLoss, ridge_loss, target_basis
from sketchae.errors import BadInputError
from sketchae.latents import LatentsTable
from sketchae.metrics.evaluation import SwapBench
from sketchae.training.effect import EffectObjective, EffectSplit, fit_effect

RECIPE = "the paper's recipe"
AUGMENTATION = "augmentation eigenproblem"
EFFECT = "effect objective"
TARGETS = "targets, closed form"
OPTIMUM = "best plane found, with labels"
N_TARGET_ROWS = 4096
N_EFFECT_SEEDS = 3


@dataclass(frozen=True)
class Rivals:
    """Splits by name (`bases`), and how the two that are fitted here came about.

    Attributes:
        bases: the deterministic rivals; the effect objective's first seed among them, where there is a CLIP.
        augmentation: the eigenproblem.
        effect: seed -> ascent from the eigenproblem with batches of its own; from_random: one ascent from two random bases.
    """

    bases: dict[str, OrthogonalBasis]
    augmentation: AugmentationSplit
    effect: dict[int, EffectSplit]
    from_random: EffectSplit | None


def paper_targets(table: LatentsTable, n: int) -> tuple[Float[np.ndarray, "n channels h w"], Float[np.ndarray, "n dim"], Float[np.ndarray, "n dim"]]:
    """Latents of the first `n` rows with the paper's two targets: clip_txt (mean over captions) and clip_img - clip_txt."""
    rows = np.arange(min(n, len(table)))
    z, clip_img = table.gather(rows)
    semantic = mean_captions(table, rows)
    return z.numpy(), semantic.numpy(), (clip_img - semantic).numpy()


def mean_captions(table: LatentsTable, rows: np.ndarray) -> Float[Tensor, "n dim"]:
    """The mean embedding of each row's captions, of any length."""
    starts = table.caption_starts
    sums = [torch.from_numpy(np.asarray(table.clip_txt[starts[row] : starts[row + 1]])).float().mean(0) for row in rows]
    return torch.stack(sums)


def make_rivals(
    vae: Any,
    clip: Any | None,
    images: Float[Tensor, "n 3 height width"],
    train: LatentsTable,
    n_semantic: int = 2,
    *,
    n_steps: int = 50,
    progress: bool = True,
) -> Rivals:
    """PCA both ways, the closed form of the paper's targets, the augmentation eigenproblem, and the effect objective.

    `images` are the pictures of the first rows of `train`: the eigenproblem changes them, and the effect objective swaps their
    latents. The latter starts from the eigenproblem, with `N_EFFECT_SEEDS` draws of batches, and, to see whether the start
    matters, from two random bases; it is left out without `clip`.

    Raises:
        BadInputError: more pictures than rows.
    """
    if len(images) > len(train):
        raise BadInputError(f"{len(images)} pictures for {len(train)} rows of latents: give pictures of the first rows.")
    rows = np.arange(len(images))
    z, semantic, style = paper_targets(train, N_TARGET_ROWS)
    split = augmentation_split(vae, images)
    bases = {AUGMENTATION: split.basis(n_semantic)}
    effect, from_random = {}, None
    if clip is not None:
        z_few, clip_img = train.gather(rows)
        captions = torch.from_numpy(np.asarray(train.clip_txt[: train.caption_starts[len(rows)]])).float()
        objective = EffectObjective(vae, clip, z_few, clip_img, mean_captions(train, rows), captions)
        for seed in range(N_EFFECT_SEEDS):
            effect[seed] = fit_effect(objective, [bases[AUGMENTATION]], n_steps=n_steps, name=f"effect/{seed}", progress=progress)
        starts = [random_basis(vae.latent_channels, n_semantic, seed) for seed in range(2)]
        from_random = fit_effect(objective, starts, n_steps=n_steps, progress=progress)
        bases[EFFECT] = effect[0].basis
    bases[TARGETS] = target_basis(z, semantic, style, n_semantic)
    bases |= {f"PCA, {way}": pca_basis(torch.from_numpy(z), n_semantic, way) for way in ("descending", "ascending")}
    return Rivals(bases, split, effect, from_random)


def raw_pairs(channels: int, n_semantic: int) -> dict[str, OrthogonalBasis]:
    """The VAE's own channels, every choice of k as the semantic block."""
    return {f"channels {'-'.join(map(str, pair))}": axis_pair_basis(pair, channels) for pair in axis_pairs(channels, n_semantic)}


def score_all(bench: SwapBench, bases: Mapping[str, Any], n_pairs: int | None = None) -> dict[str, dict[str, Any]]:
    """`bench.score` of every basis, on the same pairs."""
    return {name: bench.score(basis, n_pairs=n_pairs) for name, basis in bases.items()}


def paper_loss(train: LatentsTable, n: int = N_TARGET_ROWS) -> RidgeLoss:
    """The paper's loss of any plane with the best linear readers in place of its embedders (`sketchae.basis.targets`)."""
    return ridge_loss(*paper_targets(train, n))


def median_name(scores: Mapping[Any, Mapping[str, Any]]) -> Any:
    """The key whose swap score is the (lower) median: the headline of several training seeds, never the best."""
    return sorted(scores, key=lambda key: scores[key]["score"])[(len(scores) - 1) // 2]


def standing(score: float | int, null: Float[np.ndarray, " planes"], optimum: float | int) -> dict[str, float]:
    """Where a score stands: p-value among random planes, (score - mean) / SD of them, and its share of the way to the optimum."""
    from sketchae.metrics import p_value

    return {
        "p_value": p_value(float(score), null),
        "sds": float((score - null.mean()) / null.std()),
        "share_of_optimum": float((score - null.mean()) / (optimum - null.mean())),
    }
