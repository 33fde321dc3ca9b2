"""An invertible map of latents, for a VAE that must not change: a few coupling layers before Q, the identity at the start.

    z_1, z_2 = halves of the channels;   z_2 <- exp(s(z_1)) z_2 + t(z_1)      (affine coupling, Dinh et al. 2017)

with s and t from a small network of dilated convolutions, and the halves exchanged between layers. s is bounded to [-1, 1]. The inverse
is exact, so nothing of a picture is lost: what the VAE reconstructs, it reconstructs as before. x = Q g(z) has the same shape as z.
"""

import json
import os
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sketchae.atomic import atomic_path, atomic_write_text
from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.basis.planes import check_n_semantic
from sketchae.errors import BadInputError, MissingFileError

Latents = Float[Tensor, "batch channels height width"]


class LatentAdapter(nn.Module):
    """A `Split` of the latents z: x = Q g(z), of which the first `n_semantic` channels are semantic.

    Args:
        start: Q, fixed.
        n_layers: coupling layers, an even number, so that both halves change equally often and end where they were.
        width: hidden channels of each layer's network.

    Raises:
        BadInputError: an odd or negative number of layers, or no hidden channel.
    """

    def __init__(self, start: OrthogonalBasis, n_layers: int = 6, width: int = 48):
        super().__init__()
        if n_layers < 0 or n_layers % 2 or width < 1:
            raise BadInputError(f"An adapter cannot have {n_layers} layers and {width} hidden channels: give an even number, and 1 or more.")
        self.k, self.channels, self.width = start.n_semantic, start.channels, width
        self.register_buffer("Q", start.Q.detach().clone().float())
        self.first = [self.channels // 2 if i % 2 == 0 else self.channels - self.channels // 2 for i in range(n_layers)]
        self.layers = nn.ModuleList(_network(n, 2 * (self.channels - n), width) for n in self.first)

    @property
    def n_semantic(self) -> int:
        return self.k

    def to_semantic_style(self, z: Latents) -> tuple[Tensor, Tensor]:
        """x = Q g(z), cut into its two blocks."""
        for n, layer in zip(self.first, self.layers, strict=True):
            kept, moved = z[:, :n], z[:, n:]
            scale, shift = _scale_and_shift(layer, kept)
            z = torch.cat([moved * scale.exp() + shift, kept], 1)
        x = torch.einsum("ij,njhw->nihw", self.Q, z)
        return x[:, : self.k], x[:, self.k :]

    def from_semantic_style(self, z_semantic: Tensor, z_style: Tensor) -> Latents:
        """z = g^-1(Q^T x)."""
        z = torch.einsum("ji,njhw->nihw", self.Q, torch.cat([z_semantic, z_style], 1))
        for n, layer in zip(reversed(self.first), reversed(self.layers), strict=True):
            moved, kept = z[:, : self.channels - n], z[:, self.channels - n :]
            scale, shift = _scale_and_shift(layer, kept)
            z = torch.cat([kept, (moved - shift) * (-scale).exp()], 1)
        return z

    def save(self, folder: str | os.PathLike) -> Path:
        """Write `config.json` and `adapter.safetensors` into `folder`, each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "adapter.safetensors") as path:
            save_file({key: value.contiguous() for key, value in self.state_dict().items()}, path)
        config = {"channels": self.channels, "n_semantic": self.k, "n_layers": len(self.layers), "width": self.width}
        atomic_write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "LatentAdapter":
        """Read what `save` wrote.

        Raises:
            MissingFileError, BadInputError: no adapter there, or one that cannot be read.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "adapter.safetensors")
        except FileNotFoundError as error:
            raise MissingFileError(f"{folder} holds no adapter: {Path(error.filename or 'adapter.safetensors').name} is missing.") from error
        except (ValueError, SafetensorError) as error:
            raise BadInputError(f"The adapter in {folder} cannot be read ({error}): save it again.") from error
        try:
            check_n_semantic(config["n_semantic"], config["channels"])
            start = OrthogonalBasis.from_matrix(tensors["Q"].double(), config["n_semantic"])
            adapter = cls(start, config["n_layers"], config["width"])
            adapter.load_state_dict(tensors)
        except (KeyError, TypeError, RuntimeError) as error:
            raise BadInputError(f"The adapter in {folder} does not fit its config.json: save it again.") from error
        return adapter.eval().requires_grad_(False)


def _network(n_in: int, n_out: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(n_in, width, 3, padding=1), nn.GELU()]
    for dilation in (2, 4):
        layers += [nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation), nn.GELU()]
    last = nn.Conv2d(width, n_out, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def _scale_and_shift(network: nn.Module, kept: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = network(kept).chunk(2, dim=1)
    return torch.tanh(scale), shift
