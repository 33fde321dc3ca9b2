"""From the trained weight, nearly orthogonal, to an exactly orthogonal Q.

The paper's recipe is W = Q R, and Q takes the place of W. Signs are fixed by diag(R) > 0, which makes the result unique.

Rows and columns. In x = W z the *rows* of W are the output channels, and the semantic plane is spanned by the first k
rows. QR of W, however, is Gram-Schmidt on the *columns*: it keeps the spans of the first columns and tilts the plane of
the first rows, by about as much as R differs from I. `plane_angles_deg` says by how much, for three orthogonal
matrices:

- `qr`: the paper's recipe, and the default;
- `polar`: U V^T of the singular value decomposition W = U S V^T, the orthogonal matrix nearest to W;
- `lq`: from QR of W^T, that is Gram-Schmidt on the rows (W = L Q): it keeps the semantic plane exactly.
"""

import dataclasses
from typing import Literal

import numpy as np
import scipy.linalg
from jaxtyping import Float

from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.basis.planes import Matrix, as_float64, check_n_semantic, plane_angle
from sketchae.errors import BadInputError

METHODS = ("qr", "polar", "lq")


@dataclasses.dataclass(frozen=True)
class FinalizedBasis:
    """Three orthogonal matrices made from a trained weight W, and how they relate to it; float64.

    Attributes:
        weight: W. n_semantic: k.
        Q, R: of W = Q R with diag(R) > 0. polar: the orthogonal matrix nearest to W. lq: from W = L Q, diag(L) > 0.
        r_error: ||R - I||_F. r_error_max: the largest entry of |R - I|.
        weight_error: ||W^T W - I||_F.
        distances: of W to each matrix, in Frobenius norm, by name ("qr", "polar", "lq").
        plane_angles_deg: largest principal angle between the span of the first k rows of W and of each matrix.
    """

    weight: Float[np.ndarray, "c c"]
    n_semantic: int
    Q: Float[np.ndarray, "c c"]
    R: Float[np.ndarray, "c c"]
    polar: Float[np.ndarray, "c c"]
    lq: Float[np.ndarray, "c c"]
    r_error: float
    r_error_max: float
    weight_error: float
    distances: dict[str, float]
    plane_angles_deg: dict[str, float]

    @property
    def nearer(self) -> Literal["qr", "polar"]:
        """Which of the paper's Q and the polar factor is nearer to W; never "qr" but for a tie, where both equal W."""
        return "qr" if self.distances["qr"] <= self.distances["polar"] else "polar"

    @property
    def qr_to_polar(self) -> float:
        """||Q - polar||_F: how much the choice between the two matters."""
        return float(np.linalg.norm(self.Q - self.polar))

    def matrix(self, method: str = "qr") -> Float[np.ndarray, "c c"]:
        """The orthogonal matrix made by `method`, "qr", "polar" or "lq"; raises BadInputError for an unknown one."""
        matrices = dict(zip(METHODS, (self.Q, self.polar, self.lq), strict=True))
        if method not in matrices:
            raise BadInputError(
                f"There is no method {method!r} to finalize a weight: choose one of {', '.join(matrices)}."
            )
        return matrices[method]

    def basis(self, method: str = "qr", **meta) -> OrthogonalBasis:
        """The `OrthogonalBasis` to use and to save; `meta` (vae, facts) goes with it."""
        return OrthogonalBasis.from_matrix(self.matrix(method), self.n_semantic, **meta)


def finalize(weight: Matrix, n_semantic: int = 2) -> FinalizedBasis:
    """Make a trained weight exactly orthogonal, in float64.

    Raises:
        BadInputError: the weight is not finite or singular, or `n_semantic` is out of range.
    """
    w = as_float64(weight)
    check_n_semantic(n_semantic, len(w))
    if not np.isfinite(w).all():
        raise BadInputError("The trained weight holds values that are not finite: train again with a lower lr.")
    if np.linalg.matrix_rank(w) < len(w):
        raise BadInputError(
            "The trained weight is singular, so that QR is not unique: train longer, or from another seed."
        )
    q, r = _positive_qr(w)
    lq = _positive_qr(w.T)[0].T
    polar = scipy.linalg.polar(w)[0]
    eye = np.eye(len(w))
    matrices = dict(zip(METHODS, (q, polar, lq), strict=True))
    return FinalizedBasis(
        weight=w,
        n_semantic=n_semantic,
        Q=q,
        R=r,
        polar=polar,
        lq=lq,
        r_error=float(np.linalg.norm(r - eye)),
        r_error_max=float(np.abs(r - eye).max()),
        weight_error=float(np.linalg.norm(w.T @ w - eye)),
        distances={name: float(np.linalg.norm(w - matrix)) for name, matrix in matrices.items()},
        plane_angles_deg={name: float(plane_angle(w, m, n_semantic).max()) for name, m in matrices.items()},
    )


def _positive_qr(matrix: Float[np.ndarray, "c c"]) -> tuple[Float[np.ndarray, "c c"], Float[np.ndarray, "c c"]]:
    """The one QR decomposition of a regular matrix whose R has a positive diagonal."""
    q, r = np.linalg.qr(matrix)
    signs = np.sign(np.diag(r))
    return q * signs, r * signs[:, None]
