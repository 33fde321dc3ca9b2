"""What is done to latents once there is a basis: lerp, swap, and looking at one block or one channel alone.

Every function takes scaled latents `z` of shape (batch, channels, height, width) and returns latents of the same
kind, ready for `codec.decode`. A *basis* is anything with `to_semantic_style` and `from_semantic_style`
(`sketchae.basis.OrthogonalBasis` is one; a baseline may bring its own pair of functions).
"""

from collections.abc import Collection
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError

Latents = Float[Tensor, "batch channels height width"]
# Shapes that must agree with another argument's: checked in the function, so that the user reads a sentence.
OtherLatents = Float[Tensor, "_ _ _ _"]
Alpha = float | int | Float[Tensor, "..."]


@runtime_checkable
class Split(Protocol):
    """Cuts latents into a semantic and a style block, and puts two blocks together again."""

    def to_semantic_style(self, z: Tensor) -> tuple[Tensor, Tensor]: ...

    def from_semantic_style(self, z_semantic: Tensor, z_style: Tensor) -> Tensor: ...


def lerp_blocks(
    basis: Split,
    z_original: Latents,
    z_target: OtherLatents,
    *,
    semantic: Alpha = 0.0,
    style: Alpha = 0.0,
) -> Latents:
    """Move each block of `z_original` towards that of `z_target`: x ← (1 − α) x_original + α x_target, α per block.

    `semantic` and `style` are the two α: 0 keeps the original, 1 takes the target, values beyond extrapolate; one
    number for all, or a vector with one number for each picture. The paper's pictures use 0.9 in one block, 0 in the
    other.

    Raises:
        BadInputError: the two latents differ in shape, or an α is not finite.
    """
    _same_shape(z_original, z_target)
    semantic_original, style_original = basis.to_semantic_style(z_original)
    semantic_target, style_target = basis.to_semantic_style(z_target)
    return basis.from_semantic_style(
        torch.lerp(semantic_original, semantic_target, _weight(semantic, semantic_original, "semantic")),
        torch.lerp(style_original, style_target, _weight(style, style_original, "style")),
    )


def swap(basis: Split, z_content: Latents, z_style: OtherLatents) -> Latents:
    """The semantic block of the first with the style block of the second: the edit that the swap score judges."""
    _same_shape(z_content, z_style)
    return basis.from_semantic_style(basis.to_semantic_style(z_content)[0], basis.to_semantic_style(z_style)[1])


def lerp_channels(z_original: Latents, z_target: OtherLatents, channels: Collection[int], alpha: Alpha) -> Latents:
    """The paper's baseline: move only the raw channels `channels` of z by `alpha` towards the target."""
    _same_shape(z_original, z_target)
    index = [_channel(z_original, channel) for channel in channels]
    z = z_original.clone()
    start = z_original[:, index]
    z[:, index] = torch.lerp(start, z_target[:, index], _weight(alpha, start, "alpha"))
    return z


def mix_blocks(
    basis: Split,
    z_original: Latents,
    z_target: OtherLatents,
    semantic: Collection[float | int],
    style: Collection[float | int],
) -> Float[Tensor, "n_semantic_steps n_style_steps channels height width"]:
    """Every combination of the given semantic and style mixes of *one* pair of pictures (batch of 1).

    One value each gives what the explorer shows at one position of its sliders; five each its still picture.
    """
    if len(z_original) != 1:
        raise BadInputError(f"mix_blocks mixes one pair of pictures, got {len(z_original)}: pass z[i:i+1] of each.")
    combinations = torch.cartesian_prod(_row(semantic, z_original), _row(style, z_original)).reshape(-1, 2)
    n = len(combinations)
    mixed = lerp_blocks(
        basis,
        z_original.expand(n, -1, -1, -1),
        z_target.expand(n, -1, -1, -1),
        semantic=combinations[:, 0],
        style=combinations[:, 1],
    )
    return mixed.reshape(len(semantic), len(style), *mixed.shape[1:])


def keep_block(
    basis: Split, z: Latents, block: Literal["semantic", "style"], fill: float | int | Float[Tensor, " filled"] = 0.0
) -> Latents:
    """Keep one block and set the other to a constant: 0 (about the mean of scaled latents) or a value a channel."""
    if block not in ("semantic", "style"):
        raise BadInputError(f'block must be "semantic" or "style", got {block!r}.')
    z_semantic, z_style = basis.to_semantic_style(z)
    other = z_style if block == "semantic" else z_semantic
    values = torch.as_tensor(fill, dtype=z.dtype, device=z.device)
    if values.ndim and len(values) != other.shape[1]:
        raise BadInputError(f"fill has {len(values)} values for a block of {other.shape[1]} channels: one a channel.")
    constant = values.reshape(-1, 1, 1).expand_as(other)
    if block == "semantic":
        return basis.from_semantic_style(z_semantic, constant)
    return basis.from_semantic_style(constant, z_style)


def solo_channel(z: Latents, channel: int) -> Latents:
    """Keep one channel and set all others to 0; for a channel of x = Qz, pass x and decode with the basis."""
    solo = torch.zeros_like(z)
    index = _channel(z, channel)
    solo[:, index] = z[:, index]
    return solo


def _same_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise BadInputError(
            f"The two latents have shapes {tuple(first.shape)} and {tuple(second.shape)}: "
            "encode two pictures of one size with the same VAE."
        )


def _weight(alpha: float | int | Tensor, like: Tensor, name: str) -> Tensor:
    weight = torch.as_tensor(alpha, dtype=like.dtype, device=like.device)
    if not torch.isfinite(weight).all():
        raise BadInputError(f"{name} must be finite (0 keeps the original, 1 takes the target).")
    if weight.ndim and weight.shape != like.shape[:1]:
        raise BadInputError(f"{name} has shape {tuple(weight.shape)} for {len(like)} pictures: one number for each.")
    return weight.reshape(-1, 1, 1, 1)


def _row(values: Collection[float | int], like: Tensor) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=like.dtype, device=like.device)


def _channel(z: Tensor, channel: int) -> int:
    if not 0 <= channel < z.shape[1]:
        raise BadInputError(f"Channel {channel} does not exist: these latents have channels 0 to {z.shape[1] - 1}.")
    return channel
