"""The VAEs that are trained: perceptrons on handwritten digits, and the shared convolutional networks on Scenes.

Bounds, likelihoods and gradients: `sketchae.latent_models.vae`.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn import functional as F

from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.errors import BadInputError
from sketchae.latent_models.digits import Digits, binarize
from sketchae.latent_models.networks import VectorDecoder, VectorEncoder, normal_like
from sketchae.latent_models.vae import (
    bernoulli_log_likelihood,
    elbo,
    gaussian_log_likelihood,
    kl_divergence,
    reparametrize,
)

_LOG_2PI = math.log(2 * math.pi)
_SIGMA_DECAY = 0.99  # of the moving average of σ² in training: the last hundred batches
_SMALLEST_SIGMA = 1e-3  # a quarter of a grey level of 8 bits: a density of rounded pixels could grow without bound


# --- Digits -------------------------------------------------------------------------------------------------------------


class DigitsVAE(ModelMixin, ConfigMixin):
    """Two perceptrons with `n_layers` hidden layers of `hidden` units, as in the paper (one of 500); pixels of 0 and 1."""

    @register_to_config
    def __init__(self, latent_dim: int = 2, hidden: int = 256, size_px: int = 8, n_layers: int = 2):
        super().__init__()
        if min(latent_dim, hidden, size_px, n_layers) < 1:
            raise BadInputError(f"latent_dim={latent_dim}, hidden={hidden}, size_px={size_px}, n_layers={n_layers}: give at least 1 of each.")
        self.encoder = _perceptron(size_px**2, [hidden] * n_layers, 2 * latent_dim)
        self.decoder = _perceptron(latent_dim, [hidden] * n_layers, size_px**2)

    def encode(self, images: Float[Tensor, "n 1 h w"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """μ and log σ² of q(z | x). Learned on binarised pictures; grey ones, their means, can be read too.

        Raises:
            BadInputError: pictures of another size.
        """
        if images[0].numel() != self.config.size_px**2:
            raise BadInputError(f"Pictures of {images.shape[3]} x {images.shape[2]} pixels: this model reads squares of {self.config.size_px}.")
        mu, logvar = self.encoder(images.flatten(1) * 2 - 1).chunk(2, dim=1)
        return mu, logvar

    def logits(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n 1 h w"]:
        """log p / (1 - p) of ink at every pixel."""
        return self.decoder(z).unflatten(1, (1, self.config.size_px, self.config.size_px))

    def decode(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n 1 h w"]:
        """The probability of ink at every pixel: the mean of p(x | z), in [0, 1]."""
        return self.logits(z).sigmoid()

    def log_likelihood(self, z: Float[Tensor, "n d"], images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
        """log p(x | z) of binarised pictures."""
        return bernoulli_log_likelihood(self.logits(z), images)


def train_digits_vae(
    digits: Digits,
    out_dir: Path,
    config: LoopConfig,
    *,
    latent_dim: int,
    beta: float | int = 1.0,
    batch_size: int = 128,
    hidden: int = 256,
    n_layers: int = 2,
) -> tuple[DigitsVAE, dict]:
    """Maximise the ELBO on digits that are binarised anew at every step; resumes from `out_dir`. The loss is -ELBO a pixel."""
    torch.manual_seed(config.seed)
    model = DigitsVAE(latent_dim, hidden, digits.size_px, n_layers)
    batch_size = min(batch_size, len(digits.train_images))

    def step_loss(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([config.seed, step])
        images = binarize(digits.train_images[batch_rows(len(digits.train_images), batch_size, step, config.seed)], rng)
        mu, logvar = model.encode(images)
        log_likelihood = model.log_likelihood(reparametrize(mu, logvar, normal_like(mu, rng)), images)
        kl = kl_divergence(mu, logvar)
        loss = -elbo(log_likelihood, kl, beta).mean() / digits.size_px**2
        return {"loss": loss, "log_likelihood": log_likelihood.mean(), "kl": kl.mean()}

    record = fit(model, step_loss, config, out_dir, f"VAE of digits, {latent_dim}-D")
    return model, record


@torch.no_grad()
def manifold(model: DigitsVAE, n: int = 20) -> Float[Tensor, "n_squared 1 h w"]:
    """The learned manifold (figure 4 of the paper): pictures at the Gaussian's quantiles (i + ½) / n of both dimensions, row by row.

    z_1 grows to the right, z_2 upwards, as axes do.

    Raises:
        BadInputError: a latent space that is not 2-D.
    """
    if model.config.latent_dim != 2:
        raise BadInputError(f"A manifold is drawn of a 2-D latent space; this one has {model.config.latent_dim} dimensions. Train with latent_dim=2.")
    quantiles = torch.from_numpy(norm.ppf((np.arange(n) + 0.5) / n)).float()
    z = torch.stack([quantiles.repeat(n), quantiles.flip(0).repeat_interleave(n)], dim=1)
    return model.decode(z)


@torch.no_grad()
def sample(model: "DigitsVAE | VectorVAE", n: int, seed: int = 0) -> Float[Tensor, "n channels h w"]:
    """Means of p(x | z) at z ~ N(0, I), in [0, 1]; the first pictures do not depend on how many are asked for."""
    z = np.random.default_rng(seed).standard_normal((n, model.config.latent_dim), dtype="float32")
    return model.decode(torch.from_numpy(z))


# --- Scenes -------------------------------------------------------------------------------------------------------------


class VectorVAE(ModelMixin, ConfigMixin):
    """A VAE of whole pictures of Scenes, with Gaussian pixels of one standard deviation `sigma`, which training sets."""

    log_sigma: Tensor

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 64,
        widths: Sequence[int] = (32, 64, 96, 128),
        n_blocks: Sequence[int] = (1, 1, 1, 1),
        grid: int = 4,
    ):
        super().__init__()
        if latent_dim < 1:
            raise BadInputError(f"A latent space of {latent_dim} dimensions: give at least 1.")
        self.encoder = VectorEncoder(2 * latent_dim, widths, n_blocks, grid)
        self.decoder = VectorDecoder(latent_dim, widths, n_blocks, grid)
        self.register_buffer("log_sigma", torch.tensor(math.log(0.3)))  # about the standard deviation of the pictures themselves

    @property
    def sigma(self) -> float:
        """The standard deviation of a pixel about the decoded one."""
        return float(self.log_sigma.exp())

    def encode(self, images: Float[Tensor, "n 3 height width"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """μ and log σ² of q(z | x), from pictures in [0, 1]."""
        mu, logvar = self.encoder(images).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 height width"]:
        """The mean of p(x | z), clamped to [0, 1]."""
        return self.decoder(z).clamp(0, 1)

    def log_likelihood(self, z: Float[Tensor, "n d"], images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, " n"]:
        """log p(x | z): a density of all 3 · height · width pixels, in nats."""
        return gaussian_log_likelihood(self.decoder(z), images, self.log_sigma)

    @torch.no_grad()
    def follow_sigma(self, mse: Float[Tensor, ""]) -> None:
        """Move σ² to the batch's mean squared error, which maximises the likelihood, as a moving average."""
        variance = (2 * self.log_sigma).exp().lerp(mse.detach(), 1 - _SIGMA_DECAY)
        self.log_sigma.copy_((variance.log() / 2).clamp(min=math.log(_SMALLEST_SIGMA)))


