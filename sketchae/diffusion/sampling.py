"""From noise to latents: both blocks together, one ahead of the other, or one after the other, in as many network evaluations.

A sample's noise comes from its own seed, on the CPU, whatever else is in the batch. Steps are Euler's, by one diffusers
`FlowMatchEulerDiscreteScheduler` a block: a block whose level stands still stays as it is, to the last bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor

from sketchae.backbones import ClipEmbedder, LatentCodec
from sketchae.diffusion.conditioning import Conditioning, embed_prompts
from sketchae.diffusion.levels import add_noise, per_channel, preview, schedule
from sketchae.diffusion.network import SketchDiffusion
from sketchae.errors import BadInputError

PerBlock = float | int | tuple[float | int, float | int]


@runtime_checkable
class VelocityModel(Protocol):
    """What `sample` asks of a model; `SketchDiffusion` is one."""

    n_semantic: int
    latent_shape: tuple[int, int, int]
    levels: str

    def velocity(self, x_t: Tensor, t_semantic: Any, t_style: Any, conditioning: Any) -> Tensor: ...


@dataclass(frozen=True)
class Trajectory:
    """A sampling path, for film strips.

    Attributes:
        x: where it ended.
        states: x_t before each step, and `x` last.
        previews: before each step, the clean x that the velocity implies.
        t_semantic, t_style: the noise levels of `states`.
    """

    x: Float[Tensor, "n channels height width"]
    states: Float[Tensor, "n_states n channels height width"]
    previews: Float[Tensor, "n_steps n channels height width"]
    t_semantic: list[float]
    t_style: list[float]


def sample_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Float[Tensor, "n channels height width"]:
    """Standard normal noise, every sample's from a CPU generator with its own seed."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])


@torch.no_grad()
def sample(
    model: VelocityModel,
    conditioning: Conditioning | None,
    *,
    seeds: Sequence[int],
    n_steps: int = 50,
    offset: float | int = 0.0,
    n_semantic_steps: int | None = None,
    guidance: PerBlock = 1.0,
    unconditional: Conditioning | None = None,
    hold_semantic: Float[Tensor, "_ _ _ _"] | None = None,
    hold_style: Float[Tensor, "_ _ _ _"] | None = None,
    start: Float[Tensor, "_ _ _ _"] | None = None,
    strength: PerBlock | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
    return_trajectory: bool = False,
) -> Float[Tensor, "n channels height width"] | Trajectory:
    """Draw one x for each seed in `n_steps` evaluations of the network, whatever the offset.

    Args:
        model: its `velocity` is followed; with one level (`levels == "one"`), only joint sampling is possible.
        conditioning: a prompt for each seed, or one for all.
        offset, n_semantic_steps: Δt, and how many steps the semantic block gets at |Δt| = 1; see `sketchae.diffusion.schedule`.
        guidance: w of classifier-free guidance v = v_empty + w (v - v_empty), for all channels or as (semantic, style); anything but 1
            takes a second evaluation a step, with `unconditional`, the empty prompt's conditioning.
        hold_semantic, hold_style: that block of x, known and clean, (n or 1, its channels, h, w): it is returned as given, and only the
            other is drawn, in all `n_steps`. A model with one level is shown the block at the level of the other (x_t by `add_noise`
            with the sample's own noise: replacement, Song et al. 2021), since it knows no other way.
        start, strength: begin at (1 - s) start + s ε instead of at noise (SDEdit, Meng et al. 2022), with all `n_steps` for the rest of
            the way; s in [0, 1] for both blocks, or as (semantic, style).
        callback: called as callback(step, x) after each step, steps counted from 0.
        return_trajectory: give a `Trajectory` with all states and previews instead of x alone.

    Raises:
        BadInputError: arguments that do not go together, or that the model cannot follow.
    """
    channels, k, n = model.latent_shape[0], model.n_semantic, len(seeds)
    device = getattr(model, "device", torch.device("cpu"))
    if not n:
        raise BadInputError("sample draws one x for each seed: give at least one.")
    if conditioning is not None:
        conditioning = conditioning.repeated(n).to(device)
    scale = per_channel(*_pair(guidance), k, channels).to(device)
    guided = not bool((scale == 1).all())
    if guided and unconditional is None:
        raise BadInputError('guidance other than 1 needs `unconditional`: give embed_prompts(clip, [""]).')
    if guided:
        unconditional = unconditional.repeated(n).to(device)

    noise = sample_noise(seeds, model.latent_shape).to(device)
    clean, strengths = _beginning(noise, k, hold_semantic, hold_style, start, strength, offset)
    held = hold_semantic is not None or hold_style is not None
    replaced = None
    if model.levels == "one":
        if held:
            replaced, strengths = per_channel(*(float(s == 0) for s in strengths), k, channels).to(device) > 0, (1.0, 1.0)
        if offset or strengths[0] != strengths[1]:
            raise BadInputError("This model has one noise level for all channels: its offset is 0 and its strength one number.")
    paths = [path * s for path, s in zip(schedule(n_steps, offset, n_semantic_steps), strengths, strict=True)]
    solvers = [_solver(path) for path in paths]

    t = per_channel(paths[0][0], paths[1][0], k, channels).to(device)
    x = add_noise(clean, noise, t)
    states, previews = [x], []
    for step in range(n_steps):
        t = per_channel(paths[0][step], paths[1][step], k, channels).to(device)
        semantic, style = (t[:, at].reshape(1).expand(n) for at in (0, -1))
        velocity = model.velocity(x, semantic, style, conditioning)
        if guided:
            empty = model.velocity(x, semantic, style, unconditional)
            velocity = empty + scale * (velocity - empty)
        if return_trajectory:
            previews.append(preview(x, velocity, t))
        parts = zip(solvers, velocity.tensor_split([k], dim=1), x.tensor_split([k], dim=1), strict=True)
        x = torch.cat([solver.step(v, solver.timesteps[step], block, return_dict=False)[0] for solver, v, block in parts], dim=1)
        if replaced is not None:
            t = per_channel(paths[0][step + 1], paths[1][step + 1], k, channels).to(device)
            x = torch.where(replaced, add_noise(clean, noise, t), x)
        if return_trajectory:
            states.append(x)
        if callback is not None:
            callback(step, x)
    if return_trajectory:
        return Trajectory(x, torch.stack(states), torch.stack(previews), *(path.tolist() for path in paths))
    return x


