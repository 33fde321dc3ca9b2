"""GLO after training: vectors for new pictures by descent, restoration of what is hidden, and samples from a fitted Gaussian.

Equations and axes: `sketchae.latent_models.glo`.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from sketchae.errors import BadInputError
from sketchae.latent_models.glo import GLO, check_ball, laplacian_losses, project_to_ball
from sketchae.metrics.bootstrap import generator


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


def fill_from_surroundings(
    images: Float[Tensor, "n 3 height width"], mask: Float[Tensor, "n 1 height width"]
) -> dict[str, Float[Tensor, "n 3 height width"]]:
    """What knows no pictures guesses behind a mask: the rivals of a restoration, by name.

    Pixels that are seen stay. "mean_colour" is that of the picture's seen pixels; "rows" interpolates linearly along each row, from its
    nearest seen pixels (a row that is hidden whole gets the mean colour); "biharmonic" is scikit-image's smoothest surface, clamped to [0, 1].

    Raises:
        BadInputError: a mask that hides a whole picture, or holds other numbers than 0 and 1.
    """
    hidden = (1 - mask[:, 0]).numpy()
    if not np.isin(hidden, (0, 1)).all() or hidden.all(axis=(1, 2)).any():
        raise BadInputError("A mask holds 1 where a pixel is seen and 0 where it is not, and leaves some of every picture seen.")
    found: dict[str, list[np.ndarray]] = {"mean_colour": [], "rows": [], "biharmonic": []}
    for image, holes in zip(images.permute(0, 2, 3, 1).numpy(), hidden.astype(bool), strict=True):
        mean = np.where(holes[..., None], image[~holes].mean(0), image)
        rows = mean.copy()
        for y in np.flatnonzero(holes.any(1) & ~holes.all(1)):
            seen, unseen = np.flatnonzero(~holes[y]), np.flatnonzero(holes[y])
            rows[y, unseen] = np.stack([np.interp(unseen, seen, image[y, seen, c]) for c in range(3)], -1)
        smooth = inpaint_biharmonic(image, holes, channel_axis=-1).clip(0, 1)
        for name, guess in zip(found, (mean, rows, smooth), strict=True):
            found[name].append(guess.astype(np.float32))
    return {name: torch.from_numpy(np.stack(guesses)).permute(0, 3, 1, 2) for name, guesses in found.items()}


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


def refit(model: GLO, images: Float[Tensor, "n 3 height width"], **options: Any) -> Float[Tensor, "n 3 height width"]:
    """g(z) of the latents that are fitted to pictures: reconstruction without an encoder. `options` are those of `fit_latents`."""
    z = fit_latents(model, images, **options).z
    with torch.no_grad():
        return model.decode(z)


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
    check_ball(radius, p)
    z = latents.detach().double().cpu()
    return Gaussian(z.mean(0), torch.cov(z.T).reshape(z.shape[1], z.shape[1]), radius, p)
