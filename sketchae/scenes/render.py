"""Draw scenes: signed distances for what is where, palettes and picture-wide effects for how it is painted.

`render` runs in two halves that mirror the two kinds of factors. `_draw_content` decides, from semantic factors and
content jitter alone, which *role* every pixel plays; `sketchae.scenes.styles` turns roles into colour and texture from
style factors and style jitter alone. So no style can leak into content, nor the reverse, by construction.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sketchae.scenes.factors import FACTORS, IMAGE_SIZE, Scenes, uniform
from sketchae.scenes.palettes import ROLES
from sketchae.scenes.shapes import SHAPES
from sketchae.scenes.styles import paint

REGIONS = ("sky", "terrain", "object", "celestial")
"""Meaning of the values 0-3 of a segmentation map."""

_ROLE = {name: i for i, name in enumerate(ROLES)}
_CELESTIAL_ROWS = 44  # nothing in the sky reaches lower
_PEAKS = ((14.0, 1.05, 25.0), (58.0, 1.15, 30.0), (104.0, 1.0, 22.0))  # x, slope, height of the mountains in pixels
_BLOCKS = torch.tensor([9.0, 22.0, 14.0, 27.0, 6.0, 18.0, 25.0, 12.0])  # heights of the city's blocks in pixels
_WINDOW = 60  # side of the square in which one object is drawn
_HALF_HEIGHT = {"small": 14.0, "large": 22.0}
_SPACING = {"small": 23.0, "large": 25.5}
_HORIZON = {"low": 86.0, "high": 62.0}
_CENTRE = {"left": 41.0, "centre": 64.0, "right": 87.0}


@dataclass(frozen=True)
class SceneImages:
    """`images`: float32 (n, 3, 128, 128) in [0, 1]; `segmentation`: uint8 (n, 128, 128), see `REGIONS`."""

    images: Float[Tensor, "n 3 128 128"]
    segmentation: UInt8[Tensor, "n 128 128"]


def render(scenes: Scenes, batch_size: int = 16) -> SceneImages:
    """Draw every scene. The result does not depend on `batch_size`, which only bounds memory."""
    parts = [_render_batch(scenes[i : i + batch_size]) for i in range(0, len(scenes), batch_size)]
    if not parts:
        size = (0, IMAGE_SIZE, IMAGE_SIZE)
        return SceneImages(torch.empty(0, 3, *size[1:]), torch.empty(size, dtype=torch.uint8))
    return SceneImages(torch.cat([p.images for p in parts]), torch.cat([p.segmentation for p in parts]))


def to_uint8(images: Float[Tensor, "n 3 h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Pixels in [0, 1] as bytes, channels last, rounded to the nearest."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _render_batch(scenes: Scenes) -> SceneImages:
    roles, segmentation, outline = _draw_content(scenes)
    return SceneImages(paint(scenes, roles, outline), segmentation)


class _Jitter:
    """Draws of the unnamed variation, as float32 tensors that broadcast over pixels."""

    def __init__(self, seeds: np.ndarray):
        self.seeds = seeds

    def __call__(self, name: str, low: float, high: float) -> Tensor:
        u = uniform(self.seeds, name)
        return torch.from_numpy((low + (high - low) * u).astype(np.float32)).view(-1, 1, 1)


def _coverage(distance_px: Tensor) -> Tensor:
    """Antialiasing: how much of a pixel lies inside a shape at this signed distance (negative inside)."""
    return (0.5 - distance_px).clamp(0, 1)


def _lookup(scenes: Scenes, factor: str, table: dict[str, float]) -> Tensor:
    values = torch.tensor([table[v] for v in FACTORS[factor].values])
    return values[torch.from_numpy(scenes.factors[factor])].view(-1, 1, 1)


def _draw_content(scenes: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    """Role weights (n, roles, h, w) that sum to 1, the segmentation map and the outlines' coverage (n, h, w)."""
    n, jitter = len(scenes), _Jitter(scenes.content_jitter_seed)
    coordinate = torch.arange(IMAGE_SIZE, dtype=torch.float32) + 0.5
    x, y = coordinate.view(1, 1, -1), coordinate.view(1, -1, 1)
    horizon = _lookup(scenes, "horizon", _HORIZON) + jitter("horizon", -2.0, 2.0)
    back, ground, marks = _terrain(scenes, jitter, x, y, horizon)
    glow, ring = _celestial(scenes, jitter, x, y)
    sky = (1 - back) * (1 - ground)
    fade = (y / horizon).clamp(0, 1)
    roles = torch.empty(n, len(ROLES), IMAGE_SIZE, IMAGE_SIZE)
    outline = torch.zeros(n, IMAGE_SIZE, IMAGE_SIZE)
    strip = slice(0, _CELESTIAL_ROWS)
    outline[:, strip] = ring * sky[:, strip]
    roles[:, _ROLE["glow"]] = 0
    roles[:, _ROLE["glow"], strip] = glow * sky[:, strip]
    sky[:, strip] *= 1 - glow
    torch.mul(sky, fade, out=roles[:, _ROLE["sky_low"]])
    torch.sub(sky, roles[:, _ROLE["sky_low"]], out=roles[:, _ROLE["sky_top"]])
    lit = marks * ground
    torch.sub(ground, lit, out=roles[:, _ROLE["near"]])
    torch.add(lit, back * (1 - ground), out=roles[:, _ROLE["far"]])
    roles[:, _ROLE["main"]] = roles[:, _ROLE["accent"]] = 0
    region = (torch.maximum(back, ground) > 0.5).to(torch.uint8)
    region[:, strip][roles[:, _ROLE["glow"], strip] > 0.5] = REGIONS.index("celestial")
    _place_objects(scenes, jitter, roles, outline, region)
    return roles, region, outline


