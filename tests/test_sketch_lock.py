"""The lock inside real pipelines of tiny networks with random weights: what it holds, what it leaves, and at which noise level."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from PIL import Image
from test_readme import python_of
from tiny import picture_array
from toys import ToySplit
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import sketchae
from sketchae.backbones.vae import DiffusersVAE
from sketchae.basis import random_basis
from sketchae.errors import BadInputError
from sketchae.images import to_pil, to_tensor
from sketchae.sketch_lock import SketchLock

SIZE, LATENT, WIDTH, STEPS = 32, 16, 16, 4  # the tiny VAE halves the sides once
NOISE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")  # Stable Diffusion's
SCHEDULERS = {
    "ddim": (DDIMScheduler, dict(clip_sample=False)),
    "ddim_sd": (DDIMScheduler, dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1)),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {}),
    "dpm++_karras": (DPMSolverMultistepScheduler, dict(use_karras_sigmas=True)),
    "dpm++_sigma_min": (DPMSolverMultistepScheduler, dict(final_sigmas_type="sigma_min")),  # its last sigma is not 0
    "pndm": (PNDMScheduler, dict(skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)),  # Stable Diffusion's default
}
FOUR = ("ddim", "euler", "euler_ancestral", "dpm++")
BASIS = random_basis(4, 2, 7)


def scheduler(name: str):
    kind, options = SCHEDULERS[name]
    return kind(**NOISE, **options)


@pytest.fixture(scope="module")
def pipelines() -> dict:
    """The four pipelines by name, over the same networks."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(Path(sketchae.__file__).parent / "assets" / "clip")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = dict(
        sample_size=LATENT,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIZE,
        scaling_factor=0.5,
    )
    sd = dict(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(cross_attention_dim=WIDTH, **unet),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    xl = dict(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
            **unet,
        ),
        add_watermarker=False,
    )
    made = {
        "sd": StableDiffusionPipeline(scheduler=scheduler("ddim"), **sd),
        "sd_img2img": StableDiffusionImg2ImgPipeline(scheduler=scheduler("ddim"), **sd),
        "xl": StableDiffusionXLPipeline(scheduler=scheduler("euler"), **xl),
        "xl_img2img": StableDiffusionXLImg2ImgPipeline(scheduler=scheduler("euler"), **xl),
    }
    for pipe in made.values():
        pipe.set_progress_bar_config(disable=True)
    return made


def generate(pipe, callback=None, *, name: str = "ddim", prompt="a red house", steps: int = STEPS, **options):
    """The final latents. Image-to-image starts from a picture and takes 3 of 4 steps: the first timestep is skipped."""
    pipe.scheduler = scheduler(name)
    n_prompts = 1 if isinstance(prompt, str) else len(prompt)
    if "Img2Img" in type(pipe).__name__:
        options = {"image": picture(5)[None].expand(n_prompts, -1, -1, -1), "strength": 0.75, **options}
    else:
        options = {"height": SIZE, "width": SIZE, **options}
    generator = torch.Generator().manual_seed(1)
    return pipe(
        prompt, num_inference_steps=steps, output_type="latent", generator=generator, callback_on_step_end=callback, **options
    ).images


def picture(seed: int) -> torch.Tensor:
    return torch.from_numpy(picture_array(seed, SIZE, SIZE).copy()).permute(2, 0, 1).float() / 255


def reference(n: int = 1, seed: int = 0, side: int = LATENT) -> torch.Tensor:
    return torch.randn(n, 4, side, side, generator=torch.Generator().manual_seed(seed))


class Watch:
    """A callback that notes the latents after the lock, with the timestep at which the model is called next."""

    def __init__(self, lock: SketchLock):
        self.lock, self.seen = lock, []

    def __call__(self, pipe, step_index, timestep, callback_kwargs):
        callback_kwargs = self.lock(pipe, step_index, timestep, callback_kwargs)
        late = len(pipe.scheduler.timesteps) - pipe.num_timesteps  # image-to-image leaves out the first ones
        follows = pipe.scheduler.timesteps[late + step_index + 1 :]
        self.seen.append((float(follows[0]) if len(follows) else None, callback_kwargs["latents"]))
        return callback_kwargs


