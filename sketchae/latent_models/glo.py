"""GLO, generative latent optimisation (Bojanowski, Joulin, Lopez-Paz & Szlam 2018): a generator and one free vector a picture, no encoder.

    min_θ 1/N Σ_i min_{z_i in Z} l(g_θ(z_i), x_i),   Z = B(r, d, p) = {z in R^d: |z|_p <= r}
    l = Lap_1 + l2,   Lap_1(x, x') = Σ_j 2^(-2j) |L^j(x) - L^j(x')|_1

g is the generator, x_i the picture in row i, z_i its latent of `latent_dim` numbers, L^j the j-th level of the Laplacian pyramid (0 the finest).
Both minima are sought together by stochastic gradient descent; latents that leave the ball are projected back (*projected gradient*). A new
picture costs a descent of its own (`fit_latents`), which an encoder would replace by one pass. To draw new pictures, a Gaussian is fitted to the
latents (`fit_gaussian`). A descent that looks at some pixels only restores the others.

Lecture: "Latent models of images".
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.errors import BadInputError
from sketchae.latent_models.networks import VectorDecoder
from sketchae.metrics.bootstrap import generator

_PCA_POOL = 8  # pixels a side; principal components of pictures this much smaller are those that matter, at a sixty-fourth of the cost
STARTS = ("pca", "gaussian")


# --- The ball ---------------------------------------------------------------------------------------------------------


def project_to_ball(z: Float[Tensor, "n latent_dim"], radius: float | int = 1.0, p: float | int = 2) -> Float[Tensor, "n latent_dim"]:
    """The nearest point, in Euclidean distance, of B(radius, d, p) to each row; rows inside come back as they are.

    p = 2 shortens, p = inf clamps, p = 1 subtracts one threshold from all magnitudes (Duchi et al. 2008, figure 1).

    Raises:
        BadInputError: another p, or a radius that is not positive.
    """
    _check_ball(radius, p)
    if p == math.inf:
        return z.clamp(-radius, radius)
    norm = torch.linalg.vector_norm(z, ord=p, dim=1, keepdim=True)
    if p == 2:
        nearest = z * (radius / norm.clamp(min=torch.finfo(z.dtype).tiny))
    else:
        sizes = z.abs().sort(dim=1, descending=True).values
        # The threshold if the k largest magnitudes, and no others, remain above zero; the right k is the last one that is consistent.
        thresholds = (sizes.cumsum(1) - radius) / torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device)
        k = (sizes > thresholds).sum(1, keepdim=True).clamp(min=1)
        nearest = z.sign() * (z.abs() - thresholds.gather(1, k - 1)).clamp(min=0)
    return torch.where(norm > radius, nearest, z)


def _check_ball(radius: float | int, p: float | int) -> None:
    if p not in (1, 2, math.inf):
        raise BadInputError(f"There is no projection for p = {p}: choose 1, 2 or math.inf.")
    if not 0 < radius < math.inf:
        raise BadInputError(f"A ball of radius {radius}: give a positive number.")


# --- The loss ---------------------------------------------------------------------------------------------------------


def laplacian_losses(
    out: Float[Tensor, "n channels height width"],
    images: Float[Tensor, "n channels height width"],
    *,
    mask: Float[Tensor, "n 1 height width"] | None = None,
    n_levels: int = 5,
    l2_weight: float | int = 1.0,
) -> Float[Tensor, " n"]:
    """Lap_1 + l2_weight · l2 of each picture, both as means over pixels and channels, so that size does not matter.

    Levels are weighted 2^(-2j) as means, which is to say that every coefficient of the pyramid weighs the same: fine details, which have most
    coefficients, count most, and colour is left to l2. The pyramid is the cheapest there is, averages of 2x2 pixels in place of the usual
    Gaussians; it is linear, so that one pyramid of the difference does. The last level is what remains, not a band.

    Args:
        mask: 1 where a pixel counts, 0 where it does not; the loss is then per pixel that counts.
        n_levels: of the pyramid, what remains included; 1 is plain L1.

    Raises:
        BadInputError: sides that cannot be halved so often, or a mask with other values or with nothing to see.
    """
    if n_levels < 1 or images.shape[2] % 2 ** (n_levels - 1) or images.shape[3] % 2 ** (n_levels - 1):
        raise BadInputError(f"{n_levels} levels of pictures of {images.shape[2]} x {images.shape[3]}: each but the last needs even sides.")
    level = out - images
    if mask is not None:
        _check_mask(mask)
        level = level * mask
    total = l2_weight * level.square().mean((1, 2, 3))
    for j in range(n_levels - 1):
        smaller = F.avg_pool2d(level, 2)
        band = level - smaller.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        total = total + 4.0**-j * band.abs().mean((1, 2, 3))
        level = smaller
    total = total + 4.0 ** -(n_levels - 1) * level.abs().mean((1, 2, 3))
    return total if mask is None else total / mask.mean((1, 2, 3))


def laplacian_loss(
    out: Float[Tensor, "n channels height width"],
    images: Float[Tensor, "n channels height width"],
    n_levels: int = 5,
    l2_weight: float | int = 1.0,
) -> Float[Tensor, ""]:
    """The mean of `laplacian_losses` over pictures: the l of the paper."""
    return laplacian_losses(out, images, n_levels=n_levels, l2_weight=l2_weight).mean()


def square_mask(n: int, size_px: int = 128, side_px: int = 48, seed: int = 0) -> Float[Tensor, "n 1 size size"]:
    """1 where a pixel is seen and 0 in one square hole a picture, side_px wide, anywhere; picture i's depends on (seed, i) alone.

    Raises:
        BadInputError: a hole that is not smaller than the picture, or not there.
    """
    if not 0 < side_px < size_px:
        raise BadInputError(f"A hole of {side_px} pixels in a picture of {size_px}: give a side between 1 and {size_px - 1}.")
    mask = torch.ones(n, 1, size_px, size_px)
    for i in range(n):
        x, y = generator(f"glo.square_mask.{seed}.{i}").integers(0, size_px - side_px + 1, 2)
        mask[i, 0, y : y + side_px, x : x + side_px] = 0
    return mask


def _check_mask(mask: Tensor) -> None:
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise BadInputError("A mask is 1 where a pixel is seen and 0 where it is not; round it first.")
    if not bool(mask.flatten(1).any(1).all()):
        raise BadInputError("A mask hides a whole picture: leave some pixels to be seen.")


# --- The model --------------------------------------------------------------------------------------------------------


class GLO(ModelMixin, ConfigMixin):
    """A generator and the latents of the pictures that it was trained on. Saved and loaded as every model of diffusers.

    The generator is given gain · z, gain = d^(1/p) / r: numbers of about unit size, which its first layer expects, whatever the ball.

    Raises:
        BadInputError: a ball that is none.
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 64,
        n_pictures: int = 4096,
        radius: float | int = 1.0,
        p: float | int = 2,
        widths: Sequence[int] = (32, 64, 96, 128),
        n_blocks: Sequence[int] = (1, 1, 1, 1),
    ):
        super().__init__()
        _check_ball(radius, p)
        self.generator = VectorDecoder(latent_dim, widths, n_blocks)
        self.gain = latent_dim ** (1 / p) / radius
        self.latents = nn.Parameter(torch.randn(n_pictures, latent_dim) / self.gain)

    def forward(self, z: Float[Tensor, "n latent_dim"]) -> Float[Tensor, "n 3 height width"]:
        """g(z) for z in the ball, not clamped: what the loss sees."""
        return self.generator(z * self.gain)

    def project(self, z: Float[Tensor, "n latent_dim"]) -> Float[Tensor, "n latent_dim"]:
        """`project_to_ball` for this model's ball."""
        return project_to_ball(z, self.config["radius"], self.config["p"])

    def decode(self, z: Float[Tensor, "n latent_dim"]) -> Float[Tensor, "n 3 height width"]:
        """Latents, projected into the ball first, to pictures in [0, 1]."""
        return self(self.project(z)).clamp(0, 1)

    def reconstruct(self, rows: Sequence[int] | np.ndarray) -> Float[Tensor, "n 3 height width"]:
        """The training pictures in `rows`, as the model has them, in [0, 1].

        Raises:
            BadInputError: a row that it was not trained on.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self.latents)):
            raise BadInputError(f"Rows are 0 to {len(self.latents) - 1}; use fit_latents for pictures that the model was not trained on.")
        return self.decode(self.latents[torch.from_numpy(rows)])


def train_glo(
    pool: ImagePool,
    out_dir: Path,
    config: LoopConfig,
    *,
    batch_size: int = 64,
    n_pictures: int = 4096,
    start: str = "pca",
    n_levels: int = 5,
    l2_weight: float | int = 1.0,
    **options,
) -> tuple[GLO, dict]:
    """Train generator and latents together on the first `n_pictures` of the pool; resumes from `out_dir`.

    Latents and generator share one AdamW and one learning rate. Adam's steps do not depend on the gradient's size, and a visit moves a number
    by up to 8 · lr, most of it by momentum after the visit: at lr = 0.002 an eighth of a latent's typical number r / d^(1/p) for d = 64, r = 1,
    like a step of `fit_latents`. So latents want some 50 visits, n_steps = 50 · n_pictures / batch_size, or a smaller r, which the gain makes up
    for. Latents are projected when they are next used, and once more at the end. Weight decay draws them by lr · weight_decay a step towards 0,
    which is little.

    Args:
        start: of the latents, as in the paper: "pca", whitened principal components of the pictures, or "gaussian", noise. Both projected.
        n_levels, l2_weight: of `laplacian_loss`.
        options: of `GLO`.

    Raises:
        BadInputError: more pictures than the pool has, fewer than a batch, an unknown start, or fewer pictures or pixels than components.
    """
    if not batch_size <= n_pictures <= len(pool):
        raise BadInputError(f"{n_pictures} pictures: give between {batch_size}, a batch, and {len(pool)}, the pool.")
    if start not in STARTS:
        raise BadInputError(f"There is no start '{start}'; choose from {', '.join(STARTS)}.")
    torch.manual_seed(config.seed)
    model = GLO(n_pictures=n_pictures, **options)
    with torch.no_grad():
        if start == "pca":
            model.latents.copy_(_whitened_components(pool, *model.latents.shape) / model.gain)
        model.latents.copy_(model.project(model.latents))

    def step_loss(step: int) -> dict[str, Tensor]:
        rows = np.sort(batch_rows(n_pictures, batch_size, step, config.seed))
        at = torch.from_numpy(rows)
        with torch.no_grad():
            model.latents[at] = model.project(model.latents[at])
        images = pool.images(rows)
        out = model(model.latents[at])
        return {"loss": laplacian_loss(out, images, n_levels, l2_weight), "mse": F.mse_loss(out, images)}

    record = fit(model, step_loss, config, out_dir, "GLO")
    with torch.no_grad():
        model.latents.copy_(model.project(model.latents))
    return model, record


def _whitened_components(pool: ImagePool, n: int, latent_dim: int) -> Float[Tensor, "n latent_dim"]:
    """The first principal components of the first n pictures, averaged over squares of pixels; mean 0 and variance 1 each."""
    small = torch.cat([F.avg_pool2d(pool.images(np.arange(i, min(i + 256, n))), _PCA_POOL).flatten(1) for i in range(0, n, 256)]).double()
    if latent_dim > min(n - 1, small.shape[1]):
        raise BadInputError(f"{n} pictures of {small.shape[1]} numbers have no {latent_dim} principal components: start from 'gaussian'.")
    centred = small - small.mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred / n)
    variances, axes = variances.flip(0)[:latent_dim], axes.flip(1)[:, :latent_dim]
    return (centred @ axes / variances.clamp(min=1e-12).sqrt()).float()


# --- New pictures -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """What `fit_latents` found, and what it cost.

    Attributes:
        z: in the ball.
        losses: of each picture before every step and, last, of `z`; that of the best start.
        duration_s: wall-clock seconds for all pictures and starts together.
        n_starts: descents a picture.
    """

    z: Float[Tensor, "n latent_dim"]
    losses: Float[Tensor, "n n_steps_and_1"]
    duration_s: float
    n_starts: int

    @property
    def n_steps(self) -> int:
        """Steps a descent; n_starts times as many passes forwards and backwards were made for each picture."""
        return self.losses.shape[1] - 1


def fit_latents(
    model: GLO,
    images: Float[Tensor, "n 3 height width"],
    *,
    mask: Float[Tensor, "n 1 height width"] | None = None,
    n_steps: int = 100,
    lr: float | int = 0.2,
    n_starts: int = 1,
    l2_weight: float | int = 1.0,
    n_levels: int = 5,
    name: str = "fit_latents",
) -> Fitted:
    """argmin_{z in Z} l(g(z), x) for pictures in [0, 1] that the model need not know: projected Adam with cosine decay, the generator frozen.

    The first descent starts at the mean of the training latents, others at draws, by name, from the Gaussian that fits them; the start with the
    lowest loss wins, picture by picture. Pictures do not influence each other. With a mask the hidden pixels have no influence either.

    Args:
        mask: 1 where a pixel is seen, 0 where it is not: `model.decode(found.z)` restores what is hidden.
        lr: of Adam, in units of a latent's typical number r / d^(1/p).
        l2_weight, n_levels: of `laplacian_loss`, best as in training.

    Raises:
        BadInputError: no picture, no step, no start, or a bad mask.
    """
    if not len(images) or n_steps < 1 or n_starts < 1:
        raise BadInputError(f"{len(images)} pictures, {n_steps} steps, {n_starts} starts: give at least one of each.")
    began = time.monotonic()
    latents = model.latents.detach()
    starts = latents.mean(0, keepdim=True)
    if n_starts > 1:
        draws = fit_gaussian(latents, model.config["radius"], model.config["p"]).sample(n_starts - 1, name)
        starts = torch.cat([starts, draws.to(starts)])
    z, losses = _descend(model, starts[0], images, mask, n_steps, lr, n_levels, l2_weight)
    for start in starts[1:]:
        other_z, other = _descend(model, start, images, mask, n_steps, lr, n_levels, l2_weight)
        better = (other[:, -1] < losses[:, -1])[:, None]
        z, losses = torch.where(better, other_z, z), torch.where(better, other, losses)
    return Fitted(z, losses, time.monotonic() - began, n_starts)


@torch.enable_grad()
def _descend(
    model: GLO,
    start: Tensor,
    images: Tensor,
    mask: Tensor | None,
    n_steps: int,
    lr: float | int,
    n_levels: int,
    l2_weight: float | int,
) -> tuple[Tensor, Tensor]:
    """One descent from one start: z (n, latent_dim) and losses (n, n_steps + 1)."""
    z = model.project(start.expand(len(images), -1)).clone().requires_grad_()
    optimizer = torch.optim.Adam([z])
    curve = []
    for step in range(n_steps + 1):
        losses = laplacian_losses(model(z), images, mask=mask, n_levels=n_levels, l2_weight=l2_weight)
        curve.append(losses.detach())
        if step == n_steps:
            break
        # Gradients for z alone are worked out, none for the generator.
        (z.grad,) = torch.autograd.grad(losses.sum(), z)
        optimizer.param_groups[0]["lr"] = lr / model.gain * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        optimizer.step()
        with torch.no_grad():
            z.copy_(model.project(z))
    return z.detach(), torch.stack(curve, 1)


# --- Samples ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance) over latents of a ball."""

    mean: Float[Tensor, " latent_dim"]
    covariance: Float[Tensor, "latent_dim latent_dim"]
    radius: float | int = 1.0
    p: float | int = 2

    def sample(self, n: int, seed: int | str = 0) -> Float[Tensor, "n latent_dim"]:
        """n draws, projected into the ball, where alone the generator is defined; draw i depends on (seed, i) alone.

        Raises:
            BadInputError: fewer than one draw.
        """
        if n < 1:
            raise BadInputError(f"{n} samples: ask for at least one.")
        noise = np.stack([generator(f"glo.gaussian.{seed}.{i}").standard_normal(len(self.mean)) for i in range(n)])
        # A symmetric root: it exists where a covariance of few latents is singular, and a Cholesky factor does not.
        values, axes = torch.linalg.eigh(self.covariance.double())
        root = axes * values.clamp(min=0).sqrt() @ axes.T
        draws = self.mean.double() + torch.from_numpy(noise) @ root
        return project_to_ball(draws, self.radius, self.p).float()


def fit_gaussian(latents: Float[Tensor, "n latent_dim"], radius: float | int = 1.0, p: float | int = 2) -> Gaussian:
    """Mean and full covariance (divided by n - 1) of latents, in float64; the paper's way to sample. The ball is the model's.

    Raises:
        BadInputError: fewer than two latents.
    """
    if len(latents) < 2:
        raise BadInputError(f"A covariance of {len(latents)} latents: give at least two.")
    _check_ball(radius, p)
    z = latents.detach().double().cpu()
    return Gaussian(z.mean(0), torch.cov(z.T).reshape(z.shape[1], z.shape[1]), radius, p)
