"""The embedded VAE: diffusers' `AutoencoderTiny` with four channels, learned from scratch on Scenes."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional as F

from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows

VAE_CONFIG = {
    "latent_channels": 4,
    "encoder_block_out_channels": (32, 32, 32, 32),
    "decoder_block_out_channels": (32, 32, 32, 32),
    "num_encoder_blocks": (0, 1, 3, 4),
    "num_decoder_blocks": (6, 4, 1, 0),
}
"""Few blocks where pixels are many and more where they are few: the cheapest use of a CPU."""

_CROP = 64  # pixels; crops keep to the codec's grid of 8


def train_vae(pool: ImagePool, out_dir: Path, config: LoopConfig, batch_size: int = 32) -> tuple[AutoencoderTiny, dict]:
    """Train on 64-pixel crops for the first four fifths of the steps and on whole pictures afterwards.

    The loss is the squared error of pixels and of their horizontal and vertical differences, plus a term that holds
    each latent channel at mean 0 and standard deviation 1. Noise of standard deviation 0.05 on the latents keeps
    the decoder smooth. Nothing asks the channels to be independent, as nothing asks a stock VAE.
    """
    torch.manual_seed(config.seed)
    vae = AutoencoderTiny(**VAE_CONFIG).to(memory_format=torch.channels_last)

    def step_loss(step: int) -> dict[str, Tensor]:
        whole = step >= config.n_steps * 4 // 5
        n = batch_size // 4 if whole else batch_size
        rng = np.random.default_rng([config.seed, step])
        images = pool.images(np.sort(batch_rows(len(pool), n, step, config.seed + int(whole))))
        if not whole:
            x, y = 8 * rng.integers(0, (images.shape[-1] - _CROP) // 8 + 1, (2, n))
            images = torch.stack([im[:, b : b + _CROP, a : a + _CROP] for im, a, b in zip(images, x, y, strict=True)])
        images = images.contiguous(memory_format=torch.channels_last)
        z = vae.encode(images * 2 - 1).latents
        noise = torch.from_numpy(rng.standard_normal(z.shape, dtype=np.float32))
        out = (vae.decode(z + 0.05 * noise).sample + 1) / 2
        pixel = F.mse_loss(out, images)
        edges = F.mse_loss(out.diff(dim=-1), images.diff(dim=-1)) + F.mse_loss(out.diff(dim=-2), images.diff(dim=-2))
        std, mean = torch.std_mean(z, dim=(0, 2, 3))
        moments = (mean.square() + (std - 1).square()).mean()
        return {"loss": pixel + 0.5 * edges + 0.01 * moments, "mse": pixel, "edges": edges, "moments": moments}

    record = fit(vae, step_loss, config, out_dir, "VAE")
    return vae, record
