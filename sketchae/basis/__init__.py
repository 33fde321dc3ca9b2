"""The change of basis: applying Q, making a trained weight orthogonal, comparing planes, and bases to compare with."""

from sketchae.basis.augmentation import (
    CONTENT_TRANSFORMS,
    STYLE_TRANSFORMS,
    AugmentationSplit,
    augmentation_split,
    latent_change_covariance,
)
from sketchae.basis.baselines import axis_pair_basis, axis_pairs, pca_basis, random_basis
from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.basis.orthogonalize import FinalizedBasis, finalize
from sketchae.basis.planes import plane_angle

__all__ = [
    "CONTENT_TRANSFORMS",
    "STYLE_TRANSFORMS",
    "AugmentationSplit",
    "FinalizedBasis",
    "OrthogonalBasis",
    "augmentation_split",
    "axis_pair_basis",
    "axis_pairs",
    "finalize",
    "latent_change_covariance",
    "pca_basis",
    "plane_angle",
    "random_basis",
]
