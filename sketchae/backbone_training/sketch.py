"""The sketch autoencoder: the VAE fine-tuned together with an orthogonal Q, so that its blocks come apart.

A split of a finished VAE can be no cleaner than that VAE allows. Here the VAE itself learns, from pictures, CLIP and content captions, that
its semantic block is what survives another way of painting and its style block what survives another place. With x = Q encode(picture),
x = [x_sem, x_sty], T a random `restyle`, Π a random roll of the style block across the picture, and y = decode(x_sem(a), x_sty(b)) a swap:

    reconstruction   decode(x_sem(a), x_sty(a))            -> a
    restyled         decode(x_sem(T a), Π x_sty(a))        -> a     what T destroys must come from the style block, what Π moves from the other
    cycle            decode(x_sem(y), Π x_sty(a))          -> a     y enters as a picture, without gradient
                     decode(x_sem(b), x_sty(y))            -> b
    effect           1 - J(y)                                       CLIP looks at the swap (`training/swap_targets.py`)
    prior            mean(x)² + (cov(x) - I)²              -> 0

"-> a" is the squared error of pixels plus half that of their differences, as in the VAE's own training. No factor, no style word and no judge
takes part. All terms but the last two have the picture itself as their target; only the effect has a network, CLIP, to please.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.backbone_training.restyle import restyle
from sketchae.backbones.adapter import LatentAdapter
from sketchae.backbones.clip import ClipEmbedder
from sketchae.errors import BadInputError
from sketchae.scenes import captions
from sketchae.training.effect import Rotated
from sketchae.training.swap_targets import SwapTargets


@dataclass(frozen=True)
class SketchWeights:
    """What each term of the loss weighs; 0 leaves it out."""

    reconstruction: float | int = 1.0
    restyled: float | int = 1.0
    cycle: float | int = 0.5
    effect: float | int = 0.003
    prior: float | int = 0.01


RECONSTRUCTION_ONLY = SketchWeights(restyled=0, cycle=0, effect=0)


@runtime_checkable
class Effect(Protocol):
    """What decoded swaps should please."""

    def __len__(self) -> int:
        """Of how many pictures, the pool's first, it knows what their swaps should be."""

    def __call__(self, swapped: Float[Tensor, "n 3 height width"], a: np.ndarray, b: np.ndarray) -> Float[Tensor, ""]:
        """From swaps in [0, 1], and the rows that their content and their style are of, to what is minimised."""


N_SEMANTIC = 2  # of four channels


class SketchVAE(nn.Module):
    """A VAE and a split of its channels, learned together: Q turns with it, or an adapter bends the latents of a VAE that stays as it is."""

    def __init__(self, vae: AutoencoderTiny, split: Rotated | LatentAdapter):
        super().__init__()
        self.vae, self.split = vae.to(memory_format=torch.channels_last).requires_grad_(isinstance(split, Rotated)), split

    def encode(self, images: Float[Tensor, "n 3 height width"]) -> tuple[Tensor, Tensor]:
        """The semantic and the style block of pictures in [0, 1]."""
        images = images.contiguous(memory_format=torch.channels_last)
        return self.split.to_semantic_style(self.vae.encode(images * 2 - 1).latents)

    def decode(self, semantic: Tensor, style: Tensor) -> Float[Tensor, "n 3 height width"]:
        """Pictures, in [0, 1] but for what the last convolution overshoots."""
        z = self.split.from_semantic_style(semantic, style)
        return (self.vae.decode(z.contiguous(memory_format=torch.channels_last)).sample + 1) / 2


