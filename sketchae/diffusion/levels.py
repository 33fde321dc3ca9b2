"""Noise levels: how much noise each of the two blocks of x holds, in training and along a sampling path.

Rectified flow (Liu et al. 2023; as in Stable Diffusion 3, Esser et al. 2024), with a level of its own for each block:

    x_t = (1 - t) x + t ε      t: the semantic level for the first k channels, the style level for the others
    v   = ε - x                what the network learns to predict from x_t
    x   = x_t - t v            so the velocity also gives an estimate of the clean x: `preview`

Levels lie in [0, 1]: 0 is clean, 1 is pure noise. Equal levels everywhere are ordinary rectified flow.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError

Latents = Float[Tensor, "n channels height width"]
Levels = Float[np.ndarray, " n"]
LEVELS = ("two", "one")


def per_channel(semantic: float | int | Tensor, style: float | int | Tensor, n_semantic: int, channels: int) -> Float[Tensor, "_ channels 1 1"]:
    """One number (or one a picture) for each block, laid out to multiply latents (n, channels, h, w)."""
    semantic, style = torch.broadcast_tensors(*(torch.as_tensor(value, dtype=torch.float32).reshape(-1) for value in (semantic, style)))
    columns = [semantic[:, None].expand(-1, n_semantic), style[:, None].expand(-1, channels - n_semantic)]
    return torch.cat(columns, dim=1)[:, :, None, None]


def add_noise(x: Latents, noise: Latents, t: Float[Tensor, "_ channels 1 1"]) -> Latents:
    """x_t = (1 - t) x + t ε; exactly x where t is 0 and exactly ε where it is 1."""
    return (1 - t) * x + t * noise


def preview(x_t: Latents, velocity: Latents, t: float | int | Tensor) -> Latents:
    """x_t - t v: the estimate of the clean x that a velocity implies; `t` one number or as `per_channel` lays it out."""
    return x_t - t * velocity


def draw_levels(
    n: int,
    rng: np.random.Generator,
    levels: str = "two",
    *,
    uniform_share: float | int = 0.2,
    equal_share: float | int = 0.2,
    noise_share: float | int = 0.2,
    clean_share: float | int = 0.2,
) -> tuple[Levels, Levels]:
    """Semantic and style levels of `n` training examples.

    Each level is logit-normal(0, 1) (Stable Diffusion 3's), or with probability `uniform_share` uniform on [0, 1], so that levels near
    0 and 1 are seen too. With "one", both blocks share it. With "two", they are independent, except that

    - `equal_share` of the examples has one level for both: joint sampling;
    - `noise_share` has one block, either, at exactly 1: how a sequential or offset path begins;
    - `clean_share` has one block, either, at exactly 0: how it ends, and what a held block is.
    """
    drawn = np.where(rng.random((2, n)) < uniform_share, rng.random((2, n)), 1 / (1 + np.exp(-rng.standard_normal((2, n)))))
    kind, block = rng.random(n), rng.integers(2, size=n)
    bounds = np.cumsum([equal_share, noise_share, clean_share])
    if levels == "one":
        drawn[1] = drawn[0]
    else:
        drawn[1] = np.where(kind < bounds[0], drawn[0], drawn[1])
        columns = np.arange(n)
        for low, high, level in ((bounds[0], bounds[1], 1.0), (bounds[1], bounds[2], 0.0)):
            chosen = (kind >= low) & (kind < high)
            drawn[block[chosen], columns[chosen]] = level
    semantic, style = drawn.astype(np.float32)
    return semantic, style


def block_losses(
    velocity: Latents,
    target: Latents,
    t: Float[Tensor, "_ channels 1 1"],
    n_semantic: int,
    whole: Float[Tensor, "_ channels 1 1"] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean squared error of the semantic and of the style velocity, over the examples whose block is noisy.

    At level 0 the noise that a target holds has left no trace in x_t: nothing is to be learnt there, and such examples do not count.

    Args:
        whole: levels of the whole batch, where these examples are one of several equal parts of it, however many of each part count: the
            parts' losses then have the whole's as their mean.
    """
    error, whole = (velocity - target).square(), t if whole is None else whole

    def block(part: slice) -> Tensor:
        counts, all_counts = ((levels[:, part].amax((1, 2, 3)) > 0).to(error) for levels in (t, whole))
        n = all_counts.sum() * len(t) / len(whole)
        return (error[:, part].mean((1, 2, 3)) * counts).sum() / torch.where(n > 0, n, 1.0)

    return block(slice(None, n_semantic)), block(slice(n_semantic, None))


def schedule(n_steps: int, offset: float | int = 0.0, n_semantic_steps: int | None = None) -> tuple[Levels, Levels]:
    """Semantic and style levels before each of `n_steps` steps and after the last, from 1 to 0: two arrays (n_steps + 1,).

    Time τ runs from 0 to 1 + Δt, Δt being `offset`, and t_semantic = clamp(1 - τ, 0, 1), t_style = clamp(1 + Δt - τ, 0, 1):

    - Δt = 0: both together; 0 < Δt < 1: semantics ahead (SFD); Δt = 1: the style begins when the semantics are done;
    - Δt < 0: the same with the roles exchanged, style first.

    Steps are equally long in τ, and as many whatever Δt is. At |Δt| = 1, `n_semantic_steps` of them (half, rounded up, where not
    given) go to the semantic block and the others to the style block.

    Raises:
        BadInputError: no step, an offset outside [-1, 1], or `n_semantic_steps` that leaves a block without steps or comes without |Δt| = 1.
    """
    if n_steps < 1:
        raise BadInputError(f"n_steps is {n_steps}: sampling takes at least one step.")
    if not -1 <= offset <= 1:
        raise BadInputError(f"offset is {offset}: it lies between -1 (style first) and 1 (semantics first), and 0 is joint.")
    if abs(offset) == 1:
        n_semantic = (n_steps + 1) // 2 if n_semantic_steps is None else n_semantic_steps
        if not 0 < n_semantic < n_steps:
            raise BadInputError(f"{n_semantic} of {n_steps} steps for the semantic block: each block needs at least one; give more steps.")
        n_first = n_semantic if offset > 0 else n_steps - n_semantic
        tau = np.concatenate([np.linspace(0, 1, n_first + 1), np.linspace(1, 2, n_steps - n_first + 1)[1:]])
    elif n_semantic_steps is not None:
        raise BadInputError(f"n_semantic_steps is for one block after the other: give offset=1 or -1 with it, not {offset}.")
    else:
        tau = np.linspace(0, 1 + abs(offset), n_steps + 1)
    ahead, behind = np.clip(1 - tau, 0, 1), np.clip(1 + abs(offset) - tau, 0, 1)
    return (ahead, behind) if offset >= 0 else (behind, ahead)
