"""The terms of the paper's loss, one pure function each.

    L = w MSE(Q^T Q, I) + MSE(semantic, e_sem(x_sem)) + MSE(style, e_style(x_style))

with the targets semantic = clip_txt and style = clip_img - clip_txt. The author's own code used L1 for the two
embedders and a *sum* over the entries of Q^T Q - I; both are options. Leading axes (several models trained side by
side) are kept: every function returns one number a model.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError


def style_target(
    clip_img: Float[Tensor, "*models batch dim"], clip_txt: Float[Tensor, "*models batch dim"]
) -> Float[Tensor, "*models batch dim"]:
    """What the picture shows beyond its caption: `clip_img - clip_txt`, of unit-norm embeddings; norm in [0, 2]."""
    return clip_img - clip_txt


def orthogonality_loss(
    weight: Float[Tensor, "*models channels channels"], reduction: str = "mean"
) -> Float[Tensor, "*models"]:
    """Squared entries of `W^T W - I`, averaged (the paper's MSE) or summed (the author's code: C^2 times as much).

    Raises:
        BadInputError: an unknown reduction.
    """
    error = weight.mT @ weight - torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    if reduction == "mean":
        return error.square().mean(dim=(-2, -1))
    if reduction == "sum":
        return error.square().sum(dim=(-2, -1))
    raise BadInputError(f"The orthogonality term cannot be reduced by {reduction!r}: choose 'mean' or 'sum'.")


def embedding_loss(
    predicted: Float[Tensor, "*models batch dim"],
    target: Float[Tensor, "*models batch dim"],
    kind: str = "mse",
) -> Float[Tensor, "*models"]:
    """Mean squared (`mse`, the paper) or absolute (`l1`, the author's code) difference, over batch and width.

    Raises:
        BadInputError: an unknown kind.
    """
    difference = predicted - target
    if kind == "mse":
        return difference.square().mean(dim=(-2, -1))
    if kind == "l1":
        return difference.abs().mean(dim=(-2, -1))
    raise BadInputError(f"There is no embedding loss {kind!r}: choose 'mse' or 'l1'.")
