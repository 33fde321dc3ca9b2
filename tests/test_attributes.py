"""Attribute vectors: pairs that differ in one thing, the mean difference, and sweeps in a world whose answers are known."""

import pytest
import torch

from sketchae.backbones import load_vae
from sketchae.errors import BadInputError
from sketchae.latent_models import attributes
from sketchae.latent_models.attributes import attribute_pairs, attribute_vector, sweep_strength
from sketchae.metrics.bootstrap import bootstrap_ci
from sketchae.scenes import FACTORS, load_judge, render, split_scenes
from sketchae.scenes.render import REGIONS, SceneImages

NAMES = list(FACTORS)
SUN, MOON = (FACTORS["celestial"].values.index(v) for v in ("sun", "moon"))


class Ledger:
    """A codec of pictures whose first row of pixels holds the factors' values in tenths (see `ledger`): latents are these eleven numbers."""

    def __init__(self, shape=(11,), drift=None):
        self.shape, self.drift, self.decoded = shape, drift, []

    def encode(self, images):
        return images[:, 0, 0, : len(NAMES)].reshape(-1, *self.shape)

    def decode(self, z):
        self.decoded.append(z.clone())
        images = torch.zeros(len(z), 3, 128, 128)
        images[:, 0, 0, : len(NAMES)] = z.flatten(1)
        if self.drift:
            images[:, 0, 0, NAMES.index(self.drift)] = 1.0  # a value that no factor has
        return images


class LedgerJudge:
    def predict(self, images):
        return {name: (images[:, 0, 0, i] * 10).round().long() for i, name in enumerate(NAMES)}


@pytest.fixture
def ledger(monkeypatch):
    """Scenes drawn as lists of their values."""

    def draw(scenes):
        images = torch.zeros(len(scenes), 3, 128, 128)
        for i, name in enumerate(NAMES):
            images[:, 0, 0, i] = torch.from_numpy(scenes.factors[name]) / 10
        return SceneImages(images, torch.zeros(len(scenes), 128, 128, dtype=torch.uint8))

    monkeypatch.setattr(attributes, "render", draw)


def shift(**by):
    """A vector in the ledger's latents: by how many values each factor moves."""
    return torch.tensor([by.get(name, 0) / 10 for name in NAMES])


def suns(n=12, split="val"):
    return split_scenes(split, n).with_factor("celestial", "sun")


# --- pairs


def test_pairs_are_the_split_s_scenes_with_one_factor_changed():
    before, after = attribute_pairs("celestial", "sun", "moon", 6)
    scenes = split_scenes("train", 6)
    assert torch.equal(before, render(scenes.with_factor("celestial", "sun")).images)
    assert torch.equal(after, render(scenes.with_factor("celestial", "moon")).images)
    assert all((before != after).flatten(1).any(1))
    assert not torch.equal(before, attribute_pairs("celestial", "sun", "moon", 6, split="val")[0])


def test_pairs_keep_the_jitter():
    """Drawn flat and in even light, what is not sky stays as it is to the last bit."""
    scenes = split_scenes("train", 24)
    plain = (scenes.factors["medium"] == 0) & (scenes.factors["light"] == 0)
    assert plain.any()
    before, after = (x[plain] for x in attribute_pairs("celestial", "sun", "moon", 24))
    here = scenes[plain]
    drawn = render(here.with_factor("celestial", "sun"))
    ground = drawn.segmentation == REGIONS.index("object")
    assert ground.any() and (before - after).abs().amax(1)[ground].max() < 0.02


# --- the vector


@pytest.mark.parametrize("shape", [(6,), (2, 3, 1)])
def test_the_vector_is_the_mean_difference_whatever_the_batches(shape):
    torch.manual_seed(0)
    weight = torch.randn(3 * 8 * 8, 6)
    before, after = torch.rand(7, 3, 8, 8), torch.rand(7, 3, 8, 8)

    def encode(images):
        return torch.tanh(images.flatten(1) @ weight).reshape(-1, *shape)

    v = attribute_vector(encode, before, after, batch_size=3)
    assert v.shape == shape and v.dtype == torch.float32
    assert torch.allclose(v, torch.stack([encode(a[None])[0] - encode(b[None])[0] for a, b in zip(after, before, strict=True)]).mean(0), atol=1e-6)
    assert torch.allclose(v, attribute_vector(encode, before, after, batch_size=100), atol=1e-7)
    assert torch.allclose(attribute_vector(encode, after, before), -v, atol=1e-7)


