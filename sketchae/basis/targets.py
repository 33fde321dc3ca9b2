"""The paper's two targets, read linearly: the split in closed form, and the paper's loss of any plane without training it."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.errors import BadInputError

Latents = Float[np.ndarray, "n channels height width"]
Targets = Float[np.ndarray, "_ dim"]


def read_covariance(z: Latents, target: Targets, pool: int = 8) -> Float[np.ndarray, "channels channels"]:
    """How much of `target` each latent direction foretells: M = Σ_p Cov(z_p, t) Cov(z_p, t)^T / trace.

    z_p are the channels at place p of a grid of `pool` × `pool` averages, t the target, both centred. v^T M v is, up to the scale,
    the squared covariance of the channel v · z with the target, summed over places and dimensions.
    """
    features = pooled(z, pool)  # (n, channels, places)
    features, t = features - features.mean(0), target - target.mean(0)
    covariance = np.einsum("ncp,nd->cpd", features, t) / len(z)
    m = np.einsum("cpd,kpd->ck", covariance, covariance)
    return m / np.trace(m)


def target_basis(z: Latents, semantic: Targets, style: Targets, n_semantic: int = 2, pool: int = 8) -> OrthogonalBasis:
    """The closed-form linear split: the highest eigenvectors of M_semantic - M_style are semantic (`read_covariance`).

    Raises:
        BadInputError: numbers of rows that differ.
    """
    if not len(z) == len(semantic) == len(style):
        raise BadInputError(f"{len(z)} latents and {len(semantic)} and {len(style)} targets: give one of each for every picture.")
    difference = read_covariance(z, semantic, pool) - read_covariance(z, style, pool)
    vectors = np.linalg.eigh(difference)[1].T[::-1]
    largest = np.abs(vectors).argmax(axis=1)
    return OrthogonalBasis.from_matrix(vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None], n_semantic)


@dataclass(frozen=True)
class RidgeLoss:
    """The paper's loss of any plane, its embedders replaced by the best linear readers (ridge) of the pooled block.

    For a basis Q: MSE(semantic, reader of x[:k]) + MSE(style, reader of x[k:]), on rows that the readers were not fitted to; Q is
    orthogonal, so that the paper's third term is zero. Made once (`ridge_loss`); a plane then costs two small systems.
    """

    gram: Float[np.ndarray, "channels places channels places"]
    cross: tuple[Float[np.ndarray, "channels places dim"], ...]  # of the semantic and the style target
    test_features: Float[np.ndarray, "n_test channels places"]
    test_targets: tuple[Float[np.ndarray, "n_test dim"], ...]
    ridge: float

    def __call__(self, q: Float[np.ndarray, "channels channels"], n_semantic: int = 2) -> float:
        blocks = (q[:n_semantic], q[n_semantic:])
        return float(sum(self._half(rows, i) for i, rows in enumerate(blocks)))

    def _half(self, rows: Float[np.ndarray, "k channels"], i: int) -> float:
        k, places = len(rows), self.gram.shape[1]
        gram = np.einsum("kc,cpdq,ld->kplq", rows, self.gram, rows, optimize=True).reshape(k * places, -1)
        cross = np.einsum("kc,cpd->kpd", rows, self.cross[i]).reshape(k * places, -1)
        gram[np.diag_indices_from(gram)] += self.ridge * np.trace(gram) / len(gram)
        weights = scipy.linalg.solve(gram, cross, assume_a="pos")
        x = np.einsum("kc,ncp->nkp", rows, self.test_features).reshape(len(self.test_features), -1)
        return float(np.square(x @ weights - self.test_targets[i]).mean())


def ridge_loss(z: Latents, semantic: Targets, style: Targets, *, pool: int = 8, ridge: float = 0.01, n_test: int | None = None) -> RidgeLoss:
    """Prepare `RidgeLoss`; the last `n_test` rows (a quarter unless given) measure, the others fit.

    Raises:
        BadInputError: numbers of rows that differ, or too few.
    """
    if not len(z) == len(semantic) == len(style) or len(z) < 8:
        raise BadInputError(f"{len(z)} latents and {len(semantic)} and {len(style)} targets: give one of each for at least 8 pictures.")
    n_fit = len(z) - (n_test or len(z) // 4)
    features = pooled(z, pool)
    features = features - features[:n_fit].mean(0)
    targets = [t - t[:n_fit].mean(0) for t in (semantic, style)]
    fit = features[:n_fit]
    n, channels, places = fit.shape
    flat = fit.reshape(n, -1)
    return RidgeLoss(
        gram=(flat.T @ flat / n).reshape(channels, places, channels, places),
        cross=tuple((flat.T @ t[:n_fit] / n).reshape(channels, places, -1) for t in targets),
        test_features=features[n_fit:],
        test_targets=tuple(t[n_fit:] for t in targets),
        ridge=ridge,
    )


def pooled(z: Latents, pool: int) -> Float[np.ndarray, "n channels places"]:
    """Averages over a grid of `pool` × `pool` cells (of all cells where the latents are no larger), as float64.

    Raises:
        BadInputError: a side that is no multiple of `pool`.
    """
    n, channels, height, width = z.shape
    down, right = min(pool, height), min(pool, width)
    if height % down or width % right:
        raise BadInputError(f"Latents of {height} × {width} do not divide into {pool} × {pool} cells: choose another `pool`.")
    cells = z.astype(np.float64).reshape(n, channels, down, height // down, right, width // right)
    return cells.mean(axis=(3, 5)).reshape(n, channels, -1)