def level(name: str, timestep: float) -> tuple[float, float]:
    """(alpha, sigma) from the diffusion's own betas: variance-preserving, or with alpha = 1 for Euler's schedulers."""
    betas = torch.linspace(NOISE["beta_start"] ** 0.5, NOISE["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)
    if "euler" in name:
        below = min(int(timestep), 998)
        sigma = ((1 - kept) / kept).sqrt()[below : below + 2]
        return 1.0, float(torch.lerp(sigma[0], sigma[1], timestep - below))
    return float(kept[int(timestep)].sqrt()), float((1 - kept[int(timestep)]).sqrt())


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("kind", ["sd", "sd_img2img", "xl", "xl_img2img"])
def test_the_block_follows_the_noise_level_and_ends_as_the_references(pipelines, kind, name):
    z = reference()
    watch = Watch(SketchLock(BASIS, z))
    final = generate(pipelines[kind], watch, name=name, num_images_per_prompt=2)
    held, free = BASIS.to_semantic_style(final)
    z_held, z_free = BASIS.to_semantic_style(z)
    assert len(final) == 2 and torch.allclose(held, z_held.expand_as(held), atol=1e-5)
    assert (free - z_free).abs().mean() > 0.1
    assert len(watch.seen) == (3 if "img2img" in kind else 4) and watch.seen[-1][0] is None
    noises = []
    for timestep, latents in watch.seen[:-1]:
        alpha, sigma = level(name, timestep)
        noises.append((BASIS.to_semantic_style(latents)[0] - alpha * z_held) / sigma)
    # 1,024 values: their standard deviation is within 0.022 of 1 two times in three
    assert abs(float(noises[0].std()) - 1) < 0.08 and abs(float(noises[0].mean())) < 0.12
    assert abs(float(torch.corrcoef(noises[0].flatten(1))[0, 1])) < 0.2, "each sample has noise of its own"
    for noise in noises[1:]:
        assert torch.allclose(noise, noises[0], atol=2e-3), "the noise of a sample is kept"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("sd", "ddim_sd"), ("sd", "dpm++_karras"), ("sd", "dpm++_sigma_min"), ("sd", "pndm"), ("sd_img2img", "pndm")],
)
def test_other_schedulers_of_stable_diffusion(pipelines, kind, name):
    z = reference()
    watch = Watch(SketchLock(BASIS, z))
    final = generate(pipelines[kind], watch, name=name)
    z_held = BASIS.to_semantic_style(z)[0]
    assert torch.allclose(BASIS.to_semantic_style(final)[0], z_held, atol=1e-5)
    assert len(watch.seen) == 4 + (name == "pndm") - ("img2img" in kind)  # PNDM takes its second step twice
    if name != "dpm++_karras":  # there the timesteps are rounded: see the next test
        noise = BASIS.to_semantic_style(watch.lock._noise)[0]
        for timestep, latents in watch.seen[:-1]:
            alpha, sigma = level(name, timestep)
            assert torch.allclose(BASIS.to_semantic_style(latents)[0], alpha * z_held + sigma * noise, atol=1e-3)


@pytest.mark.parametrize(("kind", "n"), [(HeunDiscreteScheduler, 6), (LCMScheduler, 6), (DPMSolverMultistepScheduler, 50)])
@pytest.mark.parametrize("begin", [None, 4])
def test_repeated_timesteps_do_not_mislead_it(kind, n, begin):
    """By hand, without a network: Heun has every timestep twice, and Karras's sigmas at many steps round to equal timesteps."""
    karras = {} if kind is LCMScheduler else {"use_karras_sigmas": True}
    made = kind(**NOISE, **karras)
    made.set_timesteps(n)
    if kind is DPMSolverMultistepScheduler:
        assert len(set(made.timesteps.tolist())) < n
    timesteps = made.timesteps[begin or 0 :]
    if begin is not None:
        made.set_begin_index(begin)
    pipe = SimpleNamespace(scheduler=made, num_timesteps=len(timesteps))
    lock, z, latents = SketchLock(BASIS, reference(side=4)), reference(side=4), reference(seed=2, side=4) * made.init_noise_sigma
    noise = lock._noise_for(latents)
    for i, timestep in enumerate(timesteps):
        made.scale_model_input(latents, timestep)
        latents = made.step(torch.zeros_like(latents), timestep, latents).prev_sample
        latents = lock(pipe, i, timestep, {"latents": latents})["latents"]
        index = (begin or 0) + i + 1
        if index == len(made.timesteps):
            expected = z
        elif kind is LCMScheduler:
            kept = made.alphas_cumprod[made.timesteps[index]]
            expected = kept.sqrt() * z + (1 - kept).sqrt() * noise
        else:
            sigma = made.sigmas[index]
            alpha = 1 if kind is HeunDiscreteScheduler else (1 + sigma**2) ** -0.5
            expected = alpha * (z + sigma * noise)
        assert torch.allclose(*(BASIS.to_semantic_style(each)[0] for each in (latents, expected)), atol=1e-4), i
        assert getattr(made, "begin_index", begin) == begin


