"""How a scene is painted: palette, medium, tone and light, from style factors and style jitter alone.

Textures are laid out on the picture, not on its objects, and are coarse (periods of about 8 pixels), so that a codec
that shrinks pictures eight-fold can carry them.
"""

from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sketchae.scenes.factors import FACTORS, IMAGE_SIZE, Scenes, hash_seeds, uniform
from sketchae.scenes.palettes import palette_table

_PAPER = 0.97  # brightness of paper


def _values(seeds: np.ndarray, name: str, low: float, high: float) -> Tensor:
    return torch.from_numpy((low + (high - low) * uniform(seeds, name)).astype(np.float32)).view(-1, 1, 1, 1)


def _noise(seeds: np.ndarray, name: str, cells: int) -> Tensor:
    """Smooth noise in [0, 1] of shape (n, 1, h, w): hashed values on a grid, interpolated bicubically."""
    keys = hash_seeds(seeds, name)[:, None] ^ np.arange(cells * cells, dtype=np.uint64)[None]
    grid = torch.from_numpy(uniform(keys, "noise").astype(np.float32)).view(-1, 1, cells, cells)
    return F.interpolate(grid, size=IMAGE_SIZE, mode="bicubic", align_corners=True).clamp(0, 1)


def _luminance(rgb: Tensor) -> Tensor:
    return rgb[:, :1] * 0.299 + rgb[:, 1:2] * 0.587 + rgb[:, 2:] * 0.114


