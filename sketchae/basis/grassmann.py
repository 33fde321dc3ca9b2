"""All the planes there are: covering the Grassmannian Gr(k, C), measuring on it, and walking on it.

A split into k and C - k channels is a point of Gr(k, C), which has k (C - k) dimensions: 4 for two blocks of two channels.
That is few enough to cover with points, judge each of them, and walk uphill from the best. For many channels (32, say) no
covering is affordable; the same walk then starts from what is known (`ascend`).
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
from jaxtyping import Float
from tqdm.auto import tqdm

from sketchae.basis.baselines import random_basis
from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.basis.planes import as_float64, check_n_semantic
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import generator
from sketchae.progress import hide_if

Planes = Float[np.ndarray, "planes k channels"]  # orthonormal rows


def haar_planes(n: int, channels: int = 4, n_semantic: int = 2, start: int = 0) -> Planes:
    """The semantic rows of `random_basis(seed)` for seeds start, start + 1 …: planes drawn evenly from Gr(k, C)."""
    check_n_semantic(n_semantic, channels)
    return np.stack([as_float64(random_basis(channels, n_semantic, start + i).Q)[:n_semantic] for i in range(n)])


def largest_angles(planes: Planes, others: Float[np.ndarray, "_ _ _"]) -> Float[np.ndarray, "planes others"]:
    """Largest principal angle in degrees between every plane and every other: 0 for equal planes, at most 90."""
    cosines = np.linalg.svd(np.einsum("pkc,olc->pokl", planes, others), compute_uv=False)
    return np.degrees(np.arccos(np.clip(cosines[..., -1], 0, 1)))


def covering_radius(planes: Planes, n_probes: int = 2000, start: int = 1_000_000) -> float:
    """The largest angle in degrees, over `n_probes` further Haar planes, from a plane to the nearest of `planes`.

    An estimate from below of the covering radius in the largest principal angle; seeds from `start` on give the probes.
    """
    k, channels = planes.shape[1:]
    probes = haar_planes(n_probes, channels, k, start)
    return float(max(largest_angles(part, planes).min(axis=1).max() for part in np.array_split(probes, max(1, n_probes // 100))))


def plane_basis(plane: Float[np.ndarray, "k channels"]) -> OrthogonalBasis:
    """A basis whose semantic block is `plane`; the style block is what is orthogonal to it."""
    rest = scipy.linalg.null_space(plane).T
    return OrthogonalBasis.from_matrix(np.concatenate([scipy.linalg.orth(plane.T).T, rest]), len(plane))


def move(plane: Float[np.ndarray, "k channels"], tangent: Float[np.ndarray, "k rest"]) -> Float[np.ndarray, "k channels"]:
    """The plane reached from `plane` along a geodesic: the principal angles travelled are the singular values of
    `tangent`, in radians (rows in the plane, columns in its complement; the exponential map of Edelman et al. 1998)."""
    rest = scipy.linalg.null_space(plane).T
    u, angles, vt = np.linalg.svd(tangent, full_matrices=False)
    turned = np.cos(angles)[:, None] * (u.T @ plane) + np.sin(angles)[:, None] * (vt @ rest)
    fixed = plane - u @ (u.T @ plane)  # directions that the tangent leaves alone, where k > C - k
    return scipy.linalg.orth((u @ turned + fixed).T).T


def ascend(
    objective: Callable[[Float[np.ndarray, "k channels"]], float],
    starts: Sequence[Float[np.ndarray, "k channels"]] | Float[np.ndarray, "_ k channels"],
    *,
    n_steps: int = 40,
    first_step_deg: float | int = 15.0,
    name: str = "ascend",
    progress: bool = True,
) -> tuple[Float[np.ndarray, "k channels"], float]:
    """The best plane found by a random walk uphill from each start, and its objective; for any k and C.

    An evolution strategy with one parent (Rechenberg's one-fifth rule): a step in a random direction is kept if the objective
    grows; the step length then grows by half, and else shrinks by 1.5^(-1/4), so that one success in five keeps it. The
    objective is taken as exact: give it a fixed set of pairs.

    Raises:
        BadInputError: no start.
    """
    if not len(starts):
        raise BadInputError("ascend needs at least one plane to start from.")
    best: tuple[np.ndarray, float] | None = None
    bar = tqdm(total=len(starts) * n_steps, desc="climbing", **hide_if(not progress))
    for number, plane in enumerate(starts):
        random = generator(f"{name}/{number}")
        value, step = objective(plane), np.radians(first_step_deg)
        for _ in range(n_steps):
            direction = random.normal(size=(len(plane), plane.shape[1] - len(plane)))
            there = move(plane, step * direction / np.linalg.norm(direction))
            found = objective(there)
            if found > value:
                plane, value, step = there, found, step * 1.5
            else:
                step *= 1.5**-0.25
            bar.update()
        if best is None or value > best[1]:
            best = (plane, value)
    bar.close()
    return best
