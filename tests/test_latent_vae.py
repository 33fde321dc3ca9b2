"""The VAE: its bound, its two gradients, digits, Scenes."""

import json
import math

import numpy as np
import pytest
import torch
from interruption import interrupted_at
from scipy.stats import norm
from tiny import mnist_folder
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal
from torch.distributions import kl_divergence as torch_kl

from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool
from sketchae.errors import BadInputError
from sketchae.latent_models import vae, vae_models
from sketchae.latent_models.digits import Digits, binarize, load_digits_split, load_mnist
from sketchae.latent_models.vae_models import DigitsVAE, VectorVAE, train_digits_vae, train_vector_vae

SMALL = dict(latent_dim=3, widths=(4, 4, 4, 4), n_blocks=(0, 0, 0, 0))


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def posterior(n=5, d=3):
    return normal(n, d, seed=1), 0.7 * normal(n, d, seed=2)


# --- The bound


def test_kl_is_that_of_torch_and_of_monte_carlo():
    mu, logvar = posterior()
    q, p = Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)
    assert torch.allclose(vae.kl_divergence(mu, logvar), torch_kl(q, p).sum(1))
    z = vae.reparametrize(mu.repeat(40_000, 1), logvar.repeat(40_000, 1), normal(200_000, 3, seed=3)).view(40_000, 5, 3)
    gaps = (q.log_prob(z) - p.log_prob(z)).sum(2)
    assert ((gaps.mean(0) - vae.kl_divergence(mu, logvar)).abs() < 5 * gaps.std(0) / 200).all()
    assert vae.kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]
    assert torch.allclose(vae.kl_per_dim(mu, logvar).sum(1), vae.kl_divergence(mu, logvar))


def test_reparametrised_noise_has_the_mean_and_variance_asked_for():
    mu, logvar = torch.tensor([[2.0, -1.0]]).double(), torch.tensor([[0.0, -2.0]]).double()
    z = vae.reparametrize(mu.repeat(100_000, 1), logvar.repeat(100_000, 1), normal(100_000, 2))
    assert torch.allclose(z.mean(0), mu[0], atol=0.015) and torch.allclose(z.var(0), logvar[0].exp(), rtol=0.03)


def test_likelihoods_are_those_of_torch():
    logits, images = 3 * normal(4, 1, 5, 5), (normal(4, 1, 5, 5, seed=5) > 0).double()
    expected = Independent(Bernoulli(logits=logits), 3).log_prob(images)
    assert torch.allclose(vae.bernoulli_log_likelihood(logits, images), expected)
    sigma = torch.tensor(0.3).double()
    expected = Independent(Normal(logits, sigma), 3).log_prob(images)
    assert torch.allclose(vae.gaussian_log_likelihood(logits, images, sigma.log()), expected)
    with pytest.raises(BadInputError, match="binarise"):
        vae.bernoulli_log_likelihood(logits, images * 0.5)


def test_bernoulli_probabilities_of_all_pictures_sum_to_one():
    every = torch.tensor([[(i >> k) & 1 for k in range(6)] for i in range(64)]).double().view(64, 1, 2, 3)
    total = vae.bernoulli_log_likelihood(normal(1, 1, 2, 3).expand(64, -1, -1, -1), every).exp().sum()
    assert float(total) == pytest.approx(1)


def test_elbo_weighs_the_divergence():
    assert vae.elbo(torch.tensor([-3.0]), torch.tensor([2.0]), beta=4).tolist() == [-11]
    with pytest.raises(BadInputError, match="0 or more"):
        vae.elbo(torch.zeros(1), torch.zeros(1), beta=-1)