@torch.no_grad()
def generate(
    model: SketchDiffusion,
    prompts: Sequence[str],
    codec: LatentCodec,
    clip: ClipEmbedder,
    *,
    seeds: Sequence[int] | None = None,
    guidance: PerBlock = 3.0,
    **options: Any,
) -> Float[Tensor, "n 3 image_height image_width"]:
    """Pictures in [0, 1] from prompts; `seeds` are 0, 1, … by default, and `options` are those of `sample`.

    Raises:
        BadInputError: another codec or CLIP than the model's, `return_trajectory`, or as `sample`.
    """
    if options.get("return_trajectory"):
        raise BadInputError("generate returns pictures: call `sample` for a trajectory and decode its previews.")
    model.check(codec, clip)
    seeds = range(len(prompts)) if seeds is None else seeds
    x = sample(model, embed_prompts(clip, prompts), seeds=seeds, guidance=guidance, unconditional=embed_prompts(clip, [""]), **options)
    return codec.decode(model.decode(x))


def _pair(value: PerBlock) -> tuple[float, float]:
    """(semantic, style) from one number for both or one for each."""
    semantic, style = value if isinstance(value, tuple) else (value, value)
    return float(semantic), float(style)


def _beginning(
    noise: Tensor,
    k: int,
    hold_semantic: Tensor | None,
    hold_style: Tensor | None,
    start: Tensor | None,
    strength: PerBlock | None,
    offset: float | int,
) -> tuple[Tensor, tuple[float, float]]:
    """The clean x of a path, and at which noise level each block begins. A held block is a start of strength 0."""
    if hold_semantic is not None or hold_style is not None:
        if hold_semantic is not None and hold_style is not None:
            raise BadInputError("With both blocks held there is nothing to draw: hold one of them.")
        if start is not None or offset:
            raise BadInputError("A held block leaves one block to draw, from noise: give neither start nor offset with it.")
        clean = torch.zeros_like(noise)
        if hold_semantic is not None:
            clean[:, :k] = _fitting(hold_semantic, noise[:, :k], "hold_semantic")
            return clean, (0.0, 1.0)
        clean[:, k:] = _fitting(hold_style, noise[:, k:], "hold_style")
        return clean, (1.0, 0.0)
    if (start is None) != (strength is None):
        raise BadInputError("start and strength go together: give both, or neither.")
    if start is None or strength is None:
        return torch.zeros_like(noise), (1.0, 1.0)
    strengths = _pair(strength)
    if not all(0 <= s <= 1 for s in strengths):
        raise BadInputError(f"strength is {strength}: it lies between 0 (start itself) and 1 (pure noise).")
    return _fitting(start, noise, "start").clone(), strengths


def _fitting(given: Tensor, like: Tensor, what: str) -> Tensor:
    if given.shape[1:] != like.shape[1:] or len(given) not in (1, len(like)):
        raise BadInputError(
            f"{what} has shape {tuple(given.shape)} for samples of {tuple(like.shape)}: give that shape, or one for all; "
            "`model.encode(z)` makes x from latents."
        )
    return given.to(like).expand_as(like)


def _solver(path: Float[np.ndarray, " n"]) -> FlowMatchEulerDiscreteScheduler:
    """diffusers' Euler steps along the levels of one block; they append the 0 at the end of the path themselves."""
    solver = FlowMatchEulerDiscreteScheduler()
    solver.set_timesteps(sigmas=path[:-1].tolist())
    solver.set_begin_index(0)  # where levels repeat, it would otherwise look for the first and find the second
    return solver