def train_vector_vae(
    pool: ImagePool, out_dir: Path, config: LoopConfig, *, beta: float | int = 1.0, batch_size: int = 32, **options
) -> tuple[VectorVAE, dict]:
    """Maximise the ELBO on Scenes; resumes from `out_dir`. β grows from 0 over the first tenth of the steps (KL warm-up: Bowman et al. 2016).

    The loss is -ELBO a number of the picture, at the σ that is best for the batch (Rybkin et al. 2021, "optimal σ-VAE"), by
    which gradients keep their size while the error falls. `model.sigma` follows as a moving average and is what bounds use.

    Args:
        options: of `VectorVAE`.
    """
    torch.manual_seed(config.seed)
    model = VectorVAE(**options)

    def step_loss(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([config.seed, step])
        images = pool.images(np.sort(batch_rows(len(pool), batch_size, step, config.seed)))
        mu, logvar = model.encode(images)
        out = model.decoder(reparametrize(mu, logvar, normal_like(mu, rng)))
        mse = F.mse_loss(out, images)
        model.follow_sigma(mse)
        log_sigma = (mse.log() / 2).clamp(min=math.log(_SMALLEST_SIGMA))
        log_likelihood, kl = gaussian_log_likelihood(out, images, log_sigma), kl_divergence(mu, logvar)
        warm = min(1.0, (step + 1) / max(1, config.n_steps // 10))
        loss = -elbo(log_likelihood, kl, beta * warm).mean() / images[0].numel()
        return {"loss": loss, "mse": mse, "kl": kl.mean(), "elbo": (log_likelihood - kl).mean()}

    record = fit(model, step_loss, config, out_dir, "VAE")
    return model, record


def _perceptron(n_in: int, hidden: Sequence[int], n_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip([n_in, *hidden[:-1]], hidden, strict=True):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], n_out))