def test_the_gradient_of_the_elbo_is_that_of_finite_differences():
    torch.manual_seed(0)
    model = DigitsVAE(latent_dim=3, hidden=7, size_px=4).double()
    images, eps = (normal(2, 1, 4, 4, seed=9) > 0).double(), normal(2, 3, seed=8)

    def bound(mu, logvar):
        return vae.elbo(model.log_likelihood(vae.reparametrize(mu, logvar, eps), images), vae.kl_divergence(mu, logvar)).sum()

    mu, logvar = (x.requires_grad_() for x in posterior(2))
    by_mu, by_logvar = torch.autograd.grad(bound(mu, logvar), (mu, logvar))
    with torch.no_grad():
        for k in range(6):
            step = torch.zeros(6).double()
            step[k] = 1e-5
            step = step.view(2, 3)
            assert float(by_mu.flatten()[k]) == pytest.approx(float(bound(mu + step, logvar) - bound(mu - step, logvar)) / 2e-5, rel=1e-6)
            assert float(by_logvar.flatten()[k]) == pytest.approx(float(bound(mu, logvar + step) - bound(mu, logvar - step)) / 2e-5, rel=1e-6)
    # The same from the parts: the pathwise estimate, less dKL/dμ = μ and dKL/dlog σ² = (σ² - 1) / 2.
    path = vae.pathwise_gradient(lambda z: model.log_likelihood(z, images), mu.detach(), logvar.detach(), eps)
    assert torch.allclose(by_mu, path[0] - mu) and torch.allclose(by_logvar, path[1] - (logvar.exp() - 1) / 2)


class LinearGaussian:
    """x = W z + noise, whose log p(x) is known: N(0, W Wᵀ + s² I). `widen` makes q wider than the true posterior by that factor."""

    def __init__(self, widen=1.0, s=0.5):
        self.W, self.s, self.widen = normal(4, 2, seed=11), s, widen
        precision = torch.eye(2).double() + self.W.T @ self.W / s**2
        self.covariance = torch.linalg.inv(precision)

    def encode(self, images):
        mu = images @ self.W @ self.covariance.T / self.s**2
        return mu, (self.widen**2 / torch.linalg.inv(self.covariance).diagonal()).log().expand_as(mu)

    def log_likelihood(self, z, images):
        return vae.gaussian_log_likelihood(z @ self.W.T, images, torch.tensor(self.s).double().log())

    def log_p(self, images):
        return MultivariateNormal(torch.zeros(4).double(), self.W @ self.W.T + self.s**2 * torch.eye(4)).log_prob(images)

    def elbo(self, images):
        """In closed form."""
        mu, logvar = self.encode(images)
        spread = (self.W.square() * logvar.exp()[:, None, :]).sum((1, 2)) / (2 * self.s**2)
        return vae.elbo(self.log_likelihood(mu, images) - spread, vae.kl_divergence(mu, logvar))


def test_one_sample_estimates_the_elbo_and_many_approach_the_exact_log_p():
    model, images = LinearGaussian(widen=2), normal(6, 4, seed=12)
    exact, n = model.log_p(images), 4000
    of_k = {k: vae.importance_weighted_bound(model, images.repeat(n, 1), k).view(n, 6) for k in (1, 3, 9)}
    error = {k: 4.5 * bounds.std(0) / math.sqrt(n) for k, bounds in of_k.items()}
    assert ((of_k[1].mean(0) - model.elbo(images)).abs() < error[1]).all()
    for fewer, more in [(1, 3), (3, 9)]:
        assert (of_k[fewer].mean(0) + error[fewer] < of_k[more].mean(0) - error[more]).all()
    assert (of_k[9].mean(0) + error[9] < exact).all()
    many = vae.importance_weighted_bound(model, images.repeat(100, 1), 200).view(100, 6).mean(0)
    assert torch.allclose(many, exact, atol=0.03)
    assert (model.elbo(images) + 0.5 < exact).all()  # what the samples had to make up for


def test_the_bound_is_exact_with_any_sample_where_q_is_the_posterior():
    """A W with orthogonal columns: the posterior factorises, every weight is p(x)."""
    model = LinearGaussian()
    model.W = torch.linalg.qr(model.W)[0]
    model.covariance = torch.eye(2).double() / (1 + 1 / model.s**2)
    images = normal(6, 4, seed=12)
    assert torch.allclose(vae.importance_weighted_bound(model, images, 1), model.log_p(images))
    assert torch.allclose(model.elbo(images), model.log_p(images))


def test_a_bound_needs_a_sample():
    with pytest.raises(BadInputError, match="at least 1"):
        vae.importance_weighted_bound(LinearGaussian(), normal(2, 4), 0)


def test_active_dims_are_those_that_vary():
    assert vae.active_dims(normal(500, 4) * torch.tensor([1, 0.05, 0.5, 0])) == 2


# --- Gradients


