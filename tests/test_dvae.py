"""The dVAE against its definitions: Gumbel noise, the Gumbel-max trick, the relaxation, the codes and the training in two stages."""

import inspect

import numpy as np
import pytest
import torch
from interruption import interrupted_at
from scipy import stats
from torch import nn
from torch.nn import functional as F

from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool
from sketchae.errors import BadInputError
from sketchae.latent_models import dvae
from sketchae.latent_models.dvae import (
    DiscreteVAE,
    gumbel_max,
    gumbel_noise,
    gumbel_softmax,
    kl_to_uniform,
    temperature,
    train_dvae,
)
from sketchae.scenes.judges import load_judge

TINY = dict(codebook_size=12, code_dim=3, widths=(4, 8), n_blocks=(0, 1), patch=8)
SHARES = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03])


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tiny(seed=0, **options):
    torch.manual_seed(seed)
    return DiscreteVAE(**TINY | options).eval()


def without_encoder(codebook, sharpness=1.0):
    """A model whose "pictures" are the features themselves, of three numbers."""
    model = tiny(codebook_size=len(codebook))
    model.encoder = nn.Identity()
    model.codebook.data, model.log_sharpness.data = codebook, torch.tensor(sharpness).log().to(codebook)
    return model


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return ImagePool(tmp_path_factory.mktemp("pool"), "judge_a", 16)


# --- Gumbel -----------------------------------------------------------------------------------------------------------


def test_noise_has_the_distribution_of_gumbel():
    noise = gumbel_noise((40, 2000), np.random.default_rng(0)).double()
    assert noise.shape == (40, 2000) and torch.isfinite(noise).all()
    flat = noise.flatten().numpy()
    error = np.sqrt(np.pi**2 / 6 / flat.size)
    assert abs(flat.mean() - np.euler_gamma) < 3 * error
    assert flat.var() == pytest.approx(np.pi**2 / 6, rel=0.03)
    assert stats.kstest(flat, lambda g: np.exp(-np.exp(-g))).pvalue > 0.01
    assert stats.kstest(flat * 1.05, lambda g: np.exp(-np.exp(-g))).pvalue < 1e-4  # the test would see five in a hundred
    assert abs(np.corrcoef(noise[:, :-1].flatten(), noise[:, 1:].flatten())[0, 1]) < 3 / np.sqrt(flat.size)