def _neighbours(x: Tensor, radius: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine every pixel with its neighbours in a square, one axis at a time (slices beat pooling on a CPU)."""
    for dim in (-1, -2):
        size = x.shape[dim]
        pad = (radius, radius, 0, 0) if dim == -1 else (0, 0, radius, radius)
        padded = F.pad(x, pad, mode="replicate")
        x = reduce(combine, (padded.narrow(dim, i, size) for i in range(2 * radius + 1)))
    return x


def _blur(x: Tensor, radius: int) -> Tensor:
    return _neighbours(x, radius, torch.add) / (2 * radius + 1) ** 2


def paint(scenes: Scenes, roles: Tensor, outline: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) in [0, 1] from role weights (n, roles, h, w) and outlines' coverage (n, h, w)."""
    seeds = scenes.style_jitter_seed
    colours = palette_table(FACTORS["palette"].values)[torch.from_numpy(scenes.factors["palette"])]
    gain = torch.cat([_values(seeds, f"gain_{c}", 0.96, 1.04)[:, :, 0] for c in "rgb"], dim=2)
    colours = (colours * gain).clamp(0, 1)
    rgb = torch.einsum("nrc,nrhw->nchw", colours, roles)
    line = outline.unsqueeze(1)
    out = torch.empty_like(rgb)
    for index, medium in enumerate(FACTORS["medium"].values):
        rows = np.flatnonzero(scenes.factors["medium"] == index)
        if rows.size:
            out[rows] = _MEDIA[medium](rgb[rows], line[rows], seeds[rows])
    return _light(scenes, _tone(scenes, out)).clamp(0, 1)


def _grid() -> tuple[Tensor, Tensor]:
    c = torch.arange(IMAGE_SIZE, dtype=torch.float32) + 0.5
    return c.view(1, 1, 1, -1), c.view(1, 1, -1, 1)


def _shade(rgb: Tensor, line: Tensor, strength: float) -> Tensor:
    """Thin, darker contours, so that neighbours of one colour stay apart."""
    return rgb * (1 - strength * line.clamp(0, 1))


def _flat(rgb: Tensor, line: Tensor, seeds: np.ndarray) -> Tensor:
    return _shade(rgb, line, 0.35)


def _watercolour(rgb: Tensor, line: Tensor, seeds: np.ndarray) -> Tensor:
    """Pigment in clouds, soft edges, darker rims, white paper at the border."""
    wet = _blur(_shade(rgb, line, 0.2), 1)
    luminance = _luminance(wet)
    rim = (_blur(luminance, 3) - luminance).clamp(-0.2, 0.2)
    pigment = _noise(seeds, "pigment", 9) - 0.5
    wash = wet * (1 - 0.9 * rim.abs()) + 0.3 * pigment * (1.15 - luminance) * (0.4 + luminance)
    x, y = _grid()
    edge = torch.minimum(torch.minimum(x, IMAGE_SIZE - x), torch.minimum(y, IMAGE_SIZE - y))
    ragged = edge - 3 - 7 * _noise(seeds, "border", 13)
    return torch.lerp(torch.full_like(wash, _PAPER), wash, (ragged / 2 + 0.5).clamp(0, 1))


def _hatching(rgb: Tensor, line: Tensor, seeds: np.ndarray) -> Tensor:
    """Diagonal strokes, broader where it is darker, crossed in the shadows."""
    x, y = _grid()
    dark = 1 - _luminance(rgb)
    strokes = _stroke((x + y) / 8, 0.16 + 0.3 * dark) * _values(seeds, "strokes", 0.36, 0.46)
    crossed = _stroke((x - y) / 8, 0.5 * (dark - 0.45)) * 0.3
    return _shade(rgb * 0.92 + 0.08, line, 0.5) * (1 - strokes) * (1 - crossed)


def _stroke(t: Tensor, width: Tensor) -> Tensor:
    """Antialiased stripes of period 1 in `t` (8 pixels over the diagonal), of the given half width."""
    return ((width - (t - t.round()).abs() * 2) * 2.8 + 0.5).clamp(0, 1)


def _pointillism(rgb: Tensor, line: Tensor, seeds: np.ndarray) -> Tensor:
    """Dots on a staggered grid of 8 pixels, on paper, each dot a little brighter or darker."""
    x, y = _grid()
    row = torch.floor(y / 8)
    u = x / 8 + 0.5 * (row % 2)
    distance = torch.hypot(u - torch.floor(u) - 0.5, y / 8 - row - 0.5) * 8
    dots = (3.6 - distance + 0.5).clamp(0, 1)
    vivid = (_shade(rgb, line, 0.25) - 0.5) * 1.12 + 0.5
    spread = _values(seeds, "spread", 0.42, 0.52)
    return torch.lerp(vivid * (1 - spread) + _PAPER * spread, vivid, dots)


def _ink(rgb: Tensor, line: Tensor, seeds: np.ndarray) -> Tensor:
    """Pen and wash: black contours wherever the colour changes, thin colour between them."""
    soft = _blur(rgb, 1)
    edge = (_neighbours(soft, 1, torch.maximum) - _neighbours(soft, 1, torch.minimum)).amax(1, keepdim=True)
    ink = torch.maximum(((edge - 0.1) * 7).clamp(0, 1), line.clamp(0, 1))
    wash = torch.lerp(torch.full_like(rgb, _PAPER), rgb, _values(seeds, "wash", 0.42, 0.5))
    return wash * (1 - 0.9 * ink)


_MEDIA = {"flat": _flat, "watercolour": _watercolour, "hatching": _hatching, "pointillism": _pointillism, "ink": _ink}


def _tone(scenes: Scenes, rgb: Tensor) -> Tensor:
    """Bold keeps the colours; pale thins them towards paper."""
    strength = _values(scenes.style_jitter_seed, "pale", 0.46, 0.54)
    pale = torch.from_numpy(scenes.factors["tone"] == FACTORS["tone"].values.index("pale")).view(-1, 1, 1, 1)
    return torch.where(pale, rgb * strength + 0.93 * (1 - strength), rgb)


def _light(scenes: Scenes, rgb: Tensor) -> Tensor:
    """A gradient over the picture: none, from the left, from the right, or from the middle."""
    x, y = _grid()
    t = (x / IMAGE_SIZE).expand(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    radius = torch.hypot(x / IMAGE_SIZE - 0.5, y / IMAGE_SIZE - 0.5)
    fields = torch.cat([torch.zeros_like(t), t, 1 - t, ((radius - 0.22) / 0.45).clamp(0, 1)])
    depth = _values(scenes.style_jitter_seed, "light", 0.5, 0.58)
    return rgb * (1 - depth * fields[torch.from_numpy(scenes.factors["light"])])
