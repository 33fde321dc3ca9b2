"""GLO against its definitions: the ball, the loss, the descent for a new picture, and the training."""

import math

import numpy as np
import pytest
import torch
from interruption import interrupted_at

from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.errors import BadInputError
from sketchae.latent_models import glo
from sketchae.latent_models.glo import (
    GLO,
    laplacian_loss,
    laplacian_losses,
    project_to_ball,
    train_glo,
)
from sketchae.latent_models.glo_fitting import fill_from_surroundings, fit_gaussian, fit_latents, refit, square_mask

TINY = dict(latent_dim=4, widths=(4, 4, 4, 8), n_blocks=(0, 0, 0, 1))
NORMS = (1, 2, math.inf)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tiny(n_pictures=8, seed=0, **options):
    torch.manual_seed(seed)
    return GLO(n_pictures=n_pictures, **TINY | options).eval()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return ImagePool(tmp_path_factory.mktemp("pool"), "judge_a", 16)


# --- The ball ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("radius", [0.5, 3])
def test_projection_is_the_nearest_point_of_the_ball(p, radius):
    z = normal(40, 5) * torch.linspace(0.02, 4, 40, dtype=torch.float64)[:, None]
    inside = torch.linalg.vector_norm(z, ord=p, dim=1) <= radius
    assert 0 < inside.sum() < 40
    found = project_to_ball(z, radius, p)
    assert torch.equal(found[inside], z[inside])
    assert torch.allclose(torch.linalg.vector_norm(found[~inside], ord=p, dim=1), torch.tensor(float(radius), dtype=torch.float64))
    # Points of a convex ball: any, near the surface, and near the answer. The nearest point is where (z - found)·(y - found) <= 0 for all y.
    y = torch.cat([normal(4000, 5, seed=1), found[~inside][:, None].add(0.01 * normal(200, 5, seed=2)).flatten(0, 1)])
    y = y / (torch.linalg.vector_norm(y, ord=p, dim=1, keepdim=True) / radius).clamp(min=1)
    products = ((z - found)[:, None] * (y - found[:, None])).sum(-1)
    assert products.max() <= 1e-9
    assert (torch.cdist(z, y).min(1).values >= (z - found).norm(dim=1) - 1e-9).all()
    assert torch.allclose(project_to_ball(found, radius, p), found, atol=1e-12)


def test_projections_that_can_be_worked_out_by_hand():
    z = torch.tensor([[3.0, -4.0], [0.0, 0.0], [0.5, 0.1]])
    assert torch.allclose(project_to_ball(z, 1.0, 2), torch.tensor([[0.6, -0.8], [0.0, 0.0], [0.5, 0.1]]))
    assert torch.allclose(project_to_ball(z, 1.0, math.inf), torch.tensor([[1.0, -1.0], [0.0, 0.0], [0.5, 0.1]]))
    assert torch.allclose(project_to_ball(z, 2, 1), torch.tensor([[0.5, -1.5], [0.0, 0.0], [0.5, 0.1]]))
    assert torch.allclose(project_to_ball(z, 1, 1), torch.tensor([[0.0, -1.0], [0.0, 0.0], [0.5, 0.1]]))


def test_no_ball():
    for radius, p in ((1.0, 3), (0.0, 2), (-1, 1), (math.inf, 2)):
        with pytest.raises(BadInputError):
            project_to_ball(torch.zeros(1, 2), radius, p)
        with pytest.raises(BadInputError):
            GLO(n_pictures=2, radius=radius, p=p, **TINY)


