"""Sketches and paintings: the semantic block alone, seen through one preview, and what the style block can make of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.backbones import ClipEmbedder, LatentCodec
from sketchae.diffusion.conditioning import embed_prompts
from sketchae.diffusion.network import SketchDiffusion
from sketchae.diffusion.sampling import PerBlock, sample
from sketchae.errors import BadInputError


@dataclass(frozen=True)
class Sketches:
    """Finished semantic blocks without a style.

    Attributes:
        images: previews in [0, 1]: each block with the mean style that the network expects of it.
        x_semantic: the blocks, of standardised x as `SketchDiffusion.encode` gives it.
        seeds: whose noise they came from.
    """

    images: Float[Tensor, "n 3 image_height image_width"]
    x_semantic: Float[Tensor, "n n_semantic height width"]
    seeds: list[int]

    def __len__(self) -> int:
        return len(self.seeds)


@torch.no_grad()
def draw_sketches(
    model: SketchDiffusion,
    codec: LatentCodec,
    clip: ClipEmbedder,
    prompt: str,
    *,
    seeds: Sequence[int],
    n_semantic_steps: int = 8,
    guidance: PerBlock = 3.0,
) -> Sketches:
    """One sketch for each seed in `n_semantic_steps` + 1 evaluations of the network (twice as many where guidance is not 1).

    The semantic block goes from noise to clean while the style block stays pure noise, as on every path of `sample` with `offset=1` and
    as many semantic steps: the block is the same as there. The last evaluation is that path's first painting step, at levels 0 and 1;
    one Euler step from pure noise all the way, x - v, is its `preview`.

    Raises:
        BadInputError: no step or no seed, a model with one noise level, or another codec or CLIP than the model's.
    """
    if n_semantic_steps < 1:
        raise BadInputError(f"n_semantic_steps is {n_semantic_steps}: a sketch takes at least one step.")
    if model.levels != "two":
        raise BadInputError("A sketch comes before its style: load a model with two noise levels, this one has one for all channels.")
    model.check(codec, clip)
    x = sample(
        model,
        embed_prompts(clip, [prompt]),
        seeds=seeds,
        n_steps=n_semantic_steps + 1,
        offset=1,
        n_semantic_steps=n_semantic_steps,
        guidance=guidance,
        unconditional=embed_prompts(clip, [""]),
    )
    return Sketches(codec.decode(model.decode(x)), x[:, : model.n_semantic], [int(seed) for seed in seeds])


@torch.no_grad()
def paint(
    model: SketchDiffusion,
    codec: LatentCodec,
    clip: ClipEmbedder,
    prompt: str,
    x_semantic: Float[Tensor, "_ _ _ _"],
    *,
    seeds: Sequence[int],
    n_steps: int = 8,
    guidance: PerBlock = 3.0,
) -> Float[Tensor, "n 3 image_height image_width"]:
    """Pictures in [0, 1], one for each seed: the semantic block is held, the style is drawn as the prompt says in `n_steps` steps.

    With the prompt and the seeds of `draw_sketches`, these are the pictures in which `sample` with `offset=1` ends.

    Args:
        x_semantic: (1 or n, n_semantic, height, width), as `Sketches.x_semantic` or `model.encode(z)[:, :model.n_semantic]`.

    Raises:
        BadInputError: a block that does not fit the model or the seeds, no step or no seed, or another codec or CLIP than the model's.
    """
    model.check(codec, clip)
    x = sample(
        model,
        embed_prompts(clip, [prompt]),
        seeds=seeds,
        n_steps=n_steps,
        guidance=guidance,
        unconditional=embed_prompts(clip, [""]),
        hold_semantic=x_semantic,
    )
    return codec.decode(model.decode(x))
