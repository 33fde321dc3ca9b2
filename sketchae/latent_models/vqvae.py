"""VQ-VAE (van den Oord, Vinyals & Kavukcuoglu 2017): a picture as a grid of whole numbers.

    q(z = e_k | x) = 1 for k = argmin_i |z_e(x) - e_i|, else 0
    L = -log p(x | z_q) + |sg[z_e] - e|² + β |z_e - sg[e]|²

`codebook_size` codes e_k of `code_dim` numbers; sg stops gradients. The decoder's gradient is copied from z_q to z_e (*straight-through*). Codes
follow their mean by an exponential moving average (EMA, their appendix A.1), which takes the place of the second term, or learn by it. A code
that nothing uses any more (*dead*) is put where a feature of the batch is. Scenes: 128x128 pictures of 24 bits, 32x32 codes of 9 bits.

Lecture: "Latent space is a learned lattice".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.errors import BadInputError
from sketchae.latent_models.networks import Decoder, Encoder, picture_loss

_CROP = 64  # pixels; the network sees few pixels around each code, so crops teach it as well as pictures, four times as fast
_SECOND_CHANCE = 2.0  # the moving count of a code that was just placed anew: unused, it is dead again after log(2) / (1 - decay) steps
_CODES_WEIGHT = 0.05  # of the two terms on codes, beside the picture's


@dataclass(frozen=True)
class Quantized:
    """What `VectorQuantizer` returns.

    Attributes:
        z_q: the nearest codes; gradients pass through to z_e.
        indices: which codes.
        codebook_loss: mean of |sg[z_e] - e|²; 0 where EMA moves the codes.
        commitment_loss: mean of |z_e - sg[e]|², without β.
        perplexity: exp of the entropy of the codes' frequencies in this batch, between 1 and the number of codes.
    """

    z_q: Float[Tensor, "n code_dim h w"]
    indices: Int[Tensor, "n h w"]
    codebook_loss: Float[Tensor, ""]
    commitment_loss: Float[Tensor, ""]
    perplexity: Float[Tensor, ""]


class VectorQuantizer(nn.Module):
    """Nearest codes with straight-through gradient.

    Args:
        ema_decay: of the moving averages of counts and sums (0.99 in the paper's appendix); None: codes learn by the codebook loss.
        dead_below: a code whose moving count falls below this is replaced by a feature of the batch, in training with EMA only.

    Raises:
        BadInputError: fewer than two codes, or features of another width.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, codebook_size: int, code_dim: int, ema_decay: float | int | None = 0.99, dead_below: float | int = 1.0):
        super().__init__()
        if codebook_size < 2 or code_dim < 1:
            raise BadInputError(f"A codebook of {codebook_size} codes of {code_dim} numbers: give at least two codes and one number.")
        start = torch.randn(codebook_size, code_dim)
        if ema_decay is None:
            self.codebook = nn.Parameter(start)
        else:
            self.register_buffer("codebook", start)
            self.register_buffer("counts", torch.ones(codebook_size))
            self.register_buffer("sums", start.clone())
        self.ema_decay, self.dead_below = ema_decay, dead_below

    def nearest(self, z_e: Float[Tensor, "n code_dim h w"]) -> Int[Tensor, "n h w"]:
        """argmin_i |z_e - e_i| at every place."""
        if z_e.shape[1] != self.codebook.shape[1]:
            raise BadInputError(f"Features of {z_e.shape[1]} channels do not fit codes of {self.codebook.shape[1]} numbers.")
        flat = z_e.movedim(1, -1)
        return (self.codebook.square().sum(1) - 2 * flat @ self.codebook.T).argmin(-1)

    def lookup(self, indices: Int[Tensor, "n h w"]) -> Float[Tensor, "n code_dim h w"]:
        """The codes at `indices`.

        Raises:
            BadInputError: an index that no code has.
        """
        if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= len(self.codebook)):
            raise BadInputError(f"Codes are numbered 0 to {len(self.codebook) - 1}; indices between {indices.min()} and {indices.max()} were given.")
        return F.embedding(indices, self.codebook).movedim(-1, 1)

    def forward(self, z_e: Float[Tensor, "n code_dim h w"]) -> Quantized:
        indices = self.nearest(z_e)
        codes = self.lookup(indices)
        commitment = F.mse_loss(z_e, codes.detach())
        by_loss = self.ema_decay is None
        codebook_loss = F.mse_loss(codes, z_e.detach()) if by_loss else commitment.new_zeros(())
        used = torch.bincount(indices.flatten(), minlength=len(self.codebook)).to(z_e)
        if self.training and not by_loss:
            self._follow(z_e.detach().movedim(1, -1).flatten(0, 2), indices.flatten(), used)
        shares = used / used.sum()
        perplexity = torch.exp(-(shares * shares.clamp(min=1e-12).log()).sum())
        return Quantized(z_e + (codes - z_e).detach(), indices, codebook_loss, commitment, perplexity)

    @torch.no_grad()
    def _follow(self, features: Tensor, indices: Tensor, used: Tensor) -> None:
        """One EMA step of counts N_i and sums m_i, e_i = m_i / N_i, and new places for dead codes."""
        decay = self.ema_decay
        self.counts.mul_(decay).add_(used, alpha=1 - decay)
        self.sums.mul_(decay).add_(torch.zeros_like(self.sums).index_add_(0, indices, features), alpha=1 - decay)
        dead = (self.counts < self.dead_below).nonzero().flatten()
        if len(dead):
            chosen = features[torch.linspace(0, len(features) - 1, len(dead)).long()]
            self.sums[dead], self.counts[dead] = chosen * _SECOND_CHANCE, _SECOND_CHANCE
        self.codebook.copy_(self.sums / self.counts.clamp(min=1e-5)[:, None])


