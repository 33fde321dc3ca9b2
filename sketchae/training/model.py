"""What is trained: the change of basis and, for each of its two blocks, an image embedder."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from sketchae.basis.planes import check_n_semantic
from sketchae.embedders import ImageEmbedders, patches, uniform_
from sketchae.losses import embedding_loss, orthogonality_loss, style_target
from sketchae.training.batches import named_seed
from sketchae.training.config import TrainConfig

TERMS = ("orthogonality", "semantic", "style")  # of the loss, in the order of `SplitModel.forward`'s last axis


class ChangeOfBasis(nn.Module):
    """One (C, C) matrix W a seed, applied at every pixel as x = W z; starts as a linear layer's weight does."""

    def __init__(self, channels: int, generators: Sequence[torch.Generator]):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(generators), channels, channels))
        uniform_(self.weight, channels, generators)


class SplitModel(nn.Module):
    """The paper's three trainable parts for one or several training seeds at once.

    Seeds share nothing but the operations that compute them; each starts from generators of its own, so a seed's
    start, data and (up to rounding) result do not depend on which others are trained beside it.

    Args:
        latent_shape: (channels, height, width) of the latents.
        embed_dim: D, the width of the CLIP embeddings.
        config: choices of the recipe.
        seeds: the training seeds.

    Raises:
        BadInputError: `n_semantic` leaves one of the two blocks empty.
    """

    def __init__(self, latent_shape: tuple[int, int, int], embed_dim: int, config: TrainConfig, seeds: Sequence[int]):
        super().__init__()
        channels, height, width = latent_shape
        k = config.n_semantic
        check_n_semantic(k, channels)

        def generators(*roles: str) -> list[torch.Generator]:
            return [torch.Generator().manual_seed(named_seed("start", s, role)) for s in seeds for role in roles]

        self.config, self.n_seeds = config, len(seeds)
        self.basis = ChangeOfBasis(channels, generators("basis"))
        if config.parametrization == "orthogonal":
            orthogonal(self.basis, "weight")
        self.stems = nn.ParameterList()
        self.stem_biases = nn.ParameterList()
        for role, width_in in (("semantic", k), ("style", channels - k)):
            own = generators(f"stem/{role}")
            self.stems.append(nn.Parameter(torch.empty(len(seeds), config.stem_channels, width_in)))
            self.stem_biases.append(nn.Parameter(torch.empty(len(seeds), config.stem_channels, 1)))
            uniform_(self.stems[-1], width_in, own)
            uniform_(self.stem_biases[-1], width_in, own)
        # Order of the stack: (seed 0 semantic, seed 0 style, seed 1 semantic, ...).
        self.embedders = ImageEmbedders(
            embed_dim, (height, width), generators("semantic", "style"), config.n_blocks, config.stem_channels
        )

    def embed(self, z: Float[Tensor, "seeds batch channels height width"]) -> Float[Tensor, "seeds 2 batch embed_dim"]:
        """The two embedders' guesses from the two blocks of x = W z."""
        k, weight = self.config.n_semantic, self.basis.weight
        stems = torch.stack([self.stems[0] @ weight[:, :k], self.stems[1] @ weight[:, k:]], dim=1)
        kernel, bias = self.embedders.first_layer(
            stems.flatten(0, 1), torch.stack(list(self.stem_biases), dim=1).flatten(0, 1)
        )
        # Both embedders of a seed look at the same latents: one product, (seeds, 9 C) x (9 C, 2 * out).
        kernel = kernel.unflatten(0, (self.n_seeds, 2)).transpose(1, 2).flatten(2)
        rows = patches(z.permute(0, 1, 3, 4, 2))
        first = torch.bmm(rows.flatten(1, 3), kernel).view(*rows.shape[:4], 2, -1)
        first = first.permute(0, 4, 1, 2, 3, 5).flatten(0, 1) + bias
        return self.embedders(first).unflatten(0, (self.n_seeds, 2))

    def forward(
        self,
        z: Float[Tensor, "seeds batch channels height width"],
        clip_img: Float[Tensor, "seeds batch embed_dim"],
        clip_txt: Float[Tensor, "seeds batch embed_dim"],
    ) -> Float[Tensor, "seeds 3"]:
        """The three terms of the loss (see `TERMS`), unweighted, for each seed."""
        config = self.config
        guess = self.embed(z).float()
        semantic = embedding_loss(guess[:, 0], clip_txt, config.loss)
        style = embedding_loss(guess[:, 1], style_target(clip_img, clip_txt), config.loss)
        orthogonality = orthogonality_loss(self.basis.weight, config.orthogonality_reduction)
        return torch.stack([orthogonality, semantic, style], dim=-1)