def test_noise_belongs_to_its_generator_and_is_finite_at_the_ends_of_the_uniform():
    first, again, other = (gumbel_noise((5, 3), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)

    class Ends:
        def random(self, shape, dtype):
            return np.array([0.0, 1 - 2**-24], dtype=dtype)

    low, high = inspect.unwrap(gumbel_noise)((2,), Ends())  # past the check of types, which knows real generators only
    assert -5 < low < -3 and high == pytest.approx(24 * np.log(2), rel=1e-3)


def test_the_largest_of_log_shares_plus_noise_is_a_draw_of_the_categorical():
    noise = gumbel_noise((20_000, 5), np.random.default_rng(3))
    drawn = gumbel_max(SHARES.log(), noise)
    counts = np.bincount(drawn, minlength=5)
    assert stats.chisquare(counts, 20_000 * SHARES.double().numpy() / float(SHARES.double().sum())).pvalue > 0.01
    off = np.array([0.48, 0.27, 0.15, 0.07, 0.03])
    assert stats.chisquare(counts, 20_000 * off).pvalue < 1e-6  # and not of one that is nearly the same
    assert torch.equal(gumbel_max(SHARES.log() + 3, noise), drawn)  # without normalisation
    assert torch.equal(gumbel_max(SHARES.log()[:, None], noise.T, dim=0), drawn)
    assert torch.equal(gumbel_max(torch.tensor([-torch.inf, 0.0]), noise[:, :2]), torch.ones(20_000, dtype=torch.long))


def test_relaxed_draws_sum_to_one_and_lie_between_a_hard_draw_and_no_choice():
    log_probs, noise = normal(6, 5, 2), gumbel_noise((6, 5, 2), np.random.default_rng(0)).double()
    for tau in (1e-3, 1 / 16, 1, 30):
        weights = gumbel_softmax(log_probs, noise, tau, dim=1)
        assert torch.allclose(weights.sum(1), torch.ones(6, 2).double()) and (weights >= 0).all()
        assert torch.equal(weights.argmax(1), gumbel_max(log_probs, noise, dim=1))
    one_hot = F.one_hot(gumbel_max(log_probs, noise, dim=1), 5).movedim(-1, 1).double()
    assert torch.allclose(gumbel_softmax(log_probs, noise, 1e-4, dim=1), one_hot, atol=1e-6)
    assert torch.allclose(gumbel_softmax(log_probs, noise, 1e6, dim=1), torch.tensor(0.2).double(), atol=1e-5)
    assert torch.allclose(gumbel_softmax(log_probs, noise, 0.3), gumbel_softmax(log_probs - 7, noise, 0.3))


def test_relaxed_draws_are_those_of_torch():
    logits = normal(50, 7, dtype=torch.float32)
    torch.manual_seed(5)
    noise = -torch.empty_like(logits).exponential_().log()
    for tau in (0.1, 1, 4):
        torch.manual_seed(5)
        assert torch.allclose(gumbel_softmax(logits, noise, tau), F.gumbel_softmax(logits, tau=tau), atol=1e-6)


@pytest.mark.parametrize("tau", [0.3, 2])
def test_relaxed_draws_have_the_gradient_of_finite_differences(tau):
    noise = gumbel_noise((2, 4), np.random.default_rng(0)).double()
    assert torch.autograd.gradcheck(lambda x: gumbel_softmax(x, noise, tau), normal(2, 4).requires_grad_())


@pytest.mark.parametrize("tau", [0, -1, float("nan")])
def test_no_temperature(tau):
    with pytest.raises(BadInputError, match="a temperature is positive"):
        gumbel_softmax(torch.zeros(2), torch.zeros(2), tau)


def test_the_divergence_from_uniform_is_that_of_torch():
    logits = 3 * normal(2, 6, 3, 4)
    given = torch.distributions.Categorical(logits=logits.movedim(1, -1))
    uniform = torch.distributions.Categorical(logits=torch.zeros(6).double())
    assert torch.allclose(kl_to_uniform(logits), torch.distributions.kl_divergence(given, uniform))
    assert torch.allclose(kl_to_uniform(logits + 5), kl_to_uniform(logits))
    assert torch.autograd.gradcheck(kl_to_uniform, normal(1, 4, 1, 2).requires_grad_())


def test_the_extremes_of_the_divergence():
    certain = 200 * F.one_hot(torch.tensor([[[3, 0]]]), 8).movedim(-1, 1).double()
    assert torch.allclose(kl_to_uniform(certain), torch.tensor(8.0).double().log())
    assert torch.allclose(kl_to_uniform(torch.full((1, 8, 1, 1), -4.0)), torch.zeros(()), atol=1e-6)
    half = torch.tensor([0.0, 0.0, -500.0, -500.0]).reshape(1, 4, 1, 1)
    assert float(kl_to_uniform(half)) == pytest.approx(np.log(2))


def test_the_temperature_falls_from_1_to_a_sixteenth():
    taus = np.array([temperature(step, 100) for step in range(101)])
    assert taus[0] == 1 and taus[100] == pytest.approx(1 / 16) and (np.diff(taus) <= 0).all()
    assert (taus[50:] == taus[50]).all() and (np.diff(taus[:51]) < 0).all()  # and rests for the second half
    assert taus[25] == pytest.approx((1 + 1 / 16) / 2)  # half way along the cosine
    assert temperature(0, 10, start=3) == 3 and temperature(9, 10, end=0.5, share=0.2) == 0.5
    assert temperature(99, 100, share=1) > 1 / 16


# --- The model --------------------------------------------------------------------------------------------------------


def test_probabilities_are_of_squared_distances_to_the_codes():
    codebook, features = normal(7, 3), normal(2, 3, 4, 5, seed=1)
    model = without_encoder(codebook, sharpness=0.7)
    found = model.log_probs(features)
    distances = (features[:, None] - codebook[None, :, :, None, None]).square().sum(2)
    assert torch.allclose(found, (-0.7 * distances).log_softmax(1)) and torch.allclose(found.exp().sum(1), torch.ones(2, 4, 5).double())
    assert torch.equal(model.encode(features), distances.argmin(1)) and torch.equal(model.encode(features), found.argmax(1))
    on_codes = codebook.T.reshape(1, 3, 7, 1)  # every feature on a code of its own
    assert torch.equal(model.encode(on_codes).flatten(), torch.arange(7))


def test_the_codes_of_pictures_are_the_most_likely_ones(pool):
    model, images = tiny(), pool.images(np.arange(4))
    with torch.no_grad():
        model.encoder.layers[-1].weight.mul_(20)  # features that are as far apart as codes
        log_probs = model.log_probs(images)
    assert log_probs.shape == (4, 12, 8, 8) and model.encode(images).unique().numel() > 1
    assert torch.equal(model.encode(images), log_probs.argmax(1))
    assert torch.allclose(log_probs.logsumexp(1), torch.zeros(4, 8, 8), atol=1e-5)


def test_a_mixture_of_one_code_is_that_code():
    model, indices = tiny(), torch.randint(12, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    one_hot = F.one_hot(indices, 12).movedim(-1, 1).float()
    assert torch.equal(model.mix(one_hot), model.lookup(indices)) and torch.equal(model.lookup(indices)[1, :, 3, 5], model.codebook[indices[1, 3, 5]])
    assert torch.allclose(model.mix(torch.full((1, 12, 2, 2), 1 / 12))[0, :, 0, 1], model.codebook.mean(0), atol=1e-6)
    halves = 0.5 * one_hot + 0.5 * one_hot.roll(1, 1)
    assert torch.allclose(model.mix(halves), 0.5 * (model.lookup(indices) + model.lookup((indices + 1) % 12)), atol=1e-6)


def test_gradients_reach_features_codes_and_sharpness_through_the_relaxed_draw():
    noise = gumbel_noise((1, 4, 1, 2), np.random.default_rng(0)).double()
    model = without_encoder(normal(4, 3).requires_grad_())

    def drawn(features, codebook, log_sharpness):
        parameters = {"codebook": codebook, "log_sharpness": log_sharpness}
        log_probs = torch.func.functional_call(_Call(model, "log_probs"), {f"model.{k}": v for k, v in parameters.items()}, (features,))
        return torch.einsum("nkhw,kd->ndhw", gumbel_softmax(log_probs, noise, 0.5, dim=1), codebook)

    inputs = [x.requires_grad_() for x in (normal(1, 3, 1, 2, seed=1), normal(4, 3, seed=2), torch.tensor(-1.0).double())]
    assert torch.autograd.gradcheck(drawn, inputs)


class _Call(nn.Module):
    def __init__(self, model, method):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *args):
        return getattr(self.model, self.method)(*args)


def test_pictures_lie_between_0_and_1():
    model = tiny()
    with torch.no_grad():
        model.decoder.layers[-2].weight.mul_(50)
        images = model.decode(torch.randint(12, (2, 8, 8), generator=torch.Generator().manual_seed(0)))
        assert images.shape == (2, 3, 128, 128) and images.min() == 0 and images.max() == 1
        relaxed = model.decode_relaxed(images, 0.5, np.random.default_rng(0))
        assert relaxed.min() == 0 and relaxed.max() == 1


def test_the_relaxed_picture_lies_between_the_hard_one_and_that_of_the_mean_code(pool):
    model, images = tiny(), pool.images(np.arange(2))
    with torch.no_grad():
        model.decoder.layers[-2].weight.mul_(8)
        hard = model.decode(model.encode(images))
        blurred = model.decode_relaxed(images, 0.5, np.random.default_rng(0))
        assert not torch.allclose(blurred, model.decode_relaxed(images, 0.5, np.random.default_rng(1)), atol=1e-2)
        assert torch.equal(blurred, model.decode_relaxed(images, 0.5, np.random.default_rng(0)))
        mean = model.decoder(model.codebook.mean(0)[None, :, None, None].expand(2, -1, 8, 8)).clamp(0, 1)
        assert torch.allclose(model.decode_relaxed(images, 1e7, np.random.default_rng(0)), mean, atol=1e-4)
        model.log_sharpness.fill_(17)  # so certain that no noise of Gumbel changes the choice
        assert torch.allclose(model.decode_relaxed(images, 0.5, np.random.default_rng(0)), hard, atol=1e-4)
        assert (hard - blurred).abs().max() > 0.01


def test_relaxed_reconstructions_draw_codes_with_their_probabilities():
    """At a low temperature the mean over noises of the mixed code is Σ π_i e_i."""
    model, n = without_encoder(normal(5, 3, dtype=torch.float32), sharpness=0.5), 6000
    model.decoder = nn.Identity()
    model.codebook.data = (model.codebook.data - model.codebook.data.min()) / 5  # `decode_relaxed` clamps to [0, 1]
    features = torch.tensor([0.3, 0.1, 0.4]).reshape(1, 3, 1, 1).expand(1, 3, 60, n // 60)
    with torch.no_grad():
        drawn = model.decode_relaxed(features, 1e-3, np.random.default_rng(0)).flatten(2)[0]
        shares = model.log_probs(features)[0, :, 0, 0].exp()
    expected = shares @ model.codebook.detach()
    errors = (shares @ (model.codebook.detach() - expected).square()).sqrt() / n**0.5
    assert ((drawn.mean(1) - expected).abs() < 3 * errors).all()
    assert ((drawn.mean(1) - model.codebook.detach().mean(0)).abs() > 3 * errors).any()  # the uniform mixture is another


def test_the_codebook_starts_at_the_centres_of_clusters():
    rng = np.random.default_rng(0)
    centres = torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]])
    labels = torch.from_numpy(rng.integers(0, 4, (6, 20, 20)))
    features = centres[labels].movedim(-1, 1) + 0.2 * torch.from_numpy(rng.standard_normal((6, 3, 20, 20), dtype=np.float32))
    model = without_encoder(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    model.start_codebook(iter(features.split(2)))
    nearest = torch.cdist(centres, model.codebook.detach()).min(1)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2, 3] and nearest.values.max() < 0.05
    assert torch.equal(model.encode(features), nearest.indices[labels])
    assert float(model.log_sharpness.detach().exp()) == pytest.approx(1 / (16 * 0.2**2), rel=0.05)  # an eighth of 1 / (2 σ²)
    again = without_encoder(torch.randn(4, 3))
    again.start_codebook([features])  # neither the batches nor the codes before matter
    assert torch.equal(again.codebook, model.codebook)


