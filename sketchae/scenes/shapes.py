"""The eight objects as signed distance functions, in units of the object's half height.

Local coordinates: u to the right, v downwards; the object fills about [-1, 1]² and stands on v = 1.
Each function returns two distances (negative inside): the *main* part and the *accent* part, which is painted
over it. Colours come from the palette alone, so that no object betrays a colour.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Number = float | int


def _circle(u: Tensor, v: Tensor, cu: Number, cv: Number, r: Number) -> Tensor:
    return torch.hypot(u - cu, v - cv) - r


def _box(u: Tensor, v: Tensor, cu: Number, cv: Number, hu: Number, hv: Number) -> Tensor:
    return torch.maximum((u - cu).abs() - hu, (v - cv).abs() - hv)


def _triangle(u: Tensor, v: Tensor, apex: Number, base: Number, half: Number) -> Tensor:
    """Isosceles, apex up at v = `apex`, base at v = `base` of half width `half`."""
    height = base - apex
    norm = (half**2 + height**2) ** 0.5
    side = (u.abs() * height - (v - apex) * half) / norm
    return torch.maximum(side, v - base)


def _capsule(u: Tensor, v: Tensor, u0: Number, v0: Number, u1: Number, v1: Number, r: Number) -> Tensor:
    du, dv = u1 - u0, v1 - v0
    t = (((u - u0) * du + (v - v0) * dv) / (du * du + dv * dv)).clamp(0, 1)
    return torch.hypot(u - u0 - t * du, v - v0 - t * dv) - r


def _tree(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    crown = torch.minimum(_circle(u, v, 0, -0.42, 0.58), torch.minimum(_circle(u, v, -0.38, -0.1, 0.38), _circle(u, v, 0.38, -0.1, 0.38)))
    return crown, torch.maximum(_box(u, v, 0, 0.62, 0.13, 0.38), -crown)


def _pine(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    green = torch.minimum(_triangle(u, v, -1.0, -0.25, 0.42), torch.minimum(_triangle(u, v, -0.6, 0.2, 0.56), _triangle(u, v, -0.2, 0.68, 0.7)))
    return green, torch.maximum(_box(u, v, 0, 0.82, 0.12, 0.18), -green)


def _house(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    roof = _triangle(u, v, -0.85, -0.05, 0.88)
    door = _box(u, v, 0.0, 0.7, 0.16, 0.3)
    wall = torch.maximum(_box(u, v, 0, 0.47, 0.64, 0.53), -door)
    return torch.minimum(roof, door), wall


def _mushroom(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    cap = torch.maximum(_circle(u, v, 0, 0.05, 0.86), v - 0.1)
    spots = torch.minimum(_circle(u, v, -0.38, -0.25, 0.17), torch.minimum(_circle(u, v, 0.38, -0.25, 0.17), _circle(u, v, 0, -0.5, 0.17)))
    stem = _box(u, v, 0, 0.55, 0.26, 0.45)
    return torch.maximum(cap, -spots), torch.minimum(spots, stem)


def _cactus(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    trunk = _capsule(u, v, 0, -0.72, 0, 0.95, 0.2)
    left = torch.minimum(_capsule(u, v, -0.58, -0.2, -0.58, 0.3, 0.15), _capsule(u, v, -0.58, 0.3, 0, 0.3, 0.13))
    right = torch.minimum(_capsule(u, v, 0.58, -0.45, 0.58, 0.05, 0.15), _capsule(u, v, 0.58, 0.05, 0, 0.05, 0.13))
    body = torch.minimum(trunk, torch.minimum(left, right))
    return torch.maximum(body, v - 1), _circle(u, v, 0, -0.88, 0.17)


def _sailboat(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    hull = torch.maximum((v - 0.78).abs() - 0.22, u.abs() + 0.6 * v - 1.3)
    mast = _box(u, v, -0.02, -0.2, 0.05, 0.78)
    sail_right = torch.maximum(torch.maximum(0.08 - u, v - 0.42), 0.85 * (u - 0.08) - 0.52 * (v + 0.95))
    sail_left = torch.maximum(torch.maximum(u + 0.12, v - 0.42), -0.8 * (u + 0.12) - 0.5 * (v + 0.45))
    return torch.minimum(hull, mast), torch.minimum(sail_right, sail_left)


def _balloon(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    envelope = torch.minimum(_circle(u, v, 0, -0.32, 0.68), _triangle(u, -v, -0.72, 0.1, 0.6))
    stripe = torch.maximum(envelope, u.abs() - 0.2)
    basket = _box(u, v, 0, 0.86, 0.2, 0.14)
    return torch.maximum(envelope, 0.2 - u.abs()), torch.minimum(stripe, basket)


def _windmill(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    tower = torch.maximum((v - 0.35).abs() - 0.65, u.abs() - 0.2 - 0.14 * (v + 0.3))
    c = 0.5**0.5
    p, q = c * (u + v + 0.3), c * (v + 0.3 - u)
    blades = torch.minimum(torch.maximum(p.abs() - 0.92, q.abs() - 0.11), torch.maximum(q.abs() - 0.92, p.abs() - 0.11))
    return blades, torch.maximum(tower, -blades)


SHAPES: tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], ...] = (
    _tree, _pine, _house, _mushroom, _cactus, _sailboat, _balloon, _windmill,
)
"""In the order of the values of the factor `object`."""
