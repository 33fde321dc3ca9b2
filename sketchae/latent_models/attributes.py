"""Attribute vectors: a direction of the latents that changes one thing, estimated from pairs (the lecture's gaze redirection).

    v = 1/n Σ_i f(x_i after) - f(x_i before),        x̂(s) = g(f(x) + s v)

x_i before and x_i after show the same scene but for one factor. s is the *strength*: 0 is the reconstruction, 1 the mean change. An edit should
move the factor and keep the rest; both are read by a judge. Two things bound it: a random direction of the same length (the *null*), and
the codec's reconstruction of the true picture (the *ceiling*), beyond which no direction can be expected to go.

Latents are (n, d) or (n, c, h, w); a codec is whatever has `encode` and `decode`, such as `Autoencoder` or `sketchae.backbones.load_vae("embedded")`.

Lecture: "Smart image editing".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.diffusion.picture_sets import Result
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import Interval, bootstrap_ci, generator
from sketchae.scenes import FACTORS, Scenes, render, split_scenes

Readings = dict[str, np.ndarray]


@runtime_checkable
class Codec(Protocol):
    """`encode` maps pictures in [0, 1] to latents, `decode` latents to pictures in [0, 1]."""

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...


@runtime_checkable
class Reader(Protocol):
    """Reads every factor of pictures, as indices into `FACTORS[name].values`; `sketchae.scenes.Judge` is one."""

    def predict(self, images: Tensor) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Effect(Result):
    """What a judge reads in edited pictures: shares in [0, 1] with 95 % bootstrap intervals over scenes.

    Attributes:
        moved: pictures in which it reads the factor's new value.
        kept: of the other factors, those read as in the unedited reconstruction: what the edit leaves alone.
        kept_true: of the other factors, those read as they are in the scene: also what the codec loses.
    """

    moved: float
    moved_ci95: Interval
    kept: float
    kept_ci95: Interval
    kept_true: float
    kept_true_ci95: Interval


@dataclass(frozen=True)
class StrengthSweep(Result):
    """An attribute vector at several strengths.

    Attributes:
        n: scenes.
        length: Euclidean length of the vector, in units of the latents.
        strengths: ascending, with 0.
        effects: of the vector, one a strength.
        null: of a random direction of the same length, another for every scene, one a strength.
        ceiling: of the reconstruction of the true picture after the change.
    """

    factor: str
    before: str
    after: str
    n: int
    length: float
    strengths: tuple[float, ...]
    effects: tuple[Effect, ...]
    null: tuple[Effect, ...]
    ceiling: Effect

    def points(self, null: bool = False) -> list[dict[str, Any]]:
        """`moved` as x and `kept` as y, with intervals and the strength as text, one a strength: for `figures.change_plane`."""
        effects = zip(self.strengths, self.null if null else self.effects, strict=True)
        return [{"x": e.moved, "y": e.kept, "x_ci95": e.moved_ci95, "y_ci95": e.kept_ci95, "text": f"{s:g}"} for s, e in effects]


def attribute_pairs(
    factor: str, before: str, after: str, n: int, split: str = "train"
) -> tuple[Float[Tensor, "n 3 128 128"], Float[Tensor, "n 3 128 128"]]:
    """The first `n` scenes of a split, drawn with `factor` at `before` and at `after`: equal in all else, jitter too. Pixels in [0, 1].

    Raises:
        BadInputError: an unknown factor, value or split, equal values, or fewer scenes than one.
    """
    _check_values(factor, before, after)
    if before == after:
        raise BadInputError(f"Both pictures of a pair would show the {factor} '{before}': give two different values.")
    if n < 1:
        raise BadInputError(f"{n} pairs have no mean: give at least one.")
    scenes = split_scenes(split, n)
    return render(scenes.with_factor(factor, before)).images, render(scenes.with_factor(factor, after)).images


@torch.no_grad()
def attribute_vector(
    encode: Callable[[Tensor], Tensor],
    images_before: Float[Tensor, "n 3 height width"],
    images_after: Float[Tensor, "m 3 height width"],
    batch_size: int = 32,
) -> Float[Tensor, "*latent"]:
    """v = mean of encode(after) - encode(before), of the shape of one picture's latents.

    Raises:
        BadInputError: not one picture after for each before, none at all, or latents that are whole numbers (codes have no directions).
    """
    if not len(images_before) or len(images_before) != len(images_after):
        raise BadInputError(f"{len(images_before)} pictures before and {len(images_after)} after: give one of each, for at least one pair.")
    total = torch.zeros(())
    for before, after in zip(images_before.split(batch_size), images_after.split(batch_size), strict=True):
        z_before, z_after = encode(before), encode(after)
        if not z_before.is_floating_point():
            raise BadInputError(f"Latents are {z_before.dtype}: whole numbers name codes and have no directions; give an encoder to real numbers.")
        total = total + (z_after.double() - z_before.double()).sum(0)  # in float64: the mean does not depend on the batches
    return (total / len(images_before)).to(z_before.dtype)


@torch.no_grad()
def sweep_strength(
    codec: Codec,
    v: Float[Tensor, "*latent"],
    scenes: Scenes,
    factor: str,
    after: str,
    strengths: Sequence[float | int],
    judge: Reader,
    *,
    batch_size: int = 32,
    n_boot: int = 1000,
    name: str = "attributes",
) -> StrengthSweep:
    """What the judge reads in g(f(x) + s v) for scenes x, at every strength s, for v and for the null.

    Choose a strength by judge a on validation scenes, and report it by judge b on test scenes.

    Args:
        v: of `attribute_vector`, from other scenes than these.
        scenes: all of one value of `factor`, which is not `after`: see `Scenes.with_factor`.
        strengths: any; 0 is added, for the reconstruction.
        name: of the random directions and of the bootstrap's resamples, which all intervals share.

    Raises:
        BadInputError: fewer than two scenes, scenes of several values or of `after`, a strength that is not finite, or a vector that does not
            fit the latents.
    """
    before = _before(scenes, factor, after)
    levels = sorted({0.0, *(float(s) for s in strengths)})
    if not np.isfinite(levels).all():
        raise BadInputError(f"Strengths {list(strengths)}: give finite numbers.")
    random = generator(f"{name}/null")
    parts: list[list[Readings]] = []  # for each batch: v at all strengths, the null at all strengths, the ceiling
    for start in range(0, len(scenes), batch_size):
        batch = scenes[start : start + batch_size]
        z = codec.encode(render(batch).images)
        if z.shape[1:] != v.shape:
            raise BadInputError(f"A vector of shape {tuple(v.shape)} does not fit latents of shape {tuple(z.shape[1:])}: estimate it by this codec.")
        step = v.to(z)
        noise = torch.from_numpy(random.standard_normal(tuple(z.shape))).to(z)
        null = noise * (step.norm() / noise.flatten(1).norm(dim=1)).view(-1, *[1] * step.ndim)
        edited = [z + s * step for s in levels] + [z + s * null for s in levels]
        true = codec.encode(render(batch.with_factor(factor, after)).images)
        parts.append([_read(judge, codec.decode(latents)) for latents in (*edited, true)])
    *readings, ceiling = ({f: np.concatenate([p[i][f] for p in parts]) for f in FACTORS} for i in range(2 * len(levels) + 1))
    unedited = readings[levels.index(0.0)]

    def effect(read: Readings) -> Effect:
        moved = read[factor] == FACTORS[factor].values.index(after)
        others = [f for f in FACTORS if f != factor]
        kept, kept_true = (np.mean([read[f] == reference[f] for f in others], axis=0) for reference in (unedited, scenes.factors))
        shares = ((float(x.mean()), bootstrap_ci(x, n_boot=n_boot, name=name)) for x in (moved, kept, kept_true))
        return Effect(*(number for share in shares for number in share))

    effects = [effect(read) for read in readings]
    ours, chance = tuple(effects[: len(levels)]), tuple(effects[len(levels) :])
    return StrengthSweep(factor, before, after, len(scenes), float(v.norm()), tuple(levels), ours, chance, effect(ceiling))


def _read(judge: Reader, images: Tensor) -> Readings:
    return {f: values.cpu().numpy() for f, values in judge.predict(images).items()}


def _before(scenes: Scenes, factor: str, after: str) -> str:
    """The one value of `factor` that all scenes show."""
    _check_values(factor, after)
    if len(scenes) < 2:
        raise BadInputError(f"{len(scenes)} scenes: an interval over scenes needs at least two.")
    values = sorted(set(scenes.value_names(factor)))
    if len(values) > 1 or values[0] == after:
        raise BadInputError(f"The scenes show the {factor} {', '.join(values)}: let all show one value other than '{after}' (scenes.with_factor).")
    return values[0]


def _check_values(factor: str, *values: str) -> None:
    if factor not in FACTORS:
        raise BadInputError(f"There is no factor '{factor}' of Scenes: choose one of {', '.join(FACTORS)}.")
    for value in values:
        if value not in FACTORS[factor].values:
            raise BadInputError(f"The factor {factor} has no value '{value}': choose from {', '.join(FACTORS[factor].values)}.")
