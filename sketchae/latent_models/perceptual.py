"""Perceptual loss (Johnson, Alahi & Fei-Fei 2016): two pictures are alike if a network that reads pictures sees the same in them.

    L(x̂, x) = 1/S Σ_s  mean (φ_s(x̂) - φ_s(x))² / mean φ_s(x)²

φ_s are the outputs of the S ReLUs of judge a's convolutional trunk, from edges at half the picture's resolution (s = 1) to objects at 1/32
(s = S = 5). Each mean runs over the batch, channels and places of a stage. The division by the mean square of the target makes
every stage count alike, whatever its size: L is a relative error, 0 for equal pictures and about 1 where nothing of the target is seen.
Judge b reports and is never used here.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sketchae.errors import BadInputError
from sketchae.scenes.judges import Judge

_TINY = 1e-8  # a stage in which the target excites nothing is not divided by zero


def judge_stages(judge: Judge, images: Float[Tensor, "n 3 height width"]) -> list[Float[Tensor, "n channels h w"]]:
    """The outputs of the ReLUs of judge a's trunk for pictures in [0, 1] of any size, from the finest to the coarsest.

    Raises:
        BadInputError: a judge whose trunk is not a plain stack of layers (judge b), or one that is training or not frozen.
    """
    if not isinstance(judge.trunk, nn.Sequential):
        raise BadInputError("Perceptual losses read the plain trunk of judge a: give load_judge('a'); judge b is for reports only.")
    if judge.training or any(p.requires_grad for p in judge.trunk.parameters()):
        raise BadInputError("The judge would learn with the model: give a frozen one, judge.eval().requires_grad_(False), as load_judge does.")
    x, stages = (images * 2 - 1).contiguous(memory_format=torch.channels_last), []
    for layer in judge.trunk:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            stages.append(x)
    return stages


def perceptual_loss(judge: Judge, out: Float[Tensor, "n 3 height width"], images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, ""]:
    """L(out, images) of the module's text, at least 0; gradients go to `out` only.

    Raises:
        BadInputError: as `judge_stages`.
    """
    with torch.no_grad():
        targets = judge_stages(judge, images)
    errors = [(s - t).square().mean() / t.square().mean().clamp(min=_TINY) for s, t in zip(judge_stages(judge, out), targets, strict=True)]
    return torch.stack(errors).mean()
