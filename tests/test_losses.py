"""Each term of the loss against torch's own, and along the axis of models trained side by side."""

import pytest
import torch
import torch.nn.functional as F

from sketchae.errors import BadInputError
from sketchae.losses import embedding_loss, orthogonality_loss, style_target


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_orthogonality_is_the_paper_s_mse_or_the_author_s_sum(generator):
    weights = torch.randn(3, 4, 4, generator=generator)
    for weight, mean, total in zip(
        weights, orthogonality_loss(weights), orthogonality_loss(weights, "sum"), strict=True
    ):
        assert mean == pytest.approx(F.mse_loss(weight.T @ weight, torch.eye(4)).item(), rel=1e-5)
        assert total == pytest.approx(16 * mean.item(), rel=1e-5)
    assert orthogonality_loss(torch.linalg.qr(weights)[0]).max() < 1e-12


def test_embedding_loss_is_mse_or_l1(generator):
    predicted, target = torch.randn(2, 3, 5, 7, generator=generator)
    for i in range(3):
        assert embedding_loss(predicted, target)[i] == pytest.approx(
            F.mse_loss(predicted[i], target[i]).item(), rel=1e-5
        )
        assert embedding_loss(predicted, target, "l1")[i] == pytest.approx(
            F.l1_loss(predicted[i], target[i]).item(), rel=1e-5
        )
    assert embedding_loss(predicted[0], target[0]).shape == ()


def test_style_is_what_the_caption_does_not_say(generator):
    image, text = F.normalize(torch.randn(2, 4, 9, generator=generator), dim=-1)
    assert torch.equal(style_target(image, text), image - text)
    assert style_target(image, -image).norm(dim=-1) == pytest.approx(2.0)


def test_unknown_choices_are_named(generator):
    with pytest.raises(BadInputError, match="'mse' or 'l1'"):
        embedding_loss(torch.zeros(2, 3), torch.zeros(2, 3), "huber")
    with pytest.raises(BadInputError, match="'mean' or 'sum'"):
        orthogonality_loss(torch.eye(4), "median")
