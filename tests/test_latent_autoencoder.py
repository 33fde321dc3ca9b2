"""The autoencoder and the perceptual loss: definitions, gradients, training that resumes, files."""

import numpy as np
import pytest
import torch
from interruption import interrupted_at

from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool
from sketchae.errors import BadInputError
from sketchae.latent_models import autoencoder as module
from sketchae.latent_models.autoencoder import LOSSES, PIXEL_WEIGHT, Autoencoder, reconstruction_loss, train_autoencoder
from sketchae.latent_models.perceptual import judge_stages, perceptual_loss
from sketchae.scenes import load_judge, render, split_scenes
from sketchae.scenes.judges import make_judge

TINY = dict(latent_dim=6, widths=(4, 6), n_blocks=(0, 1))


@pytest.fixture(scope="module")
def judge():
    return load_judge("a")


@pytest.fixture(scope="module")
def images():
    return render(split_scenes("val", 4)).images


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return ImagePool(tmp_path_factory.mktemp("pool"), "backbones", 16)


# --- the perceptual loss


def test_stages_are_the_relus_of_the_trunk_and_end_where_the_judge_reads(judge, images):
    stages = judge_stages(judge, images)
    assert [tuple(s.shape[1:]) for s in stages] == [(24, 64, 64), (48, 32, 32), (96, 16, 16), (128, 8, 8), (128, 4, 4)]
    assert all(s.min() == 0 for s in stages)
    assert torch.equal(judge.project(stages[-1]), judge.features(images))  # the same scaling of pixels as the judge's own


def test_perceptual_loss_is_its_formula(judge, images):
    """By forward hooks on the judge's own pass, one stage at a time."""
    seen = []
    hooks = [judge.trunk[i].register_forward_hook(lambda _, __, out: seen.append(out.double())) for i in range(2, 15, 3)]
    judge.features(images.roll(1, 0))
    judge.features(images)
    for hook in hooks:
        hook.remove()
    ours, target = seen[:5], seen[5:]
    expected = sum(((a - b) ** 2).sum() / (b**2).sum() for a, b in zip(ours, target, strict=True)) / 5
    assert torch.isclose(perceptual_loss(judge, images.roll(1, 0), images).double(), expected, rtol=1e-4)
    assert perceptual_loss(judge, images, images) == 0


def test_every_stage_counts_alike():
    """A stage's units do not matter: a last stage seven times as large (ReLU(7 x) = 7 ReLU(x)) leaves the loss as it was."""
    torch.manual_seed(0)
    small = make_judge("a").eval().requires_grad_(False)
    large = make_judge("a").eval().requires_grad_(False)
    large.load_state_dict(small.state_dict())
    large.trunk[-2].weight.mul_(7)
    large.trunk[-2].bias.mul_(7)
    x, out = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    assert torch.allclose(judge_stages(large, x)[-1], 7 * judge_stages(small, x)[-1], rtol=1e-4)
    assert torch.isclose(perceptual_loss(large, out, x), perceptual_loss(small, out, x), rtol=1e-5)


def test_a_picture_in_which_nothing_is_seen_loses_about_one(images):
    """With biases at 0 and no running means, a grey picture (0 after scaling) excites nothing: a relative error of exactly 1."""
    torch.manual_seed(0)
    judge = make_judge("a").eval().requires_grad_(False)
    assert torch.isclose(perceptual_loss(judge, torch.full_like(images, 0.5), images), torch.tensor(1.0), atol=1e-6)


def test_the_gradient_is_that_of_finite_differences_and_goes_to_the_output_only(images):
    torch.manual_seed(0)
    judge = make_judge("a").double().eval().requires_grad_(False)
    before = {k: v.clone() for k, v in judge.state_dict().items()}
    target = images[:2, :, :64, :64].double().requires_grad_()
    out = torch.rand_like(target).requires_grad_()
    perceptual_loss(judge, out, target).backward()
    assert target.grad is None and all(p.grad is None for p in judge.parameters())
    assert all(torch.equal(v, before[k]) for k, v in judge.state_dict().items())  # running statistics too
    direction = torch.randn_like(out)
    steps = [perceptual_loss(judge, out.detach() + h * direction, target) for h in (1e-6, -1e-6)]
    slope = (steps[0] - steps[1]) / 2e-6
    assert abs(slope) > 1e-3 and torch.isclose((out.grad * direction).sum(), slope.detach(), rtol=1e-4)


def test_it_sees_what_pixels_do_not(judge, images):
    """Of two errors of equal squares, a uniform shift of brightness costs less than a blur of edges."""
    blurred = torch.nn.functional.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    shifted = images + (blurred - images).square().mean().sqrt()
    assert torch.isclose((shifted - images).square().mean(), (blurred - images).square().mean(), rtol=1e-4)
    assert perceptual_loss(judge, blurred, images) > 1.5 * perceptual_loss(judge, shifted, images)


def test_only_a_frozen_judge_a_is_taken(images):
    frozen = make_judge("a").eval().requires_grad_(False)
    with pytest.raises(BadInputError, match="judge a"):
        perceptual_loss(make_judge("b").eval().requires_grad_(False), images, images)
    with pytest.raises(BadInputError, match="frozen"):
        perceptual_loss(make_judge("a").eval(), images, images)
    with pytest.raises(BadInputError, match="frozen"):
        perceptual_loss(frozen.train(), images, images)


# --- reconstruction losses