def test_codebooks_of_few_features():
    features = normal(1, 3, 2, 2, dtype=torch.float32)
    with pytest.raises(BadInputError, match="4 features for 5 codes: give more pictures"):
        without_encoder(torch.zeros(5, 3)).start_codebook([features])
    model = without_encoder(torch.zeros(4, 3))
    model.start_codebook([features])  # a code for each: no variance is left, and the model must stay finite
    assert torch.isfinite(model.log_probs(features)).all() and len(model.encode(features).unique()) == 4


def test_bits_of_a_picture():
    assert DiscreteVAE().bits() == 640 and tiny().bits() == pytest.approx(64 * np.log2(12)) and tiny().bits(64) == tiny().bits() / 4


@pytest.mark.parametrize("index", [-1, 12])
def test_codes_that_are_not(index):
    indices = torch.zeros(1, 8, 8, dtype=torch.long)
    indices[0, 3, 3] = index
    with pytest.raises(BadInputError, match="numbered 0 to 11"):
        tiny().decode(indices)


def test_pictures_that_do_not_fit_the_grid():
    with pytest.raises(BadInputError, match="multiples of 16"):
        tiny().encode(torch.zeros(1, 3, 100, 100))


def test_saving_and_loading(tmp_path, pool):
    model, images = tiny(), pool.images(np.arange(3))
    model.log_sharpness.data.fill_(0.3)
    model.save_pretrained(tmp_path)
    again = DiscreteVAE.from_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists() and again.config["codebook_size"] == 12
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(again.log_probs(images), model.log_probs(images)) and torch.equal(again.encode(images), model.encode(images))


