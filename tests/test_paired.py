"""Paired autoencoders: painters who never share a scene, warps against their definition, decoders that are not crossed, swaps of known worth."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from interruption import interrupted_at

from sketchae.backbone_training.loop import LoopConfig
from sketchae.errors import BadInputError
from sketchae.latent_models import paired
from sketchae.latent_models.networks import picture_loss
from sketchae.latent_models.paired import (
    CHANCE,
    KEPT,
    PAINTERS,
    PainterPool,
    PairedAutoencoder,
    displace,
    painted_by,
    painter_images,
    painter_scenes,
    paired_loss,
    train_paired,
    warp,
)
from sketchae.latent_models.paired_swap import measure_swap
from sketchae.scenes import FACTORS, render, split_scenes

SMALL = dict(latent_dim=4, widths=(4, 4, 8, 8), n_blocks=(0, 0, 0, 0))


# --- the painters' pictures -------------------------------------------------------------------------------------------


def test_painters_take_alternate_scenes_and_change_nothing_but_their_own_factors():
    split = split_scenes("val", 80)
    for first, painter in enumerate(PAINTERS):
        scenes, of_split = painter_scenes(painter, "val", 40), split[first::2]
        assert np.array_equal(scenes.content_jitter_seed, of_split.content_jitter_seed)
        for factor in FACTORS:
            if factor in PAINTERS[painter]:
                assert set(scenes.value_names(factor)) == {PAINTERS[painter][factor]}
            else:
                assert np.array_equal(scenes.factors[factor], of_split.factors[factor])
    a, b = (painter_scenes(painter, "val", 40) for painter in PAINTERS)
    assert not set(a.content_jitter_seed) & set(b.content_jitter_seed)


def test_a_pool_keeps_the_pictures_of_its_painter(tmp_path):
    for painter in PAINTERS:
        pool = PainterPool(tmp_path, painter, "val", 6)
        expected = painter_images(painter, "val", 6)[[4, 1]]
        assert pool.pixels.dtype == np.uint8 and (pool.images(np.array([4, 1])) - expected).abs().max() <= 0.5 / 255 + 1e-6
    files = sorted(tmp_path.glob("*.npy"))
    drawn = [file.stat().st_mtime_ns for file in files]
    PainterPool(tmp_path, "a", "val", 6)
    assert len(files) == 2 and [file.stat().st_mtime_ns for file in files] == drawn


def test_the_chances_are_those_of_the_factors():
    assert CHANCE["palette"] == 1 / len(FACTORS["palette"].values) and CHANCE["medium"] == 1 / len(FACTORS["medium"].values)
    assert CHANCE["identity"] == pytest.approx(CHANCE["palette"] * CHANCE["medium"])
    assert set(KEPT) == set(FACTORS) - {"palette", "medium"}
    assert all(PAINTERS["a"][factor] != PAINTERS["b"][factor] for factor in PAINTERS["a"])


# --- warping ----------------------------------------------------------------------------------------------------------


def ramps(n: int, size: int) -> torch.Tensor:
    """Pictures that hold x, y and 0, in pixels."""
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)]).repeat(n, 1, 1, 1)


def test_no_warp_changes_nothing_and_every_warp_belongs_to_its_seed():
    images = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(warp(images, 0, 0), images, atol=1e-4)
    same = images[:1].repeat(2, 1, 1, 1)
    assert torch.equal(warp(same, 7), warp(same, np.random.default_rng(7)))
    assert (warp(same, 7)[0] - warp(same, 7)[1]).abs().mean() > 0.01  # one of its own for each picture
    assert (warp(same, 7) - warp(same, 8)).abs().mean() > 0.01
    with pytest.raises(BadInputError, match="at least 0"):
        warp(images, 0, -1)


def test_equal_displacements_move_the_whole_picture():
    images = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    shifts = torch.zeros(2, 2, 5, 5)
    shifts[0, 0], shifts[1, 1] = 3, -2
    moved = displace(images, shifts)
    assert torch.allclose(moved[0, :, :, :-3], images[0, :, :, 3:], atol=1e-4)
    assert torch.allclose(moved[1, :, 2:], images[1, :, :-2], atol=1e-4)
    assert torch.allclose(moved[0, :, :, -3:], images[0, :, :, -4:-1].flip(-1), atol=1e-4)  # reflected beyond the border


def test_at_a_point_of_the_grid_the_displacement_is_the_one_given_there():
    shifts = torch.zeros(1, 2, 5, 5)
    shifts[0, 0, 2, 1], shifts[0, 1, 2, 1] = 2.5, -1.5  # row 2 and column 1 of a grid with a step of 16 pixels
    moved = displace(ramps(1, 65), shifts)[0]
    assert moved[:2, 32, 16].tolist() == pytest.approx([16 + 2.5, 32 - 1.5], abs=1e-3)
    for row, column in ((0, 16), (32, 32), (32, 0), (48, 16), (64, 64)):
        assert moved[:2, row, column].tolist() == pytest.approx([column, row], abs=1e-3)


def test_the_strength_is_the_standard_deviation_in_pixels():
    n, strength = 800, 2.0
    found = (warp(ramps(n, 65), 3, strength) - ramps(n, 65))[:, :2, 32, 32].numpy()
    # Four standard errors of a standard deviation, of a mean and of a correlation.
    assert found.std(0) == pytest.approx([strength, strength], abs=4 * strength / np.sqrt(2 * n))
    assert found.mean(0) == pytest.approx([0, 0], abs=4 * strength / np.sqrt(n))
    assert abs(np.corrcoef(found.T)[0, 1]) < 4 / np.sqrt(n)


# --- the model --------------------------------------------------------------------------------------------------------


def test_a_shared_encoder_does_not_look_who_painted_and_encoders_apart_do():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 128, 128)
    shared, apart = PairedAutoencoder(**SMALL), PairedAutoencoder(**SMALL, shared=False)
    assert torch.equal(shared.encode(images, "a"), shared.encode(images, "b"))
    assert not torch.allclose(apart.encode(images, "a"), apart.encode(images, "b"), atol=1e-3)
    for model in (shared, apart):
        assert torch.equal(model.swap(images, "a", "b"), model.decoders["b"](model.encode(images, "a")).clamp(0, 1))
        assert not torch.allclose(model.swap(images, "a", "b"), model.swap(images, "a", "a"), atol=1e-3)
    loud = 1000 * shared.encode(images, "a")
    assert shared.decoders["a"](loud).max() > 1 and shared.decode(loud, "a").min() >= 0 and shared.decode(loud, "a").max() <= 1


@pytest.mark.parametrize("shared", [True, False])
def test_a_saved_model_is_loaded_as_it_was(tmp_path, shared):
    torch.manual_seed(0)
    model = PairedAutoencoder(**SMALL, shared=shared)
    model.save_pretrained(tmp_path)
    loaded = PairedAutoencoder.from_pretrained(tmp_path)
    images = torch.rand(1, 3, 128, 128)
    assert loaded.config.shared is shared and (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    weights = loaded.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    # Not to the last bit: the loaded weights lie elsewhere in memory, and convolutions may then add in another order.
    assert torch.allclose(model.swap(images, "b", "a"), loaded.swap(images, "b", "a"), atol=1e-6)


@torch.no_grad()
def test_inputs_are_warped_and_targets_are_not():
    torch.manual_seed(0)
    model = PairedAutoencoder(**SMALL)
    images = {painter: painter_images(painter, "val", 2) for painter in PAINTERS}
    random = np.random.default_rng(5)
    outs = {painter: model.decoders[painter](model.encode(warp(images[painter], random, 3), painter)) for painter in PAINTERS}
    terms = paired_loss(model, images, 5, 3)
    expected = sum(picture_loss(outs[painter], images[painter]) for painter in PAINTERS) / 2
    assert float(terms["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(terms["mse_b"]) == pytest.approx(float((outs["b"] - images["b"]).square().mean()), rel=1e-5)
    assert float(paired_loss(model, images, 5, 0)["loss"]) != pytest.approx(float(expected), rel=1e-7)


# --- training ---------------------------------------------------------------------------------------------------------


def train(folder, out, n_steps=9, **options):
    config = LoopConfig(n_steps=n_steps, lr=5e-3, n_warmup=3, ema_decay=0.5, checkpoint_every=4)
    return train_paired(folder, out, config, n_scenes=8, batch_size=4, **SMALL | options)


@pytest.mark.parametrize("shared", [True, False])
def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path, shared):
    whole, record = train(tmp_path / "pool", tmp_path / "whole", shared=shared)
    assert "8 in watercolour with the palette 'autumn' and 8 in ink" in record["trained_on"] and json.dumps(record)
    with interrupted_at(7, paired, "paired_loss"):
        train(tmp_path / "pool", tmp_path / "parts", shared=shared)
    assert (tmp_path / "parts" / "step-0000004.safetensors").exists()
    resumed, _ = train(tmp_path / "pool", tmp_path / "parts", shared=shared)
    weights = resumed.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in whole.state_dict().items())


def test_each_decoder_learns_its_own_painter(tmp_path):
    """After a few steps, what comes out of a decoder has the colours of its painter, whoever painted what went in."""
    model, record = train(tmp_path / "pool", tmp_path / "out", n_steps=40)
    assert record["log"][-1]["loss"] < 0.6 * record["log"][0]["loss"]
    images = {painter: painter_images(painter, "val", 16) for painter in PAINTERS}
    colours = {painter: pictures.mean((0, 2, 3)) for painter, pictures in images.items()}
    with torch.no_grad():
        for source in PAINTERS:
            for target in PAINTERS:
                out = model.swap(images[source], source, target).mean((0, 2, 3))
                far = {painter: float((out - colour).norm()) for painter, colour in colours.items()}
                assert min(far, key=far.get) == target


def test_what_cannot_be_trained_is_refused(tmp_path):
    config = LoopConfig(n_steps=1, lr=1e-3)
    with pytest.raises(BadInputError, match="even number"):
        train_paired(tmp_path, tmp_path, config, batch_size=5)
    with pytest.raises(BadInputError, match="do not fill half a batch"):
        train_paired(tmp_path, tmp_path, config, n_scenes=3, batch_size=8)
    for call in (lambda: painter_scenes("c", "val", 2), lambda: PairedAutoencoder(**SMALL).encode(torch.zeros(1, 3, 128, 128), "c")):
        with pytest.raises(BadInputError, match="no painter 'c'"):
            call()


# --- what a swap exchanges and keeps ----------------------------------------------------------------------------------

N = 48
HELD_OUT = {painter: painter_scenes(painter, "val", N) for painter in PAINTERS}


@cache
def drawn(source, target):
    return render(painted_by(HELD_OUT[source], target)).images


class Paints(PairedAutoencoder):
    """Stands for a model: `rule` says, of the pictures' scenes and the target, what comes out."""

    def __init__(self, rule):
        super().__init__(**SMALL)
        self.rule, self.cursor = rule, {}

    def swap(self, images, source, target):
        start = self.cursor.get((source, target), 0)
        self.cursor[source, target] = start + len(images)
        return self.rule(images, np.arange(start, start + len(images)), source, target)