# --- The loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_of_differences_whose_pyramid_is_known():
    images = normal(2, 3, 16, 16).abs()
    flat = laplacian_loss(images + 0.2, images, n_levels=3)  # all bands are 0, 0.2 remains at level 2
    assert float(flat) == pytest.approx(0.2 / 16 + 0.04)
    assert float(laplacian_loss(images + 0.2, images, n_levels=3, l2_weight=0)) == pytest.approx(0.2 / 16)
    board = 0.2 * (1 - 2 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2)).double()
    assert float(laplacian_loss(images + board, images, n_levels=3, l2_weight=0)) == pytest.approx(0.2)  # the finest band alone
    squares = 0.2 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double().repeat(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert float(laplacian_loss(images + squares, images, n_levels=3, l2_weight=0)) == pytest.approx(0.2 / 4)  # level 1 alone
    assert float(laplacian_loss(images - 0.2, images, n_levels=1, l2_weight=0)) == pytest.approx(0.2)
    assert float(laplacian_loss(images, images)) == 0


def test_losses_are_of_each_picture_and_have_the_gradient_of_finite_differences():
    out, images = normal(3, 1, 8, 8), normal(3, 1, 8, 8, seed=1)
    mask = square_mask(3, 8, 3).double()
    losses = laplacian_losses(out, images, n_levels=3)
    assert torch.allclose(losses[1], laplacian_losses(out[1:2], images[1:2], n_levels=3)[0])
    assert torch.allclose(losses.mean(), laplacian_loss(out, images, n_levels=3))
    assert torch.autograd.gradcheck(lambda o: laplacian_losses(o, images, mask=mask, n_levels=3), out.requires_grad_())


def test_hidden_pixels_have_no_influence_on_the_loss():
    out, images, mask = normal(2, 3, 16, 16), normal(2, 3, 16, 16, seed=1), square_mask(2, 16, 6).double()
    other = torch.where(mask.bool(), images, 99.0)
    assert torch.equal(laplacian_losses(out, images, mask=mask), laplacian_losses(out, other, mask=mask))
    assert not torch.allclose(laplacian_losses(out, images), laplacian_losses(out, other))
    assert torch.equal(laplacian_losses(other, images, mask=mask), torch.zeros(2).double())
    everything = torch.ones_like(mask)
    assert torch.allclose(laplacian_losses(out, images, mask=everything), laplacian_losses(out, images))
    halves = everything.clone()
    halves[..., :8] = 0  # per pixel that counts: half the pixels, the same error
    assert torch.allclose(laplacian_losses(images + 0.2, images, mask=halves, n_levels=1), torch.tensor(0.24).double())


def test_masks_hide_one_square_that_depends_on_its_number_alone():
    mask = square_mask(30, 32, 7, seed=4)
    assert mask.shape == (30, 1, 32, 32) and set(mask.unique().tolist()) == {0.0, 1.0}
    for hole in 1 - mask[:, 0]:
        assert hole.sum() == 49 and hole.amax(0).sum() == 7 and hole.amax(1).sum() == 7  # 49 pixels within 7 columns and 7 rows
    assert torch.equal(mask[:5], square_mask(5, 32, 7, seed=4)) and not torch.equal(mask, square_mask(30, 32, 7, seed=5))
    assert len({tuple(m.flatten().tolist()) for m in mask}) > 20


def test_what_knows_no_pictures_fills_holes_from_their_surroundings():
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    ramp = torch.stack([x, y, 0.5 * x + 0.25 * y])[None]  # a plane in each colour: what lies between is known
    flat, noise = torch.full((1, 3, 32, 32), 0.3), torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images, mask = torch.cat([ramp, flat, noise]), torch.ones(3, 1, 32, 32)
    mask[..., 8:17, 12:21] = 0
    found = fill_from_surroundings(images, mask)
    assert set(found) == {"mean_colour", "rows", "biharmonic"}
    for guess in found.values():
        assert guess.shape == images.shape and torch.equal(guess * mask, images * mask)
        assert torch.allclose(guess[1], flat[0], atol=1e-5) and guess.min() >= 0 and guess.max() <= 1
        hidden = torch.where(mask.bool(), images, 0.9)  # what is hidden has no influence
        assert all(torch.equal(a, b) for a, b in zip(found.values(), fill_from_surroundings(hidden, mask).values(), strict=True))
    assert torch.allclose(found["rows"][0], ramp[0], atol=1e-5) and torch.allclose(found["biharmonic"][0], ramp[0], atol=1e-3)
    hole = ~mask[0, 0].bool()
    assert torch.allclose(found["mean_colour"][0][:, hole], ramp[0][:, ~hole].mean(1, keepdim=True), atol=1e-5)
    strip = torch.ones(1, 1, 32, 32)
    strip[..., 4:8, :] = 0  # rows that are hidden whole
    assert torch.allclose(fill_from_surroundings(ramp, strip)["rows"][0, 1, 5], ramp[0, 1][strip[0, 0].bool()].mean(), atol=1e-5)
    for bad in (torch.zeros_like(mask), 0.5 * mask):
        with pytest.raises(BadInputError, match="A mask holds 1"):
            fill_from_surroundings(images, bad)


def test_bad_pictures_and_masks():
    x = torch.zeros(1, 3, 12, 12)
    with pytest.raises(BadInputError, match="even sides"):
        laplacian_loss(x, x, n_levels=4)
    with pytest.raises(BadInputError, match="1 where a pixel is seen"):
        laplacian_losses(x, x, mask=torch.full((1, 1, 12, 12), 0.5), n_levels=2)
    with pytest.raises(BadInputError, match="whole picture"):
        laplacian_losses(x, x, mask=torch.zeros(1, 1, 12, 12), n_levels=2)
    for side in (0, 12):
        with pytest.raises(BadInputError, match="hole"):
            square_mask(1, 12, side)


# --- The model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
def test_the_generator_is_given_numbers_of_unit_size(p):
    model = tiny(radius=0.3, p=p)
    corner = torch.full((1, 4), 0.3 / 4 ** (1 / p))  # on the sphere, all numbers alike
    assert torch.allclose(model.project(2 * corner), corner)
    assert torch.allclose(model(corner), model.generator(torch.ones(1, 4)), atol=1e-6)


def test_pictures_lie_between_0_and_1_and_latents_in_the_ball():
    model = tiny()
    with torch.no_grad():
        model.generator.convolutions.layers[-2].weight.mul_(50)
        model.latents.mul_(10)
        images = model.decode(model.latents)
        assert images.shape == (8, 3, 128, 128) and images.min() == 0 and images.max() == 1
        assert torch.allclose(images, model.decode(model.project(model.latents)), atol=1e-5)
        assert torch.allclose(model.reconstruct([6, 1]), images[[6, 1]], atol=1e-5)
    for row in (-1, 8):
        with pytest.raises(BadInputError, match="Rows are 0 to 7"):
            model.reconstruct([row])


@pytest.mark.parametrize("p", NORMS)
def test_saving_and_loading(tmp_path, p):
    model = tiny(p=p, radius=2)
    model.save_pretrained(tmp_path)
    again = GLO.from_pretrained(tmp_path)
    assert (again.config["p"], again.config["radius"], again.gain) == (p, 2, model.gain)
    assert torch.equal(again.latents, model.latents) and torch.equal(again.reconstruct([3]), model.reconstruct([3]))


# --- Training ---------------------------------------------------------------------------------------------------------


def train(pool, out, n_steps=6, **options):
    config = LoopConfig(n_steps=n_steps, lr=3e-3, n_warmup=2, ema_decay=0.5, checkpoint_every=2)
    return train_glo(pool, out, config, **dict(batch_size=4, n_pictures=12) | TINY | options)


def test_an_interrupted_training_resumes_to_the_same_model(tmp_path, pool):
    whole, _ = train(pool, tmp_path / "whole")
    with interrupted_at(4, glo, "laplacian_loss"):
        train(pool, tmp_path / "parts")
    assert sorted(p.name for p in (tmp_path / "parts").glob("step-*")) == ["step-0000002.safetensors"]
    resumed, record = train(pool, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))
    assert record["log"][-1]["step"] == 5


