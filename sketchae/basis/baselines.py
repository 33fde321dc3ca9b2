"""Bases that nobody trained: what a trained one is judged against."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.basis.planes import as_float64
from sketchae.errors import BadInputError


def random_basis(channels: int = 4, n_semantic: int = 2, seed: int = 0) -> OrthogonalBasis:
    """A basis drawn evenly from all orthogonal matrices (Haar measure): the null that any training must beat."""
    normal = np.random.Generator(np.random.PCG64([seed, channels])).normal(size=(channels, channels))
    q, r = np.linalg.qr(normal)
    return OrthogonalBasis.from_matrix(q * np.sign(np.diag(r)), n_semantic)


def axis_pair_basis(pair: Sequence[int], channels: int = 4) -> OrthogonalBasis:
    """The VAE's own channels `pair` as semantic block, the others in order as style: the paper's six rivals for C = 4.

    Any number of channels may be named, not only two.

    Raises:
        BadInputError: a channel that does not exist, or one named twice.
    """
    if len(set(pair)) < len(pair) or not all(0 <= channel < channels for channel in pair):
        raise BadInputError(f"{tuple(pair)} are not different channels among 0 to {channels - 1}: correct the pair.")
    rest = [channel for channel in range(channels) if channel not in pair]
    return OrthogonalBasis.from_matrix(np.eye(channels)[[*pair, *rest]], len(pair))


def axis_pairs(channels: int = 4, n_semantic: int = 2) -> list[tuple[int, ...]]:
    """All choices of `n_semantic` channels, in the paper's order: 0-1, 0-2, 0-3, 1-2, 1-3, 2-3."""
    return list(itertools.combinations(range(channels), n_semantic))


def pca_basis(
    z: Float[Tensor, "batch channels height width"] | Iterable[Tensor],
    n_semantic: int = 2,
    order: str | Sequence[int] = "descending",
) -> OrthogonalBasis:
    """Principal components of the channels over all pixels; the first `n_semantic` of them are semantic.

    Args:
        z: latents, or an iterable of batches of them, which is read once.
        n_semantic: k.
        order: of the components by variance, "descending" or "ascending", or their ranks (0 is the largest) in the order wanted. Each component's
            largest entry is positive, so that the result is unique.

    Raises:
        BadInputError: an order that is not a permutation.
    """
    count, total, outer = 0, 0.0, 0.0
    for batch in [z] if isinstance(z, Tensor) else z:
        pixels = as_float64(batch.movedim(1, 0).flatten(1))
        count, total, outer = count + pixels.shape[1], total + pixels.sum(axis=1), outer + pixels @ pixels.T
    mean = total / count
    components = np.linalg.eigh(outer / count - np.outer(mean, mean))[1].T[::-1]
    channels = len(components)
    named = {"descending": list(range(channels)), "ascending": list(range(channels))[::-1]}
    ranks = named.get(order, []) if isinstance(order, str) else list(order)
    if sorted(ranks) != named["descending"]:
        raise BadInputError(f"order={order!r} must be 'descending', 'ascending' or an order of 0 to {channels - 1}.")
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(channels), largest])[:, None]
    return OrthogonalBasis.from_matrix(components[ranks], n_semantic)
