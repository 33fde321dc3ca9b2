"""A world so small that every score can be worked out by hand: two factors, one a channel, no network."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

KINDS = {"shape": "semantic", "colour": "style"}
N_VALUES, SIZE = 8, 16


class ToySplit:
    """x = Qz with the first k channels semantic, as `OrthogonalBasis`, in four lines."""

    def __init__(self, matrix: Tensor | None = None, n_semantic: int = 1, channels: int = 2) -> None:
        self.matrix = torch.eye(channels) if matrix is None else matrix
        self.n_semantic = n_semantic

    def to_semantic_style(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.einsum("ij,bjhw->bihw", self.matrix, z)
        return x[:, : self.n_semantic], x[:, self.n_semantic :]

    def from_semantic_style(self, z_semantic: Tensor, z_style: Tensor) -> Tensor:
        return torch.einsum("ji,bjhw->bihw", self.matrix, torch.cat([z_semantic, z_style], 1))


class ToyCodec:
    """Red is channel 0 (the shape), green is channel 1 (the colour); one latent pixel for 8×8 pixels."""

    latent_channels, downsampling = 2, 8

    def __init__(self) -> None:
        self.n_decoded = self.n_encoded = 0

    def encode(self, images: Tensor) -> Tensor:
        self.n_encoded += len(images)
        return torch.nn.functional.avg_pool2d(images[:, :2], 8) * 4 - 2

    def decode(self, z: Tensor) -> Tensor:
        self.n_decoded += len(z)
        colours = ((z + 2) / 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
        return torch.cat([colours, torch.zeros_like(colours[:, :1])], 1).clamp(0, 1)


class ToyJudge:
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        read = (images[..., : SIZE // 2].mean((2, 3)) * N_VALUES - 0.5).round().long()
        return {"shape": read[:, 0], "colour": read[:, 1]}


def toy_scenes(n: int, seed: int) -> SimpleNamespace:
    random = np.random.default_rng(seed)
    return SimpleNamespace(factors={name: random.integers(N_VALUES, size=n) for name in KINDS})


def toy_images(shape: np.ndarray, colour: np.ndarray) -> Tensor:
    """The left half shows both factors, the right half is black."""
    values = (torch.tensor(np.stack([shape, colour], 1)) + 0.5) / N_VALUES
    images = torch.zeros(len(values), 3, SIZE, SIZE)
    images[:, :2, :, : SIZE // 2] = values[:, :, None, None]
    return images


class _Value(torch.nn.Module):
    def __init__(self, turned, objective, a: Tensor, b: Tensor):
        super().__init__()
        self.turned, self.objective, self.a, self.b = turned, objective, a, b

    def forward(self) -> Tensor:
        return self.objective(self.turned, self.a, self.b).sum()


def gradient_is_right(objective, turned: torch.nn.Module, a: Tensor, b: Tensor) -> bool:
    """Whether the objective's gradient with respect to the angles of a `Rotated` agrees with finite differences (all in float64)."""

    def value(entries: Tensor) -> Tensor:
        return torch.func.functional_call(_Value(turned, objective, a, b), {"turned.A": entries})

    return torch.autograd.gradcheck(value, (turned.A.detach().clone().requires_grad_(),))
