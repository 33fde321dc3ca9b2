"""The convolutional encoder and decoder that all latent models of Scenes share, so that they differ in what the lecture says they differ in.

Pictures are cut into patches of `patch` x `patch` pixels, which become channels (pixel unshuffle): most of the arithmetic happens where the
picture is small, the cheapest use of a CPU. Every further width halves the grid.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sketchae.errors import BadInputError


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), both 3x3; the identity at the start of training."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Float[Tensor, "n width h w"]) -> Float[Tensor, "n width h w"]:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Encoder(nn.Module):
    """Pictures (n, 3, size, size) in [0, 1] to features (n, out_channels, grid, grid), grid = size / (patch · 2^(len(widths) - 1))."""

    def __init__(self, out_channels: int, widths: Sequence[int], n_blocks: Sequence[int], patch: int = 4):
        super().__init__()
        _check_stages(widths, n_blocks)
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch), nn.Conv2d(3 * patch**2, widths[0], 3, padding=1)]
        for stage, (width, n) in enumerate(zip(widths, n_blocks, strict=True)):
            if stage:
                layers.append(nn.Conv2d(widths[stage - 1], width, 4, stride=2, padding=1))
            layers += [ResidualBlock(width) for _ in range(n)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(widths[-1], out_channels, 1))
        self.multiple = patch * 2 ** (len(widths) - 1)

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n features h w"]:
        if images.shape[2] % self.multiple or images.shape[3] % self.multiple:
            raise BadInputError(f"Pictures of {images.shape[2]} x {images.shape[3]} pixels: give sides that are multiples of {self.multiple}.")
        return self.layers(images * 2 - 1)


class Decoder(nn.Module):
    """Features (n, in_channels, grid, grid) to pictures (n, 3, size, size), in [0, 1] but for what the last convolution overshoots.

    `widths` and `n_blocks` are those of the encoder: read from the last to the first.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], n_blocks: Sequence[int], patch: int = 4):
        super().__init__()
        _check_stages(widths, n_blocks)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[-1], 3, padding=1)]
        for stage in reversed(range(len(widths))):
            layers += [ResidualBlock(widths[stage]) for _ in range(n_blocks[stage])]
            if stage:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[stage], widths[stage - 1], 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(widths[0], 3 * patch**2, 3, padding=1), nn.PixelShuffle(patch))

    def forward(self, features: Float[Tensor, "n features h w"]) -> Float[Tensor, "n 3 height width"]:
        return (self.layers(features) + 1) / 2


class VectorEncoder(nn.Module):
    """Pictures (n, 3, 128, 128) to vectors (n, out_dim): an `Encoder` down to a grid of `grid` x `grid`, then one linear layer."""

    def __init__(self, out_dim: int, widths: Sequence[int] = (32, 64, 96, 128), n_blocks: Sequence[int] = (1, 1, 1, 1), grid: int = 4):
        super().__init__()
        self.convolutions = Encoder(widths[-1], widths, n_blocks)
        self.linear = nn.Linear(widths[-1] * grid**2, out_dim)
        self.size_px = grid * self.convolutions.multiple

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n out_dim"]:
        height, width = images.shape[2:]
        if (height, width) != (self.size_px, self.size_px):
            raise BadInputError(f"Give pictures of {self.size_px} x {self.size_px} pixels, not {height} x {width}.")
        return self.linear(F.relu(self.convolutions(images)).flatten(1))


class VectorDecoder(nn.Module):
    """Vectors (n, in_dim) to pictures (n, 3, 128, 128): the mirror image of `VectorEncoder`. GLO's generator, and every decoder of a vector."""

    def __init__(self, in_dim: int, widths: Sequence[int] = (32, 64, 96, 128), n_blocks: Sequence[int] = (1, 1, 1, 1), grid: int = 4):
        super().__init__()
        self.linear = nn.Linear(in_dim, widths[-1] * grid**2)
        self.convolutions = Decoder(widths[-1], widths, n_blocks)
        self.grid = grid

    def forward(self, z: Float[Tensor, "n in_dim"]) -> Float[Tensor, "n 3 height width"]:
        return self.convolutions(self.linear(z).unflatten(1, (-1, self.grid, self.grid)))


def picture_loss(out: Float[Tensor, "n 3 height width"], images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, ""]:
    """Squared error of pixels plus half that of their horizontal and vertical differences: the loss of the main paper's embedded VAE."""
    edges = F.mse_loss(out.diff(dim=-1), images.diff(dim=-1)) + F.mse_loss(out.diff(dim=-2), images.diff(dim=-2))
    return F.mse_loss(out, images) + 0.5 * edges


def n_parameters(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(p.numel() for p in model.parameters())


def _check_stages(widths: Sequence[int], n_blocks: Sequence[int]) -> None:
    if not widths or len(widths) != len(n_blocks):
        raise BadInputError(f"{len(widths)} widths and {len(n_blocks)} numbers of blocks: give one of each for every resolution.")


def normal_like(x: Tensor, rng) -> Tensor:
    """Standard normal noise of the shape of x from a numpy generator, which a training step seeds by its number."""
    return torch.from_numpy(rng.standard_normal(tuple(x.shape), dtype="float32"))
