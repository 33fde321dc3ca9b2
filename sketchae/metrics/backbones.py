"""How good the frozen pair is, measured on held-out scenes: what the codec keeps and what CLIP understands."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.metrics.evaluation import Judge
from sketchae.scenes import FACTORS, Scenes, captions_with_factors, fits, sample_scenes

PROMPT_INDICES = range(900_000, 1_000_000)
"""Scenes of the backbones' own split from which prompts are worded; no picture of theirs is drawn."""


def reading_accuracy(judge: Judge, images: Float[Tensor, "n 3 h w"], scenes: Scenes) -> dict[str, float]:
    """Share of pictures of which the judge reads each factor rightly."""
    read = judge.predict(images)
    return {name: float((read[name].numpy() == scenes.factors[name]).mean()) for name in FACTORS}


def psnr_db(images: Float[Tensor, "n 3 h w"], reconstructions: Float[Tensor, "_ _ _ _"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of every picture, in decibels: -10 log10 of the mean squared error of [0, 1] pixels."""
    return -10 * (images - reconstructions).square().flatten(1).mean(1).clamp(min=1e-10).log10()


@torch.no_grad()
def reconstruct(codec: Any, images: Float[Tensor, "n 3 h w"], batch_size: int = 32) -> tuple[Tensor, Tensor]:
    """Latents and reconstructions of the pictures, in batches."""
    z = torch.cat([codec.encode(batch) for batch in images.split(batch_size)])
    return z, torch.cat([codec.decode(batch).float() for batch in z.split(batch_size)])


def caption_recall(
    clip: Any, image_embeds: Float[Tensor, "n dim"], scenes: Scenes, n_gallery: int = 256, min_factors: int = 4
) -> dict[str, float]:
    """Recall of pictures by content captions that name at least `min_factors` factors, among `n_gallery` scenes.

    Every scene of every gallery asks once. A hit is any scene that the caption fits; `chance` is the expected share of
    hits of a random answer (for recall@1).
    """
    top1, top5, chance = [], [], []
    asked = captions_with_factors(scenes, "content", 1, min_factors)
    texts = clip.embed_texts([row[0][0] for row in asked])
    for start in range(0, len(scenes) - n_gallery + 1, n_gallery):
        gallery = scenes[start : start + n_gallery]
        ranked = (texts[start : start + n_gallery] @ image_embeds[start : start + n_gallery].T).topk(5, dim=1).indices.numpy()
        for i in range(n_gallery):
            good = fits(gallery, gallery[i], asked[start + i][0][1])
            top1.append(good[ranked[i, 0]])
            top5.append(good[ranked[i]].any())
            chance.append(good.mean())
    return {"recall_at_1": float(np.mean(top1)), "recall_at_5": float(np.mean(top5)), "chance": float(np.mean(chance))}


def zero_shot_accuracy(clip: Any, image_embeds: Float[Tensor, "n dim"], scenes: Scenes, n_prompts: int = 64) -> dict[str, float]:
    """Accuracy of the nearest prompt for every factor.

    The prompt of a value is the mean embedding of `n_prompts` captions that name it, worded for random scenes that
    have it: the usual prompt ensemble, over contexts as well as wordings.
    """
    accuracy = {}
    for name, factor in FACTORS.items():
        prompts = torch.stack([_prompt(clip, name, value, n_prompts) for value in factor.values])
        answers = (image_embeds @ prompts.T).argmax(1).numpy()
        accuracy[name] = float((answers == scenes.factors[name]).mean())
    return accuracy


def _prompt(clip: Any, name: str, value: str, n_prompts: int) -> Tensor:
    kind = "content" if FACTORS[name].kind == "semantic" else "style"
    scenes = sample_scenes(PROMPT_INDICES[: 8 * n_prompts]).with_factor(name, value)
    rows = captions_with_factors(scenes, kind, 1, min_factors=3)
    texts = [caption for row in rows for caption, named in row if name in named][:n_prompts]
    return torch.nn.functional.normalize(clip.embed_texts(texts).mean(0), dim=0)
