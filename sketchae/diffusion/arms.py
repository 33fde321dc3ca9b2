"""Ways to draw pictures from prompts, and to draw them again, for the studies of `06_sketch_first_diffusion`.

All arms draw from the same prompts and seeds, and so from the same noise: they are compared pair by pair. Prompts are captions of test scenes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.backbones import LatentCodec
from sketchae.diffusion.evaluation import PromptSet, obedience, prompt_set
from sketchae.diffusion.picture_sets import frechet_distance, judge_features
from sketchae.diffusion.studio import Studio, Turned, batches, clip_scores, read
from sketchae.scenes import FACTORS, Scenes, load_judge, render, split_scenes
from sketchae.scenes.captions import captions_with_factors

_GUIDANCE_SEED = 2_000_000


@dataclass(frozen=True)
class Sizes:
    """How many pictures; the defaults are those of the stored studies.

    Attributes:
        n_steps: evaluations of the network a picture (guidance doubles them), where an arm does not say.
        n_prompts, n_samples: of the headline arms, and pictures of each prompt.
        n_few: prompts of the other arms.
        n_control: pictures that are drawn again.
        n_guidance: validation prompts for the choice of guidance.
        n_real: scenes that pictures are compared with.
    """

    n_steps: int = 12
    n_prompts: int = 500
    n_samples: int = 4
    n_few: int = 100
    n_control: int = 128
    n_guidance: int = 128
    n_real: int = 2000


FULL = Sizes()


@dataclass(frozen=True)
class Arm:
    """Pictures from prompts: by the model with so many noise levels, the semantic block `offset` ahead; `n_steps` None means `Sizes.n_steps`."""

    levels: str
    offset: float | int = 0
    n_steps: int | None = None
    n_semantic_steps: int | None = None
    few: bool = True


@dataclass(frozen=True)
class Redraw:
    """Pictures drawn again from prompts in which only the words of style, or of content, are others.

    Attributes:
        levels: of the model that draws.
        redrawn: "style" or "content", whose words are others.
        how: "hold" keeps the other block; "words" the noise, and holds nothing; "sdedit" starts at the picture with noise of `strength`; "raw"
            keeps `channels` of the VAE, before Q; "anew" keeps nothing.
    """

    levels: str
    redrawn: str
    how: str
    strength: float | int = 1
    channels: tuple[int, ...] = ()


HEADLINE = {
    "joint": Arm("two", few=False),
    "ahead": Arm("two", 0.3, few=False),
    "sequential": Arm("two", 1, few=False),
    "one level": Arm("one", few=False),
}
OFFSETS = {f"offset {offset:g}": Arm("two", offset) for offset in (0.1, 0.2, 0.5, -0.3, -1)}
SPEED = {
    **{f"joint, {n} steps": Arm("two", 0, n) for n in (4, 8)},
    **{f"one level, {n} steps": Arm("one", 0, n) for n in (4, 8)},
    **{f"ahead, {n} steps": Arm("two", 0.3, n) for n in (4, 8)},
    **{f"sequential, {m} of {n} steps": Arm("two", 1, n, m) for n, m in ((4, 1), (4, 2), (8, 2), (8, 4), (12, 2), (12, 4))},
}
ARMS = HEADLINE | OFFSETS | SPEED
STRENGTHS = (0.4, 0.6, 0.8)
RAW_PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
REDRAWS = {
    **{f"hold, {levels}, {what}": Redraw(levels, what, "hold") for what in ("style", "content") for levels in ("two", "one")},
    **{f"words, {levels}, {what}": Redraw(levels, what, "words") for what in ("style", "content") for levels in ("two", "one")},
    **{f"sdedit {s:g}, {what}": Redraw("one", what, "sdedit", s) for what in ("style", "content") for s in STRENGTHS},
    **{f"anew, {what}": Redraw("one", what, "anew") for what in ("style", "content")},
    **{f"raw {i}-{j}, style": Redraw("one", "style", "raw", channels=(i, j)) for i, j in RAW_PAIRS},
}


# --- prompts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ControlPrompts:
    """Prompts of content and style; the same with the style of other scenes, and with the content of others."""

    original: PromptSet
    style: PromptSet
    content: PromptSet


def prompts_of_test_scenes(n: int) -> PromptSet:
    """One prompt of content and style for each of the first `n` test scenes."""
    return prompt_set(split_scenes("test", n), "both")


def control_prompts(n: int) -> ControlPrompts:
    """Of the first `n` test scenes, and the next `n` for what changes."""
    scenes = split_scenes("test", 2 * n)
    captions = {kind: [row[0] for row in captions_with_factors(scenes, kind, 1)] for kind in ("content", "style")}

    def joined(content: slice, style: slice) -> PromptSet:
        parts = list(zip(captions["content"][content], captions["style"][style], strict=True))
        wanted = {}
        for factor, about in FACTORS.items():
            values = scenes.factors[factor][content if about.kind == "semantic" else style]
            wanted[factor] = np.where([factor in what[1] + how[1] for what, how in parts], values, -1)
        return PromptSet([f"{what[0]}, {how[0]}" for what, how in parts], wanted)

    first, second = slice(n), slice(n, None)
    return ControlPrompts(joined(first, first), joined(first, second), joined(second, first))


# --- arms -------------------------------------------------------------------------------------------------------------

Found = tuple[dict[str, Tensor], dict[str, Any]]


def draw_arm(studio: Studio, arm: Arm, sizes: Sizes, real: Float[np.ndarray, "n features"]) -> Found:
    """Readings of an arm's pictures (and of its sketches' previews), CLIP's scores, and the Fréchet distance to as many `real` features."""
    prompts = prompts_of_test_scenes(sizes.n_few if arm.few else sizes.n_prompts).repeated(sizes.n_samples)
    seeds, model, n_steps = range(len(prompts)), studio.models[arm.levels], arm.n_steps or sizes.n_steps
    tensors = {}
    if arm.offset == 1:
        x, preview = studio.draw_sketched(prompts, seeds, n_steps, arm.n_semantic_steps or (n_steps + 1) // 2)
        early = studio.pictures(model, preview)
        tensors = read(early, " preview") | {"clip preview": clip_scores(studio.clip, early, prompts)}
    else:
        x = studio.draw(model, prompts, seeds, n_steps=n_steps, offset=arm.offset)
    images = studio.pictures(model, x)
    tensors |= read(images) | {"clip": clip_scores(studio.clip, images, prompts)}
    features = judge_features(load_judge("b"), images)
    gaps = [torch.pdist(torch.from_numpy(own)).mean() for own in features.reshape(-1, sizes.n_samples, features.shape[1])]
    return tensors, {"frechet": _frechet(features, real), "feature_distance": float(np.mean(gaps))}


def draw_references(studio: Studio, sizes: Sizes, real: Float[np.ndarray, "n features"]) -> Found:
    """The prompts' own scenes, and others, as the VAE reconstructs them: what a perfect model of its latents would draw. And real against real."""
    scenes = split_scenes("test", sizes.n_prompts + 3 * sizes.n_real)[sizes.n_prompts :]
    more, others = scenes[sizes.n_real : 2 * sizes.n_real], scenes[2 * sizes.n_real :]
    features = scene_features(others, studio.codec)
    few = sizes.n_few * sizes.n_samples
    numbers = {"frechet": _frechet(features[: sizes.n_prompts * sizes.n_samples], real), "frechet_few": _frechet(features[:few], real)}
    numbers["floor"] = _frechet(scene_features(more), real)
    return read(_pictures(split_scenes("test", sizes.n_prompts), studio.codec)), numbers


def try_guidance(studio: Studio, levels: str, sizes: Sizes) -> Found:
    """Mean κ of judge a over validation prompts."""
    prompts = prompt_set(split_scenes("val", sizes.n_guidance), "both")
    seeds = range(_GUIDANCE_SEED, _GUIDANCE_SEED + len(prompts))
    x = studio.draw(studio.models[levels], prompts.prompts, seeds, n_steps=sizes.n_steps)
    images = studio.pictures(studio.models[levels], x)
    return read(images), {"obedience_a": obedience(load_judge("a").predict(images), prompts, n_boot=0).mean}


def redraw_pictures(
    studio: Studio, redraw: Redraw, x0: Float[Tensor, "n c h w"], prompts: PromptSet, seeds: range, n_steps: int
) -> Float[Tensor, "n c h w"]:
    """x0, which came from `seeds`, drawn again from other prompts: from other seeds, except where only the words change."""
    model, k = studio.models[redraw.levels], studio.models[redraw.levels].n_semantic
    other_seeds = range(seeds.stop, seeds.stop + len(seeds))
    if redraw.how == "words":
        return studio.draw(model, prompts.prompts, seeds, n_steps=n_steps)
    if redraw.how == "raw":
        rest = [i for i in range(x0.shape[1]) if i not in redraw.channels]
        turned = Turned(model, model.basis.Q.T[[*redraw.channels, *rest]], len(redraw.channels))
        held = turned.turn(x0)[:, : turned.n_semantic]
        return turned.turn_back(studio.draw(turned, prompts.prompts, other_seeds, n_steps=n_steps, hold_semantic=held))
    options: dict[str, Any] = {}
    if redraw.how == "sdedit":
        options = {"start": x0, "strength": redraw.strength}
    elif redraw.how == "hold":
        options = {"hold_semantic": x0[:, :k]} if redraw.redrawn == "style" else {"hold_style": x0[:, k:]}
    return studio.draw(model, prompts.prompts, other_seeds, n_steps=n_steps, **options)


def scene_features(scenes: Scenes, codec: LatentCodec | None = None) -> Float[np.ndarray, "n features"]:
    judge = load_judge("b")
    return np.concatenate([judge_features(judge, _pictures(scenes[rows], codec)) for rows in batches(len(scenes), 64)])


@torch.no_grad()
def _pictures(scenes: Scenes, codec: LatentCodec | None = None) -> Float[Tensor, "n 3 128 128"]:
    """Rendered, and passed through the codec if there is one."""
    parts = [render(scenes[rows]).images for rows in batches(len(scenes), 64)]
    return torch.cat(parts if codec is None else [codec.decode(codec.encode(part)).cpu() for part in parts])


def _frechet(features: Float[np.ndarray, "n features"], real: Float[np.ndarray, "_ features"]) -> dict[str, Any] | None:
    """None where there are too few pictures for the covariance of their features."""
    return frechet_distance(features, real[: len(features)]).values() if len(features) > features.shape[1] else None