@pytest.mark.parametrize("kind", ["sd", "xl_img2img"])
def test_strength_zero_and_windows_beside_the_steps_change_nothing(pipelines, kind):
    plain = generate(pipelines[kind])
    assert torch.equal(generate(pipelines[kind], SketchLock(BASIS, reference(), strength=0)), plain)
    assert torch.equal(generate(pipelines[kind], SketchLock(BASIS, reference(), window=(0.9, 1.0))), plain)  # i / n <= 3 / 4
    assert not torch.allclose(generate(pipelines[kind], SketchLock(BASIS, reference())), plain, atol=0.01)


def test_the_window_counts_the_steps_of_the_run(pipelines):
    def steps(n: int, window: tuple[float, float]) -> list[int]:
        lock = SketchLock(BASIS, reference(), window=window)
        return [i for i in range(n) if lock._holds(i, n)]

    assert steps(4, (0.0, 1.0)) == [0, 1, 2, 3]
    assert steps(4, (0.0, 0.5)) == [0, 1] and steps(4, (0.5, 1.0)) == [2, 3]
    assert steps(3, (0.0, 0.5)) == [0, 1] and steps(3, (0.5, 1.0)) == [2]
    assert steps(100, (0.07, 0.29)) == list(range(7, 29))  # 0.07 * 100 > 7 and 0.29 * 100 < 29
    for kind, n in (("sd", 4), ("sd_img2img", 3)):  # of 4 timesteps, image-to-image runs 3
        lock, held = SketchLock(BASIS, reference(), window=(0.5, 1.0)), []

        def note(pipe, i, t, given, lock=lock, held=held):
            after = lock(pipe, i, t, given)
            held.append(after["latents"] is not given["latents"])
            return after

        generate(pipelines[kind], note)
        assert held == [i / n >= 0.5 for i in range(n)]


def test_only_the_held_block_changes_and_strength_is_a_lerp(pipelines):
    pipe = pipelines["sd"]
    generate(pipe)
    z, latents = reference(), reference(seed=3)
    last = (pipe, STEPS - 1, pipe.scheduler.timesteps[-1], {"latents": latents, "prompt_embeds": None})
    for hold, block in (("semantic", 0), ("style", 1)):
        for strength in (0.3, 1):
            answer = SketchLock(BASIS, z, hold=hold, strength=strength)(*last)
            assert answer["prompt_embeds"] is None and set(answer) == {"latents", "prompt_embeds"}
            before, after, wanted = (BASIS.to_semantic_style(each) for each in (latents, answer["latents"], z))
            assert torch.allclose(after[block], (1 - strength) * before[block] + strength * wanted[block], atol=1e-5)
            assert torch.allclose(after[1 - block], before[1 - block], atol=1e-5)
    assert torch.equal(last[3]["latents"], reference(seed=3)), "the pipeline's own tensor is left alone"


def test_any_split_will_do_and_half_precision_comes_back_as_it_went(pipelines):
    pipe = pipelines["sd"]
    generate(pipe)
    split = ToySplit(BASIS.Q, 1)
    answer = SketchLock(split, reference())(pipe, STEPS - 1, pipe.scheduler.timesteps[-1], {"latents": reference(2, 3).half()})["latents"]
    assert answer.dtype == torch.float16
    held = split.to_semantic_style(answer.float())[0]
    assert torch.allclose(held, split.to_semantic_style(reference())[0].expand_as(held), atol=5e-3)


