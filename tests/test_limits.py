"""What limits the sketch autoencoder: its teachers, its wider latent, an arm's training, and the sweep that ships."""

import json

import numpy as np
import pytest
import torch
from interruption import interrupted_at

from sketchae.backbone_training import limits
from sketchae.backbone_training.limits import (
    ARMS,
    SHIPPED,
    LabelEffect,
    TrueSwaps,
    find_limits,
    sweep_limits,
    train_arm,
    widened,
    widened_basis,
)
from sketchae.backbones import load_vae, own_basis
from sketchae.edits import swap
from sketchae.errors import BadInputError
from sketchae.scenes import counterfactual, load_judge, render, split_scenes

A, B = np.arange(4), np.roll(np.arange(4), 1)


@pytest.fixture(scope="module")
def scenes():
    return split_scenes("backbones", 4)


@pytest.mark.parametrize("n_channels", [4, 6, 8])
def test_a_widened_vae_and_its_basis_compute_the_same(scenes, n_channels):
    vae, basis = load_vae("sketch").vae, own_basis("sketch")
    wide, split = widened(vae, n_channels), widened_basis(basis, n_channels)
    assert split.channels == n_channels and split.n_semantic == n_channels // 2 and split.orthogonality_error < 1e-6
    images = render(scenes).images * 2 - 1
    with torch.no_grad():
        z, more = vae.encode(images).latents, wide.encode(images).latents
        assert torch.allclose(more[:, :4], z, atol=1e-3) and more.shape[1] == n_channels
        assert torch.allclose(wide.decode(more).sample, vae.decode(z).sample, atol=1e-4)
        narrow, broad = (decoder.decode(swap(q, x, x.roll(1, 0))).sample for decoder, q, x in ((vae, basis, z), (wide, split, more)))
    assert torch.allclose(broad, narrow, atol=1e-3)  # the same split, as long as the new channels are not heard


def test_a_vae_is_not_made_narrower():
    with pytest.raises(BadInputError, match="4 latent channels already"):
        widened(load_vae("sketch").vae, 3)


def test_true_swaps_want_the_drawn_picture_and_nothing_else(scenes):
    teacher = TrueSwaps(scenes)
    truth = render(counterfactual(scenes[A], scenes[B])).images
    assert len(teacher) == 4 and float(teacher(truth, A, B)) == 0
    assert float(teacher(truth.roll(1, 0), A, B)) > 0.01 and float(teacher(render(scenes).images, A, B)) > 0.01


def test_labels_prefer_the_true_swap_to_both_trivial_answers(scenes):
    teacher = LabelEffect(load_judge("a"), scenes)
    pictures = render(scenes).images
    truth = render(counterfactual(scenes[A], scenes[B])).images
    right, content, style = (float(teacher(images, A, B)) for images in (truth, pictures, pictures[B]))
    assert len(teacher) == 4 and right < 0.5 * min(content, style) and abs(content - 1) < 0.3 and abs(style - 1) < 0.3
    asked = truth.clone().requires_grad_()
    teacher(asked, A, B).backward()
    assert asked.grad.abs().max() > 0 and all(p.grad is None for p in teacher.judge.parameters())


@pytest.mark.parametrize("name", ["labels", "true swaps, eight channels", "reconstruction only, decoder"])
def test_an_arm_trains_resumes_and_is_kept(name, tmp_path, monkeypatch):
    options = {"n_steps": 2, "n_pictures": 8, "batch_size": 4}
    monkeypatch.setattr(limits, "LoopConfig", lambda **config: LOOP(**config | {"checkpoint_every": 1}))
    whole = train_arm(name, tmp_path / "whole", **options)
    with interrupted_at(2, limits.SketchVAE, "decode"):  # in the first step, which decodes twice
        train_arm(name, tmp_path / "parts", **options)
    assert not (tmp_path / "parts" / whole.name / "basis").exists()
    parts = train_arm(name, tmp_path / "parts", **options)
    assert load_vae(parts).id == load_vae(whole).id != load_vae("sketch").id
    assert torch.allclose(own_basis(parts).Q, own_basis(whole).Q) and own_basis(whole).channels == ARMS[name].channels
    own_basis(whole).check_vae(load_vae(whole))
    with monkeypatch.context() as patch:
        patch.setattr(limits, "train_sketch", None)  # finished: nothing is trained again
        assert train_arm(name, tmp_path / "whole", **options) == whole


def test_where_the_decoder_learns_alone_encoder_and_split_stay(tmp_path):
    before, after = load_vae("sketch").vae, load_vae(train_arm("reconstruction only, decoder", tmp_path, 2, 8, 4)).vae
    changed = {name for name, value in before.state_dict().items() if not torch.equal(value, after.state_dict()[name])}
    assert changed and all(name.startswith("decoder") for name in changed)
    assert torch.allclose(own_basis(tmp_path / "reconstruction_only-decoder").Q, own_basis("sketch").Q, atol=1e-6)


LOOP = limits.LoopConfig


def test_an_unknown_arm_is_refused_by_name(tmp_path):
    with pytest.raises(BadInputError, match="no arm 'oracle'; choose from carried on, carried on, ten times, labels"):
        train_arm("oracle", tmp_path)


def test_the_sweep_is_written_once_every_arm_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ARMS", {name: ARMS[name] for name in ("labels", "true swaps")})
    monkeypatch.setattr(limits, "N_SHOWN", 2)
    options = {"out": tmp_path / "sweeps", "n_pairs": 4, "n_steps": 1, "n_pictures": 8, "batch_size": 4}
    (tmp_path / "sweeps").mkdir()
    assert not sweep_limits(tmp_path, ["labels"], **options) and not list((tmp_path / "sweeps").iterdir())
    assert sweep_limits(tmp_path, ["true swaps"], **options)
    sketch = load_vae("sketch")
    rows, swaps = find_limits(sketch, tmp_path / "sweeps")
    assert [row["arm"] for row in rows] == [*swaps] == [SHIPPED, "labels", "true swaps"]
    assert all(pictures.shape == (2, 3, 128, 128) and 0 <= pictures.min() < pictures.max() <= 1 for pictures in swaps.values())
    test = render(split_scenes("test", 4)).images
    z = sketch.encode(test)
    assert torch.allclose(swaps[SHIPPED], sketch.decode(swap(own_basis("sketch"), z[::2], z[1::2])), atol=1 / 255)
    assert find_limits(load_vae(), tmp_path / "sweeps") is None and find_limits(sketch, tmp_path) is None


def test_what_ships_was_made_for_what_ships():
    rows, swaps = find_limits(load_vae("sketch"))
    assert [row["arm"] for row in rows] == [SHIPPED, *ARMS] == [*swaps]
    stored = json.loads((limits.SWEEPS / limits.FILE).read_text())
    assert stored["about"]["n_pairs"] == 512 and all(row["score"] < row["ceiling"] <= 1 for row in rows)
    assert all(low <= row["score"] <= high for row in rows for low, high in [row["score_ci95"]])