def test_the_vector_of_the_ledger_is_exact(ledger):
    v = attribute_vector(Ledger().encode, *attribute_pairs("celestial", "sun", "moon", 5))
    assert torch.allclose(v, shift(celestial=MOON - SUN), atol=1e-7)


def test_a_vector_needs_no_gradient():
    weight = torch.ones(192, 2, requires_grad=True)
    v = attribute_vector(lambda x: x.flatten(1) @ weight, torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8))
    assert not v.requires_grad


# --- sweeps


@pytest.mark.parametrize("shape", [(11,), (11, 1, 1)])
def test_a_perfect_vector_moves_its_factor_and_nothing_else(ledger, shape):
    v = shift(celestial=MOON - SUN).reshape(shape)
    sweep = sweep_strength(Ledger(shape), v, suns(), "celestial", "moon", [1, 0.4, 2, -1], LedgerJudge())
    assert sweep.strengths == (-1.0, 0.0, 0.4, 1.0, 2.0)
    assert [e.moved for e in sweep.effects] == [0, 0, 0, 1, 0]  # 2 goes on to the cloud
    assert all(e.kept == e.kept_true == 1 for e in sweep.effects)
    assert sweep.effects[3].moved_ci95 == (1, 1)
    assert (sweep.factor, sweep.before, sweep.after, sweep.n) == ("celestial", "sun", "moon", 12)
    assert sweep.length == pytest.approx(0.1)
    assert sweep.ceiling.moved == sweep.ceiling.kept == sweep.ceiling.kept_true == 1
    assert sweep.values()["effects"][3]["moved"] == 1


def test_a_leaky_vector_keeps_nine_factors_of_ten(ledger):
    v = shift(celestial=MOON - SUN, palette=1)
    sweep = sweep_strength(Ledger(), v, suns(), "celestial", "moon", [1], LedgerJudge())
    assert sweep.effects[1].moved == 1 and sweep.effects[1].kept == pytest.approx(0.9) == sweep.effects[1].kept_true


def test_what_the_codec_loses_is_no_fault_of_the_edit(ledger):
    """A codec that never shows the medium: the reconstruction is the reference of `kept`, the scene that of `kept_true`."""
    v = shift(celestial=MOON - SUN)
    sweep = sweep_strength(Ledger(drift="medium"), v, suns(), "celestial", "moon", [1], LedgerJudge())
    for effect in (*sweep.effects, sweep.ceiling):
        assert effect.kept == 1 and effect.kept_true == pytest.approx(0.9)


def test_a_codec_that_cannot_show_the_change_has_a_low_ceiling(ledger):
    sweep = sweep_strength(Ledger(drift="celestial"), shift(celestial=MOON - SUN), suns(), "celestial", "moon", [1], LedgerJudge())
    assert sweep.ceiling.moved == 0 == sweep.effects[1].moved and sweep.ceiling.kept == 1


def test_shares_and_intervals_are_over_scenes(ledger):
    class Blind(LedgerJudge):
        """Sees the change only where the horizon is low, and calls the tone pale there."""

        def predict(self, images):
            read = super().predict(images)
            hit = (read["horizon"] == 0) & (read["celestial"] == MOON)
            return read | {"celestial": torch.where(hit, MOON, SUN), "tone": torch.where(hit, 5, read["tone"])}

    scenes = suns(40)
    low = (scenes.factors["horizon"] == 0).astype(float)
    assert 0 < low.mean() < 1
    effect = sweep_strength(Ledger(), shift(celestial=MOON - SUN), scenes, "celestial", "moon", [1], Blind(), name="here", batch_size=7).effects[1]
    assert effect.moved == pytest.approx(low.mean()) and effect.kept == pytest.approx((1 - 0.1 * low).mean())
    assert effect.moved_ci95 == pytest.approx(bootstrap_ci(low, name="here"))
    assert effect.kept_ci95 == pytest.approx(bootstrap_ci(1 - 0.1 * low, name="here"))
    assert effect.moved_ci95[0] < effect.moved < effect.moved_ci95[1]