class Reads:
    """A perfect judge of pictures it has seen before; of the others it knows nothing, and says 0."""

    def __init__(self):
        self.known = {}
        for source, scenes in HELD_OUT.items():
            for painter in PAINTERS:
                own = painted_by(scenes, painter)
                for row, image in enumerate(drawn(source, painter)):
                    self.known[image.numpy().tobytes()] = {f: int(own.factors[f][row]) for f in FACTORS}

    def predict(self, images):
        found = [self.known.get(image.numpy().tobytes(), dict.fromkeys(FACTORS, 0)) for image in images]
        return {factor: torch.tensor([values[factor] for values in found]) for factor in FACTORS}


@pytest.fixture(scope="module")
def judge():
    return Reads()


def measured(rule, judge):
    return measure_swap(Paints(rule), HELD_OUT["a"], HELD_OUT["b"], judge, batch_size=20, n_boot=200)


def exact(images, rows, source, target):
    return drawn(source, target)[rows]


def test_a_perfect_swap_gets_all_it_can(judge):
    found = measured(exact, judge)
    for exchange in (found.a_to_b, found.b_to_a):
        assert exchange.swapped == exchange.drawn and exchange.swapped.painter == exchange.target != exchange.source
        assert exchange.swapped.identity == exchange.swapped.content == exchange.swapped.light == exchange.swapped.tone == 1
        assert exchange.swapped.psnr_db == pytest.approx(100) and exchange.content_change == 0 and exchange.mistaken == 0
        assert exchange.n_scenes == N and set(exchange.swapped.per_factor) == set(KEPT)
    assert found.chance == CHANCE and json.dumps(found.values(), allow_nan=False)


