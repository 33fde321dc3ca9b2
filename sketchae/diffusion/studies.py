"""The studies of `06_sketch_first_diffusion`: some nineteen thousand pictures, drawn and read once, kept with their manifest.

    python -m sketchae.diffusion.studies    # half an hour or more on two cores; interrupted, it continues; two at once share the work

A study is made of *arms* (`sketchae.diffusion.arms`). What is kept of an arm are the judges' readings of every picture, from which all statistics are
computed anew, and its Fréchet distance. Guidance is chosen on validation scenes, by judge a.
"""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sketchae.backbones import backbone_id, load_clip, load_vae
from sketchae.diffusion.arms import (
    FULL,
    HEADLINE,
    OFFSETS,
    REDRAWS,
    SPEED,
    Found,
    Redraw,
    Sizes,
    control_prompts,
    draw_arm,
    draw_references,
    redraw_pictures,
    scene_features,
    try_guidance,
)
from sketchae.diffusion.desk import MADE_BY, Desk, load_stored, write_stored
from sketchae.diffusion.storage import load_diffusion
from sketchae.diffusion.studio import Studio, read
from sketchae.errors import BadInputError, MissingFileError
from sketchae.profiles import find_root
from sketchae.scenes import FACTORS, SCENES_VERSION, split_scenes
from sketchae.scenes.judges import ASSETS

STORED = ASSETS / "sweeps" / "diffusion.safetensors"
GUIDANCE = (1.0, 2.0, 3.0, 5.0)
_REDRAW_SEED = 1_000_000


@dataclass(frozen=True, eq=False)
class Studies:
    """All arms, by name: `readings["joint"]["b"]` is an array (pictures, factors), `numbers["joint"]["frechet"]` its Fréchet distance."""

    about: dict[str, Any]
    versions: dict[str, str]
    readings: dict[str, dict[str, np.ndarray]]
    numbers: dict[str, dict[str, Any]]

    @property
    def sizes(self) -> Sizes:
        return Sizes(**{field.name: self.about[field.name] for field in dataclasses.fields(Sizes)})

    def read(self, arm: str, which: str = "b") -> dict[str, np.ndarray]:
        """Readings of an arm by factor: of judge `which`, or "b preview"."""
        table = self.readings[arm][which].astype(np.int64)
        return {factor: table[:, i] for i, factor in enumerate(FACTORS)}


def about_studies(studio: Studio, sizes: Sizes) -> dict[str, Any]:
    """What the studies are made from: networks, scenes, sizes."""
    ids = {f"diffusion_{levels}_id": backbone_id(model.unet) for levels, model in studio.models.items()}
    return ids | {"vae_id": studio.codec.id, "clip_id": studio.clip.id, "scenes_version": SCENES_VERSION, **dataclasses.asdict(sizes)}


