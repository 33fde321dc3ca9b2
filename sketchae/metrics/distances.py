"""Distances between pictures: squared error, PSNR, SSIM, and the difference of gradients.

Pictures are float tensors (batch, channels, height, width) with values in [0, 1]; each function returns one number
for each picture. The last two look at structure, where colour weighs little: both work on luminance (BT.601).
"""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError

Images = Float[Tensor, "batch channels height width"]
OtherImages = Float[Tensor, "_ _ _ _"]  # must agree with the first; checked in the function, with a sentence
PerImage = Float[Tensor, " batch"]

LUMINANCE_WEIGHTS = (0.299, 0.587, 0.114)
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # Wang et al. 2004: an 11×11 Gaussian window
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for a data range of 1


def mse(a: Images, b: OtherImages) -> PerImage:
    """Mean squared error of pixels; 0 is equal."""
    _check(a, b)
    return (a - b).square().flatten(1).mean(1)


def psnr(a: Images, b: OtherImages) -> PerImage:
    """Peak signal-to-noise ratio in dB for a peak of 1: −10 log₁₀ MSE; infinite where the pictures are equal."""
    return -10 * mse(a, b).log10()


def ssim(a: Images, b: OtherImages) -> PerImage:
    """Structural similarity of the luminance (Wang et al. 2004, Gaussian window); 1 is equal.

    The window stays inside the picture, as in the original; agrees with scikit-image's
    `structural_similarity(gaussian_weights=True, use_sample_covariance=False)`.
    """
    _check(a, b)
    height, width = a.shape[2:]
    if min(height, width) < 2 * SSIM_RADIUS + 1:
        raise BadInputError(f"SSIM needs pictures of at least 11×11 pixels, got {height}×{width}.")
    x, y = luminance(a), luminance(b)
    # Two banded matrices instead of a convolution: several times faster on a CPU at these sizes.
    rows, columns = _window(height, a.device), _window(width, a.device).T
    mean_x, mean_y, xx, yy, xy = rows @ torch.stack([x, y, x * x, y * y, x * y]) @ columns
    variances = (xx - mean_x**2) + (yy - mean_y**2)
    covariance = xy - mean_x * mean_y
    quality = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    return (quality / ((mean_x**2 + mean_y**2 + SSIM_C1) * (variances + SSIM_C2))).flatten(1).mean(1)


def gradient_distance(a: Images, b: OtherImages) -> PerImage:
    """Mean squared difference of the luminance's horizontal and vertical finite differences; 0 is equal."""
    _check(a, b)
    difference = luminance(a) - luminance(b)
    return difference.diff(dim=1).square().flatten(1).mean(1) + difference.diff(dim=2).square().flatten(1).mean(1)


def luminance(images: Images) -> Float[Tensor, "batch height width"]:
    """Luminance in [0, 1] of RGB pictures; a single channel is taken as it is."""
    if images.shape[1] == 1:
        return images[:, 0]
    if images.shape[1] != 3:
        raise BadInputError(f"Luminance needs 1 or 3 channels, got {images.shape[1]}: drop alpha first.")
    weights = torch.tensor(LUMINANCE_WEIGHTS, dtype=images.dtype, device=images.device)
    return torch.einsum("bchw,c->bhw", images, weights)


@functools.cache
@torch.inference_mode(False)  # a tensor that is kept must not be born inside a caller's inference mode
def _window(size: int, device: torch.device) -> Tensor:
    """(size − 10, size): row i averages with Gaussian weights around pixel i + 5."""
    offsets = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    weights = weights / weights.sum()
    n = size - 2 * SSIM_RADIUS
    band = torch.zeros(n, size, dtype=torch.float64)
    for k, weight in enumerate(weights):
        band[torch.arange(n), torch.arange(n) + k] = weight
    return band.to(device=device, dtype=torch.float32)


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise BadInputError(f"Pictures of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared: resize one.")
    if len(a) == 0:
        raise BadInputError("There are no pictures to compare (an empty batch).")