def test_both_gradients_are_unbiased_on_a_quadratic():
    """f = aᵀz + zᵀ diag(c) z: d/dμ = a + 2 c μ, d/dlog σ² = c σ²; the baseline changes no mean and lowers the variance."""
    a, c = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 1.5]).double()
    mu, logvar = torch.tensor([[0.3, -0.7]]).double(), torch.tensor([[-0.4, 0.2]]).double()
    n = 200_000
    rows = mu.repeat(n, 1), logvar.repeat(n, 1), normal(n, 2, seed=21)

    def f(z):
        return z @ a + z.square() @ c + 10

    exact = (a + 2 * c * mu[0], c * logvar[0].exp())
    mean_f = float(mu[0] @ a + (mu[0].square() + logvar[0].exp()) @ c + 10)
    kinds = [vae.pathwise_gradient(f, *rows), vae.score_function_gradient(f, *rows), vae.score_function_gradient(f, *rows, baseline=mean_f)]
    for estimates in kinds:
        for found, expected in zip(estimates, exact, strict=True):
            assert ((found.mean(0) - expected).abs() < 4.5 * found.std(0) / math.sqrt(n)).all()
    scatter = [sum(float(part.var(0).sum()) for part in estimates) for estimates in kinds]
    assert scatter[0] < scatter[2] < scatter[1] / 5


def test_variances_of_gradients_on_a_known_model():
    """log p(x | z) = -z²/2 + const at q = N(0, 1): Var of -ε is 1, of -ε²/2 is ½; of the score function with f = -ε²/2 - 3, 21 and 29.5."""

    class Known:
        def encode(self, images):
            return torch.zeros(len(images), 1).double(), torch.zeros(len(images), 1).double()

        def log_likelihood(self, z, images):
            return -z[:, 0].square() / 2 - 3

    found = vae.gradient_variances(Known(), torch.zeros(50, 1), 400)
    # Pathwise: E ε² = 1 and Var(ε²/2) = ½. Score, f² = ε⁴/4 + 3ε² + 9 with E ε^(2, 4, 6, 8) = (1, 3, 15, 105):
    # E f²ε² = 15/4 + 9 + 9; E f²(ε² - 1)²/4 = (60/4 + 3·10 + 9·2)/4 with E ε⁴(ε²-1)² = 105 - 30 + 3 = 78 and E ε²(ε²-1)² = 15 - 6 + 1 = 10.
    by_mu = 15 / 4 + 9 + 9
    by_logvar = (78 / 4 + 3 * 10 + 9 * 2) / 4 - (1 / 2) ** 2
    assert found.pathwise == pytest.approx(1.5, rel=0.05)
    assert found.score_function == pytest.approx(by_mu + by_logvar, rel=0.05)
    assert found.ratio == pytest.approx(found.score_function / found.pathwise) == pytest.approx(found.ratio_per_dim[0])
    assert found.ratio_ci95[0] < found.ratio < found.ratio_ci95[1] and 1 < found.ratio_baseline < found.ratio
    assert json.loads(json.dumps(found.values()))["n_samples"] == 400
    with pytest.raises(BadInputError, match="at least 3"):
        vae.gradient_variances(Known(), torch.zeros(2, 1), 2)


# --- Digits


@pytest.fixture(scope="module")
def digits():
    return load_digits_split()


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("digits")
    return train_digits_vae(digits, out, LoopConfig(n_steps=300, lr=1e-2, n_warmup=10, ema_decay=0.98), latent_dim=2, hidden=48)


def test_digits_are_split_once_and_for_all(digits):
    assert digits.train_images.shape == (1437, 1, 8, 8) and digits.test_images.shape == (360, 1, 8, 8) and digits.size_px == 8
    assert digits.train_images.min() == 0 and digits.train_images.max() == 1
    shares = [torch.bincount(labels, minlength=10) / len(labels) for labels in (digits.train_labels, digits.test_labels)]
    assert (shares[0] - shares[1]).abs().max() < 0.002
    both = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    from sklearn.datasets import load_digits

    assert sorted(map(tuple, (both * 16).long().tolist())) == sorted(map(tuple, load_digits().data.astype(int).tolist()))
    assert digits.test_labels[:12].tolist() == [3, 9, 9, 1, 9, 7, 7, 6, 0, 4, 0, 4]


def test_binarised_pixels_have_the_grey_value_as_mean():
    grey = torch.tensor([0.0, 0.25, 0.75, 1.0]).view(1, 1, 2, 2)
    drawn = binarize(grey.expand(20_000, -1, -1, -1), np.random.default_rng(0))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(drawn.mean(0, keepdim=True), grey, atol=0.015)
    assert drawn[:, 0, 0, 0].max() == 0 and drawn[:, 0, 1, 1].min() == 1


