"""The closed-form split and the paper's loss without training, on latents whose planes are planted."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from sketchae.basis import plane_angle
from sketchae.basis.targets import pooled, read_covariance, ridge_loss, target_basis
from sketchae.errors import BadInputError


def planted(channels=4, k=2, n=400, dim=6, seed=0):
    """Latents whose first k rotated channels carry one target and the others the other; the rotation; the targets."""
    random = np.random.default_rng(seed)
    q = ortho_group.rvs(channels, random_state=seed)
    semantic, style = random.normal(size=(n, dim)), random.normal(size=(n, dim))
    maps = random.normal(size=(2, dim, channels, 4, 4))
    x = np.concatenate([np.einsum("nd,dcij->ncij", semantic, maps[0][:, :k]), np.einsum("nd,dcij->ncij", style, maps[1][:, k:])], axis=1)
    x = x + 0.1 * random.normal(size=x.shape)
    return np.einsum("ji,njhw->nihw", q, x), q, semantic, style


@pytest.mark.parametrize(("channels", "k"), [(4, 2), (6, 2), (16, 5)])
def test_a_planted_plane_is_found(channels, k):
    z, q, semantic, style = planted(channels, k)
    assert plane_angle(target_basis(z, semantic, style, k).Q, q, k).max() < 5


def test_it_turns_with_the_latents_and_forgets_their_scale():
    z, _, semantic, style = planted()
    turn = ortho_group.rvs(4, random_state=9)
    turned = np.einsum("ij,njhw->nihw", turn, z)
    found, other = target_basis(z, semantic, style).Q, target_basis(3 * turned, semantic, 2 * style).Q
    assert plane_angle(found.double().numpy() @ turn.T, other, 2).max() < 0.01


def test_the_covariance_read_is_positive_and_of_trace_one():
    z, _, semantic, _ = planted()
    m = read_covariance(z, semantic)
    assert np.trace(m) == pytest.approx(1) and np.linalg.eigvalsh(m).min() > -1e-12


def test_the_planted_plane_has_the_lowest_loss_and_its_complement_the_highest():
    """Where a block has fewer numbers than a target: else both targets can be read from nearly any plane, and are."""
    z, q, semantic, style = planted(dim=12)
    loss = ridge_loss(z, semantic, style, pool=2)
    others = [loss(ortho_group.rvs(4, random_state=i)) for i in range(1, 21)]
    assert loss(q) < min(others) and loss(q[[2, 3, 0, 1]]) > max(others)


def test_rotating_within_a_block_changes_no_loss():
    z, q, semantic, style = planted()
    inside = np.zeros((4, 4))
    inside[:2, :2], inside[2:, 2:] = ortho_group.rvs(2, random_state=1), ortho_group.rvs(2, random_state=2)
    loss = ridge_loss(z, semantic, style, pool=2)
    assert loss(inside @ q) == pytest.approx(loss(q), rel=1e-8)


def test_without_any_relation_no_plane_reads_better_than_the_mean():
    random = np.random.default_rng(3)
    z, t = random.normal(size=(600, 4, 4, 4)), random.normal(size=(600, 5))
    assert ridge_loss(z, t, t, pool=2)(np.eye(4)) == pytest.approx(2, rel=0.15)  # two targets of variance 1


def test_pooling_averages_cells():
    z = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    assert pooled(z, 2).tolist() == [[[2.5, 4.5, 10.5, 12.5]]]
    assert pooled(z, 8).shape == (1, 1, 16)


def test_bad_input_is_told():
    z, _, semantic, style = planted()
    with pytest.raises(BadInputError, match="one of each"):
        target_basis(z, semantic[:-1], style)
    with pytest.raises(BadInputError, match="one of each"):
        ridge_loss(z, semantic, style[:-1])
    with pytest.raises(BadInputError, match="divide"):
        pooled(z, 3)