@pytest.mark.parametrize("p", NORMS)
def test_training_tells_pictures_apart_and_leaves_the_latents_in_the_ball(tmp_path, pool, p):
    model, record = train(pool, tmp_path, n_steps=40, radius=0.5, p=p, widths=(8, 8, 16, 16))
    images = pool.images(np.arange(12))
    with torch.no_grad():
        mse = (model.reconstruct(range(12)) - images).square().mean()
    assert mse < 0.8 * (images - images.mean(0)).square().mean()  # less than the best that one picture for all could do
    norms = torch.linalg.vector_norm(model.latents.detach(), ord=p, dim=1)
    assert 0.4 < norms.max() <= 0.5 + 1e-6
    assert not model.training and record["log"][-1]["step"] == 39


def test_only_the_pictures_of_the_batch_guide_their_latents(tmp_path, pool):
    config = LoopConfig(n_steps=1, lr=1e-3, n_warmup=1, ema_decay=0.0, weight_decay=0.0)
    trained, _ = train_glo(pool, tmp_path, config, batch_size=4, n_pictures=12, start="gaussian", **TINY)
    torch.manual_seed(config.seed)
    before = GLO(n_pictures=12, **TINY)
    moved = (trained.latents - before.project(before.latents)).abs().amax(1)
    assert sorted((moved > 1e-4).nonzero().flatten().tolist()) == sorted(batch_rows(12, 4, 0, config.seed))
    assert moved.topk(5).values[-1] < 1e-6


