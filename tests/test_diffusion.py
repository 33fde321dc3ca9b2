"""Sketch-first diffusion: noise levels, the network's two of them, and sampling by a velocity that is known exactly."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny import CAPTIONS, tiny_clip

from sketchae.backbones import load_clip
from sketchae.basis import random_basis
from sketchae.diffusion import (
    Conditioning,
    SketchDiffusion,
    Trajectory,
    build_unet,
    embed_prompts,
    generate,
    preview,
    sample,
    sample_noise,
    scene_prompts,
    schedule,
)
from sketchae.diffusion.levels import add_noise, block_losses, draw_levels, per_channel
from sketchae.errors import BadInputError
from sketchae.scenes import sample_scenes

OFFSETS = (0, 0.3, 0.75, 1, -0.4, -1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(tiny_clip(tmp_path_factory.mktemp("clip")), device="cpu")


def tiny_model(levels: str = "two", clip_id: str | None = None, seed: int = 0) -> SketchDiffusion:
    torch.manual_seed(seed)
    unet = build_unet(3, 8, text_dim=16, pooled_dim=16, block_out_channels=(8, 16), norm_num_groups=4, n_heads=2)
    mean, std = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([2.0, 0.5, 1.0])
    return SketchDiffusion(unet, random_basis(3, 2, 1), mean, std, levels=levels, clip_id=clip_id).eval().requires_grad_(False)


# --- noise levels -----------------------------------------------------------------------------------------------------


def test_noise_velocity_and_preview_are_one_algebra():
    random = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 6, 5, 3, 3, generator=random)
    t = per_channel(torch.rand(6, generator=random), torch.rand(6, generator=random), 2, 5)
    assert t.shape == (6, 5, 1, 1) and (t[:, 0] == t[:, 1]).all() and (t[:, 2] == t[:, 4]).all()
    assert torch.allclose(preview(add_noise(x, noise, t), noise - x, t), x, atol=1e-6)
    ends = add_noise(x, noise, per_channel(0.0, 1.0, 2, 5))
    assert torch.equal(ends[:, :2], x[:, :2]) and torch.equal(ends[:, 2:], noise[:, 2:])


def test_drawn_levels_have_their_shares():
    semantic, style = draw_levels(20_000, np.random.default_rng(0))
    assert ((semantic >= 0) & (semantic <= 1) & (style >= 0) & (style <= 1)).all()
    equal = (semantic == style).mean()
    noise = [(t == 1).mean() for t in (semantic, style)]
    clean = [(t == 0).mean() for t in (semantic, style)]
    assert equal == pytest.approx(0.2, abs=0.01) and noise == pytest.approx([0.1, 0.1], abs=0.01) and clean == pytest.approx([0.1, 0.1], abs=0.01)
    free = (semantic != style) & (semantic > 0) & (style > 0) & (semantic < 1) & (style < 1)
    assert abs(np.corrcoef(semantic[free], style[free])[0, 1]) < 0.03
    assert semantic[free].mean() == pytest.approx(0.5, abs=0.01)
    joint = draw_levels(1000, np.random.default_rng(0), "one")
    assert np.array_equal(*joint) and joint[0].min() > 0 and joint[0].max() < 1
    assert joint[0].std() > 0.2  # logit-normal alone has 0.21, uniform 0.29


def test_a_clean_block_does_not_count_in_its_loss():
    velocity, target = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    everywhere = per_channel(torch.full((4,), 0.5), torch.full((4,), 0.5), 1, 3)
    semantic, style = block_losses(velocity, target, everywhere, 1)
    error = (velocity - target).square()
    assert torch.allclose(semantic, error[:, :1].mean()) and torch.allclose(style, error[:, 1:].mean())
    first_clean = per_channel(torch.tensor([0.0, 0.5, 0.5, 0.5]), torch.full((4,), 0.5), 1, 3)
    semantic, style = block_losses(velocity, target, first_clean, 1)
    assert torch.allclose(semantic, error[1:, :1].mean()) and torch.allclose(style, error[:, 1:].mean())
    none = block_losses(velocity, target, per_channel(0.0, 0.5, 1, 3).expand(4, -1, -1, -1), 1)
    assert float(none[0]) == 0


@pytest.mark.parametrize("offset", OFFSETS)
def test_schedules_run_from_noise_to_clean_in_as_many_steps(offset):
    semantic, style = schedule(20, offset)
    assert len(semantic) == len(style) == 21
    for path in (semantic, style):
        assert path[0] == 1 and path[-1] == 0 and (np.diff(path) <= 0).all()
    gap = style - semantic
    inside = (semantic > 0) & (style > 0) & (semantic < 1) & (style < 1)
    assert np.allclose(gap[inside], offset) and (np.sign(gap) * np.sign(offset) >= 0).all()
    mirrored = schedule(20, -offset)
    assert np.array_equal(mirrored[0], style) and np.array_equal(mirrored[1], semantic)


@pytest.mark.parametrize(("n_steps", "n_semantic"), [(20, None), (7, None), (10, 3), (2, 1)])
def test_one_after_the_other_never_moves_both(n_steps, n_semantic):
    for offset in (1, -1):
        semantic, style = schedule(n_steps, offset, n_semantic)
        moves = np.stack([np.diff(semantic) < 0, np.diff(style) < 0])
        assert (moves.sum(0) == 1).all() and moves[0].sum() == (n_semantic or (n_steps + 1) // 2)
        assert moves[0 if offset > 0 else 1, 0]


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [((0,), "at least one step"), ((5, 1.5), "between -1"), ((1, 1), "at least one"), ((5, 1, 5), "at least one"), ((5, 0.5, 2), "offset=1")],
)
def test_schedules_refuse(arguments, remedy):
    with pytest.raises(BadInputError, match=remedy):
        schedule(*arguments)


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_two_levels_go_where_the_unet_looks_for_them(clip):
    model, seen = tiny_model(), {}
    model.unet.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs, timestep=args[1]), with_kwargs=True)
    x, prompts = torch.randn(2, 3, 8, 8), embed_prompts(clip, CAPTIONS[:2])
    model.velocity(x, torch.tensor([0.25, 0.5]), 0.75, prompts)
    assert seen["timestep"].tolist() == [750, 750]
    assert seen["added_cond_kwargs"]["time_ids"].tolist() == [[250], [500]]


def test_every_input_tells_and_padding_does_not(clip):
    model = tiny_model()
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    long, short = max(CAPTIONS, key=len), "a red house"
    alone, pair = embed_prompts(clip, [short]), embed_prompts(clip, [long, short])
    assert pair.mask.shape[1] > alone.mask.shape[1] and torch.allclose(pair.pooled.norm(dim=-1), torch.ones(2))
    together = model.velocity(x, 0.5, 0.5, pair)
    assert torch.allclose(model.velocity(x[:1], 0.5, 0.5, alone), together[1:], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-4)
    for levels in ((0.4, 0.5), (0.5, 0.4)):
        assert not torch.allclose(model.velocity(x, *levels, pair), together, atol=1e-4)
    # What pads a prompt is masked, whatever it holds.
    other = Conditioning(torch.where(pair.mask[..., None] > 0, pair.states, torch.tensor(9.0)), pair.mask, pair.pooled)
    assert torch.allclose(model.velocity(x, 0.5, 0.5, other), together, atol=1e-5)


def test_latents_are_standardised_channel_by_channel():
    model, z = tiny_model(), torch.randn(2, 3, 8, 8)
    x = model.encode(z)
    assert torch.allclose(model.decode(x), z, atol=1e-5)
    rotated, mean, std = model.basis.encode(z), (0.5, -1.0, 0.0), (2.0, 0.5, 1.0)
    for channel in range(3):
        assert torch.allclose(x[:, channel] * std[channel] + mean[channel], rotated[:, channel], atol=1e-6)


def test_the_network_as_it_ships_is_small():
    unet = build_unet()
    assert sum(p.numel() for p in unet.parameters()) * 4 < 16e6


def test_one_level_means_one_level(clip):
    model, prompts = tiny_model("one"), embed_prompts(clip, [""])
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(model.velocity(x, 0.5, 0.5, prompts), tiny_model("two").velocity(x, 0.5, 0.5, prompts))
    with pytest.raises(BadInputError, match="one noise level"):
        model.velocity(x, 0.5, 0.6, prompts)


def test_the_network_refuses_what_does_not_fit(clip):
    with pytest.raises(BadInputError, match="halves as often"):
        build_unet(size=10, block_out_channels=(16, 16, 16))
    unet = build_unet(3, 8, text_dim=16, pooled_dim=16, block_out_channels=(8, 8), norm_num_groups=4, n_heads=2)
    basis, ones = random_basis(3, 2, 1), torch.ones(3)
    with pytest.raises(BadInputError, match="three"):
        SketchDiffusion(unet, basis, ones, ones, levels="three")
    with pytest.raises(BadInputError, match="4"):
        SketchDiffusion(unet, random_basis(4, 2, 1), ones, ones)
    with pytest.raises(BadInputError, match="never varies"):
        SketchDiffusion(unet, basis, ones, 0 * ones)
    with pytest.raises(BadInputError, match="list"):
        embed_prompts(clip, "a red house")
    with pytest.raises(BadInputError, match="one prompt, or one for each"):
        embed_prompts(clip, ["a", "b"]).repeated(3)


def test_scenes_have_prompts_of_content_of_style_and_of_both():
    prompts = scene_prompts(sample_scenes(range(3)))
    assert [len(row) for row in prompts] == [8, 8, 8] and all(len(set(row)) > 4 for row in prompts)


# --- sampling by a velocity that is known -----------------------------------------------------------------------------


class Oracle:
    """The exact velocity of Gaussian data, every pixel on its own: E[ε - x | x_t], x ~ N(mu, S) over channels."""

    n_semantic, latent_shape = 1, (3, 6, 6)
    mu = torch.tensor([1.0, -0.5, 0.3])
    S = torch.tensor([[1.0, 0.7, -0.4], [0.7, 0.8, 0.0], [-0.4, 0.0, 0.5]])

    def __init__(self, levels="two"):
        self.levels, self.n_calls = levels, 0

    def velocity(self, x_t, t_semantic, t_style, conditioning):
        self.n_calls += 1
        assert len(t_semantic) == len(t_style) == len(x_t)
        t = torch.diag(per_channel(t_semantic[:1], t_style[:1], 1, 3).flatten())
        a = torch.eye(3) - t
        inverse = torch.linalg.inv(a @ self.S @ a + t @ t)
        centred = x_t - (a @ self.mu)[:, None, None]
        return torch.einsum("ij,njhw->nihw", (t - self.S @ a) @ inverse, centred) - self.mu[:, None, None]


def moments(x):
    values = x.movedim(1, -1).flatten(0, -2).double()
    return values.mean(0).float(), values.T.cov().float()


@pytest.mark.parametrize("offset", OFFSETS)
def test_every_path_ends_at_the_same_distribution(offset):
    oracle = Oracle()
    x = sample(oracle, None, seeds=range(200), n_steps=80, offset=offset)
    mean, covariance = moments(x)
    assert (mean - oracle.mu).abs().max() < 0.05 and (covariance - oracle.S).abs().max() < 0.07
    assert oracle.n_calls == 80


@pytest.mark.parametrize("held", ["semantic", "style"])
def test_a_held_block_stays_and_the_other_follows_it(held):
    oracle, value = Oracle(), torch.tensor([2.0]) if held == "semantic" else torch.tensor([-1.0, 0.8])
    known, other = (slice(0, 1), slice(1, 3)) if held == "semantic" else (slice(1, 3), slice(0, 1))
    block = value[None, :, None, None].expand(1, -1, 6, 6)
    x = sample(oracle, None, seeds=range(200), n_steps=80, **{f"hold_{held}": block})
    assert torch.equal(x[:, known], block.expand(200, -1, -1, -1)) and oracle.n_calls == 80
    S, mu = oracle.S, oracle.mu
    gain = S[other, known] @ torch.linalg.inv(S[known, known])
    mean, covariance = moments(x[:, other])
    assert (mean - (mu[other] + gain @ (value - mu[known]))).abs().max() < 0.05
    assert (covariance - (S[other, other] - gain @ S[known, other])).abs().max() < 0.05


def test_joint_sampling_is_diffusers_own():
    oracle, seeds = Oracle(), [3, 4]
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, 9)[:-1].tolist())
    x = sample_noise(seeds, oracle.latent_shape)
    for timestep in scheduler.timesteps:
        level = (timestep / 1000).expand(2)
        x = scheduler.step(oracle.velocity(x, level, level, None), timestep, x).prev_sample
    assert torch.allclose(sample(oracle, None, seeds=seeds, n_steps=8), x, atol=1e-5)


def test_an_offset_path_is_eulers_by_hand():
    oracle, seeds = Oracle(), [0, 7, 8]
    semantic, style = schedule(9, 0.4)
    x = sample_noise(seeds, oracle.latent_shape)
    for i in range(9):
        velocity = oracle.velocity(x, torch.tensor([semantic[i]] * 3), torch.tensor([style[i]] * 3), None)
        x = x + per_channel(semantic[i + 1] - semantic[i], style[i + 1] - style[i], 1, 3) * velocity
    assert torch.allclose(sample(oracle, None, seeds=seeds, n_steps=9, offset=0.4), x, atol=1e-5)


def test_the_first_block_to_move_leaves_the_other_alone():
    path = sample(Oracle(), None, seeds=[0], n_steps=6, offset=1, n_semantic_steps=2, return_trajectory=True)
    style, semantic = path.states[:, 0, 1:], path.states[:, 0, :1]
    assert torch.equal(style[0], style[2]) and not torch.equal(style[2], style[3])
    assert torch.equal(semantic[2], semantic[6]) and path.t_semantic[2] == 0 and path.t_style[2] == 1


def test_a_sample_depends_on_its_own_seed_only(clip):
    noise = sample_noise([5, 6], (3, 8, 8))
    assert torch.equal(noise[1], sample_noise([6], (3, 8, 8))[0]) and not torch.equal(noise[0], noise[1])
    model, prompts = tiny_model(), embed_prompts(clip, CAPTIONS[:3])
    together = sample(model, prompts, seeds=[5, 6, 7], n_steps=3, offset=0.5)
    alone = sample(model, prompts[1:2], seeds=[6], n_steps=3, offset=0.5)
    assert torch.allclose(together[1:2], alone, atol=1e-4)
    one_prompt = sample(model, prompts[1:2], seeds=[6, 6], n_steps=3, offset=0.5)
    assert torch.allclose(one_prompt, alone.expand(2, -1, -1, -1), atol=1e-4)


class Constant:
    """A velocity that only says which prompt it was told."""

    n_semantic, latent_shape, levels = 1, (3, 2, 2), "two"

    def __init__(self):
        self.told = []

    def velocity(self, x_t, t_semantic, t_style, conditioning):
        self.told.append(float(conditioning.pooled[0, 0]))
        return torch.full_like(x_t, float(conditioning.pooled[0, 0]))


def prompt(value):
    return Conditioning(torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.long), torch.tensor([[float(value)]]))


def test_guidance_goes_beyond_the_prompt_block_by_block():
    noise = sample_noise([0], (3, 2, 2))
    plain = Constant()
    assert torch.allclose(sample(plain, prompt(2), seeds=[0], n_steps=4), noise - 2, atol=1e-5)
    assert plain.told == [2.0] * 4
    for offset in OFFSETS:
        counted = Constant()
        sample(counted, prompt(2), seeds=[0], n_steps=4, offset=offset, guidance=3.0, unconditional=prompt(1))
        assert len(counted.told) == 8
    x = sample(Constant(), prompt(2), seeds=[0], n_steps=4, guidance=(3.0, 1), unconditional=prompt(1))
    assert torch.allclose(x[:, :1], noise[:, :1] - 4, atol=1e-5) and torch.allclose(x[:, 1:], noise[:, 1:] - 2, atol=1e-5)
    with pytest.raises(BadInputError, match="unconditional"):
        sample(Constant(), prompt(2), seeds=[0], guidance=2.0)


def test_strength_says_how_much_of_the_start_is_left():
    oracle, begin = Oracle(), torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(9))
    assert torch.equal(sample(oracle, None, seeds=[0, 1], n_steps=4, start=begin, strength=0), begin)
    from_noise = sample(oracle, None, seeds=[0, 1], n_steps=4)
    assert torch.equal(sample(oracle, None, seeds=[0, 1], n_steps=4, start=begin, strength=1), from_noise)
    path = sample(oracle, None, seeds=[0, 1], n_steps=4, start=begin, strength=0.5, return_trajectory=True)
    assert torch.allclose(path.states[0], (begin + sample_noise([0, 1], (3, 6, 6))) / 2)
    assert path.t_semantic == path.t_style == [0.5, 0.375, 0.25, 0.125, 0]
    near = [float((sample(oracle, None, seeds=[0, 1], start=begin, strength=s) - begin).square().mean()) for s in (0.2, 0.5, 0.9)]
    assert near == sorted(near) and near[0] < near[-1] / 4
    half = sample(oracle, None, seeds=[0, 1], n_steps=4, start=begin, strength=(0, 0.7))
    assert torch.equal(half[:, :1], begin[:, :1]) and not torch.allclose(half[:, 1:], begin[:, 1:], atol=0.1)


def test_a_trajectory_is_what_the_callback_saw():
    seen = {}
    x = sample(Oracle(), None, seeds=[0, 1], n_steps=5, offset=0.5, callback=lambda step, x: seen.update({step: x}))
    path = sample(Oracle(), None, seeds=[0, 1], n_steps=5, offset=0.5, return_trajectory=True)
    assert isinstance(path, Trajectory) and list(seen) == [0, 1, 2, 3, 4]
    assert all(torch.equal(path.states[step + 1], x) for step, x in seen.items())
    assert torch.equal(path.x, x) and torch.equal(path.states[-1], x) and len(path.t_style) == 6
    # From pure noise nothing is known but the mean; the last preview is what the last step arrives at.
    assert torch.allclose(path.previews[0], Oracle.mu[None, :, None, None].expand(2, -1, 6, 6), atol=1e-5)
    assert torch.allclose(path.previews[-1], x, atol=1e-5)


def test_a_model_with_one_level_samples_jointly_and_replaces_what_is_held():
    oracle = Oracle("one")
    assert torch.equal(sample(oracle, None, seeds=[0], n_steps=4), sample(Oracle(), None, seeds=[0], n_steps=4))
    for arguments in ({"offset": 0.5}, {"start": torch.zeros(1, 3, 6, 6), "strength": (0.5, 1.0)}):
        with pytest.raises(BadInputError, match="one noise level"):
            sample(oracle, None, seeds=[0], n_steps=4, **arguments)
    block = torch.full((1, 1, 6, 6), 2.0)
    path = sample(oracle, None, seeds=[0, 1], n_steps=40, hold_semantic=block, return_trajectory=True)
    assert path.t_semantic == path.t_style and torch.equal(path.x[:, :1], block.expand(2, -1, -1, -1))
    noise = sample_noise([0, 1], (3, 6, 6))[:, :1]
    t = path.t_semantic[10]
    assert torch.allclose(path.states[10][:, :1], (1 - t) * block + t * noise, atol=1e-6)
    free = sample(oracle, None, seeds=[0, 1], n_steps=40)
    assert path.x[:, 1].mean() > free[:, 1].mean() + 0.3  # channel 1 goes with the semantic one, which is high


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"seeds": []}, "at least one"),
        ({"hold_semantic": torch.zeros(1, 1, 6, 6), "hold_style": torch.zeros(1, 2, 6, 6)}, "hold one"),
        ({"hold_semantic": torch.zeros(1, 1, 6, 6), "offset": 0.5}, "neither start nor offset"),
        ({"hold_semantic": torch.zeros(1, 2, 6, 6)}, "hold_semantic has shape"),
        ({"hold_style": torch.zeros(3, 2, 6, 6)}, "hold_style has shape"),
        ({"start": torch.zeros(1, 3, 6, 6)}, "strength"),
        ({"strength": 0.5}, "start"),
        ({"start": torch.zeros(1, 3, 6, 6), "strength": 1.5}, "between 0"),
        ({"offset": 2}, "between -1"),
        ({"n_steps": 0}, "at least one step"),
    ],
)
def test_sampling_refuses(arguments, remedy):
    with pytest.raises(BadInputError, match=remedy):
        sample(Oracle(), None, **{"seeds": [0, 1], "n_steps": 2, **arguments})


def test_pictures_from_prompts(clip):
    class Codec:
        latent_channels, downsampling, id = 3, 1, "toy"

        def encode(self, images):
            return images

        def decode(self, z):
            return z.clamp(0, 1)

    model = tiny_model(clip_id=clip.id)
    prompts = list(CAPTIONS[:2])
    images = generate(model, prompts, Codec(), clip, n_steps=2, offset=1)
    assert images.shape == (2, 3, 8, 8)
    conditioning, empty = embed_prompts(clip, prompts), embed_prompts(clip, [""])
    x = sample(model, conditioning, seeds=[0, 1], n_steps=2, offset=1, guidance=3, unconditional=empty)
    assert torch.equal(images, model.decode(x).clamp(0, 1))
    with pytest.raises(BadInputError, match="trajectory"):
        generate(model, prompts, Codec(), clip, return_trajectory=True)
    with pytest.raises(BadInputError, match="trained with the CLIP"):
        generate(tiny_model(clip_id="another"), prompts, Codec(), clip)
