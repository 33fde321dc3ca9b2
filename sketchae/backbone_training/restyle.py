"""`restyle`: the picture as another hand might have painted it. Every edge keeps its place; colours, light and texture change.

A random composition of changes that anybody may make to any picture (colours mixed, inverted, faded; a shade laid across; a
pattern of strokes or grains laid over; blurred). It is given no label and no style of Scenes; that shades and
strokes are among the changes was chosen by people who knew how Scenes are painted.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sketchae.basis.augmentation import blur, colour_mix, contrast, gamma, inversion, noise, offset

Images = Float[Tensor, "batch 3 height width"]


def restyle(images: Images, random: np.random.Generator) -> Images:
    """Pictures in [0, 1] to pictures in [0, 1] of the same content, each changed in its own way; drawn from `random` alone."""
    generators = random.spawn(len(images))
    changed = colour_mix(images, generators)
    for change, share in ((inversion, 0.3), (gamma, 0.5), (contrast, 0.5), (offset, 0.5)):
        changed = _some(changed, change(changed, generators), random, share)
    changed = _some(changed, (changed * _shade(images, random)).clamp(0, 1), random, 0.7)
    changed = _some(changed, blur(changed, generators), random, 0.3)
    changed = _some(changed, (changed + _pattern(images, random)).clamp(0, 1), random, 0.7)
    return _some(changed, noise(changed, generators), random, 0.2)


def _some(images: Tensor, changed: Tensor, random: np.random.Generator, share: float) -> Tensor:
    chosen = torch.from_numpy(random.uniform(size=(len(images), 1, 1, 1)) < share)
    return torch.where(chosen, changed, images)


def _uniform(random: np.random.Generator, low: float | int, high: float | int, n: int) -> Tensor:
    return torch.from_numpy(random.uniform(low, high, (n, 1, 1, 1)).astype(np.float32))


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates y and x of every pixel, in [-1, 1]."""
    height, width = images.shape[-2:]
    return torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")


def _shade(images: Tensor, random: np.random.Generator) -> Tensor:
    """A factor that falls off across the picture in a random direction, or towards its border."""
    n, (y, x) = len(images), _grid(images)
    angle = _uniform(random, 0, 2 * np.pi, n)
    across = angle.cos() * x + angle.sin() * y
    ramp = torch.where(_uniform(random, 0, 1, n) < 0.7, across, 0.7 - (x.square() + y.square()))
    return 1 + _uniform(random, 0, 0.5, n) * ramp


def _pattern(images: Tensor, random: np.random.Generator) -> Tensor:
    """Strokes, grains or blotches with a scale, a direction and a strength of their own for each picture; mean about 0."""
    n, (y, x) = len(images), _grid(images)
    pixels = images.shape[-1]
    angle, period = _uniform(random, 0, np.pi, n), _uniform(random, 4, 12, n)
    along, across = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    wave = 2 * np.pi * (pixels / 2) / period
    strokes = (wave * across + _uniform(random, 0, 6, n)).sin()
    grains = strokes * (wave * along + _uniform(random, 0, 6, n)).sin()
    coarse = torch.from_numpy(random.standard_normal((n, 1, pixels // 8, pixels // 8)).astype(np.float32))
    blotches = F.interpolate(coarse, images.shape[-2:], mode="bicubic", align_corners=False)
    kind = _uniform(random, 0, 3, n)
    pattern = torch.where(kind < 1, strokes, torch.where(kind < 2, grains, blotches))
    sharp = _uniform(random, 0, 1, n) < 0.5
    pattern = torch.where(sharp, (4 * pattern).tanh(), pattern)
    return _uniform(random, -0.25, 0.25, n) * pattern
