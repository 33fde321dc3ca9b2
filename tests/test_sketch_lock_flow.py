"""The lock under flow matching: inside tiny Stable Diffusion 3 pipelines with random weights, and along schedulers alone."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
)
from tiny import picture_array

from sketchae.basis import random_basis
from sketchae.sketch_lock import SketchLock

SIZE, LATENT, TOKENS, WIDTH, STEPS = 32, 16, 5, 32, 4  # the tiny VAE halves the sides once
SCHEDULERS = {
    "plain": {},
    "shifted": dict(shift=3.0),  # Stable Diffusion 3's
    "dynamic": dict(use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=1024),  # shifted by the size of the picture
    "karras": dict(shift=3.0, use_karras_sigmas=True),
    "stretched": dict(shift_terminal=0.1),
}
BASIS = random_basis(4, 2, 7)


@pytest.fixture(scope="module")
def pipelines() -> dict:
    """Text-to-image and image-to-image over the same networks; the text encoders are left out, their embeddings made up."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=LATENT,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=WIDTH,
        out_channels=4,
        pos_embed_max_size=LATENT,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIZE,
        scaling_factor=0.5,
        shift_factor=0.1,
    )
    encoders = {f"{what}{number}": None for what in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")}
    parts = dict(transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(), **encoders)
    made = {"sd3": StableDiffusion3Pipeline(**parts), "sd3_img2img": StableDiffusion3Img2ImgPipeline(**parts)}
    for pipe in made.values():
        pipe.set_progress_bar_config(disable=True)
    return made


def generate(pipe, callback=None, *, name: str = "plain", n: int = 2, **options):
    """The final latents of n samples. Image-to-image starts from a picture and takes 3 of 4 steps: the first timestep is skipped."""
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULERS[name])
    if isinstance(pipe, StableDiffusion3Img2ImgPipeline):
        options = {"image": picture(5)[None].expand(n, -1, -1, -1), "strength": 0.75, **options}
    random = torch.Generator().manual_seed(3)
    embeds = {
        f"{sign}{what}": torch.randn(n, *shape, generator=random)
        for sign in ("", "negative_")
        for what, shape in (("prompt_embeds", (TOKENS, WIDTH)), ("pooled_prompt_embeds", (WIDTH,)))
    }
    return pipe(
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        output_type="latent",
        generator=torch.Generator().manual_seed(1),
        callback_on_step_end=callback,
        **embeds,
        **options,
    ).images


def picture(seed: int) -> torch.Tensor:
    return torch.from_numpy(picture_array(seed, SIZE, SIZE).copy()).permute(2, 0, 1).float() / 255