def _celestial(scenes: Scenes, jitter: _Jitter, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Coverage of the sun, moon or cloud, and of its thin outline, in the upper strip of the picture."""
    cx, cy, r = jitter("celestial_x", 20.0, 108.0), jitter("celestial_y", 16.0, 22.0), jitter("celestial_size", 0.92, 1.08)
    dx, dy = (x - cx) / r, (y[:, :_CELESTIAL_ROWS] - cy) / r
    dx, dy = torch.broadcast_tensors(dx, dy)
    d = torch.full_like(dx, 99.0)
    for index, shape in enumerate((None, _sun, _moon, _cloud)):
        rows = torch.from_numpy(np.flatnonzero(scenes.factors["celestial"] == index))
        if shape is not None and len(rows):
            d[rows] = shape(dx[rows], dy[rows]) * r[rows]
    return _coverage(d), _coverage(d.abs() - 0.8) * 0.6


def _sun(dx: Tensor, dy: Tensor) -> Tensor:
    distance, eighth = torch.hypot(dx, dy), torch.atan2(dy, dx) * (4 / np.pi)
    rays = torch.maximum((distance - 13.5).abs() - 2.5, (eighth - eighth.round()).abs() * (np.pi / 4) * distance - 1.5)
    return torch.minimum(distance - 8.5, rays)


def _moon(dx: Tensor, dy: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(dx, dy) - 11, 9.5 - torch.hypot(dx - 6, dy + 2))


def _cloud(dx: Tensor, dy: Tensor) -> Tensor:
    puffs = [torch.hypot(dx - px, dy - py) - pr for px, py, pr in ((-11, 2, 6.5), (0, -2, 9), (11, 2, 6.5))]
    return torch.maximum(torch.minimum(torch.minimum(puffs[0], puffs[1]), puffs[2]), dy - 6)


def _terrain(scenes: Scenes, jitter: _Jitter, x: Tensor, y: Tensor, horizon: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coverage of the silhouette behind, of the ground, and of the marks on the ground."""
    phase, scale = jitter("terrain_phase", 0.0, 1.0), jitter("terrain_scale", 0.9, 1.1)
    flat = horizon.expand(-1, 1, IMAGE_SIZE)
    hills = horizon - 13 * scale * (0.5 + 0.5 * torch.cos(2 * np.pi * (x / 50 / scale + phase)))
    shifted = x - 26 * (phase - 0.5)
    peaks = [(shifted - c).abs() * slope - height * scale for c, slope, height in _PEAKS]
    mountains = horizon + torch.minimum(torch.minimum(peaks[0], peaks[1]), peaks[2]).clamp(max=0)
    city = horizon - _BLOCKS[torch.floor(x / 13 + phase * 8).long() % len(_BLOCKS)] * scale
    tops = torch.stack([flat, hills, mountains, flat, city])
    kind = torch.from_numpy(scenes.factors["terrain"])
    back = _coverage(tops[kind, torch.arange(len(scenes))] - y)
    ground = _coverage(horizon + 1 - y)
    marks = torch.zeros_like(back)
    for name, draw in (("plain", _furrows), ("sea", _waves)):
        rows = torch.nonzero(kind == FACTORS["terrain"].values.index(name)).flatten()
        if len(rows):
            marks[rows] = draw(x, y - horizon[rows], phase[rows])
    return back, ground.expand_as(back), marks


def _furrows(x: Tensor, below: Tensor, phase: Tensor) -> Tensor:
    """Lines that meet on the horizon; `below` is the distance under it in pixels."""
    depth = below.clamp(min=0.5)
    t = (x - 64 - 30 * (phase - 0.5)) / depth * 1.6 - phase
    return (1.5 - (t - t.round()).abs() * depth / 1.6).clamp(0, 1) * ((depth - 6) / 8).clamp(0, 1)


def _waves(x: Tensor, below: Tensor, phase: Tensor) -> Tensor:
    """Wavy lines, 11 pixels apart."""
    t = (below - 5 - 1.8 * torch.sin(2 * np.pi * (x / 22 + phase))) / 11
    return (1.7 - (t - t.round()).abs() * 11).clamp(0, 1) * (t > -0.5)


def _place_objects(scenes: Scenes, jitter: _Jitter, roles: Tensor, outline: Tensor, region: Tensor) -> None:
    """Paint up to three objects of each scene; the middle one stands in front."""
    half = _lookup(scenes, "size", _HALF_HEIGHT) * jitter("object_size", 0.95, 1.05)
    spacing = _lookup(scenes, "size", _SPACING) * jitter("object_spacing", 0.97, 1.03)
    centre = _lookup(scenes, "position", _CENTRE) + jitter("object_x", -3.5, 3.5)
    base = 113 + jitter("object_y", -4.0, 4.0)
    count = torch.from_numpy(scenes.factors["count"]) + 1
    kind = torch.from_numpy(scenes.factors["object"])
    for place in (0, 2, 1):
        cx = centre + (place - (count - 1).view(-1, 1, 1) / 2) * spacing
        bottom = base + (3.0 if place == 1 else 0.0)
        for k in range(len(SHAPES)):
            rows = torch.nonzero((count > place) & (kind == k)).flatten()
            if len(rows):
                _paint_objects(roles, outline, region, rows, SHAPES[k], cx[rows], bottom[rows], half[rows])


def _paint_objects(roles: Tensor, outline: Tensor, region: Tensor, rows: Tensor, shape, cx: Tensor, bottom: Tensor, half: Tensor) -> None:
    """Draw one object in each of the scenes `rows`, inside a window around it, over what is there."""
    x0 = (cx - _WINDOW / 2).floor()
    y0 = (bottom - _WINDOW + 5).floor()
    step = torch.arange(_WINDOW, dtype=torch.float32) + 0.5
    u, v = (x0 + step.view(1, 1, -1) - cx) / half, (y0 + step.view(1, -1, 1) - bottom) / half + 1
    main, accent = shape(*torch.broadcast_tensors(u, v))
    whole = torch.minimum(main, accent) * half
    cover, over, line = _coverage(whole), _coverage(accent * half), _coverage(whole.abs() - 1.1)
    over = over * cover
    for i, row in enumerate(rows.tolist()):
        left, top = int(x0[i]), int(y0[i])
        here = (slice(max(top, 0), min(top + _WINDOW, IMAGE_SIZE)), slice(max(left, 0), min(left + _WINDOW, IMAGE_SIZE)))
        part = (slice(here[0].start - top, here[0].stop - top), slice(here[1].start - left, here[1].stop - left))
        c = cover[i][part]
        roles[row][(slice(None), *here)] *= 1 - c
        roles[row, _ROLE["main"]][here] += c - over[i][part]
        roles[row, _ROLE["accent"]][here] += over[i][part]
        line_here = outline[row][here]
        line_here.copy_(torch.maximum(line_here * (1 - c), line[i][part]))
        region[row][here][c > 0.5] = REGIONS.index("object")