def deepened(vae: AutoencoderTiny, n_encoder: int = 2, n_decoder: int = 4) -> AutoencoderTiny:
    """The same function with more residual blocks where the picture is smallest; each starts as the identity."""
    stages = {"encoder": list(vae.config.num_encoder_blocks), "decoder": list(vae.config.num_decoder_blocks)}
    stages["encoder"][-1] += n_encoder
    stages["decoder"][0] += n_decoder
    config = {key: value for key, value in vae.config.items() if not key.startswith("_") and key != "block_out_channels"}
    deep = AutoencoderTiny.from_config({**config, "num_encoder_blocks": stages["encoder"], "num_decoder_blocks": stages["decoder"]})
    for old, new, n_more in ((vae.encoder, deep.encoder, n_encoder), (vae.decoder, deep.decoder, n_decoder)):
        blocks = [i for i, layer in enumerate(old.layers) if isinstance(layer, AutoencoderTinyBlock)]
        after = blocks[-1] if old is vae.encoder else blocks[vae.config.num_decoder_blocks[0] - 1]
        for i, layer in enumerate(old.layers):
            new.layers[i if i <= after else i + n_more].load_state_dict(layer.state_dict())
        for layer in new.layers[after + 1 : after + 1 + n_more]:
            last = [part for part in layer.conv if isinstance(part, nn.Conv2d)][-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    return deep


def sketch_targets(pool: ImagePool, clip: ClipEmbedder, n_pictures: int, n_captions: int = 5) -> SwapTargets:
    """What CLIP says of the first pictures of the pool and of captions of their content."""
    starts = tqdm(range(0, n_pictures, 64), desc="what CLIP sees")
    images, texts = [], []
    for start in starts:
        rows = np.arange(start, min(start + 64, n_pictures))
        images.append(clip.embed_images(pool.images(rows)).detach().cpu())
        written = captions(pool.scenes[rows], "content", n_captions)
        texts.append(clip.embed_texts([text for row in written for text in row]).cpu().unflatten(0, (len(rows), n_captions)))
    every = torch.cat(texts)
    return SwapTargets(torch.cat(images), every.mean(1), every[:2000].flatten(0, 1))


class ClipEffect:
    """1 - J of the swaps, by CLIP: the `Effect` of the sketch autoencoder.

    Args:
        clip: frozen; `embed_images` must pass gradients.
        targets: of the pool's first pictures, row by row (`sketch_targets`).
    """

    def __init__(self, clip: ClipEmbedder, targets: SwapTargets):
        self.clip, self.targets = clip, targets

    def __len__(self) -> int:
        return len(self.targets.texts)

    def __call__(self, swapped: Float[Tensor, "n 3 height width"], a: np.ndarray, b: np.ndarray) -> Float[Tensor, ""]:
        halves = self.targets.halves(self.clip.embed_images(swapped), torch.from_numpy(a), torch.from_numpy(b))
        return 2 - halves.mean(0).sum()


def train_sketch(
    model: SketchVAE,
    pool: ImagePool,
    n_pictures: int,
    out_dir: Path,
    config: LoopConfig,
    weights: SketchWeights = SketchWeights(),
    *,
    effect: Effect | None = None,
    batch_size: int = 8,
) -> dict:
    """Train `model` on the first pictures of the pool, in place, and return the log; resumes from `out_dir`.

    To save time, half of each batch is reconstructed and half takes part in each kind of cycle; where reconstruction is the only
    term, all of it is. Latents get noise of standard deviation 0.05, as in the VAE's own training.

    Args:
        effect: what the swaps should please, as `ClipEffect`; needed where the effect has a weight.

    Raises:
        BadInputError: no `effect` where it has a weight, or one that knows another number of pictures.
    """
    if weights.effect and (effect is None or len(effect) != n_pictures):
        raise BadInputError(f"The effect has a weight: give one that knows all {n_pictures} pictures, or weigh it with 0.")
    n, half = batch_size, batch_size // 2
    alone = not (weights.restyled or weights.cycle or weights.effect)

    def step_loss(step: int) -> dict[str, Tensor]:
        random = np.random.default_rng([config.seed, step])
        rows = batch_rows(n_pictures, n, step, config.seed)
        a, b = pool.images(rows), np.roll(np.arange(n), 1)
        semantic, style = model.encode(a if alone else torch.cat([a, restyle(a, random)]))
        terms = {"prior": _prior(torch.cat([semantic[:n], style[:n]], 1))}
        semantic, style = semantic + 0.05 * _normal(semantic, random), style + 0.05 * _normal(style, random)
        kept = n if alone else half
        wanted = [("reconstruction", semantic[:kept], style[:kept], a[:kept])]
        if weights.restyled:
            wanted.append(("restyled", semantic[n:], rolled(style[:n], random), a))
        if weights.effect or weights.cycle:
            wanted.append(("swap", semantic[:n], style[:n][b], None))
        decoded = model.decode(torch.cat([part[1] for part in wanted]), torch.cat([part[2] for part in wanted]))
        pictures = dict(zip((part[0] for part in wanted), decoded.split([len(part[1]) for part in wanted]), strict=True))
        terms |= {name: picture_distance(pictures[name], target) for name, _, _, target in wanted if target is not None}
        swapped = pictures["swap"].clamp(0, 1) if "swap" in pictures else None
        if weights.effect:
            terms["effect"] = effect(swapped, rows, rows[b])
        if weights.cycle:
            semantic_y, style_y = model.encode(swapped.detach())
            again = model.decode(
                torch.cat([semantic_y[:half], semantic[:n][b][half:]]), torch.cat([rolled(style[:half], random), style_y[half:]])
            )
            terms["cycle"] = picture_distance(again, torch.cat([a[:half], a[b][half:]]))
        terms["loss"] = sum(getattr(weights, name) * value for name, value in terms.items())
        return terms

    return fit(model, step_loss, config, out_dir, "sketch VAE")


def rolled(style: Float[Tensor, "n channels height width"], random: np.random.Generator) -> Tensor:
    """Π: each style block as it is (three times in ten) or rolled by a random number of places in both directions, half of these mirrored."""
    moved = []
    for block in style:
        kept, mirrored, *places = random.uniform(size=4)
        block = block if kept < 0.3 else block.roll([int(p * side) for p, side in zip(places, block.shape[1:], strict=True)], (1, 2))
        moved.append(block.flip(2) if kept >= 0.3 and mirrored < 0.5 else block)
    return torch.stack(moved)


def _normal(like: Tensor, random: np.random.Generator) -> Tensor:
    return torch.from_numpy(random.standard_normal(like.shape, dtype=np.float32))


def picture_distance(out: Tensor, images: Tensor) -> Tensor:
    """Squared error of pixels plus half that of their differences along rows and columns."""
    edges = F.mse_loss(out.diff(dim=-1), images.diff(dim=-1)) + F.mse_loss(out.diff(dim=-2), images.diff(dim=-2))
    return F.mse_loss(out, images) + 0.5 * edges


def _prior(x: Tensor) -> Tensor:
    flat = x.movedim(1, 0).flatten(1)
    mean = flat.mean(1)
    centred = flat - mean[:, None]
    covariance = centred @ centred.T / flat.shape[1]
    return mean.square().mean() + (covariance - torch.eye(len(x[0]))).square().mean()
