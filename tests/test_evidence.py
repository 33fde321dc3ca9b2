"""What notebook 05 computes around the scores, in small."""

import numpy as np
import pytest
import torch

from sketchae import evidence, load_vae, rivals, sweeps
from sketchae.basis import random_basis
from sketchae.errors import BadInputError
from sketchae.figures import plane_landscape, render_png
from sketchae.scenes import render, split_scenes


@pytest.fixture(scope="module")
def world():
    """The embedded VAE with the latents and factors of a few validation scenes."""
    vae, scenes = load_vae("embedded"), split_scenes("val", 40)
    return vae, vae.encode(render(scenes).images), scenes.factors


def test_names_become_keys():
    assert evidence.key("the paper's recipe") == "the_papers_recipe"
    assert evidence.key("channels 0-1") == "channels_0_1"
    assert evidence.key("best plane found, with labels") == "best_plane_found_with_labels"


def test_where_a_score_stands():
    null = np.linspace(-1, 1, 201)
    top, middle = rivals.standing(2.0, null, 2.0), rivals.standing(0.0, null, 2.0)
    assert top["p_value"] == pytest.approx(1 / 202) and top["share_of_optimum"] == pytest.approx(1)
    assert middle["p_value"] == pytest.approx(0.5, abs=0.01) and middle["share_of_optimum"] == pytest.approx(0)
    assert middle["sds"] == pytest.approx(0) and top["sds"] == pytest.approx(2 / null.std())


def test_the_median_is_the_lower_middle_never_the_best():
    scores = {seed: {"score": value} for seed, value in enumerate((0.3, 0.1, 0.2, 0.9))}
    assert rivals.median_name(scores) == 2
    assert rivals.median_name({0: {"score": 0.5}}) == 0


def test_angles_between_all_planes():
    bases = [random_basis(4, 2, seed) for seed in (0, 0, 1)]
    angles = evidence.plane_angles(bases, 2)
    assert angles.shape == (3,) and angles[0] == pytest.approx(0, abs=0.05) and angles[1] == pytest.approx(angles[2], abs=0.05)
    assert evidence.plane_angles(bases[:1], 2).tolist() == [0.0]


def test_an_erased_factor_is_read_no_more_by_a_linear_probe(world):
    vae, z, factors = world
    removal = evidence.erase(vae, "horizon", z[:30], _rows(factors, slice(0, 30)), z[30:], _rows(factors, slice(30, 40)), n_pictures=4)
    found = removal.values()
    assert set(found) >= {"linear_before", "linear_after", "conv_after", "judge_before", "judge_after", "variance_kept"}
    assert found["judge_before"] > 0.4  # judge b on reconstructions
    assert "horizon removed by LEACE" in str(removal)


def test_disentanglement_of_z_and_of_every_split(world):
    _, z, factors = world
    two = {name: factors[name] for name in ("horizon", "light")}
    tables = evidence.disentanglement({"q": random_basis()}, z[:30], _rows(two, slice(0, 30)), z[30:], _rows(two, slice(30, 40)))
    assert list(tables) == ["z", "q"]
    assert all(0 <= value <= 1 for row in tables.values() for value in row.values())
    assert "FactorVAE" in evidence.metric_table(tables)


def test_the_landscape_needs_a_loss_for_every_plane():
    figure = plane_landscape([0.0, 0.1, 0.2], [1.0, 0.9, 0.8], {"best": (0.2, 0.8)})
    assert render_png(figure)[:4] == b"\x89PNG"
    with pytest.raises(BadInputError, match="one of each"):
        plane_landscape([0.0, 0.1], [1.0], {})


def _rows(factors, rows):
    return {name: values[rows] for name, values in factors.items()}


def test_tensors_stay_as_they_are(world):
    """Nothing above may change the latents that several cells share."""
    vae, z, _ = world
    before = z.clone()
    evidence.half_angle(vae, render(split_scenes("val", 8)).images, 2)
    assert torch.equal(z, before)


def test_pictures_of_single_pairs(world):
    vae, _, _ = world
    bench = sweeps.validation_bench(vae, 6)
    found = evidence.pair_pictures(bench, {"a split": random_basis()}, {"best": 4, "worst": 1})
    assert found.labels == ["content of", "style of", "a\nsplit", "a perfect swap"]
    assert all(len(row) == 2 for row in found.rows)
    assert torch.allclose(found.rows[0][0], vae.decode(bench.z_a[4:5])[0], atol=1e-4)
    assert torch.allclose(found.rows[-1][1], bench.counterfactual_images[1].float())


def test_many_channels_as_values_and_as_text():
    row = dict.fromkeys(evidence.METRICS, 0.25) | {"ceiling": 0.9}
    rows = [row | {"split": f"random {seed}", "score": score} for seed, score in enumerate((-0.1, 0.1))] + [row | {"split": "labels, gradient"}]
    values = evidence.codec_values(rows)
    random = values["random"]
    assert random.pop("range95") == pytest.approx([-0.095, 0.095])
    assert random == {"n": 2, "mean": pytest.approx(0), "sd": pytest.approx(0.1), "max": pytest.approx(0.1)}
    assert values["labels_gradient"]["score"] == 0.25 and values["labels_gradient"]["p_value"] == pytest.approx(1 / 3) and values["ceiling"] == 0.9
    text = evidence.codec_table(rows)
    assert len(text) == 3 and "at most +0.10 of 2" in text[0] and text[-1].endswith("+0.90")
