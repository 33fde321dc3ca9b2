"""Our model as a diffusers pipeline: the same latents as `sample`, and callbacks that were written for other pipelines."""

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback, SDCFGCutoffCallback
from PIL import Image
from tiny import CAPTIONS, picture_array, tiny_clip, tiny_vae

from sketchae.backbones import load_clip, load_vae
from sketchae.basis import random_basis
from sketchae.diffusion import SketchDiffusion, SketchPipeline, build_unet, embed_prompts, sample, sample_noise
from sketchae.errors import BadInputError
from sketchae.images import to_tensor
from sketchae.sketch_lock import SketchLock

SHAPE, K, STEPS = (4, 4, 4), 2, 3
PROMPTS = [CAPTIONS[0], "a tree"]  # of different lengths


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(tiny_clip(tmp_path_factory.mktemp("clip")), device="cpu")


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    return load_vae(tiny_vae(tmp_path_factory.mktemp("vae")), device="cpu")


@pytest.fixture(scope="module", params=["one", "two"])
def pipe(request, codec, clip) -> SketchPipeline:
    return made(request.param, codec, clip)


def made(levels: str, codec, clip) -> SketchPipeline:
    torch.manual_seed(0)
    unet = build_unet(4, 4, text_dim=16, pooled_dim=16, block_out_channels=(8, 16), norm_num_groups=4, n_heads=2)
    mean, std = torch.tensor([0.5, -1.0, 0.0, 0.2]), torch.tensor([2.0, 0.5, 1.0, 1.5])
    ids = dict(vae_id=codec.id, clip_id=clip.id)
    model = SketchDiffusion(unet, random_basis(4, K, 1), mean, std, levels=levels, **ids).eval().requires_grad_(False)
    pipe = SketchPipeline.from_model(model, codec, clip)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, prompt="a tree", callback=None, **options):
    """The final latents."""
    options = {"seeds": range(1 if isinstance(prompt, str) else len(prompt)), "num_inference_steps": STEPS, **options}
    return pipe(prompt, output_type="latent", callback_on_step_end=callback, **options).images


def sampled(pipe, prompts, *, guidance=3.0, **options):
    conditioning, empty = embed_prompts(pipe.clip, prompts), embed_prompts(pipe.clip, [""])
    return sample(pipe.model, conditioning, guidance=guidance, unconditional=empty, **{"n_steps": STEPS, **options})


def pictures(n: int) -> torch.Tensor:
    arrays = np.stack([picture_array(seed, 32, 32) for seed in range(n)])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


# --- the same as `sample` ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1, 2.7])
def test_it_draws_what_sample_draws(pipe, guidance):
    expected = sampled(pipe, PROMPTS, seeds=[4, 9], guidance=guidance)
    assert torch.allclose(run(pipe, PROMPTS, seeds=[4, 9], guidance_scale=guidance), expected, atol=1e-6)
    assert pipe.num_timesteps == STEPS and pipe.guidance_scale == guidance


def test_the_usual_number_of_steps_and_guidance(pipe):
    expected = sampled(pipe, PROMPTS, seeds=[4, 9], n_steps=16)
    assert torch.allclose(pipe(PROMPTS, seeds=[4, 9], output_type="latent").images, expected, atol=1e-6)
    assert pipe.num_timesteps == 16