def test_who_changes_nothing_keeps_all_and_exchanges_nothing(judge):
    found = measured(lambda images, *_: images, judge).a_to_b
    assert found.swapped.identity == found.swapped.palette == found.swapped.medium == 0 and found.unswapped.identity == 1
    assert found.swapped.content == 1 and found.content_change_ci95 == (0, 0)
    assert found.swapped.psnr_db < 30 and found.unswapped.psnr_db == pytest.approx(100)  # the exact picture is another painter's


def test_who_paints_another_scene_exchanges_the_painter_and_keeps_nothing(judge):
    """What encoders apart are expected to do: the right hand, the wrong scene."""

    def elsewhere(images, rows, source, target):
        return exact(images, rows if source == target else (rows + N // 2) % N, source, target)

    found = measured(elsewhere, judge).b_to_a
    assert found.swapped.identity == 1 and found.unswapped.content == 1
    # κ of independent readings has a standard error of at most 1 / √N a factor, and seven factors are averaged.
    assert abs(found.swapped.content) < 4 / np.sqrt(7 * N)
    assert found.content_change == pytest.approx(found.swapped.content - 1)
    low, high = found.content_change_ci95
    assert low < found.content_change < high < -0.7


def test_who_always_paints_one_picture_has_kappa_zero(judge):
    def one(images, rows, source, target):
        return exact(images, np.zeros(len(rows), dtype=int), source, target)

    found = measured(one, judge).a_to_b.swapped
    assert found.identity == 1 and found.content == pytest.approx(0, abs=1e-9) and found.light == pytest.approx(0, abs=1e-9)


def test_shares_count_palette_and_medium_alone_and_together(judge):
    """A third of the swaps is right; the rest is not known to the judge, which then says the first of all values."""

    def third(images, rows, source, target):
        right = exact(images, rows, source, target)
        return torch.where(torch.from_numpy(rows % 3 == 0)[:, None, None, None], right, torch.zeros(()))

    found = measured(third, judge)
    assert found.a_to_b.swapped.identity == pytest.approx(1 / 3) == found.a_to_b.swapped.medium
    assert found.b_to_a.swapped.palette == 1  # "autumn" is the first of the palettes
    assert found.b_to_a.swapped.identity == pytest.approx(1 / 3)
    low, high = found.a_to_b.swapped.identity_ci95
    assert low == pytest.approx(1 / 3 - 1.96 * np.sqrt(2 / 9 / N), abs=0.04) and high == pytest.approx(1 / 3 + 1.96 * np.sqrt(2 / 9 / N), abs=0.04)


def test_scenes_of_the_wrong_painter_are_refused(judge):
    with pytest.raises(BadInputError, match="Painter a has one palette"):
        measure_swap(PairedAutoencoder(**SMALL), HELD_OUT["b"], HELD_OUT["a"], judge)
    with pytest.raises(BadInputError, match="Painter b has one palette"):
        measure_swap(PairedAutoencoder(**SMALL), HELD_OUT["a"], split_scenes("val", 4), judge)
