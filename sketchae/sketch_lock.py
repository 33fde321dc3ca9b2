"""Lock the sketch in a diffusers pipeline: hold one block of a reference picture's coordinates while it denoises.

A step of the pipeline leaves latents z at the noise level (alpha, sigma) of the next step. With z_ref the reference's latents, n ~ N(0, I) and
x = Qz cut into a held and a free block,

    x_held <- (1 - s) x_held + s [Q (alpha z_ref + sigma n)]_held,        x_free <- x_free,        s: strength.

The scheduler says what alpha and sigma are; in flow matching (rectified flow, Liu et al. 2023) alpha = 1 - sigma. This is ILVR (Choi et al.
2021, algorithm 1) with a projection on rows of Q for its low-pass filter. Q being orthogonal, Qn ~ N(0, I): at s = 1 the held block carries the
noise that the model expects at that level.
"""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from sketchae.edits import Split, lerp_blocks
from sketchae.errors import BadInputError
from sketchae.training.batches import named_seed

Latents = Float[Tensor, "batch channels height width"]
_ROUNDING = 1e-9  # of start * n and stop * n: 0.07 * 100 lies above 7


class SketchLock:
    """A `callback_on_step_end` that holds the semantic (or the style) block of a reference picture.

        lock = SketchLock.from_picture(pipe, basis, picture)
        pipe("a house in watercolour", callback_on_step_end=lock)

    For `StableDiffusionPipeline`, `StableDiffusionXLPipeline`, `StableDiffusion3Pipeline`, their image-to-image forms,
    `sketchae.diffusion.SketchPipeline`, and any pipeline whose callback is given `latents` of four dimensions and whose scheduler has `add_noise`
    (diffusion) or `scale_noise` (flow matching). Noise is added by the scheduler's `add_noise`, at the timestep at which the model is called
    next, or as (1 - sigma) z_ref + sigma n with sigma = `scheduler.sigmas` there, shifted or not. After the scheduler's last step there is none,
    so that at strength 1 the block ends as the reference's. Where the pipeline stops earlier (`denoising_end`), the latents are held at the level
    at which it stops.

    Only latents are held. The first call of the model sees what the pipeline starts from, and a solver that also uses predictions of earlier
    steps (DPM++, PNDM, Heun) keeps them as they are. A lock keeps nothing from one run to the next: the same lock, shapes and inputs
    give the same pictures.

    Args:
        basis: what cuts latents into blocks, such as `sketchae.OrthogonalBasis`.
        z_reference: latents (n, channels, height, width) as the pipeline denoises them: scaled, about unit variance, of the height and width of
            the latents to come. n is 1, or divides the batch: one reference a sample or, with `num_images_per_prompt`, one a prompt.
        hold: "semantic" or "style", the block that is held.
        strength: s in [0, 1]. 1 holds fully; 0 returns the latents untouched; in between, the block is moved that far towards the noised
            reference after each step. The two carry noise of their own, so the noise in the mixture is weaker than the level's, at 0.5 by
            up to 30 %.
        window: (start, stop), 0 <= start < stop <= 1: of n steps, the i-th (from 0) is held where start <= i / n < stop.
        seed: of n. Sample i of the batch has noise of its own, drawn on the CPU from the seed and i, and keeps it throughout the run.

    Raises:
        BadInputError: an argument out of range, or a basis for other latents. When called: `latents` are not among `callback_kwargs`, they do not
            fit the reference, or the scheduler has neither `add_noise` nor `scale_noise`.
    """

    tensor_inputs = ("latents",)  # what diffusers' MultiPipelineCallbacks asks of each of its callbacks

    def __init__(
        self,
        basis: Split,
        z_reference: Shaped[Tensor, "..."],
        *,
        hold: str = "semantic",
        strength: float | int = 1.0,
        window: tuple[float | int, float | int] = (0.0, 1.0),
        seed: int = 0,
    ):
        if hold not in ("semantic", "style"):
            raise BadInputError(f'hold must be "semantic" or "style", got {hold!r}.')
        if not 0 <= strength <= 1:  # written so that NaN fails too
            raise BadInputError(f"strength is {strength}: give a number from 0 (no lock) to 1 (hold fully).")
        if len(window) != 2 or not 0 <= window[0] < window[1] <= 1:
            raise BadInputError(f"window is {window}: give (start, stop) with 0 <= start < stop <= 1, fractions of the steps.")
        if z_reference.ndim != 4 or not len(z_reference) or not z_reference.is_floating_point():
            raise BadInputError(
                f"The reference is {z_reference.dtype} of shape {tuple(z_reference.shape)}: give floating-point latents "
                "(1 or batch, channels, height, width), such as vae.encode(picture[None])."
            )
        if not bool(torch.isfinite(z_reference).all()):
            raise BadInputError("The reference holds NaN or infinite values: encode it with a VAE in float32.")
        self.basis, self.z_reference = basis, z_reference.detach().float()
        self.hold, self.strength, self.window, self.seed = hold, strength, window, seed
        self._noise: Tensor | None = None
        basis.to_semantic_style(self.z_reference)  # a basis for other channels says so here

    @classmethod
    def from_picture(cls, pipe: Any, basis: Split, image: Image.Image | Shaped[Tensor, "..."], **options: Any) -> "SketchLock":
        """A lock on a picture, encoded by the pipeline's own VAE: posterior mean, less `shift_factor`, times `scaling_factor`; not clipped.

        Where the pipeline has an `encode` of its own (`SketchPipeline`), the reference is what that makes of the pixels.

        Args:
            pipe: a pipeline with a `vae`, an `AutoencoderKL` or `AutoencoderTiny`; it is left as it was.
            basis: as in the class.
            image: a PIL picture, or pixels (3, height, width) or (n, 3, height, width) in [0, 1], of the size that the pipeline is to generate.
            options: hold, strength, window and seed, as in the class.

        Raises:
            BadInputError: what the class refuses; pixels outside [0, 1]; sides that are no multiples of the VAE's downsampling; latents that are
                not finite; a VAE that normalises each channel by itself (`latents_mean`).
        """
        from sketchae.images import to_tensor

        pixels = image if isinstance(image, Tensor) else to_tensor(image)
        return cls(basis, _encode(pipe, pixels[None] if pixels.ndim == 3 else pixels), **options)

    @torch.no_grad()
    def __call__(self, pipe: Any, step_index: int, timestep: Any, callback_kwargs: dict[str, Any]) -> dict[str, Any]:
        """`callback_kwargs` with the held block of `latents` set; diffusers calls it after each step."""
        if "latents" not in callback_kwargs:
            raise BadInputError('The callback was given no latents: call the pipeline with callback_on_step_end_tensor_inputs=["latents"].')
        if not self.strength or not self._holds(step_index, pipe.num_timesteps):
            return callback_kwargs
        z = callback_kwargs["latents"]
        target = _noised(pipe, _next_index(pipe, step_index, timestep), self._reference_for(z), self._noise_for(z))
        held = lerp_blocks(self.basis, z.float(), target, **{self.hold: self.strength})
        return {**callback_kwargs, "latents": held.to(z.dtype)}

    def _holds(self, step_index: int, n_steps: int) -> bool:
        start, stop = (bound * n_steps - _ROUNDING for bound in self.window)
        return start <= step_index < stop

    def _reference_for(self, z: Shaped[Tensor, "..."]) -> Latents:
        shape, given = tuple(z.shape), tuple(self.z_reference.shape)
        if shape[1:] != given[1:]:
            raise BadInputError(
                f"The reference has {_described(given)} and the pipeline's latents have {_described(shape)}: lock a picture of the size that the "
                "pipeline generates, encoded by the pipeline's own VAE (SketchLock.from_picture)."
            )
        if shape[0] % given[0]:
            raise BadInputError(
                f"{given[0]} references cannot be shared out among {shape[0]} samples: give one reference, one a prompt, or one a sample."
            )
        return self.z_reference.to(z.device).repeat_interleave(shape[0] // given[0], 0)

    def _noise_for(self, z: Latents) -> Latents:
        if self._noise is None or self._noise.shape != z.shape:
            generators = (torch.Generator().manual_seed(named_seed("sketch_lock", self.seed, i)) for i in range(len(z)))
            self._noise = torch.stack([torch.randn(z.shape[1:], generator=generator) for generator in generators])
        self._noise = self._noise.to(z.device)
        return self._noise


def _next_index(pipe: Any, step_index: int, timestep: Any) -> int:
    """Where in the scheduler's timesteps the model is called next; behind the last of them after the last step."""
    scheduler = pipe.scheduler
    counted = getattr(scheduler, "step_index", None)
    if counted is not None:
        return int(counted)  # `step` has counted on already
    here = (scheduler.timesteps.cpu() == torch.as_tensor(timestep).cpu()).nonzero().flatten().tolist()
    if not here:
        raise BadInputError(f"Timestep {timestep} is none of the scheduler's: pass the lock as callback_on_step_end of a pipeline call.")
    # A timestep may occur twice (PNDM). Image-to-image starts late and runs to the end; with denoising_end a run starts at 0 and stops early.
    late = len(scheduler.timesteps) - pipe.num_timesteps
    return next(index for index in (late + step_index, step_index, here[0]) if index in here) + 1


def _noised(pipe: Any, index: int, z: Latents, noise: Latents) -> Latents:
    """alpha z + sigma n at the level of the scheduler's timestep number `index`; z itself behind the last."""
    scheduler = pipe.scheduler
    flow = hasattr(scheduler, "scale_noise")
    if not flow and not hasattr(scheduler, "add_noise"):
        raise BadInputError(
            f"{type(scheduler).__name__} has neither add_noise nor scale_noise: give the pipeline a scheduler such as DDIMScheduler, "
            "EulerDiscreteScheduler or DPMSolverMultistepScheduler, or FlowMatchEulerDiscreteScheduler where the model was trained by flow matching."
        )
    if index >= len(scheduler.timesteps):
        return z
    if flow:  # by hand: `scale_noise` looks the level up by the timestep, which can repeat or be one of the caller's own
        sigma = scheduler.sigmas[index].to(z)
        if getattr(scheduler.config, "invert_sigmas", False):
            sigma = 1 - sigma  # there they are levels of the signal
        return (1 - sigma) * z + sigma * noise
    timestep = scheduler.timesteps[index : index + 1]
    if getattr(scheduler, "begin_index", 0) is not None:
        return scheduler.add_noise(z, noise, timestep)
    # Without a begin_index such schedulers look the level up by the timestep, and rounded timesteps can repeat (Karras sigmas); with one they
    # take it at step_index, which is `index`.
    scheduler.set_begin_index(0)
    try:
        return scheduler.add_noise(z, noise, timestep)
    finally:
        scheduler.set_begin_index(None)


@torch.no_grad()
def _encode(pipe: Any, images: Shaped[Tensor, "..."]) -> Latents:
    """Pixels in [0, 1] to the pipeline's scaled latents, in float32. `DiffusersVAE` would freeze, recast and lay out the pipeline's VAE anew."""
    if callable(getattr(pipe, "encode", None)):
        return pipe.encode(images).float()
    from diffusers import AutoencoderKL, AutoencoderTiny  # here, so that a lock on latents does not load the models

    from sketchae.backbones.vae import check_images

    vae = getattr(pipe, "vae", None)
    if not isinstance(vae, AutoencoderKL | AutoencoderTiny):
        raise BadInputError(
            f"The pipeline's VAE is {type(vae).__name__}, neither an AutoencoderKL nor an AutoencoderTiny: encode the picture "
            "yourself and pass its latents to SketchLock."
        )
    if getattr(vae.config, "latents_mean", None) is not None:
        raise BadInputError("This VAE normalises each channel (latents_mean): encode the picture yourself and pass its latents to SketchLock.")
    check_images(images, pipe.vae_scale_factor)
    dtype = vae.dtype
    upcast = dtype == torch.float16 and getattr(vae.config, "force_upcast", False)  # SDXL's overflows in float16
    if upcast:
        vae.to(dtype=torch.float32)
    try:
        encoded = vae.encode((images * 2 - 1).to(pipe._execution_device, vae.dtype))
    finally:
        if upcast:
            vae.to(dtype=dtype)
    z_raw = (encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mode()).float()
    return (z_raw - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor


def _described(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} channels of {shape[2]} x {shape[3]}" if len(shape) == 4 else f"the shape {shape}"
