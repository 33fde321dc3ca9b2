"""The variational autoencoder (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014), on digits and on Scenes.

    [μ, log σ²] = e_φ(x),  q(z | x) = N(μ, diag σ²),  p(z) = N(0, I)
    log p(x) ≥ ELBO = E_q log p(x | z) - KL(q(z | x) ‖ p(z)),  KL = ½ Σ_i (μ_i² + σ_i² - 1 - log σ_i²)
    z = μ + σ ⊙ ε,  ε ~ N(0, I)                                      (reparametrisation: dL/dμ = dL/dz, dL/dσ = dL/dz ⊙ ε)
    log p(x) ≥ L_k = E log 1/k Σ_j w_j ≥ ELBO,  w = p(x, z) / q(z | x)    (Burda, Grosse & Salakhutdinov 2016, IWAE)

All are in nats per picture. Both likelihoods are proper, so that bounds are bounds on log p(x): on binarised digits p(x | z) is Bernoulli, a
probability; on Scenes it is Gaussian with one σ for all pixels, a density of pixels in [0, 1], positive where the pictures are well
predicted. That σ is what maximises the likelihood, σ² = the mean squared error (σ-VAE: Rybkin, Daniilidis & Levine 2021), so that nothing weighs
the two terms by hand; β (Higgins et al. 2017) is there to do so, and 1 is the bound.

Axes: `n` pictures, `d` latent dimensions. Lecture: "Variational autoencoders".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

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
from sketchae.diffusion.picture_sets import Result
from sketchae.errors import BadInputError
from sketchae.latent_models.digits import Digits, binarize
from sketchae.latent_models.networks import VectorDecoder, VectorEncoder, normal_like
from sketchae.metrics.bootstrap import Interval, bootstrap_ci

_LOG_2PI = math.log(2 * math.pi)
_SIGMA_DECAY = 0.99  # of the moving average of σ² in training: the last hundred batches
_SMALLEST_SIGMA = 1e-3  # a quarter of a grey level of 8 bits: a density of rounded pixels could grow without bound


# --- The bound --------------------------------------------------------------------------------------------------------


@runtime_checkable
class LatentVariableModel(Protocol):
    """What bounds need: q(z | x) as (μ, log σ²), and log p(x | z) of each row."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]: ...

    def log_likelihood(self, z: Tensor, images: Tensor) -> Tensor: ...