# --- Training ---------------------------------------------------------------------------------------------------------


def train(pool, out, n_steps=9, **options):
    config = LoopConfig(n_steps=n_steps, lr=5e-3, n_warmup=2, ema_decay=0.5, checkpoint_every=2)
    return train_dvae(pool, out, config, **dict(batch_size=4, n_start=8) | TINY | options)


def test_the_loss_falls_without_codes_and_with_them(tmp_path, pool):
    model, record = train(pool, tmp_path, n_steps=90)
    first, second = ([row for row in record["log"] if ("kl" in row) == with_codes] for with_codes in (False, True))
    assert [row["step"] for row in record["log"]] == [0, 29, 30, 80, 119]  # one count for both stages
    assert first[-1]["loss"] < 0.7 * first[0]["loss"] and second[-1]["loss"] < 0.9 * second[0]["loss"]
    assert [c["n_steps"] for c in record["config"]] == [30, 90] and not model.training
    images = pool.images(np.arange(16))
    with torch.no_grad():
        mse = (model.decode(model.encode(images)) - images).square().mean()
    assert mse < 0.8 * images.var(dim=(0, 2, 3)).mean()  # hard codes say more than one colour would
    assert len(model.encode(images).unique()) >= 6


@pytest.mark.parametrize("stop", [3, 8], ids=["without codes", "with codes"])
def test_an_interrupted_training_resumes_to_the_same_model(tmp_path, pool, stop):
    whole, expected = train(pool, tmp_path / "whole")
    with interrupted_at(stop, dvae, "picture_loss"):
        train(pool, tmp_path / "parts")
    left = sorted(p.relative_to(tmp_path / "parts").as_posix() for p in (tmp_path / "parts").rglob("step-*"))
    assert left == {3: ["continuous/step-0000002.safetensors"], 8: ["continuous/step-0000003.safetensors", "step-0000004.safetensors"]}[stop]
    resumed, record = train(pool, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))
    assert record["log"] == expected["log"]