def reference(n: int = 1, seed: int = 0, side: int = LATENT) -> torch.Tensor:
    return torch.randn(n, 4, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("kind", ["sd3", "sd3_img2img"])
def test_the_model_sees_the_block_at_the_level_that_it_is_told(pipelines, kind, name):
    """What the transformer is called with says the level independently of the scheduler's tables."""
    pipe, z, lock, calls = pipelines[kind], reference(), SketchLock(BASIS, reference()), []

    def note(module, args, kwargs):
        calls.append((float(kwargs["timestep"][0]) / 1000, kwargs["hidden_states"].clone()))

    hook = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        final = generate(pipe, lock, name=name)
    finally:
        hook.remove()
    (z_held, z_free), (held, free) = BASIS.to_semantic_style(z), BASIS.to_semantic_style(final)
    assert len(final) == 2 and torch.allclose(held, z_held.expand_as(held), atol=1e-5)
    assert (free - z_free).abs().mean() > 0.1
    assert len(calls) == pipe.num_timesteps == (3 if kind == "sd3_img2img" else 4)
    noises = []
    for t, latents in calls[1:]:  # with guidance, both samples come twice
        assert 0 < t < 1 and len(latents) == 4
        noises.append((BASIS.to_semantic_style(latents[:2])[0] - (1 - t) * z_held) / t)
    # 1,024 values: their standard deviation is within 0.022 of 1 two times in three
    assert abs(float(noises[0].std()) - 1) < 0.08 and abs(float(noises[0].mean())) < 0.12
    assert abs(float(torch.corrcoef(noises[0].flatten(1))[0, 1])) < 0.2, "each sample has noise of its own"
    for noise in noises:
        assert torch.allclose(noise, BASIS.to_semantic_style(lock._noise)[0], atol=2e-3), "the noise of a sample is kept"


def test_shifts_move_the_levels(pipelines):
    def levels(name: str) -> list[float]:
        generate(pipelines["sd3"], name=name)
        return pipelines["sd3"].scheduler.sigmas.tolist()

    assert len({tuple(levels(name)) for name in SCHEDULERS}) == len(SCHEDULERS), "the test above would test one of them twice"


@pytest.mark.parametrize("kind", ["sd3", "sd3_img2img"])
def test_strength_zero_and_windows_beside_the_steps_change_nothing(pipelines, kind):
    plain = generate(pipelines[kind])
    assert torch.equal(generate(pipelines[kind], SketchLock(BASIS, reference(), strength=0)), plain)
    assert torch.equal(generate(pipelines[kind], SketchLock(BASIS, reference(), window=(0.9, 1.0))), plain)  # i / n <= 3 / 4
    assert not torch.allclose(generate(pipelines[kind], SketchLock(BASIS, reference())), plain, atol=0.01)


def test_a_picture_is_encoded_with_the_shift_and_scale_of_the_vae(pipelines):
    pipe, pixels = pipelines["sd3"], picture(9)
    final = generate(pipe, SketchLock.from_picture(pipe, BASIS, pixels))
    with torch.no_grad():
        z = (pipe.vae.encode(pixels[None] * 2 - 1).latent_dist.mode() - 0.1) * 0.5
    held = BASIS.to_semantic_style(final)[0]
    assert torch.allclose(held, BASIS.to_semantic_style(z)[0].expand_as(held), atol=1e-5)


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
@pytest.mark.parametrize("begin", [None, 2])
def test_repeated_timesteps_do_not_mislead_it(kind, begin):
    """By hand, without a network: Heun has every timestep twice, and a caller's sigmas may stand still."""
    made = kind(shift=2.0)
    if kind is FlowMatchHeunDiscreteScheduler:
        made.set_timesteps(4)
    else:
        made.set_timesteps(sigmas=[1.0, 0.8, 0.5, 0.5, 0.5, 0.25])
    assert len(set(made.timesteps.tolist())) < len(made.timesteps)
    if begin is not None:
        made.set_begin_index(begin)
    timesteps = made.timesteps[begin or 0 :]
    pipe = SimpleNamespace(scheduler=made, num_timesteps=len(timesteps))
    lock, z, latents = SketchLock(BASIS, reference(side=4)), reference(side=4), reference(seed=2, side=4)
    noise = lock._noise_for(latents)
    for i, timestep in enumerate(timesteps):
        latents = made.step(torch.zeros_like(latents), timestep, latents).prev_sample
        latents = lock(pipe, i, timestep, {"latents": latents})["latents"]
        t = float(timesteps[i + 1]) / 1000 if i + 1 < len(timesteps) else 0.0
        expected = (1 - t) * z + t * noise
        assert torch.allclose(*(BASIS.to_semantic_style(each)[0] for each in (latents, expected)), atol=1e-4), i
        assert made.begin_index == begin


def test_it_is_the_schedulers_own_scale_noise_where_levels_are_distinct():
    made = FlowMatchEulerDiscreteScheduler(shift=3.0)
    made.set_timesteps(5)
    z, lock, latents = reference(2, side=4), SketchLock(BASIS, reference(2, side=4)), reference(2, seed=2, side=4)
    made.step(latents, made.timesteps[0], latents)
    expected = made.scale_noise(z, made.timesteps[1].expand(2), lock._noise_for(latents))
    after = lock(SimpleNamespace(scheduler=made, num_timesteps=5), 0, made.timesteps[0], {"latents": latents})["latents"]
    assert torch.allclose(*(BASIS.to_semantic_style(each)[0] for each in (after, expected)), atol=1e-6)


def test_inverted_sigmas_are_levels_of_the_signal():
    made = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    made.set_timesteps(sigmas=[1.0, 0.9, 0.4])
    assert made.sigmas.tolist() == pytest.approx([0, 0.1, 0.6, 1])
    pipe, z, latents = SimpleNamespace(scheduler=made, num_timesteps=3), reference(side=4), reference(seed=2, side=4)
    lock = SketchLock(BASIS, z)
    for i, t in enumerate([0.9, 0.4, 0]):
        made.step(latents, made.timesteps[i], latents)
        after = lock(pipe, i, made.timesteps[i], {"latents": latents})["latents"]
        expected = (1 - t) * z + t * lock._noise_for(latents)
        assert torch.allclose(*(BASIS.to_semantic_style(each)[0] for each in (after, expected)), atol=1e-5)
