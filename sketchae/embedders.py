"""The image embedders that guess CLIP embeddings from a block of latent channels, several evaluated side by side.

Architecture of each (the paper's "ConvNeXt style blocks"; widths as in the author's code):

    1x1 convolution to 4 channels
    3 x [ 3x3 convolution of stride 2, channels doubled
          layer norm over channels and space
          residual: 1x1 convolution (x2) -> GELU -> 1x1 convolution ]
    average over space, layer norm, linear head to the embedding width D

These networks are so small that a CPU spends its time on calling operations, not inside them, and the libraries'
convolutions are at their worst with 4 to 32 channels. Hence three measures, all exact (tests/test_embedders.py
compares values and gradients with the plain layers):

- everything runs channels-last, so that 1x1 convolutions are matrix products and 3x3 ones products over patches;
- the semantic and the style embedder, and those of several training seeds, are one stack of `n_models` networks:
  parameters and activations carry a leading axis, and one batched product serves all;
- the rows of Q, the 1x1 stem and the first 3x3 convolution are linear with nothing in between, so their product is
  taken on the kernels, a few hundred numbers, instead of on the pixels (`first_layer`).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sketchae.errors import BadInputError

TAPS = 9  # of a 3x3 kernel, row by row


class _Patches(torch.autograd.Function):
    """All 3x3 patches at stride 2 with zero padding 1: (n, h, w, c) -> (n, h', w', 9 c), h' = ceil(h / 2).

    Written out because autograd would turn the overlapping view's backward into a slow scatter: the 2x2 lower right taps
    tile the picture exactly, so the gradient is one copy and three shifted additions.
    """

    @staticmethod
    def forward(ctx, x):
        n, height, width, channels = ctx.shape = x.shape
        h, w = (height + 1) // 2, (width + 1) // 2
        padded = F.pad(x, (0, 0, 1, 2 * w - width, 1, 2 * h - height)).contiguous()  # (n, 2h + 1, 2w + 1, c)
        row = (2 * w + 1) * channels
        strides = ((2 * h + 1) * row, 2 * row, 2 * channels, row, channels, 1)
        return padded.as_strided((n, h, w, 3, 3, channels), strides).reshape(n, h, w, TAPS * channels)

    @staticmethod
    def backward(ctx, gradient):
        n, height, width, channels = ctx.shape
        h, w = (height + 1) // 2, (width + 1) // 2
        g = gradient.reshape(n, h, w, 3, 3, channels)
        out = g[:, :, :, 1:, 1:].permute(0, 1, 3, 2, 4, 5).contiguous()  # (n, h, 2, w, 2, c)
        out[:, :, :, :-1, 1] += g[:, :, 1:, 1:, 0].transpose(2, 3)
        out[:, :-1, 1] += g[:, 1:, :, 0, 1:]
        out[:, :-1, 1, :-1, 1] += g[:, 1:, 1:, 0, 0]
        return out.view(n, 2 * h, 2 * w, channels)[:, :height, :width]


def patches(
    x: Float[Tensor, "models batch height width channels"],
) -> Float[Tensor, "models batch height_out width_out taps_times_channels"]:
    """The 3x3 neighbourhoods that a convolution of stride 2 and padding 1 reads, taps row by row, channels innermost."""
    out = _Patches.apply(x.flatten(0, 1))
    return out.view(*x.shape[:2], *out.shape[1:])


def uniform_(parameter: Tensor, fan_in: int, generators: Sequence[torch.Generator]) -> None:
    """PyTorch's default initialisation of linear and convolution layers (Kaiming uniform with a = sqrt 5, which is
    U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weight and bias), each model from its own generator, on the CPU."""
    bound = 1 / math.sqrt(fan_in)
    with torch.no_grad():
        for part, generator in zip(parameter, generators, strict=True):
            part.uniform_(-bound, bound, generator=generator)


class StackedLinear(nn.Module):
    """`n_models` linear layers side by side: weight (models, in, out), bias (models, 1, out)."""

    def __init__(self, in_features: int, out_features: int, generators: Sequence[torch.Generator]):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(generators), in_features, out_features))
        self.bias = nn.Parameter(torch.empty(len(generators), 1, out_features))
        uniform_(self.weight, in_features, generators)
        uniform_(self.bias, in_features, generators)

    def forward(self, x: Float[Tensor, "models ... in_features"]) -> Float[Tensor, "models ... out_features"]:
        return stacked_product(x, self.weight, self.bias)


def stacked_product(
    x: Float[Tensor, "models ... in_features"],
    weight: Float[Tensor, "models in_features out_features"],
    bias: Float[Tensor, "models 1 out_features"],
) -> Float[Tensor, "models ... out_features"]:
    """`x @ weight + bias`, model by model, over however many axes lie between."""
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    # Adding in place afterwards is twice as fast as `baddbmm`, which first spreads the bias over the whole output.
    return torch.bmm(rows, weight).add_(bias).view(*x.shape[:-1], weight.shape[-1])


class StackedLayerNorm(nn.Module):
    """`n_models` layer norms over the last axes, each with its own scale and shift for every entry."""

    def __init__(self, shape: Sequence[int], n_models: int):
        super().__init__()
        self.shape = tuple(shape)
        self.weight = nn.Parameter(torch.ones(n_models, 1, *shape))
        self.bias = nn.Parameter(torch.zeros(n_models, 1, *shape))

    def forward(self, x: Float[Tensor, "models batch ..."]) -> Float[Tensor, "models batch ..."]:
        return torch.addcmul(self.bias, F.layer_norm(x, self.shape), self.weight)


class EmbedderBlocks(nn.Module):
    """One halving of the resolution in every model of the stack."""

    def __init__(
        self, in_channels: int, out_size: tuple[int, int], expansion: int, generators: Sequence[torch.Generator]
    ):
        super().__init__()
        channels = 2 * in_channels
        self.down = StackedLinear(TAPS * in_channels, channels, generators)  # the 3x3 convolution, over patches
        self.norm = StackedLayerNorm((*out_size, channels), len(generators))
        self.expand = StackedLinear(channels, expansion * channels, generators)
        self.contract = StackedLinear(expansion * channels, channels, generators)

    def mix(
        self, x: Float[Tensor, "models batch height width channels"]
    ) -> Float[Tensor, "models batch height width channels"]:
        """What follows the strided convolution: layer norm over channels and space, and the residual part."""
        x = self.norm(x)
        return self.contract(F.gelu(self.expand(x))).add_(x)

    def forward(
        self, x: Float[Tensor, "models batch height width channels"]
    ) -> Float[Tensor, "models batch height_out width_out channels_out"]:
        return self.mix(self.down(patches(x)))


class ImageEmbedders(nn.Module):
    """A stack of image embedders without their stems; see the module's docstring.

    Args:
        embed_dim: D, the width of the CLIP embeddings.
        latent_size: (height, width) of the latents; the layer norm over space fixes it.
        generators: one for each model of the stack: a model's start does not depend on its neighbours.
        n_blocks: how often the resolution is halved.
        stem_channels: channels after the 1x1 stem.
        expansion: how much wider the residual part is inside.

    Raises:
        BadInputError: the latents are too small to be halved `n_blocks` times.
    """

    def __init__(
        self,
        embed_dim: int,
        latent_size: tuple[int, int],
        generators: Sequence[torch.Generator],
        n_blocks: int = 3,
        stem_channels: int = 4,
        expansion: int = 2,
    ):
        super().__init__()
        height, width = latent_size
        if n_blocks < 1 or min(height, width) < 2**n_blocks:
            raise BadInputError(
                f"Latents of {height}x{width} cannot be halved n_blocks={n_blocks} times: use larger images, or an "
                "n_blocks of at least 1 for which 2**n_blocks fits into the shorter side."
            )
        self.first_size = (height + 1) // 2, (width + 1) // 2
        # For each output position of the first convolution, which of its nine taps lie inside the picture.
        inside = patches(torch.ones(1, 1, height, width, 1)).flatten(0, 3)
        self.register_buffer("inside", inside, persistent=False)
        self.blocks = nn.ModuleList()
        channels = stem_channels
        for _ in range(n_blocks):
            height, width = (height + 1) // 2, (width + 1) // 2
            self.blocks.append(EmbedderBlocks(channels, (height, width), expansion, generators))
            channels *= 2
        self.norm = StackedLayerNorm((channels,), len(generators))
        self.head = StackedLinear(channels, embed_dim, generators)

    def first_layer(
        self, stem: Float[Tensor, "models stem_channels inputs"], stem_bias: Float[Tensor, "models stem_channels 1"]
    ) -> tuple[Float[Tensor, "models taps_times_inputs out"], Float[Tensor, "models 1 height width out"]]:
        """A 1x1 convolution and the first strided one as a single kernel over patches of the inputs, and its bias.

        The bias depends on the position, because zero padding hides the 1x1 convolution's bias at the border.
        """
        down = self.blocks[0].down
        kernel = down.weight.unflatten(1, (TAPS, -1))
        taps = torch.einsum("mtso,msi->mtio", kernel, torch.cat([stem, stem_bias], dim=2))
        bias = self.inside @ taps[:, :, -1] + down.bias  # (models, positions, out)
        return taps[:, :, :-1].flatten(1, 2), bias.unflatten(1, self.first_size)[:, None]

    def forward(
        self, x: Float[Tensor, "models batch height width channels"]
    ) -> Float[Tensor, "models batch embed_dim"]:
        """Embeddings from the first strided convolution's output."""
        x = self.blocks[0].mix(x)
        for block in self.blocks[1:]:
            x = block(x)
        return self.head(self.norm(x.mean(dim=(2, 3))))
