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
from collections.abc import Sequence
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

_PCA_POOL = 8  # pixels a side; principal components of pictures this much smaller are those that matter, at a sixty-fourth of the cost
STARTS = ("pca", "gaussian")


# --- The ball ---------------------------------------------------------------------------------------------------------


def project_to_ball(z: Float[Tensor, "n latent_dim"], radius: float | int = 1.0, p: float | int = 2) -> Float[Tensor, "n latent_dim"]:
    """The nearest point, in Euclidean distance, of B(radius, d, p) to each row; rows inside come back as they are.

    p = 2 shortens, p = inf clamps, p = 1 subtracts one threshold from all magnitudes (Duchi et al. 2008, figure 1).

    Raises:
        BadInputError: another p, or a radius that is not positive.
    """
    check_ball(radius, p)
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


def check_ball(radius: float | int, p: float | int) -> None:
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


def _check_mask(mask: Tensor) -> None:
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise BadInputError("A mask is 1 where a pixel is seen and 0 where it is not; round it first.")
    if not bool(mask.flatten(1).any(1).all()):
        raise BadInputError("A mask hides a whole picture: leave some pixels to be seen.")


def laplacian_loss(
    out: Float[Tensor, "n channels height width"],
    images: Float[Tensor, "n channels height width"],
    n_levels: int = 5,
    l2_weight: float | int = 1.0,
) -> Float[Tensor, ""]:
    """The mean of `laplacian_losses` over pictures: the l of the paper."""
    return laplacian_losses(out, images, n_levels=n_levels, l2_weight=l2_weight).mean()


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
        check_ball(radius, p)
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