def test_a_judge_adds_its_term_and_nothing_else(tmp_path, pool):
    without, record = train(pool, tmp_path / "without", n_steps=3)
    ignored, _ = train(pool, tmp_path / "ignored", n_steps=3, judge=load_judge("a"), perceptual_weight=0)
    assert all(torch.equal(a, b) for a, b in zip(without.state_dict().values(), ignored.state_dict().values(), strict=True))
    _, judged = train(pool, tmp_path / "judged", n_steps=3, judge=load_judge("a"), perceptual_weight=0.5, kl_weight=0.25)
    assert all("perceptual" not in row for row in record["log"])
    for row in judged["log"]:
        extra = 0.01 * row["moments"] if "moments" in row else 0.25 * row["kl"]
        assert row["loss"] == pytest.approx(row["picture"] + 0.5 * row["perceptual"] + extra, abs=3e-5) and row["perceptual"] > 0.1


def test_a_strong_divergence_makes_all_codes_equally_likely(tmp_path, pool):
    logs = [train(pool, tmp_path / str(weight), n_steps=24, kl_weight=weight)[1]["log"][-1] for weight in (0, 1)]
    assert logs[1]["kl"] < 0.5 * logs[0]["kl"]


def test_the_codebook_is_made_of_as_many_pictures_as_asked_for(tmp_path, pool, monkeypatch):
    seen = []
    monkeypatch.setattr(DiscreteVAE, "start_codebook", lambda self, images: seen.append(torch.cat(list(images))))
    for n_start in (5, 100):
        train(pool, tmp_path / str(n_start), n_steps=1, n_start=n_start)
    assert torch.equal(seen[0], pool.images(np.arange(5))) and torch.equal(seen[1], pool.images(np.arange(16)))