class VQVAE(ModelMixin, ConfigMixin):
    """Encoder, quantiser, decoder. Saved and loaded as every model of diffusers (`save_pretrained`, `from_pretrained`)."""

    @register_to_config
    def __init__(
        self,
        codebook_size: int = 512,
        code_dim: int = 16,
        widths: Sequence[int] = (24, 64),
        n_blocks: Sequence[int] = (0, 2),
        patch: int = 2,
        ema_decay: float | int | None = 0.99,
    ):
        super().__init__()
        self.encoder, self.decoder = Encoder(code_dim, widths, n_blocks, patch), Decoder(code_dim, widths, n_blocks, patch)
        self.quantizer = VectorQuantizer(codebook_size, code_dim, ema_decay)

    def encode(self, images: Float[Tensor, "n 3 height width"]) -> Int[Tensor, "n h w"]:
        """Pictures in [0, 1] to codes."""
        return self.quantizer.nearest(self.encoder(images))

    def decode(self, indices: Int[Tensor, "n h w"]) -> Float[Tensor, "n 3 height width"]:
        """Codes to pictures in [0, 1]."""
        return self.decoder(self.quantizer.lookup(indices)).clamp(0, 1)

    def bits(self, size_px: int = 128) -> float:
        """What a picture of size_px x size_px costs, all codes taken as equally likely: h · w · log2(codebook_size)."""
        return (size_px // self.encoder.multiple) ** 2 * float(np.log2(len(self.quantizer.codebook)))


def train_vqvae(
    pool: ImagePool, out_dir: Path, config: LoopConfig, *, batch_size: int = 32, commitment_weight: float | int = 0.25, **options
) -> tuple[VQVAE, dict]:
    """Train on random crops of 64 pixels, with whole pictures in the last tenth; resumes from `out_dir`.

    Args:
        commitment_weight: β.
        options: of `VQVAE`.

    Raises:
        BadInputError: a batch larger than the pool.
    """
    if not 1 <= batch_size <= len(pool):
        raise BadInputError(f"Batches of {batch_size} of a pool of {len(pool)} pictures: give between 1 and {len(pool)}.")
    torch.manual_seed(config.seed)
    model = VQVAE(**options)

    def step_loss(step: int) -> dict[str, Tensor]:
        whole = step >= config.n_steps * 9 // 10
        n = max(1, batch_size // 4) if whole else batch_size
        images = pool.images(np.sort(batch_rows(len(pool), n, step, config.seed + int(whole))))
        if not whole:
            rng = np.random.default_rng([config.seed, step])
            x, y = 4 * rng.integers(0, (images.shape[-1] - _CROP) // 4 + 1, (2, n))
            images = torch.stack([im[:, b : b + _CROP, a : a + _CROP] for im, a, b in zip(images, x, y, strict=True)])
        found = model.quantizer(model.encoder(images))
        out = model.decoder(found.z_q)
        loss = picture_loss(out, images)
        terms = {"mse": F.mse_loss(out, images), "commitment": found.commitment_loss, "perplexity": found.perplexity}
        return {"loss": loss + _CODES_WEIGHT * (found.codebook_loss + commitment_weight * found.commitment_loss), **terms}

    record = fit(model, step_loss, config, out_dir, "VQ-VAE")
    return model, record
