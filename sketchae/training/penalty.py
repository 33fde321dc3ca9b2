"""What the orthogonality penalty does alone: the recipe's W without data, from the same start."""

import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError
from sketchae.losses import orthogonality_loss
from sketchae.training.result import TrainResult


def train_without_data(result: TrainResult) -> Float[Tensor, "channels channels"]:
    """W after as many steps of the same optimiser, from `result.start_weight`, on the orthogonality term alone.

    No picture and no caption is seen. Where this ends near `result.weight`, the plane was settled by the start and the
    penalty, and not by what CLIP said.

    Raises:
        BadInputError: a training with an exactly orthogonal parametrisation, which has no such term.
    """
    config = result.config
    if config.parametrization != "penalty":
        raise BadInputError("train_without_data follows the penalty; this training kept W orthogonal by construction.")
    weight = torch.nn.Parameter(result.start_weight.clone())
    optimizer = torch.optim.AdamW([weight], lr=config.lr, weight_decay=config.weight_decay)
    for _ in range(result.n_steps):
        optimizer.zero_grad()
        (config.orthogonality_weight * orthogonality_loss(weight, config.orthogonality_reduction)).backward()
        optimizer.step()
    return weight.detach()
