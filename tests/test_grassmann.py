"""Planes: even cover, geodesics, and the walk uphill, on objectives whose best plane is planted."""

import numpy as np
import pytest

from sketchae.basis import plane_angle, random_basis
from sketchae.basis.grassmann import ascend, covering_radius, haar_planes, largest_angles, move, plane_basis
from sketchae.errors import BadInputError


def test_haar_planes_are_those_of_the_random_bases():
    planes = haar_planes(3, 5, 2, start=7)
    assert planes.shape == (3, 2, 5)
    assert np.allclose(planes @ planes.swapaxes(1, 2), np.eye(2), atol=1e-6)
    assert plane_angle(random_basis(5, 2, 8).Q, plane_basis(planes[1]).Q, 2).max() < 0.01


def test_the_mean_projection_of_many_planes_is_even():
    planes = haar_planes(4000)
    projection = np.einsum("pkc,pkd->cd", planes, planes) / len(planes)
    assert np.allclose(projection, np.eye(4) / 2, atol=0.03)


def test_largest_angles_agree_with_plane_angle():
    planes, others = haar_planes(4, 6, 3), haar_planes(5, 6, 3, start=50)
    angles = largest_angles(planes, others)
    for i, j in np.ndindex(4, 5):
        assert angles[i, j] == pytest.approx(plane_angle(plane_basis(planes[i]).Q, plane_basis(others[j]).Q, 3).max(), abs=0.01)


def test_more_planes_cover_better():
    few, many = haar_planes(30), haar_planes(600)
    assert covering_radius(many, 200) < covering_radius(few, 200) < 90
    assert covering_radius(haar_planes(200, start=1_000_000), 200) < 0.1  # the probes themselves


@pytest.mark.parametrize(("channels", "k"), [(4, 2), (5, 2), (5, 3), (16, 6)])
def test_a_move_travels_the_singular_values(channels, k):
    random = np.random.default_rng(channels + k)
    plane = haar_planes(1, channels, k, start=3)[0]
    tangent = 0.3 * random.normal(size=(k, channels - k)) / np.sqrt(channels)
    there = move(plane, tangent)
    assert np.allclose(there @ there.T, np.eye(k), atol=1e-9)
    travelled = np.degrees(np.linalg.svd(tangent, compute_uv=False))
    angles = np.sort(plane_angle(plane_basis(plane).Q, plane_basis(there).Q, k))[::-1]
    assert np.allclose(angles[: len(travelled)], travelled, atol=0.02)
    assert np.allclose(angles[len(travelled) :], 0, atol=0.02)


@pytest.mark.parametrize(("channels", "k", "steps"), [(4, 2, 80), (6, 2, 200)])
def test_a_planted_plane_is_climbed_to(channels, k, steps):
    best = haar_planes(1, channels, k, start=99)[0]
    nearness = lambda plane: float(np.square(plane @ best.T).sum())  # noqa: E731
    starts = haar_planes(2, channels, k)
    plane, value = ascend(nearness, starts, n_steps=steps, progress=False)
    assert value == pytest.approx(nearness(plane)) and value >= max(map(nearness, starts))
    assert plane_angle(plane_basis(plane).Q, plane_basis(best).Q, k).max() < 10
    again = ascend(nearness, starts, n_steps=steps, progress=False)
    assert np.array_equal(plane, again[0])


def test_it_needs_a_start_and_room_for_two_blocks():
    with pytest.raises(BadInputError, match="start"):
        ascend(lambda plane: 0.0, [])
    with pytest.raises(BadInputError, match="two blocks"):
        haar_planes(2, 4, 4)