def test_the_null_is_a_random_direction_of_the_same_length(ledger):
    codec, v, scenes = Ledger(), shift(celestial=MOON - SUN, palette=2), suns(100)
    sweep_strength(codec, v, scenes, "celestial", "moon", [0.5, 2], LedgerJudge(), batch_size=100, n_boot=10)
    zero, _, _, zero_again, half, double, _ = codec.decoded
    assert torch.equal(zero, zero_again)
    assert torch.allclose((double - zero).norm(dim=1), 2 * v.norm().expand(100), rtol=1e-4)
    assert torch.allclose(double - zero, 4 * (half - zero), atol=1e-5)
    directions = (double - zero) / (2 * v.norm())
    assert directions.mean(0).norm() < 0.3  # of 100 unit vectors: 0.1 expected, 1 if all were one
    assert torch.allclose(directions.T @ directions / 100, torch.eye(11) / 11, atol=0.06)


def test_a_sweep_does_not_depend_on_batches_and_order_of_strengths(ledger):
    v = shift(celestial=0.6, terrain=0.7)
    runs = [
        sweep_strength(Ledger(), v, suns(), "celestial", "moon", strengths, LedgerJudge(), batch_size=size)
        for strengths, size in (([1, 3], 32), ([3, 1, 0], 5))
    ]
    assert runs[0] == runs[1]
    assert any(e.kept < 1 for e in runs[0].null)


@pytest.mark.timeout(120)
def test_the_embedded_vae_has_a_direction_of_tone():
    """Latents (n, c, h, w) of a real codec, read by a real judge: pale pictures are bold ones plus a vector, and no random one."""
    vae, judge = load_vae("embedded"), load_judge("a")
    v = attribute_vector(vae.encode, *attribute_pairs("tone", "bold", "pale", 12))
    assert v.shape == (4, 16, 16)
    sweep = sweep_strength(vae, v, split_scenes("val", 8).with_factor("tone", "bold"), "tone", "pale", [1.0], judge)
    unedited, edited = sweep.effects
    assert unedited.moved < 0.3 and edited.moved > unedited.moved + 0.3 and edited.moved > sweep.null[1].moved + 0.3
    assert sweep.ceiling.moved > 0.8 and unedited.kept == 1


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("weather", "sun", "moon", 2), "no factor"),
        (("celestial", "sun", "comet", 2), "no value 'comet'"),
        (("celestial", "sun", "sun", 2), "two different"),
        (("celestial", "sun", "moon", 0), "at least one"),
        (("celestial", "sun", "moon", 2, "holdout"), "no split"),
    ],
)
def test_bad_pairs(arguments, match):
    with pytest.raises(BadInputError, match=match):
        attribute_pairs(*arguments)


def test_bad_vectors():
    pictures = torch.rand(2, 3, 8, 8)
    with pytest.raises(BadInputError, match="one of each"):
        attribute_vector(lambda x: x, pictures, pictures[:1])
    with pytest.raises(BadInputError, match="at least one pair"):
        attribute_vector(lambda x: x, pictures[:0], pictures[:0])
    with pytest.raises(BadInputError, match="whole numbers"):
        attribute_vector(lambda x: x.long(), pictures, pictures)


def test_bad_sweeps(ledger):
    v, scenes = shift(celestial=1), suns(3)
    cases = [
        (v, scenes[:1], "celestial", "moon", [1], "at least two"),
        (v, split_scenes("val", 20), "celestial", "moon", [1], "let all show one value"),
        (v, scenes, "celestial", "sun", [1], "other than 'sun'"),
        (v, scenes, "celestial", "comet", [1], "no value"),
        (v, scenes, "weather", "moon", [1], "no factor"),
        (v, scenes, "celestial", "moon", [float("nan")], "finite"),
        (v[:5], scenes, "celestial", "moon", [1], "does not fit"),
    ]
    for vector, chosen, factor, after, strengths, match in cases:
        with pytest.raises(BadInputError, match=match):
            sweep_strength(Ledger(), vector, chosen, factor, after, strengths, LedgerJudge())