def test_a_run_depends_on_the_seed_only(pipelines):
    pipe, lock = pipelines["sd"], SketchLock(BASIS, reference())
    first = generate(pipe, lock)
    generate(pipe, lock, prompt=["a boat", "a tree", "a house"])  # other shapes in between
    assert torch.equal(generate(pipe, lock), first)
    assert torch.equal(generate(pipe, SketchLock(BASIS, reference())), first)
    assert not torch.allclose(generate(pipe, SketchLock(BASIS, reference(), seed=1)), first, atol=1e-3)
    one, three = (lock._noise_for(reference(n)) for n in (1, 3))
    assert torch.equal(one[0], three[0]) and not torch.equal(three[0], three[1])


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_one_reference_a_prompt_or_a_sample(pipelines, guidance):
    prompts = ["a red house", "a small boat"]
    for n, owners in ((1, [0, 0, 0, 0]), (2, [0, 0, 1, 1]), (4, [0, 1, 2, 3])):
        z = reference(n)
        final = generate(pipelines["sd"], SketchLock(BASIS, z), prompt=prompts, num_images_per_prompt=2, guidance_scale=guidance)
        assert torch.allclose(BASIS.to_semantic_style(final)[0], BASIS.to_semantic_style(z[owners])[0], atol=1e-5)


def test_a_run_that_stops_early_is_held_where_it_stops(pipelines):
    """SDXL's base hands noisy latents to the refiner."""
    z, lock = reference(), SketchLock(BASIS, reference())
    for name in ("euler", "ddim"):
        latents = generate(pipelines["xl"], lock, name=name, denoising_end=0.5)
        assert pipelines["xl"].num_timesteps == 2
        alpha, sigma = level(name, float(pipelines["xl"].scheduler.timesteps[2]))
        noise = (BASIS.to_semantic_style(latents)[0] - alpha * BASIS.to_semantic_style(z)[0]) / sigma
        assert torch.allclose(noise, BASIS.to_semantic_style(lock._noise)[0], atol=1e-3)


def test_from_picture_is_the_pipelines_own_encoding(pipelines):
    pipe, pixels = pipelines["sd"], picture(9)
    before = {name: value.clone() for name, value in pipe.vae.state_dict().items()}
    expected = DiffusersVAE(copy.deepcopy(pipe.vae), device="cpu", latent_clip=None).encode(pixels[None])
    for image in (pixels, pixels[None], to_pil(pixels)):
        lock = SketchLock.from_picture(pipe, BASIS, image, hold="style", strength=0.5, window=(0, 0.5), seed=4)
        assert torch.allclose(lock.z_reference, expected, atol=1e-5)
    assert (lock.hold, lock.strength, lock.window, lock.seed) == ("style", 0.5, (0, 0.5), 4)
    assert all(torch.equal(value, before[name]) for name, value in pipe.vae.state_dict().items())
    assert all(parameter.requires_grad for parameter in pipe.vae.parameters())

    final = generate(pipe, SketchLock.from_picture(pipe, BASIS, pixels))
    assert torch.allclose(BASIS.to_semantic_style(final)[0], BASIS.to_semantic_style(expected)[0], atol=1e-5)
    assert torch.allclose(to_tensor(to_pil(pixels)), pixels, atol=1e-6)  # the picture of bytes lost nothing


def test_from_picture_with_other_vaes():
    wide = dict(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
    tiny = AutoencoderTiny(**wide, scaling_factor=2.0)
    kl = dict(down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), block_out_channels=(8,), norm_num_groups=4)
    shifted = AutoencoderKL(**kl, scaling_factor=0.5, shift_factor=0.3)

    def pipe(vae, downsampling=1):
        return SimpleNamespace(vae=vae, vae_scale_factor=downsampling, _execution_device=torch.device("cpu"))

    for vae, downsampling in ((tiny, 2), (shifted, 1)):
        lock = SketchLock.from_picture(pipe(vae, downsampling), BASIS, picture(1))
        codec = DiffusersVAE(copy.deepcopy(vae), device="cpu", latent_clip=None)
        assert torch.allclose(lock.z_reference, codec.encode(picture(1)[None]), atol=1e-5)
    half = shifted.half()  # force_upcast is on by default: float32 for the encoding, float16 again afterwards
    assert torch.allclose(SketchLock.from_picture(pipe(half), BASIS, picture(1)).z_reference, lock.z_reference, atol=2e-2)
    assert half.dtype == torch.float16
    with pytest.raises(BadInputError, match="latents_mean"):
        SketchLock.from_picture(pipe(AutoencoderKL(**kl, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)), BASIS, picture(1))
    with pytest.raises(BadInputError, match="NoneType"):
        SketchLock.from_picture(pipe(None), BASIS, picture(1))
    with pytest.raises(BadInputError, match="multiples of 2"):
        SketchLock.from_picture(pipe(tiny, 2), BASIS, picture(1)[:, :31])
    with pytest.raises(BadInputError, match=r"\[0, 1\]"):
        SketchLock.from_picture(pipe(tiny, 2), BASIS, picture(1) * 2 - 1)


