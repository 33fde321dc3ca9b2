"""Autoencoder: latents are predicted from the picture, where GLO stores one a picture, which does not scale.

    min over f, g of  E_x  ℓ(g(f(x)), x),    z = f(x) in R^d

f is a `VectorEncoder`, g a `VectorDecoder`: z is one vector, without places and without any constraint. "A lot depends on the loss" ℓ:

    l2          mean (x̂ - x)²: the conditional mean of what z leaves open, hence blur
    l1          mean |x̂ - x|: its median, pixel by pixel
    perceptual  L(x̂, x) of `sketchae.latent_models.perceptual`, plus `PIXEL_WEIGHT` · l2: what judge a sees, edges and objects alike

Lecture: "From direct optimization to Autoencoders".
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.errors import BadInputError
from sketchae.latent_models.networks import VectorDecoder, VectorEncoder
from sketchae.latent_models.perceptual import perceptual_loss
from sketchae.scenes import IMAGE_SIZE
from sketchae.scenes.judges import Judge

LOSSES = ("l2", "l1", "perceptual")
PIXEL_WEIGHT = 1.0
"""Of the squared error of pixels in the perceptual loss: a few hundredths beside a relative error of features, it asks for the colours themselves."""

_PATCH = 4  # of the encoder that all vector models share


class Autoencoder(ModelMixin, ConfigMixin):
    """Pictures of 128 pixels to vectors of `latent_dim` numbers and back. Saved and loaded as every model of diffusers.

    Raises:
        BadInputError: a latent without a number, or as many `widths` as leave no grid.
    """

    @register_to_config
    def __init__(self, latent_dim: int = 64, widths: Sequence[int] = (32, 64, 96, 128), n_blocks: Sequence[int] = (1, 1, 1, 1)):
        super().__init__()
        grid = IMAGE_SIZE // (_PATCH * 2 ** max(len(widths) - 1, 0))
        if latent_dim < 1 or grid < 1:
            raise BadInputError(f"Latents of {latent_dim} numbers from {len(widths)} widths: give at least one number and at most six widths.")
        self.encoder, self.decoder = VectorEncoder(latent_dim, widths, n_blocks, grid), VectorDecoder(latent_dim, widths, n_blocks, grid)

    def encode(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n latent_dim"]:
        """Pictures in [0, 1] to latents, of any mean and scale.

        Raises:
            BadInputError: pictures of another size than 128 x 128.
        """
        if tuple(images.shape[2:]) != (IMAGE_SIZE, IMAGE_SIZE):
            raise BadInputError(f"Pictures of {images.shape[2]} x {images.shape[3]} pixels: give {IMAGE_SIZE} x {IMAGE_SIZE}.")
        return self.encoder(images)

    def decode(self, z: Float[Tensor, "n latent_dim"]) -> Float[Tensor, "n 3 height width"]:
        """Latents to pictures in [0, 1].

        Raises:
            BadInputError: latents of another width.
        """
        if z.shape[1] != self.config.latent_dim:
            raise BadInputError(f"Latents of {z.shape[1]} numbers do not fit this model: it has {self.config.latent_dim}.")
        return self.decoder(z).clamp(0, 1)


def reconstruction_loss(
    kind: str, out: Float[Tensor, "n 3 height width"], images: Float[Tensor, "n 3 height width"], judge: Judge | None = None
) -> Float[Tensor, ""]:
    """ℓ(out, images) of the module's text, averaged over the batch; gradients go to `out`.

    Args:
        kind: one of `LOSSES`.
        judge: judge a, for "perceptual" only.

    Raises:
        BadInputError: an unknown kind, or "perceptual" without judge a, frozen.
    """
    _check_loss(kind, judge)
    if kind == "l1":
        return F.l1_loss(out, images)
    pixels = F.mse_loss(out, images)
    return pixels if kind == "l2" else perceptual_loss(judge, out, images) + PIXEL_WEIGHT * pixels


def train_autoencoder(
    pool: ImagePool, out_dir: Path, config: LoopConfig, *, loss: str = "l2", judge: Judge | None = None, batch_size: int = 32, **options
) -> tuple[Autoencoder, dict]:
    """Train on whole pictures; resumes from `out_dir`/`loss`. The log has "mse" for every loss, so that trainings compare.

    Args:
        loss: one of `LOSSES`.
        judge: judge a, for "perceptual".
        options: of `Autoencoder`.

    Raises:
        BadInputError: as `reconstruction_loss`.
    """
    _check_loss(loss, judge)
    torch.manual_seed(config.seed)
    model = Autoencoder(**options).to(memory_format=torch.channels_last)  # a seventh faster on a CPU

    def step_loss(step: int) -> dict[str, Tensor]:
        images = pool.images(np.sort(batch_rows(len(pool), batch_size, step, config.seed)))
        out = model.decoder(model.encode(images))  # not clamped: a pixel beyond [0, 1] still gets a gradient
        return {"loss": reconstruction_loss(loss, out, images, judge), "mse": F.mse_loss(out.detach(), images)}

    # A folder for each loss: `fit` tells trainings apart by their `config` alone, and would continue one loss by another.
    record = fit(model, step_loss, config, out_dir / loss, f"autoencoder, {loss}")
    return model, record


def _check_loss(kind: str, judge: Judge | None) -> None:
    if kind not in LOSSES:
        raise BadInputError(f"There is no loss '{kind}': choose one of {', '.join(LOSSES)}.")
    if kind == "perceptual" and judge is None:
        raise BadInputError("The perceptual loss compares what judge a sees: give judge=load_judge('a').")
