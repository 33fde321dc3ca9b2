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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sketchae.diffusion.picture_sets import Result
from sketchae.errors import BadInputError
from sketchae.latent_models.networks import normal_like
from sketchae.metrics.bootstrap import Interval, bootstrap_ci

_LOG_2PI = math.log(2 * math.pi)
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


def log_weights(
    model: LatentVariableModel, images: Tensor, mu: Float[Tensor, "n d"], logvar: Float[Tensor, "n d"], eps: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """log w = log p(x | z) + log p(z) - log q(z | x) at z = μ + σ ⊙ ε, with μ, log σ² as the model encodes x; its mean over ε is the ELBO."""
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
    mu, logvar = model.encode(images)
    weights = [log_weights(model, images, mu, logvar, normal_like(mu, rng).to(mu)) for _ in range(n_samples)]
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