def test_it_shares_the_place_with_other_callbacks(pipelines):
    class Count(PipelineCallback):
        tensor_inputs = ("latents",)
        calls = 0

        def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
            self.calls += 1
            return callback_kwargs

    count, lock = Count(), SketchLock(BASIS, reference())
    assert torch.equal(generate(pipelines["sd"], MultiPipelineCallbacks([lock, count])), generate(pipelines["sd"], lock))
    assert count.calls == STEPS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold": "content"}, 'hold must be "semantic" or "style"'),
        ({"strength": 1.5}, "from 0"),
        ({"strength": float("nan")}, "from 0"),
        ({"window": (0.5, 0.5)}, "start < stop"),
        ({"window": (-0.1, 1.0)}, "start < stop"),
        ({"window": (0.0, 2)}, "start < stop"),
        ({"z_reference": torch.zeros(4, 8, 8)}, "channels, height, width"),
        ({"z_reference": torch.zeros(0, 4, 8, 8)}, "channels, height, width"),
        ({"z_reference": torch.zeros(1, 4, 8, 8, dtype=torch.uint8)}, "floating-point"),
        ({"z_reference": torch.full((1, 4, 8, 8), float("nan"))}, "NaN"),
        ({"z_reference": torch.zeros(1, 16, 8, 8)}, "4 channels, but got 16"),
    ],
)
def test_bad_arguments_are_told(options, message):
    with pytest.raises(BadInputError, match=message):
        SketchLock(**{"basis": BASIS, "z_reference": reference(), **options})


def test_what_does_not_fit_the_pipeline_is_told(pipelines):
    pipe = pipelines["sd"]
    with pytest.raises(BadInputError, match="4 channels of 8 x 8 and the pipeline's latents have 4 channels of 16 x 16"):
        generate(pipe, SketchLock(BASIS, reference(side=8)))
    with pytest.raises(BadInputError, match="4 channels of 16 x 16 and the pipeline's latents have 16 channels of 16 x 16"):
        SketchLock(BASIS, reference())(pipe, STEPS - 1, pipe.scheduler.timesteps[-1], {"latents": torch.zeros(1, 16, 16, 16)})
    with pytest.raises(BadInputError, match="3 references cannot be shared out among 2 samples"):
        generate(pipe, SketchLock(BASIS, reference(3)), prompt=["a boat", "a tree"])
    with pytest.raises(BadInputError, match=r'callback_on_step_end_tensor_inputs=\["latents"\]'):
        generate(pipe, SketchLock(BASIS, reference()), callback_on_step_end_tensor_inputs=["prompt_embeds"])
    with pytest.raises(BadInputError, match="none of the scheduler's"):
        SketchLock(BASIS, reference())(pipe, 0, 1234, {"latents": reference()})
    inverse = DDIMInverseScheduler(**NOISE)
    inverse.set_timesteps(2)
    with pytest.raises(BadInputError, match="DDIMInverseScheduler has neither add_noise nor scale_noise: give"):
        SketchLock(BASIS, reference())(SimpleNamespace(scheduler=inverse, num_timesteps=2), 0, inverse.timesteps[0], {"latents": reference()})


def test_the_readmes_lines_run_on_a_tiny_pipeline(pipelines, tmp_path, monkeypatch):
    code = python_of("## Lock the sketch in a Stable Diffusion pipeline").replace("1024", str(SIZE))
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    to_pil(picture(3)).save("sketch.jpg")
    BASIS.save(tmp_path / "build/fit/madebyollin--taesdxl")
    monkeypatch.setattr(StableDiffusionXLPipeline, "from_pretrained", lambda name: pipelines["xl"])
    exec(compile(code, "README.md", "exec"), {})
    assert Image.open("locked.png").size == (SIZE, SIZE)