def test_a_digits_vae_learns(digits, trained):
    model, record = trained
    images = binarize(digits.test_images, np.random.default_rng(0))
    ink = digits.train_images.mean(0, keepdim=True).clamp(1e-3, 1 - 1e-3)
    # A model without a latent variable, every pixel by itself, is the bar.
    independent = vae.bernoulli_log_likelihood(ink.logit().expand_as(images), images).mean()
    bound = vae.importance_weighted_bound(model, images, 5).mean()
    assert bound > independent + 1.5
    mu, logvar = model.encode(images)
    assert vae.kl_divergence(mu, logvar).mean() > 0.5 and vae.active_dims(mu) >= 1
    assert record["log"][-1]["loss"] < record["log"][0]["loss"]


def test_reparametrisation_scatters_less_on_a_trained_model(digits, trained):
    found = vae.gradient_variances(trained[0], binarize(digits.test_images[:12], np.random.default_rng(1)), 40)
    assert found.ratio_baseline_ci95[0] > 1 and found.ratio > found.ratio_baseline


def test_an_interrupted_digits_training_resumes_to_the_same_weights(digits, tmp_path):
    config = LoopConfig(n_steps=12, lr=1e-3, n_warmup=2, checkpoint_every=4)

    def run(out):
        return train_digits_vae(digits, out, config, latent_dim=2, hidden=8)[0].state_dict()

    whole = run(tmp_path / "whole")
    with interrupted_at(7, vae_models, "kl_divergence"):
        run(tmp_path / "parts")
    assert (tmp_path / "parts" / "step-0000004.safetensors").exists()
    resumed = run(tmp_path / "parts")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_beta_lowers_the_divergence(digits, tmp_path):
    config = LoopConfig(n_steps=60, lr=5e-3, n_warmup=5, ema_decay=0.9)
    last = [
        train_digits_vae(digits, tmp_path / str(b), config, latent_dim=2, hidden=24, n_layers=1, beta=b)[1]["log"][-1]["kl"] for b in (0.1, 8.0)
    ]
    assert last[1] < 0.5 * last[0]


