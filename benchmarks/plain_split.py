"""The paper's trainable parts as anyone would write them with torch's layers: what the fast form is compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sketchae.training import SplitModel


class PlainBlock(nn.Module):
    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        self.down = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm((2 * channels, height, width))
        self.expand = nn.Conv2d(2 * channels, 4 * channels, 1)
        self.contract = nn.Conv2d(4 * channels, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.down(x))
        return x + self.contract(F.gelu(self.expand(x)))


class PlainEmbedder(nn.Module):
    def __init__(self, in_channels: int, embed_dim: int, height: int, width: int, n_blocks: int = 3):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(in_channels, 4, 1), nn.Sequential()
        channels = 4
        for _ in range(n_blocks):
            height, width = (height + 1) // 2, (width + 1) // 2
            self.blocks.append(PlainBlock(channels, height, width))
            channels *= 2
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x)).mean((2, 3))))


class PlainSplit(nn.Module):
    """Q as a bias-free 1x1 convolution, and an embedder for each block."""

    def __init__(self, latent_shape: tuple[int, int, int], embed_dim: int, n_semantic: int = 2, n_blocks: int = 3):
        super().__init__()
        channels, height, width = latent_shape
        self.n_semantic = n_semantic
        self.basis = nn.Conv2d(channels, channels, 1, bias=False)
        self.semantic = PlainEmbedder(n_semantic, embed_dim, height, width, n_blocks)
        self.style = PlainEmbedder(channels - n_semantic, embed_dim, height, width, n_blocks)

    def forward(self, z: Tensor, clip_img: Tensor, clip_txt: Tensor) -> Tensor:
        x, w = self.basis(z), self.basis.weight[:, :, 0, 0]
        return torch.stack(
            [
                F.mse_loss(w.T @ w, torch.eye(len(w), device=w.device)),
                F.mse_loss(self.semantic(x[:, : self.n_semantic]), clip_txt),
                F.mse_loss(self.style(x[:, self.n_semantic :]), clip_img - clip_txt),
            ]
        )

    def pairs(self, model: SplitModel, seed: int = 0):
        """(own parameter, the same parameter in the stack, how to bring the stack's into this one's shape)."""
        yield self.basis.weight, model.basis.weight, lambda p: p[seed, :, :, None, None]
        for role, embedder in enumerate((self.semantic, self.style)):
            yield embedder.stem.weight, model.stems[role], lambda p: p[seed, :, :, None, None]
            yield embedder.stem.bias, model.stem_biases[role], lambda p: p[seed, :, 0]
            row, stack = 2 * seed + role, model.embedders
            for plain, block in zip(embedder.blocks, stack.blocks, strict=True):
                yield (
                    plain.down.weight,
                    block.down.weight,
                    lambda p, r=row: p[r].unflatten(0, (3, 3, -1)).permute(3, 2, 0, 1),
                )
                yield plain.down.bias, block.down.bias, lambda p, r=row: p[r, 0]
                yield plain.norm.weight, block.norm.weight, lambda p, r=row: p[r, 0].permute(2, 0, 1)
                yield plain.norm.bias, block.norm.bias, lambda p, r=row: p[r, 0].permute(2, 0, 1)
                for layer, stacked in ((plain.expand, block.expand), (plain.contract, block.contract)):
                    yield layer.weight, stacked.weight, lambda p, r=row: p[r].T[:, :, None, None]
                    yield layer.bias, stacked.bias, lambda p, r=row: p[r, 0]
            yield embedder.norm.weight, stack.norm.weight, lambda p, r=row: p[r, 0]
            yield embedder.norm.bias, stack.norm.bias, lambda p, r=row: p[r, 0]
            yield embedder.head.weight, stack.head.weight, lambda p, r=row: p[r].T
            yield embedder.head.bias, stack.head.bias, lambda p, r=row: p[r, 0]

    @torch.no_grad()
    def copy_from(self, model: SplitModel, seed: int = 0) -> None:
        for own, stacked, shaped in self.pairs(model, seed):
            own.copy_(shaped(stacked))
