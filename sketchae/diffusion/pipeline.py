"""Our diffusion model as a diffusers pipeline, so that what is written for pipelines (`SketchLock`, other callbacks) works on it too."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    ImagePipelineOutput,
    UNet2DConditionModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Shaped
from torch import Tensor

from sketchae.backbones import ClipEmbedder, LatentCodec
from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.diffusion.conditioning import Conditioning, embed_prompts
from sketchae.diffusion.levels import schedule
from sketchae.diffusion.network import SketchDiffusion
from sketchae.diffusion.sampling import sample_noise
from sketchae.errors import BadInputError
from sketchae.images import to_pil

OUTPUT_TYPES = ("pil", "pt", "latent")


class SketchPipeline(DiffusionPipeline):
    """Joint sampling by a `SketchDiffusion`, with one noise level for both blocks, in the form of diffusers' own pipelines.

        pipe = SketchPipeline.from_model(model, codec, clip)
        lock = SketchLock(pipe.basis, pipe.encode(picture[None]))
        pipe("a red house", seeds=[0], callback_on_step_end=lock).images[0]

    Its `latents` are x = (Q z - mean) / std, standardised, semantic channels first: what splits them is `pipe.basis`, the identity. With t_i
    from 1 to 0 in equal steps, the scheduler's Euler steps are x <- x + (t_{i+1} - t_i) v(x, t_i). For equal seeds and without a callback, the
    latents are those of `sketchae.diffusion.sample(..., offset=0)`, to float precision; offsets, and blocks held at a level of their own, are
    that function's.

    Made by `from_model` only, and not saved as a pipeline: `sketchae.diffusion.save_diffusion(pipe.model, folder)` saves the model. In float32.

    Attributes:
        unet, scheduler, vae: diffusers' components; vae is None where the codec has no diffusers VAE. The scheduler may be exchanged for a
            `FlowMatchEulerDiscreteScheduler` of another shift.
        model, codec, clip: as given to `from_model`.
    """

    _optional_components = ("vae",)
    _callback_tensor_inputs = ("latents", "prompt_embeds", "pooled_prompt_embeds")

    model: SketchDiffusion | None
    codec: Any
    clip: Any

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderTiny | AutoencoderKL | None = None,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)
        self.model = self.codec = self.clip = None
        self._num_timesteps, self._guidance_scale, self._interrupt = 0, 1.0, False

    @classmethod
    def from_model(cls, model: SketchDiffusion, codec: LatentCodec, clip: ClipEmbedder) -> "SketchPipeline":
        """The pipeline of a model, with the codec that decodes its latents and the CLIP that reads its prompts; they are shared, not copied.

        Raises:
            BadInputError: another codec or CLIP than the model was trained with.
        """
        model.check(codec, clip)
        vae = getattr(codec, "vae", None)
        pipe = cls(model.unet, FlowMatchEulerDiscreteScheduler(), vae if isinstance(vae, AutoencoderTiny | AutoencoderKL) else None)
        pipe.model, pipe.codec, pipe.clip = model, codec, clip
        return pipe

    @property
    def basis(self) -> OrthogonalBasis:
        """What splits this pipeline's latents into their two blocks: the identity, with the model's k."""
        return OrthogonalBasis.from_matrix(torch.eye(self.model.latent_shape[0]).double(), self.model.n_semantic)

    @property
    def num_timesteps(self) -> int:
        """Steps of the run under way, or of the last one."""
        return self._num_timesteps

    @property
    def guidance_scale(self) -> float | int:
        """w of the run under way; a callback may set `_guidance_scale`, as in diffusers' own pipelines."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def interrupt(self) -> bool:
        """Set by a callback (`pipe._interrupt = True`) to leave out the steps to come."""
        return self._interrupt

    @torch.no_grad()
    def encode(self, images: Shaped[Tensor, "n 3 height width"]) -> Float[Tensor, "n channels latent_height latent_width"]:
        """x of pictures in [0, 1], by the codec and `model.encode`: a reference for `SketchLock(pipe.basis, x)`.

        Raises:
            BadInputError: what the codec refuses.
        """
        return self.model.encode(self.codec.encode(images).to(self.model.device))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_inference_steps: int = 16,
        guidance_scale: float | int = 3.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seeds: Sequence[int] | None = None,
        num_images_per_prompt: int = 1,
        latents: Float[Tensor, "_ _ _ _"] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Pictures of prompts, `num_images_per_prompt` of the first, then of the second, and so on.

        Args:
            num_inference_steps: how many of equal length; each takes two evaluations of the network with guidance, one without.
            guidance_scale: w >= 1 of classifier-free guidance v = v_empty + w (v - v_empty); at 1 there is none. For w < 1, or one for each
                block, see `sketchae.diffusion.sample`.
            generator, seeds, latents: where the noise comes from: a torch generator (or one a picture), an integer a picture as in
                `sketchae.diffusion.sample`, or the noise itself (n, channels, height, width). One of them, or none: then torch's global generator.
            output_type: "pil" (a list of pictures), "pt" (n, 3, height, width) in [0, 1], or "latent": x, of which `pipe.model.decode` makes z.
            callback_on_step_end: called as callback(pipe, step, timestep, tensors) after each step; what it returns replaces the tensors.
            callback_on_step_end_tensor_inputs: which tensors: "latents"; "prompt_embeds" and "pooled_prompt_embeds", the prompts' (not the empty
                one's) `Conditioning.states` and `.pooled`. A `PipelineCallback` knows its own.
            return_dict: an `ImagePipelineOutput` with `images`, or else the tuple (images,).

        Raises:
            BadInputError: arguments out of range or that do not go together, or a pipeline that is not as `from_model` makes it.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        self._check(prompts, num_images_per_prompt, guidance_scale, output_type, callback_on_step_end_tensor_inputs)
        self._guidance_scale, self._interrupt = guidance_scale, False
        n, device = len(prompts) * num_images_per_prompt, self.model.device
        owners = [row for row in range(len(prompts)) for _ in range(num_images_per_prompt)]
        conditioning = embed_prompts(self.clip, prompts)[owners].to(device)
        unconditional = embed_prompts(self.clip, [""]).repeated(n).to(device) if self.do_classifier_free_guidance else None
        x = self._start(n, generator, seeds, latents)

        self.scheduler.set_timesteps(sigmas=schedule(num_inference_steps)[0][:-1].tolist())
        self.scheduler.set_begin_index(0)
        timesteps, levels = self.scheduler.timesteps, self.scheduler.sigmas.to(device)
        self._num_timesteps = len(timesteps)
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                level = levels[step].expand(n)
                velocity = self.model.velocity(x, level, level, conditioning)
                if self.do_classifier_free_guidance:
                    empty = self.model.velocity(x, level, level, unconditional)
                    velocity = empty + self.guidance_scale * (velocity - empty)
                x = self.scheduler.step(velocity, timestep, x, return_dict=False)[0]
                if callback_on_step_end is not None:
                    tensors = {"latents": x, "prompt_embeds": conditioning.states, "pooled_prompt_embeds": conditioning.pooled}
                    chosen = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    tensors |= callback_on_step_end(self, step, timestep, chosen)
                    x = tensors["latents"]
                    conditioning = Conditioning(tensors["prompt_embeds"], conditioning.mask, tensors["pooled_prompt_embeds"])
                progress_bar.update()

        images = x if output_type == "latent" else self.codec.decode(self.model.decode(x))
        if output_type == "pil":
            images = [to_pil(image) for image in images]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def to(
        self, device: torch.device | torch.dtype | str | int | None = None, dtype: torch.dtype | None = None, **options: Any
    ) -> "SketchPipeline":
        """Move all networks, those of the codec and the CLIP too, to `device`; returns the pipeline itself.

        Raises:
            BadInputError: a number format other than float32.
        """
        if isinstance(device, torch.dtype) or dtype not in (None, torch.float32):
            raise BadInputError("A SketchPipeline computes in float32: give `to` a device only.")
        super().to(device=device, **options)
        if device is not None and self.model is not None:
            self.model.to(device)
            self.clip.model.to(device)
            self.clip.device = self.model.device
            if self.vae is not None:
                self.codec.device = self.model.device
        return self

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Not offered: the components that diffusers would save are not the whole model.

        Raises:
            BadInputError: always.
        """
        raise BadInputError("A SketchPipeline is not saved: call sketchae.diffusion.save_diffusion(pipe.model, folder).")

    def _check(self, prompts: list[str], n_each: int, guidance_scale: float | int, output_type: str, tensor_inputs: Sequence[str]) -> None:
        if self.model is None or self.unet is not self.model.unet:
            raise BadInputError("This pipeline is not as its model: make one by SketchPipeline.from_model(model, codec, clip) and keep its unet.")
        if not isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):
            raise BadInputError(f"The scheduler is a {type(self.scheduler).__name__}: the model follows a FlowMatchEulerDiscreteScheduler only.")
        if not prompts or n_each < 1:
            raise BadInputError(f"{len(prompts)} prompts with {n_each} pictures each: give at least one of both.")
        if not guidance_scale >= 1:  # written so that NaN fails too
            raise BadInputError(f"guidance_scale is {guidance_scale}: give 1 (no guidance) or more; `sketchae.diffusion.sample` takes others.")
        if output_type not in OUTPUT_TYPES:
            raise BadInputError(f'output_type is {output_type!r}: choose "pil", "pt" or "latent".')
        unknown = set(tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise BadInputError(f"A callback cannot be given {', '.join(sorted(unknown))}: choose from {', '.join(self._callback_tensor_inputs)}.")

    def _start(
        self, n: int, generator: torch.Generator | list[torch.Generator] | None, seeds: Sequence[int] | None, latents: Tensor | None
    ) -> Float[Tensor, "n channels height width"]:
        shape = self.model.latent_shape
        if sum(given is not None for given in (generator, seeds, latents)) > 1:
            raise BadInputError("generator, seeds and latents each say what the noise is: give one of them.")
        if latents is not None:
            if tuple(latents.shape) != (n, *shape):
                raise BadInputError(f"latents has shape {tuple(latents.shape)}: give noise of shape {(n, *shape)}.")
            return latents.to(self.model.device, torch.float32)
        for what, given in (("seeds", seeds), ("generators", generator)):
            if given is not None and not isinstance(given, torch.Generator) and len(given) != n:
                raise BadInputError(f"{len(given)} {what} for {n} pictures: give one for each.")
        if seeds is not None:
            return sample_noise(seeds, shape).to(self.model.device)
        return randn_tensor((n, *shape), generator=generator, device=self.model.device, dtype=torch.float32)