def test_losses_of_known_errors(judge, images):
    out = images.clone()
    out[:, 0] += 0.3  # a third of all numbers
    assert torch.isclose(reconstruction_loss("l2", out, images), torch.tensor(0.03), rtol=1e-4)
    assert torch.isclose(reconstruction_loss("l1", out, images), torch.tensor(0.1), rtol=1e-4)
    both = perceptual_loss(judge, out, images) + PIXEL_WEIGHT * torch.tensor(0.03)
    assert torch.isclose(reconstruction_loss("perceptual", out, images, judge), both, rtol=1e-4)
    assert all(reconstruction_loss(kind, images, images, judge) == 0 for kind in LOSSES)


def test_what_is_undecided_becomes_the_mean_by_l2_and_the_median_by_l1():
    """One constant for pictures of which a quarter is white and the rest black: the blur of l2."""
    images = torch.zeros(4, 3, 8, 8)
    images[0] = 1
    found = {}
    for kind in ("l2", "l1"):
        constants = torch.linspace(0, 1, 101)
        losses = [reconstruction_loss(kind, torch.full_like(images, float(c)), images) for c in constants]
        found[kind] = float(constants[torch.stack(losses).argmin()])
    assert found == pytest.approx({"l2": 0.25, "l1": 0.0})


def test_bad_losses(images):
    with pytest.raises(BadInputError, match="l1"):
        reconstruction_loss("l3", images, images)
    with pytest.raises(BadInputError, match="judge a"):
        reconstruction_loss("perceptual", images, images)


# --- the model


def test_vectors_and_pictures(images):
    torch.manual_seed(0)
    model = Autoencoder(**TINY).eval()
    z = model.encode(images)
    assert z.shape == (4, 6)
    out = model.decode(100 * torch.randn(4, 6))
    assert out.shape == images.shape and out.min() == 0 and out.max() == 1  # clamped: it would overshoot
    assert not torch.equal(model.encode(images.flip(-1)), z)
    assert torch.allclose(model.encode(images[2:3]), z[2:3], atol=1e-6)  # a picture's latent does not depend on its batch


def test_the_default_is_one_vector_of_64():
    model = Autoencoder()
    assert model.encode(torch.rand(1, 3, 128, 128)).shape == (1, 64) == (1, model.config.latent_dim)


def test_saved_and_loaded(tmp_path, images):
    torch.manual_seed(0)
    model = Autoencoder(**TINY)
    model.save_pretrained(tmp_path)
    again = Autoencoder.from_pretrained(tmp_path)
    assert again.config.latent_dim == 6 and list(again.config.widths) == [4, 6]
    assert torch.equal(again.decode(again.encode(images)), model.decode(model.encode(images)))
    assert list(tmp_path.glob("*.safetensors"))


def test_bad_models_and_inputs():
    with pytest.raises(BadInputError, match="at least one number"):
        Autoencoder(latent_dim=0)
    with pytest.raises(BadInputError, match="six"):
        Autoencoder(widths=(4,) * 7, n_blocks=(0,) * 7)
    with pytest.raises(BadInputError, match="one of each"):
        Autoencoder(widths=(4, 4), n_blocks=(1,))
    model = Autoencoder(**TINY)
    with pytest.raises(BadInputError, match="128 x 128"):
        model.encode(torch.rand(1, 3, 64, 64))
    with pytest.raises(BadInputError, match="5 numbers"):
        model.decode(torch.rand(1, 5))


# --- training


def train(pool, out, loss="l2", judge=None, n_steps=8, lr=3e-3, **more):
    config = LoopConfig(n_steps=n_steps, lr=lr, n_warmup=2, checkpoint_every=3, **more)
    return train_autoencoder(pool, out, config, loss=loss, judge=judge, batch_size=4, **TINY)


@pytest.mark.parametrize(("loss", "share"), [("l2", 0.85), ("l1", 0.85), ("perceptual", 0.96)])
def test_training_lowers_each_loss(pool, tmp_path, judge, loss, share):
    """The features of objects come late: after these few steps a perceptual loss of 0.96 has become about 0.89."""
    n_steps = 24
    model, record = train(pool, tmp_path, loss, judge, n_steps, lr=1e-2, ema_decay=0.9)
    images = pool.images(np.arange(16))
    torch.manual_seed(0)
    with torch.no_grad():
        start = Autoencoder(**TINY)
        begun = reconstruction_loss(loss, start.decode(start.encode(images)), images, judge)
        ended = reconstruction_loss(loss, model.decode(model.encode(images)), images, judge)
    assert ended < share * begun
    assert record["log"][-1]["mse"] < record["log"][0]["mse"] and record["log"][-1]["step"] == n_steps - 1


def test_an_interrupted_training_resumes_to_the_same_weights(pool, tmp_path):
    whole, _ = train(pool, tmp_path / "whole")
    with interrupted_at(6, module, "reconstruction_loss"):
        train(pool, tmp_path / "parts")
    torch.rand(5)  # whatever the process drew in between
    resumed, record = train(pool, tmp_path / "parts")
    assert record["log"][-1]["step"] == 7
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())
    other, _ = train(pool, tmp_path / "other", seed=1)
    assert not torch.equal(other.encoder.linear.weight, whole.encoder.linear.weight)


def test_one_loss_does_not_continue_another(pool, tmp_path):
    first, _ = train(pool, tmp_path, "l2", n_steps=3)
    second, record = train(pool, tmp_path, "l1", n_steps=3)
    assert record["log"][0]["step"] == 0 and not torch.equal(first.encoder.linear.weight, second.encoder.linear.weight)


def test_a_bad_loss_stops_before_the_training(pool, tmp_path):
    with pytest.raises(BadInputError, match="no loss"):
        train(pool, tmp_path, "huber")
    with pytest.raises(BadInputError, match="judge a"):
        train(pool, tmp_path, "perceptual")
    assert not list(tmp_path.iterdir())