def run_studies(studio: Studio, file: Path, folder: Path, sizes: Sizes = FULL, progress: bool = True) -> Studies:
    """Draw and read every arm that `folder` does not hold yet, and gather all in `file`.

    Several processes may run at once: each takes the next arm that nobody works on, and all wait for the last. The studio's own guidance
    does not count: it is chosen here.

    Raises:
        BadInputError: `folder` holds arms of other networks or sizes.
    """
    desk = Desk(folder, about_studies(studio, sizes), progress)
    n = sizes.n_control
    guidance = {f"guidance {w:g}, {levels}": (w, levels) for w in GUIDANCE for levels in studio.models}
    found = desk.all(guidance, lambda at: try_guidance(dataclasses.replace(studio, guidance=at[0]), at[1], sizes))
    mean = {w: np.mean([found[f"guidance {w:g}, {levels}"][1]["obedience_a"] for levels in studio.models]) for w in GUIDANCE}
    studio = dataclasses.replace(studio, guidance=max(GUIDANCE, key=mean.__getitem__))

    scenes = split_scenes("test", sizes.n_prompts + sizes.n_real)[sizes.n_prompts :]
    real = desk.all({"real": scenes}, lambda real: ({"features": torch.from_numpy(scene_features(real))}, {}))["real"][0]["features"].numpy()
    found |= desk.all({"reconstructed": sizes}, lambda sizes: draw_references(studio, sizes, real))
    found |= desk.all(HEADLINE, lambda arm: draw_arm(studio, arm, sizes, real))

    prompts, seeds = control_prompts(n), range(_REDRAW_SEED, _REDRAW_SEED + n)

    def original(levels: str) -> Found:
        x = studio.draw(studio.models[levels], prompts.original.prompts, seeds, n_steps=sizes.n_steps)
        return read(studio.pictures(studio.models[levels], x)) | {"x": x}, {}

    def again(redraw: Redraw) -> Found:
        x0 = originals[f"original, {redraw.levels}"][0]["x"]
        x = redraw_pictures(studio, redraw, x0, getattr(prompts, redraw.redrawn), seeds, sizes.n_steps)
        return read(studio.pictures(studio.models[redraw.levels], x)), {}

    originals = desk.all({f"original, {levels}": levels for levels in studio.models}, original)
    found |= originals | desk.all(REDRAWS, again) | desk.all(OFFSETS | SPEED, lambda arm: draw_arm(studio, arm, sizes, real))
    tensors = {f"{arm}/{key}": table for arm, (tables, _) in found.items() for key, table in tables.items() if key != "x"}
    numbers = {arm: values for arm, (_, values) in found.items()} | {"guidance": {"chosen": studio.guidance}}
    write_stored(file, tensors, {"about": desk.about, "numbers": numbers})
    return load_studies(file)


def load_studies(file: Path = STORED, studio: Studio | None = None) -> Studies:
    """Stored studies; with a `studio`, only if they were made with its networks.

    Raises:
        MissingFileError: there are none. BadInputError: they were made with other networks, or the file is damaged.
    """
    if not file.is_file():
        raise MissingFileError(f"{file} is missing: make it by `{MADE_BY}`.")
    tensors, head = load_stored(file)
    if studio is not None:
        expected = about_studies(studio, FULL)
        differing = [key for key in expected if key.endswith(("_id", "_version")) and head["about"].get(key) != expected[key]]
        if differing:
            raise BadInputError(f"{file} was made with another {', '.join(differing)}: make it again by `{MADE_BY}`.")
    readings: dict[str, dict[str, np.ndarray]] = {}
    for name, table in tensors.items():
        arm, key = name.split("/")
        readings.setdefault(arm, {})[key] = table.numpy()
    return Studies(head["about"], head["versions"], readings, head["numbers"])


def is_current(file: Path, studio: Studio, sizes: Sizes = FULL) -> bool:
    """Whether `file` holds the studies of these networks and sizes."""
    return file.is_file() and load_stored(file)[1]["about"] == about_studies(studio, sizes)


def load_studio(two: str | Path = "embedded", one: str | Path = "embedded-one", vae: str | Path = "sketch", **options: Any) -> Studio:
    """The embedded networks, or those in the folders named.

    Raises:
        MissingFileError, BadInputError: a network is missing, or they do not belong together.
    """
    codec, clip = load_vae(vae), load_clip()
    models = {levels: load_diffusion(source, codec=codec, clip=clip) for levels, source in (("two", two), ("one", one))}
    return Studio(models, codec, clip, **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--two", default="embedded", help="folder of the model with two noise levels")
    parser.add_argument("--one", default="embedded-one", help="folder of the model with one")
    parser.add_argument("--folder", type=Path, default=find_root() / "build" / "diffusion" / "studies")
    parser.add_argument("--file", type=Path, default=STORED)
    arguments = parser.parse_args()
    everything = load_studio(arguments.two, arguments.one)
    if not is_current(arguments.file, everything):
        run_studies(everything, arguments.file, arguments.folder)
