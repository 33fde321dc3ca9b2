"""The network: diffusers' `UNet2DConditionModel` as it comes, told two noise levels through SDXL's own conditioning.

SDXL's UNet takes, beside the time step, a pooled text embedding (`text_embeds`) and some numbers (`time_ids`: picture sizes and
crops there). Here `timestep` carries the style level and `time_ids` the semantic level, both in thousandths. A model with one level
passes the same number twice: same size, same arithmetic.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.diffusion.conditioning import Conditioning
from sketchae.diffusion.levels import LEVELS
from sketchae.errors import BadInputError

LEVEL_UNITS = 1000  # of `timestep` and `time_ids` for one unit of noise level, as in diffusers' schedulers
_LEVEL_DIM = 64  # sinusoidal features of the semantic level


def build_unet(
    channels: int = 4,
    size: int = 16,
    *,
    text_dim: int = 96,
    pooled_dim: int = 128,
    block_out_channels: Sequence[int] = (64, 64, 96),
    layers_per_block: int = 1,
    n_heads: int = 4,
    norm_num_groups: int = 16,
) -> UNet2DConditionModel:
    """A UNet for latents (n, channels, size, size): 3.4 million parameters and 0.17 GMAC a forward pass by default.

    Cross attention to the prompt's tokens at all resolutions but the first (8x8 and 4x4 by default). Of widths tried, (32, 64, 96) takes
    0.10 GMAC and three quarters of the time, (64, 64, 128) 0.19 GMAC and about the same time, with 4.8 million parameters.

    Args:
        text_dim, pooled_dim: widths of the text tower's states and of CLIP's embedding.
        block_out_channels: one width a resolution, each half the one before; multiples of `norm_num_groups` and of `n_heads`.

    Raises:
        BadInputError: a size that cannot be halved so often, or a single resolution.
    """
    n_halvings = len(block_out_channels) - 1
    if n_halvings < 1 or size % 2**n_halvings:
        raise BadInputError(
            f"Latents of {size} x {size} do not suit {n_halvings + 1} resolutions: give two widths or more, and a size that halves as often."
        )
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * n_halvings,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * n_halvings + ("UpBlock2D",),
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        cross_attention_dim=text_dim,
        attention_head_dim=n_heads,  # diffusers' name for the number of heads, see its issue 2011
        norm_num_groups=norm_num_groups,
        addition_embed_type="text_time",
        addition_time_embed_dim=_LEVEL_DIM,
        projection_class_embeddings_input_dim=pooled_dim + _LEVEL_DIM,
    )


class SketchDiffusion(nn.Module):
    """Velocities of rectified flow on standardised latents x = (Q z - mean) / std, semantic channels first.

    Args:
        unet: as `build_unet` makes it.
        basis: Q, and how many of its rows are semantic.
        mean, std: of the channels of Q z over the training pictures.
        levels: "two" (a noise level for each block) or "one" (one for all channels).
        vae_id, clip_id: `id` of the VAE whose latents these are and of the CLIP that reads the prompts.

    Raises:
        BadInputError: parts that do not fit together.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        unet: UNet2DConditionModel,
        basis: OrthogonalBasis,
        mean: Float[Tensor, " _"],
        std: Float[Tensor, " _"],
        *,
        levels: str = "two",
        vae_id: str | None = None,
        clip_id: str | None = None,
    ):
        super().__init__()
        if levels not in LEVELS:
            raise BadInputError(f'levels is {levels!r}: choose "two" or "one".')
        if not unet.config.in_channels == basis.channels == len(mean) == len(std):
            raise BadInputError(
                f"The UNet has {unet.config.in_channels} channels, the basis {basis.channels}, mean and std {len(mean)} and {len(std)}: "
                "take all of them from one model."
            )
        if not bool((std > 0).all()):
            raise BadInputError("A channel of the latents never varies: give more pictures, or a basis without it.")
        self.unet, self.basis, self.levels, self.vae_id, self.clip_id = unet, basis, levels, vae_id, clip_id
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("std", std.float().clone())

    @property
    def n_semantic(self) -> int:
        """k: the first so many channels of x are semantic."""
        return self.basis.n_semantic

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of x."""
        size = self.unet.config.sample_size
        return self.basis.channels, size, size

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def encode(self, z: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels height width"]:
        """x = (Q z - mean) / std: scaled latents to what the network sees."""
        return (self.basis.encode(z) - self.mean[:, None, None]) / self.std[:, None, None]

    def decode(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels height width"]:
        """z = Q^T (std x + mean): the inverse of `encode`, ready for a codec's `decode`."""
        return self.basis.decode(x * self.std[:, None, None] + self.mean[:, None, None])

    def velocity(
        self,
        x_t: Float[Tensor, "n channels height width"],
        t_semantic: float | int | Float[Tensor, " n"],
        t_style: float | int | Float[Tensor, " n"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "n channels height width"]:
        """The network's estimate of ε - x for noisy latents at two noise levels in [0, 1] (1: pure noise).

        Raises:
            BadInputError: two different levels for a model that knows one.
        """
        levels = [torch.as_tensor(t, dtype=x_t.dtype, device=x_t.device).expand(len(x_t)) for t in (t_semantic, t_style)]
        if self.levels == "one" and not torch.equal(*levels):
            raise BadInputError("This model knows one noise level for all channels: give both blocks the same, or load the one with two levels.")
        semantic, style = (LEVEL_UNITS * t for t in levels)
        pooled = conditioning.pooled * conditioning.pooled.shape[1] ** 0.5  # entries of about unit variance, as the levels' features
        return self.unet(
            x_t.contiguous(memory_format=torch.channels_last),
            style,
            encoder_hidden_states=conditioning.states,
            encoder_attention_mask=conditioning.mask,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": semantic[:, None]},
        ).sample

    def check(self, codec: Any = None, clip: Any = None) -> None:
        """Raise BadInputError if the codec or the CLIP is not the one that this model was trained with (compared by `id`)."""
        for what, given, own in (("VAE", codec, self.vae_id), ("CLIP", clip, self.clip_id)):
            other = getattr(given, "id", None)
            if own and other and own != other:
                raise BadInputError(f"This model was trained with the {what} {own}, and {other} was given: load the one it was trained with.")