def test_the_start_is_whitened_components(pool):
    z = glo._whitened_components(pool, 12, 4).double()
    assert torch.allclose(z.mean(0), torch.zeros(4).double(), atol=1e-5)
    assert torch.allclose(z.T @ z / 12, torch.eye(4).double(), atol=1e-4)
    small = torch.nn.functional.avg_pool2d(pool.images(np.arange(12)), 8).flatten(1).double().numpy()
    left, sizes, _ = np.linalg.svd(small - small.mean(0), full_matrices=False)
    cosines = np.abs((left[:, :4] * np.sqrt(12) * z.numpy()).mean(0))  # up to the sign, which no axis has
    assert np.allclose(cosines, 1, atol=1e-4) and sizes[3] > sizes[4]


def test_trainings_that_cannot_be(tmp_path, pool):
    for options, message in (
        (dict(n_pictures=17), "the pool"),
        (dict(n_pictures=3), "a batch"),
        (dict(start="zeros"), "no start"),
        (dict(latent_dim=12), "no 12 principal components"),
    ):
        with pytest.raises(BadInputError, match=message):
            train(pool, tmp_path, **options)


# --- New pictures -----------------------------------------------------------------------------------------------------


def sharp(**options):
    """A model whose pictures depend on their latents strongly, so that a descent has something to find."""
    model = tiny(**options)
    with torch.no_grad():
        model.generator.convolutions.layers[-2].weight.mul_(8)
    return model