def test_several_pictures_of_a_prompt_stand_together(pipe):
    expected = sampled(pipe, [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2, seeds=range(4))
    assert torch.allclose(run(pipe, PROMPTS, seeds=range(4), num_images_per_prompt=2), expected, atol=1e-6)


def test_noise_comes_from_seeds_generators_or_the_caller(pipe):
    by_seed = run(pipe, PROMPTS, seeds=[4, 9])
    assert torch.equal(run(pipe, PROMPTS, seeds=None, latents=sample_noise([4, 9], SHAPE)), by_seed)
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 9)]
    assert torch.equal(run(pipe, PROMPTS, seeds=None, generator=generators), by_seed)
    one = [run(pipe, PROMPTS, seeds=None, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(one[0], one[1]) and not torch.allclose(one[0], one[2], atol=1e-3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        noise = torch.randn(2, *SHAPE)
        torch.manual_seed(5)
        assert torch.equal(run(pipe, PROMPTS, seeds=None), run(pipe, PROMPTS, seeds=None, latents=noise))


def test_pictures_as_tensors_and_as_pil(pipe):
    x = run(pipe, PROMPTS)
    options = dict(seeds=[0, 1], num_inference_steps=STEPS)
    tensors = pipe(PROMPTS, output_type="pt", **options).images
    assert tensors.shape == (2, 3, 32, 32) and torch.equal(tensors, pipe.codec.decode(pipe.model.decode(x)))
    images = pipe(PROMPTS, **options).images
    assert len(images) == 2 and all(isinstance(image, Image.Image) for image in images)
    assert torch.allclose(torch.stack([to_tensor(image) for image in images]), tensors, atol=0.51 / 255)
    assert torch.equal(pipe(PROMPTS, output_type="latent", return_dict=False, **options)[0], x)


# --- a pipeline like others -------------------------------------------------------------------------------------------


def test_components_are_those_of_the_model_and_the_progress_bar_is_diffusers_own(pipe, capsys):
    assert pipe.components == {"unet": pipe.model.unet, "scheduler": pipe.scheduler, "vae": pipe.codec.vae}
    assert pipe.device == torch.device("cpu") and pipe.dtype == torch.float32
    assert pipe.to("cpu") is pipe and pipe.codec.device == pipe.clip.device == torch.device("cpu")
    run(pipe)
    assert not capsys.readouterr().err
    pipe.set_progress_bar_config(desc="drawing")
    try:
        run(pipe)
    finally:
        pipe.set_progress_bar_config(disable=True)
    assert "drawing: 100%" in (said := capsys.readouterr().err) and f"{STEPS}/{STEPS}" in said


def test_a_codec_without_a_diffusers_vae_will_do(pipe, clip):
    class Codec:
        latent_channels, downsampling = 4, 1

        def encode(self, images):
            return torch.cat([images, images[:, :1]], 1)

        def decode(self, z):
            return z[:, :3].clamp(0, 1)

    other = SketchPipeline.from_model(pipe.model, Codec(), clip)
    other.set_progress_bar_config(disable=True)
    assert other.vae is None and torch.equal(run(other.to("cpu")), run(pipe))
    assert other.encode(torch.rand(1, 3, 4, 4)).shape == (1, *SHAPE)


def test_a_callback_sees_each_step_and_its_tensors_replace_ours(pipe):
    seen, path = [], sampled(pipe, PROMPTS, seeds=[0, 1], return_trajectory=True)

    def look(called, step, timestep, tensors):
        assert called is pipe and pipe.num_timesteps == STEPS and float(timestep) == pytest.approx(1000 * path.t_style[step])
        seen.append(tensors)
        return tensors

    names = ("latents", "prompt_embeds", "pooled_prompt_embeds")
    x = run(pipe, PROMPTS, look, callback_on_step_end_tensor_inputs=names)
    assert [list(tensors) for tensors in seen] == [list(names)] * STEPS
    assert all(torch.allclose(tensors["latents"], state, atol=1e-6) for tensors, state in zip(seen, path.states[1:], strict=True))
    conditioning = embed_prompts(pipe.clip, PROMPTS)
    assert torch.equal(seen[0]["prompt_embeds"], conditioning.states) and torch.equal(seen[0]["pooled_prompt_embeds"], conditioning.pooled)
    assert torch.equal(x, run(pipe, PROMPTS)), "looking changes nothing"

    assert torch.equal(run(pipe, PROMPTS, lambda *_: {"latents": torch.full((2, *SHAPE), 0.3)}), torch.full((2, *SHAPE), 0.3))
    assert torch.equal(run(pipe, PROMPTS, lambda *_: {}), x), "what is not given back stays"
    for name in names[1:]:
        other = run(pipe, PROMPTS, lambda p, i, t, given: {k: -v for k, v in given.items()}, callback_on_step_end_tensor_inputs=[name])
        assert not torch.allclose(other, x, atol=1e-5)


def test_callbacks_that_diffusers_ships_know_their_tensors(pipe):
    """Guidance is cut off after the first step: Euler by hand."""
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    conditioning, empty = embed_prompts(pipe.clip, ["a tree"]), embed_prompts(pipe.clip, [""])
    x = sample_noise([0], SHAPE)
    for i in range(STEPS):
        t = 1 - i / STEPS
        velocity, without = (pipe.model.velocity(x, t, t, each) for each in (conditioning, empty))
        x = x - (without + 3 * (velocity - without) if i == 0 else velocity) / STEPS
    assert torch.allclose(run(pipe, "a tree", cutoff), x, atol=1e-5)
    assert not torch.allclose(run(pipe, "a tree"), x, atol=1e-4), "guidance is back in the next run"

    class Count(PipelineCallback):
        tensor_inputs = ("latents",)
        calls = 0

        def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
            self.calls += 1
            return callback_kwargs

    lock, count = SketchLock(pipe.basis, pipe.encode(pictures(1))), Count()
    assert torch.equal(run(pipe, "a tree", MultiPipelineCallbacks([lock, count])), run(pipe, "a tree", lock)) and count.calls == STEPS


def test_a_callback_can_stop_the_run(pipe):
    def stop(called, step, timestep, tensors):
        called._interrupt = step == 1
        return tensors

    path = sampled(pipe, ["a tree"], seeds=[0], return_trajectory=True)
    assert torch.allclose(run(pipe, "a tree", stop), path.states[2], atol=1e-6)
    assert torch.allclose(run(pipe, "a tree"), path.x, atol=1e-6)


def test_the_scheduler_may_be_of_another_shift(pipe):
    plain, told = run(pipe), []
    hook = pipe.unet.register_forward_pre_hook(lambda module, args: told.append(float(args[1][0])))
    try:
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        assert not torch.allclose(run(pipe, guidance_scale=1), plain, atol=1e-3)
        assert told == pytest.approx([1000 * 3 * t / (1 + 2 * t) for t in (1, 2 / 3, 1 / 3)])
    finally:
        hook.remove()
        pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    assert torch.equal(run(pipe), plain)


# --- with the lock ----------------------------------------------------------------------------------------------------


def test_the_reference_is_x_and_the_basis_the_identity(pipe):
    images = pictures(2)
    x = pipe.encode(images)
    assert torch.equal(x, pipe.model.encode(pipe.codec.encode(images))) and pipe.basis.n_semantic == K
    for block, expected in zip(pipe.basis.to_semantic_style(x), (x[:, :K], x[:, K:]), strict=True):
        assert torch.equal(block, expected)
    assert torch.equal(SketchLock.from_picture(pipe, pipe.basis, images).z_reference, x)


@pytest.mark.parametrize(("hold", "block"), [("semantic", slice(None, K)), ("style", slice(K, None))])
def test_a_locked_block_ends_as_the_references_and_the_other_is_drawn(pipe, hold, block):
    x_ref = pipe.encode(pictures(1))
    free = run(pipe, PROMPTS)
    locked = run(pipe, PROMPTS, SketchLock(pipe.basis, x_ref, hold=hold))
    assert torch.equal(locked[:, block], x_ref[:, block].expand(2, -1, -1, -1))
    rest = slice(K, None) if hold == "semantic" else slice(None, K)
    assert not torch.allclose(locked[:, rest], free[:, rest], atol=1e-4) and not torch.allclose(locked[:, rest], x_ref[:, rest], atol=0.1)
    assert torch.equal(run(pipe, PROMPTS, SketchLock(pipe.basis, x_ref, strength=0)), free)


@pytest.mark.parametrize(("hold", "block"), [("semantic", slice(None, K)), ("style", slice(K, None))])
def test_with_the_samples_own_noise_the_lock_is_samples_replacement(codec, clip, monkeypatch, hold, block):
    pipe = made("one", codec, clip)
    x_ref = pipe.encode(pictures(1))
    expected = sampled(pipe, PROMPTS, seeds=[4, 9], **{f"hold_{hold}": x_ref[:, block]})
    lock = SketchLock(pipe.basis, x_ref, hold=hold)
    other_noise = run(pipe, PROMPTS, lock, seeds=[4, 9])
    assert torch.equal(other_noise[:, block], expected[:, block]) and not torch.allclose(other_noise, expected, atol=1e-4)
    monkeypatch.setattr(lock, "_noise_for", lambda z: sample_noise([4, 9], SHAPE))
    assert torch.allclose(run(pipe, PROMPTS, lock, seeds=[4, 9]), expected, atol=1e-5)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"prompt": []}, "at least one of both"),
        ({"num_images_per_prompt": 0, "seeds": []}, "at least one of both"),
        ({"num_inference_steps": 0}, "at least one step"),
        ({"guidance_scale": 0.5}, "give 1 .no guidance. or more"),
        ({"guidance_scale": float("nan")}, "give 1 .no guidance. or more"),
        ({"output_type": "np"}, 'choose "pil", "pt" or "latent"'),
        ({"seeds": [1, 2]}, "2 seeds for 1 pictures: give one for each"),
        ({"seeds": None, "generator": [torch.Generator()] * 3}, "3 generators for 1 pictures: give one for each"),
        ({"generator": torch.Generator()}, "give one of them"),
        ({"latents": torch.zeros(1, *SHAPE)}, "give one of them"),
        ({"seeds": None, "latents": torch.zeros(2, *SHAPE)}, r"give noise of shape \(1, 4, 4, 4\)"),
        ({"callback_on_step_end_tensor_inputs": ["latents", "noise_pred"]}, "cannot be given noise_pred: choose from latents"),
    ],
)
def test_bad_arguments_are_told(pipe, arguments, remedy):
    with pytest.raises(BadInputError, match=remedy):
        pipe(**{"prompt": "a tree", "seeds": [0], "num_inference_steps": 1, **arguments})


def test_what_is_not_its_own_is_told(codec, clip, tmp_path):
    pipe = made("two", codec, clip)
    with pytest.raises(BadInputError, match="trained with the VAE"):
        SketchPipeline.from_model(pipe.model, load_vae(tiny_vae(tmp_path / "vae", seed=1), device="cpu"), clip)
    with pytest.raises(BadInputError, match="save_diffusion"):
        pipe.save_pretrained(tmp_path / "saved")
    with pytest.raises(BadInputError, match="float32"):
        pipe.to(torch.float16)
    with pytest.raises(BadInputError, match="float32"):
        pipe.to("cpu", dtype=torch.bfloat16)
    pipe.scheduler = EulerDiscreteScheduler()
    with pytest.raises(BadInputError, match="follows a FlowMatchEulerDiscreteScheduler"):
        run(pipe)
    with pytest.raises(BadInputError, match="from_model"):
        SketchPipeline(pipe.unet, FlowMatchEulerDiscreteScheduler())("a tree")
