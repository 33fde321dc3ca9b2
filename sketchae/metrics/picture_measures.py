"""Colours and edges of single pictures, and how far two pictures' colours are apart.

`sketchae.metrics.proxies` compares a swap with both of its sources by them; no factor has to be known.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from skimage.color import rgb2lab
from torch import Tensor

from sketchae.errors import BadInputError
from sketchae.metrics.distances import luminance

# Smoothing before the gradient, as a share of the shorter side. Strokes and dots are edges too, but they are style: at
# a fine scale the edges of a repainted scene are not those of its content. Chosen among scales on validation pairs of
# Scenes, by the share of pairs in which the codec's reconstruction of the true counterfactual sides with a.
EDGE_SCALE = 0.02

Pictures = Float[Tensor, "pairs 3 height width"]
PerPair = Float[np.ndarray, " pairs"]
Gaussians = tuple[Float[np.ndarray, "pairs 3"], Float[np.ndarray, "pairs 3 3"]]
OtherGaussians = tuple[Float[np.ndarray, "_ 3"], Float[np.ndarray, "_ 3 3"]]


def colour_gaussians(images: Pictures) -> Gaussians:
    """Mean (pairs, 3) and covariance (pairs, 3, 3) of every picture's pixels in CIELAB (D65); pixels in [0, 1]."""
    lab = rgb2lab(images.detach().double().cpu().movedim(1, -1).numpy()).reshape(len(images), -1, 3)
    mean = lab.mean(1)
    centred = lab - mean[:, None]
    return mean, np.einsum("npi,npj->nij", centred, centred) / lab.shape[1]


def colour_distance(first: Gaussians, second: OtherGaussians) -> PerPair:
    """Fréchet (Bures–Wasserstein) distance of Gaussians, in units of CIELAB; a metric, 0 for equal ones.

    d² = |m₁ − m₂|² + tr(S₁ + S₂ − 2 (S₁^½ S₂ S₁^½)^½), Dowson & Landau 1982.
    """
    (mean_1, covariance_1), (mean_2, covariance_2) = first, second
    values, vectors = np.linalg.eigh(covariance_1)
    root = (vectors * np.sqrt(values.clip(0))[:, None]) @ vectors.swapaxes(1, 2)
    product = root @ covariance_2 @ root
    cross = np.sqrt(np.linalg.eigvalsh((product + product.swapaxes(1, 2)) / 2).clip(0)).sum(1)
    traces = np.trace(covariance_1, axis1=1, axis2=2) + np.trace(covariance_2, axis1=1, axis2=2)
    return np.sqrt((((mean_1 - mean_2) ** 2).sum(1) + traces - 2 * cross).clip(0))


def edge_maps(images: Float[Tensor, "pairs channels height width"]) -> Float[Tensor, "pairs pixels"]:
    """Gradient magnitude of the smoothed luminance, standardised: mean 0 and length 1 over a picture's pixels.

    Gaussian smoothing by `EDGE_SCALE` of the shorter side, then central differences. The product of two maps is their
    correlation, in [−1, 1]; a picture without any edge has a map of zeros, which correlates 0 with everything.

    Raises:
        BadInputError: pictures of fewer than 8 × 8 pixels, or of neither one nor three channels.
    """
    y = luminance(images)
    if min(y.shape[1:]) < 8:
        raise BadInputError(f"Edges need pictures of at least 8×8 pixels, got {y.shape[1]}×{y.shape[2]}.")
    kernel = _gaussian(EDGE_SCALE * min(y.shape[1:]), y.device)
    margin = len(kernel) // 2
    y = F.pad(y[:, None], (margin,) * 4, mode="reflect")
    y = F.conv2d(F.conv2d(y, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]
    along_rows, along_columns = y[:, 1:-1, 2:] - y[:, 1:-1, :-2], y[:, 2:, 1:-1] - y[:, :-2, 1:-1]
    magnitude = (along_rows.square() + along_columns.square()).sqrt().flatten(1)
    centred = magnitude - magnitude.mean(1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    return torch.where(length > 1e-4, centred / length.clamp(min=1e-4), 0.0)  # below: rounding of a flat picture


@functools.cache
@torch.inference_mode(False)  # a tensor that is kept must not be born inside a caller's inference mode
def _gaussian(sigma_px: float, device: torch.device) -> Float[Tensor, " taps"]:
    radius = int(np.ceil(3 * sigma_px))
    weights = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float64) ** 2) / (2 * sigma_px**2))
    return (weights / weights.sum()).float().to(device)