def test_a_descent_finds_the_latents_that_a_picture_was_made_from():
    model = sharp()
    truth = model.project(0.4 * normal(2, 4, dtype=torch.float32))
    with torch.no_grad():
        images = model(truth)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = fit_latents(model, images, n_steps=120)
    assert (found.z - truth).norm(dim=1).max() < 0.05 < truth.norm(dim=1).min()
    assert found.losses.shape == (2, 121) and found.n_steps == 120 and found.n_starts == 1 and found.duration_s > 0
    assert (found.losses[:, -1] < 0.05 * found.losses[:, 0]).all()
    with torch.no_grad():
        assert torch.allclose(found.losses[:, -1], laplacian_losses(model(found.z), images), atol=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("p", NORMS)
def test_a_descent_stays_in_the_ball_and_reaches_its_surface_where_the_best_is_outside(p):
    model = sharp(p=p, radius=0.5)
    with torch.no_grad():
        images = model(3 * model.latents[:2] / torch.linalg.vector_norm(model.latents[:2], ord=p, dim=1, keepdim=True))
    norms = torch.linalg.vector_norm(fit_latents(model, images, n_steps=30).z, ord=p, dim=1)
    assert torch.allclose(norms, torch.tensor(0.5), atol=1e-5)


def test_a_refit_is_what_the_fitted_latents_decode_to():
    model, images = tiny(), torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    again = refit(model, images, n_steps=3)
    assert not again.requires_grad and torch.equal(again, model.decode(fit_latents(model, images, n_steps=3).z))


def test_restoration_uses_what_is_seen_only():
    model = sharp()
    truth = model.project(0.4 * normal(2, 4, dtype=torch.float32))
    mask = square_mask(2, side_px=64)
    with torch.no_grad():
        images = model(truth)
    hidden = torch.where(mask.bool(), images, torch.rand(images.shape, generator=torch.Generator().manual_seed(0)))
    found = fit_latents(model, hidden, mask=mask, n_steps=50)
    assert torch.equal(found.z, fit_latents(model, images, mask=mask, n_steps=50).z)  # and the same twice
    with torch.no_grad():
        restored, mean = model(found.z), model(model.latents.mean(0, keepdim=True))
    hole = 1 - mask
    assert (hole * (restored - images)).square().sum() < 0.05 * (hole * (mean - images)).square().sum()


def test_descents_do_not_depend_on_the_other_pictures():
    model = sharp()
    images = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    together, alone = fit_latents(model, images, n_steps=5), fit_latents(model, images[1:2], n_steps=5)
    assert torch.allclose(together.z[1], alone.z[0], atol=1e-4) and (together.z[0] - together.z[1]).abs().max() > 1e-3


def test_more_starts_are_never_worse_and_sometimes_better():
    model = sharp()
    with torch.no_grad():
        images = model(model.project(model.latents[:6]))
    one, three = fit_latents(model, images, n_steps=3), fit_latents(model, images, n_steps=3, n_starts=3)
    gains = one.losses[:, -1] - three.losses[:, -1]
    assert (gains >= 0).all() and gains.max() > 0
    assert torch.equal(one.z[gains == 0], three.z[gains == 0])
    with torch.no_grad():
        assert torch.allclose(three.losses[:, -1], laplacian_losses(model(three.z), images), atol=1e-6)
    assert torch.equal(three.z, fit_latents(model, images, n_steps=3, n_starts=3).z)
    assert not torch.equal(three.z, fit_latents(model, images, n_steps=3, n_starts=3, name="other").z)


def test_descents_that_cannot_be():
    model, images = tiny(), torch.zeros(1, 3, 128, 128)
    for options in (dict(n_steps=0), dict(n_starts=0)):
        with pytest.raises(BadInputError, match="at least one"):
            fit_latents(model, images, **options)
    with pytest.raises(BadInputError, match="at least one"):
        fit_latents(model, images[:0])


# --- Samples ----------------------------------------------------------------------------------------------------------


def test_a_gaussian_has_the_moments_of_the_latents_and_its_samples_too():
    mixing = torch.tensor([[0.2, 0.1, 0.0], [0.0, 0.1, -0.1], [0.0, 0.0, 0.3]])
    z = normal(500, 3, dtype=torch.float32) @ mixing + torch.tensor([0.3, 0.0, -0.2])
    found = fit_gaussian(z, radius=50.0)  # so wide that nothing is projected
    assert np.allclose(found.mean, z.double().numpy().mean(0)) and np.allclose(found.covariance, np.cov(z.double().numpy().T))
    draws = found.sample(4000).double()
    errors = found.covariance.diagonal().sqrt() / math.sqrt(4000)
    assert ((draws.mean(0) - found.mean).abs() < 4 * errors).all()
    assert (torch.cov(draws.T) - found.covariance).abs().max() < 4 * math.sqrt(2 / 4000) * found.covariance.max()


def test_samples_lie_in_the_ball_and_depend_on_their_number_alone():
    for p in NORMS:
        found = fit_gaussian(normal(50, 4, dtype=torch.float32), radius=0.5, p=p)
        draws = found.sample(20, seed=3)
        norms = torch.linalg.vector_norm(draws, ord=p, dim=1)
        assert norms.max() <= 0.5 + 1e-6 and norms.max() > 0.49
        assert torch.equal(draws[:7], found.sample(7, seed=3)) and not torch.equal(draws, found.sample(20, seed=4))


def test_a_gaussian_of_few_latents_stays_in_their_plane():
    z = normal(2, 5, dtype=torch.float32) * 0.1
    draws = fit_gaussian(z).sample(10) - z.mean(0)
    along = (z[1] - z[0]) / (z[1] - z[0]).norm()
    assert torch.allclose(draws, (draws @ along)[:, None] * along, atol=1e-5) and draws.norm(dim=1).max() > 0.01
    with pytest.raises(BadInputError, match="at least two"):
        fit_gaussian(z[:1])
    with pytest.raises(BadInputError, match="at least one"):
        fit_gaussian(z).sample(0)
