"""The plane that a basis calls semantic, and angles between two of them.

Rotating the rows of Q inside a block changes neither what can be read from that block nor what swapping it does. What
is learned is therefore the plane spanned by the first k *rows*: a point of the Grassmannian Gr(k, C).
"""

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError

Matrix = Float[Tensor, "channels channels"] | Float[np.ndarray, "channels channels"]
OtherMatrix = Float[Tensor, "_ _"] | Float[np.ndarray, "_ _"]


def plane_angle(first: Matrix, second: OtherMatrix, n_semantic: int) -> Float[np.ndarray, " angles"]:
    """Principal angles in degrees, in [0, 90] and largest first, between the spans of the first `n_semantic` rows.

    Orthogonal matrices or not: only the spans matter. With 2 n_semantic > C some angles are zero by necessity.

    Raises:
        BadInputError: the matrices differ in size, or `n_semantic` is out of range.
    """
    a, b = (as_float64(matrix) for matrix in (first, second))
    if a.shape != b.shape:
        raise BadInputError(f"Bases of {len(a)} and {len(b)} channels cannot be compared: take two for the same VAE.")
    check_n_semantic(n_semantic, len(a))
    return np.degrees(scipy.linalg.subspace_angles(a[:n_semantic].T, b[:n_semantic].T))


def check_n_semantic(n_semantic: int, channels: int) -> None:
    """Raise BadInputError unless both blocks get at least one channel."""
    if not 1 <= n_semantic < channels:
        raise BadInputError(
            f"n_semantic={n_semantic} leaves no room for two blocks in latents of {channels} channels: choose 1 to "
            f"{channels - 1}."
        )


def as_float64(matrix: OtherMatrix) -> Float[np.ndarray, "_ _"]:
    """The matrix as float64 numpy array on the CPU."""
    if isinstance(matrix, torch.Tensor):
        matrix = matrix.detach().cpu().numpy()
    return np.asarray(matrix, dtype=np.float64)