def test_a_digits_vae_is_saved_and_loaded(trained, digits, tmp_path):
    model = trained[0]
    model.save_pretrained(tmp_path)
    again = DigitsVAE.from_pretrained(tmp_path)
    assert again.config.hidden == 48
    for a, b in zip(model.encode(digits.test_images), again.encode(digits.test_images), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(BadInputError, match="squares of 8"):
        model.encode(torch.zeros(1, 1, 7, 7))
    with pytest.raises(BadInputError, match="at least 1"):
        DigitsVAE(latent_dim=0)


def test_the_manifold_is_the_decoded_grid_of_quantiles(trained):
    model = trained[0]
    pictures = vae_models.manifold(model, 5)
    assert pictures.shape == (25, 1, 8, 8) and pictures.min() >= 0 and pictures.max() <= 1
    low, middle, high = norm.ppf([0.1, 0.5, 0.9])
    places = torch.tensor([[low, high], [high, high], [middle, middle], [low, low]]).float()
    assert torch.allclose(pictures[[0, 4, 12, 20]], model.decode(places), atol=1e-6)
    with pytest.raises(BadInputError, match="latent_dim=2"):
        vae_models.manifold(DigitsVAE(latent_dim=3, hidden=4))


def test_samples_are_decoded_from_the_prior_and_do_not_depend_on_their_number(trained):
    model = trained[0]
    assert torch.allclose(vae_models.sample(model, 9, seed=4)[:3], vae_models.sample(model, 3, seed=4), atol=1e-6)
    assert not torch.allclose(vae_models.sample(model, 3, seed=4), vae_models.sample(model, 3, seed=5))
    seen = []
    stand_in = DigitsVAE(latent_dim=2, hidden=4)
    stand_in.decode = lambda z: (seen.append(z), torch.zeros(len(z), 1, 8, 8))[1]
    vae_models.sample(stand_in, 4000)
    assert torch.allclose(torch.cov(seen[0].T), torch.eye(2), atol=0.08)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_mnist_is_read_from_its_form_on_the_hub(tmp_path, cache):
    found = load_mnist(mnist_folder(tmp_path / "mnist", ([3, 0, 9], [7, 1])), revision=None)
    assert isinstance(found, Digits) and found.size_px == 28
    assert found.train_labels.tolist() == [3, 0, 9] and found.test_labels.tolist() == [7, 1]
    assert torch.allclose(found.test_images, torch.tensor([175.0, 25.0]).view(2, 1, 1, 1).expand(2, 1, 28, 28) / 255)
    model, _ = train_digits_vae(found, tmp_path / "out", LoopConfig(n_steps=2, lr=1e-3), latent_dim=2, hidden=8, batch_size=2)
    assert vae_models.sample(model, 2).shape == (2, 1, 28, 28)


def test_mnist_of_another_form_or_without_a_commit_is_refused(tmp_path, cache):
    with pytest.raises(BadInputError, match="'label'"):
        load_mnist(mnist_folder(tmp_path / "other", ([1], [2]), label="digit"), revision=None)
    with pytest.raises(BadInputError, match="split 'test'"):
        load_mnist(mnist_folder(tmp_path / "splits", ([1],), split_names=("train",)), revision=None)
    for revision in ("main", None, "abc123"):
        with pytest.raises(BadInputError, match="full hash of a commit"):
            load_mnist("owner/mnist", revision=revision)


# --- Scenes


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return ImagePool(tmp_path_factory.mktemp("pool"), "backbones", 8)


def test_a_vector_vae_learns_resumes_and_is_saved(pool, tmp_path):
    config = LoopConfig(n_steps=20, lr=5e-3, n_warmup=2, ema_decay=0.5, checkpoint_every=5)

    def run(out):
        return train_vector_vae(pool, out, config, batch_size=4, **SMALL)

    model, record = run(tmp_path / "whole")
    assert record["log"][-1]["loss"] < record["log"][0]["loss"] - 0.1 and record["log"][-1]["kl"] > 0
    with interrupted_at(8, vae_models, "kl_divergence"):
        run(tmp_path / "parts")
    resumed, _ = run(tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True))
    model.save_pretrained(tmp_path / "saved")
    again = VectorVAE.from_pretrained(tmp_path / "saved")
    images = pool.images(np.arange(2))
    mu, logvar = model.encode(images)
    assert mu.shape == logvar.shape == (2, 3) and torch.equal(mu, again.encode(images)[0]) and again.sigma == model.sigma < 0.3
    out = again.decode(100 * mu)
    assert out.shape == images.shape and out.min() >= 0 and out.max() <= 1
    assert vae_models.sample(again, 2).shape == images.shape


def test_sigma_follows_the_error_and_maximises_the_likelihood():
    model = VectorVAE(**SMALL)
    for _ in range(1500):
        model.follow_sigma(torch.tensor(0.0025))
    assert model.sigma == pytest.approx(0.05, rel=1e-3)
    out, images = normal(3, 3, 16, 16, seed=30), normal(3, 3, 16, 16, seed=31)
    best = (out - images).square().mean().log() / 2
    likelihoods = [float(vae.gaussian_log_likelihood(out, images, best + shift).sum()) for shift in (-0.05, 0, 0.05)]
    assert likelihoods[1] > max(likelihoods[0], likelihoods[2])
    model.follow_sigma(torch.tensor(0.0))
    for _ in range(2000):
        model.follow_sigma(torch.tensor(0.0))
    assert model.sigma == pytest.approx(1e-3)  # not 0, where a density is infinite


def test_the_divergence_is_phased_in_over_the_first_tenth(pool, tmp_path, monkeypatch):
    weights = []

    def spy(log_likelihood, kl, beta=1):
        weights.append(beta)
        return log_likelihood - beta * kl

    monkeypatch.setattr(vae_models, "elbo", spy)
    train_vector_vae(pool, tmp_path, LoopConfig(n_steps=30, lr=1e-4), beta=2.0, batch_size=1, **SMALL)
    assert weights == pytest.approx([2 / 3, 4 / 3] + [2.0] * 28)


def test_the_likelihood_of_a_scene_is_of_all_its_pixels(pool):
    model, images = VectorVAE(**SMALL).eval(), pool.images(np.arange(2))
    z = torch.zeros(2, 3)
    expected = Normal(model.decoder(z), model.sigma).log_prob(images).sum((1, 2, 3))
    assert torch.allclose(model.log_likelihood(z, images), expected, rtol=1e-5)
    assert vae.importance_weighted_bound(model, images, 2).shape == (2,)
    with pytest.raises(BadInputError, match="at least 1"):
        VectorVAE(latent_dim=0)
