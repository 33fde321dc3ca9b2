"""What becomes of a picture when paired autoencoders exchange their decoders, against the exact answer.

`measure_swap` lets a judge read pictures of each painter through the other's decoder. An identity swapped rightly is the same scene by the other
painter, which Scenes can draw. Beside it stand the reconstructions with the decoders in place, the most that such codes can show, and the exact
pictures, the most that the judge can read. All intervals are 95 % bootstraps over scenes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sketchae.diffusion.evaluation import PromptSet, obedience, obedience_gain
from sketchae.diffusion.picture_sets import Result
from sketchae.errors import BadInputError
from sketchae.latent_models.paired import CHANCE, KEPT, PAINTERS, PairedAutoencoder, painted_by
from sketchae.metrics.backbones import psnr_db
from sketchae.metrics.bootstrap import Interval, bootstrap_ci
from sketchae.metrics.evaluation import Judge
from sketchae.scenes import Scenes, render
from sketchae.scenes.factors import FACTORS


@dataclass(frozen=True)
class Painting(Result):
    """What a judge reads in pictures that should show certain scenes by a certain painter; intervals are 95 % bootstraps over scenes.

    Attributes:
        identity: share of pictures whose palette and medium are both the painter's; `palette` and `medium`: of each alone.
        content: κ between reading and scene, mean over the semantic factors; `light` and `tone`: κ of these.
        psnr_db: to the exact picture, that painter's of that scene; of one and the same picture it is 100.
        per_factor: κ of every factor that is no painter's; NaN for one that all the scenes share.
    """

    painter: str
    identity: float
    palette: float
    medium: float
    content: float
    light: float
    tone: float
    psnr_db: float
    identity_ci95: Interval
    palette_ci95: Interval
    medium_ci95: Interval
    content_ci95: Interval
    light_ci95: Interval
    tone_ci95: Interval
    psnr_db_ci95: Interval
    per_factor: dict[str, float]


@dataclass(frozen=True)
class Exchange(Result):
    """One direction: pictures by `source` through the decoder of `target`, and what they compare with, all of the same scenes.

    Attributes:
        swapped: D_target(E(x)), asked to be the target's.
        unswapped: the reconstructions D_source(E(x)), asked to be the source's: the most that such codes can show.
        drawn: the exact pictures of the target: the most that the judge can read.
        mistaken: share of the reconstructions that are read as the target's all the same: where `swapped.identity` starts from.
        content_change: `swapped.content` less `unswapped.content`, scenes resampled together.
    """

    source: str
    target: str
    swapped: Painting
    unswapped: Painting
    drawn: Painting
    mistaken: float
    content_change: float
    mistaken_ci95: Interval
    content_change_ci95: Interval
    n_scenes: int


@dataclass(frozen=True)
class PairedSwap(Result):
    """Both directions, and what a guess would get (`CHANCE`)."""

    a_to_b: Exchange
    b_to_a: Exchange
    chance: dict[str, float]


def measure_swap(
    model: PairedAutoencoder, scenes_a: Scenes, scenes_b: Scenes, judge: Judge, *, batch_size: int = 64, n_boot: int = 1000, name: str = "paired"
) -> PairedSwap:
    """How far decoders exchange the painter and keep the rest, on held-out `painter_scenes` of each.

    Args:
        judge: "a" to choose a model, "b" to report it.
        name: of the bootstrap.

    Raises:
        BadInputError: no scene, or scenes that are not their painter's.
    """
    for painter, scenes in zip(PAINTERS, (scenes_a, scenes_b), strict=True):
        foreign = [f for f, value in PAINTERS[painter].items() if set(scenes.value_names(f)) != {value}]
        if foreign:
            raise BadInputError(f"Painter {painter} has one {foreign[0]} in all pictures, and these have others: take scenes from painter_scenes.")
    directions = (("a", "b", scenes_a), ("b", "a", scenes_b))
    return PairedSwap(*(_exchange(model, scenes, judge, *way, batch_size, n_boot, name) for *way, scenes in directions), dict(CHANCE))


@torch.no_grad()
def _exchange(
    model: PairedAutoencoder, scenes: Scenes, judge: Judge, source: str, target: str, batch_size: int, n_boot: int, name: str
) -> Exchange:
    pictures, exact = render(scenes).images, render(painted_by(scenes, target)).images
    swapped, unswapped = (torch.cat([model.swap(batch, source, to) for batch in pictures.split(batch_size)]) for to in (target, source))
    read = [{f: values.numpy() for f, values in judge.predict(images).items()} for images in (swapped, unswapped, exact)]
    asked = PromptSet([""] * len(scenes), {factor: scenes.factors[factor] for factor in KEPT})

    def painting(images: Tensor, truth: Tensor, readings: dict[str, np.ndarray], painter: str) -> Painting:
        kept = obedience(readings, asked, KEPT, n_boot=n_boot, name=name)
        own = _reads_as(readings, painter) | {"psnr_db": psnr_db(truth, images).numpy()}
        light, tone = kept.per_factor["light"], kept.per_factor["tone"]
        return Painting(
            painter=painter,
            **{key: float(values.mean()) for key, values in own.items()},
            **{f"{key}_ci95": bootstrap_ci(values, n_boot=n_boot, name=name) for key, values in own.items()},
            content=kept.semantic,
            content_ci95=kept.semantic_ci95,
            light=light.kappa,
            light_ci95=light.ci95,
            tone=tone.kappa,
            tone_ci95=tone.ci95,
            per_factor={factor: found.kappa for factor, found in kept.per_factor.items()},
        )

    mistaken = _reads_as(read[1], target)["identity"]
    change = obedience_gain(read[0], read[1], asked, KEPT, n_boot=n_boot, name=name)
    return Exchange(
        source=source,
        target=target,
        swapped=painting(swapped, exact, read[0], target),
        unswapped=painting(unswapped, pictures, read[1], source),
        drawn=painting(exact, exact, read[2], target),
        mistaken=float(mistaken.mean()),
        content_change=change.semantic,
        mistaken_ci95=bootstrap_ci(mistaken, n_boot=n_boot, name=name),
        content_change_ci95=change.semantic_ci95,
        n_scenes=len(scenes),
    )


def _reads_as(readings: Mapping[str, np.ndarray], painter: str) -> dict[str, np.ndarray]:
    """Of every picture, whether each factor of the painter's is read as the painter's, and whether both are ("identity")."""
    right = {f: readings[f] == FACTORS[f].values.index(value) for f, value in PAINTERS[painter].items()}
    return {"identity": np.logical_and.reduce(list(right.values())), **right}