def kl_per_dim(mu: Float[Tensor, "n d"], logvar: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """½ (μ² + σ² - 1 - log σ²): what each latent dimension costs."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def kl_divergence(mu: Float[Tensor, "n d"], logvar: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """KL(N(μ, diag σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² - 1 - log σ²), in nats."""
    return kl_per_dim(mu, logvar).sum(1)


def active_dims(mu: Float[Tensor, "n d"], threshold: float | int = 0.01) -> int:
    """How many latent dimensions a model uses: those whose μ varies over pictures by more than `threshold` (Burda et al. 2016, section 5.2)."""
    return int((mu.var(0) > threshold).sum())


def reparametrize(mu: Float[Tensor, "n d"], logvar: Float[Tensor, "n d"], eps: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """z = μ + σ ⊙ ε."""
    return mu + (logvar / 2).exp() * eps


def elbo(log_likelihood: Float[Tensor, " n"], kl: Float[Tensor, " n"], beta: float | int = 1) -> Float[Tensor, " n"]:
    """log p(x | z) - β KL, a bound on log p(x) for β >= 1.

    Raises:
        BadInputError: a negative β.
    """
    if beta < 0:
        raise BadInputError(f"A weight of the KL divergence of {beta}: give 0 or more; 1 is the bound.")
    return log_likelihood - beta * kl


def bernoulli_log_likelihood(logits: Float[Tensor, "n *shape"], images: Float[Tensor, "n *shape"]) -> Float[Tensor, " n"]:
    """Σ x log p + (1 - x) log(1 - p), p = sigmoid(logits), over the pixels of a picture.

    Raises:
        BadInputError: pixels other than 0 and 1, for which this is no probability.
    """
    if not ((images == 0) | (images == 1)).all():
        raise BadInputError("The Bernoulli likelihood is of pixels that are 0 or 1: binarise grey pictures first (digits.binarize).")
    return -F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(1)


def gaussian_log_likelihood(
    mean: Float[Tensor, "n *shape"], images: Float[Tensor, "n *shape"], log_sigma: Float[Tensor, ""]
) -> Float[Tensor, " n"]:
    """-½ Σ ((x - mean)² / σ² + log σ² + log 2π) over the pixels of a picture, one σ for all."""
    return -0.5 * ((images - mean).square() * (-2 * log_sigma).exp() + 2 * log_sigma + _LOG_2PI).flatten(1).sum(1)


def log_weights(model: LatentVariableModel, images: Tensor, eps: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """log w = log p(x | z) + log p(z) - log q(z | x) at z = μ + σ ⊙ ε; its mean over ε is the ELBO."""
    mu, logvar = model.encode(images)
    z = reparametrize(mu, logvar, eps)
    return model.log_likelihood(z, images) + 0.5 * (eps.square() + logvar - z.square()).sum(1)


@torch.no_grad()
def importance_weighted_bound(model: LatentVariableModel, images: Tensor, n_samples: int, seed: int = 0) -> Float[Tensor, " n"]:
    """log 1/k Σ_j w_j of each picture with k = `n_samples` draws: IWAE's bound, whose mean rises with k to log p(x).

    Raises:
        BadInputError: no samples.
    """
    if n_samples < 1:
        raise BadInputError(f"A bound from {n_samples} samples: give at least 1.")
    rng = np.random.default_rng(seed)
    like = model.encode(images)[0]
    weights = [log_weights(model, images, normal_like(like, rng).to(like)) for _ in range(n_samples)]
    return torch.stack(weights).logsumexp(0) - math.log(n_samples)


# --- Gradients through sampling -----------------------------------------------------------------------------------------


def pathwise_gradient(
    f: Callable[[Tensor], Tensor], mu: Float[Tensor, "n d"], logvar: Float[Tensor, "n d"], eps: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """One estimate a row of d/dμ and d/dlog σ² of E_q f(z), by reparametrisation: f'(z) and f'(z) ⊙ σ ⊙ ε / 2.

    Args:
        f: from z (n, d) to a number a row (n,), which depends on that row alone.
    """
    z = reparametrize(mu, logvar, eps).detach().requires_grad_()
    with torch.enable_grad():
        slope = torch.autograd.grad(f(z).sum(), z)[0]
    return slope, slope * (logvar / 2).exp() * eps / 2


@torch.no_grad()
def score_function_gradient(
    f: Callable[[Tensor], Tensor],
    mu: Float[Tensor, "n d"],
    logvar: Float[Tensor, "n d"],
    eps: Float[Tensor, "n d"],
    baseline: Float[Tensor, " n"] | float | int = 0,
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """The same by the score function (REINFORCE): (f(z) - b) ∇ log q(z), = (f - b) ε / σ and (f - b) (ε² - 1) / 2. f needs no gradient.

    Args:
        baseline: b, which must not depend on the row's ε; it leaves the mean as it is and lowers the variance.
    """
    advantage = (f(reparametrize(mu, logvar, eps)) - baseline)[:, None]
    return advantage * eps * (-logvar / 2).exp(), advantage * (eps.square() - 1) / 2


@dataclass(frozen=True)
class GradientVariances(Result):
    """How much single-sample estimates of the gradient of E_q log p(x | z) in μ and log σ² scatter.

    Attributes:
        pathwise, score_function, score_function_baseline: variance, summed over μ and log σ² of all dimensions, mean over pictures.
        ratio: score_function / pathwise, with its 95 % interval over pictures; over 1: reparametrisation scatters less.
        ratio_baseline: the same where the score function has the mean of the other samples as baseline, the fairer rival.
        ratio_per_dim: `ratio` for each latent dimension; large or not finite where the decoder ignores it.
    """

    pathwise: float
    score_function: float
    score_function_baseline: float
    ratio: float
    ratio_ci95: Interval
    ratio_baseline: float
    ratio_baseline_ci95: Interval
    ratio_per_dim: tuple[float, ...]
    n_images: int
    n_samples: int


def gradient_variances(model: LatentVariableModel, images: Tensor, n_samples: int = 200, seed: int = 0) -> GradientVariances:
    """Measure both estimators on a model, at its own q(z | x), with the same draws.

    Raises:
        BadInputError: fewer than three samples.
    """
    if n_samples < 3:
        raise BadInputError(f"A variance from {n_samples} samples: give at least 3.")
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        mu, logvar = model.encode(images)
    draws = [normal_like(mu, rng).to(mu) for _ in range(n_samples)]

    def f(z: Tensor) -> Tensor:
        return model.log_likelihood(z, images)

    with torch.no_grad():
        values = torch.stack([f(reparametrize(mu, logvar, eps)) for eps in draws])
    baselines = (values.sum(0) - values) / (n_samples - 1)
    of_each = [
        [pathwise_gradient(f, mu, logvar, eps) for eps in draws],
        [score_function_gradient(f, mu, logvar, eps) for eps in draws],
        [score_function_gradient(f, mu, logvar, eps, b) for eps, b in zip(draws, baselines, strict=True)],
    ]
    # (estimator, picture, dimension), μ's and log σ²'s variances added
    variances = torch.stack([sum(torch.stack(part).double().var(0) for part in zip(*one, strict=True)) for one in of_each]).numpy()
    totals = variances.sum(2).T

    def ratio(column: int) -> Callable[[np.ndarray], float]:
        return lambda rows: float(rows[:, column].sum() / rows[:, 0].sum())

    with np.errstate(divide="ignore", invalid="ignore"):
        per_dim = variances[1].mean(0) / variances[0].mean(0)
    return GradientVariances(
        *(float(v) for v in totals.mean(0)),
        ratio=ratio(1)(totals),
        ratio_ci95=bootstrap_ci(totals, statistic=ratio(1), name="vae.gradient_variances"),
        ratio_baseline=ratio(2)(totals),
        ratio_baseline_ci95=bootstrap_ci(totals, statistic=ratio(2), name="vae.gradient_variances"),
        ratio_per_dim=tuple(float(v) for v in per_dim),
        n_images=len(images),
        n_samples=n_samples,
    )


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
