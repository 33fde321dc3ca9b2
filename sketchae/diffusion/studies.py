"""The studies of `06_sketch_first_diffusion`: some eighteen thousand pictures, drawn and read once, kept with their manifest.

    python -m sketchae.diffusion.studies    # half an hour or more on two cores; interrupted, it continues; two at once share the work

A study is made of *arms*, each a way to draw pictures from prompts. What is kept of an arm are the judges' readings of every picture, from which
all statistics are computed anew, and its Fréchet distance. All arms draw from the same prompts and seeds, and so from the same noise: they are
compared pair by pair. Prompts are captions of test scenes; guidance is chosen on validation scenes, by judge a.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from sketchae.atomic import atomic_path
from sketchae.backbones import LatentCodec, backbone_id, load_clip, load_vae
from sketchae.diffusion.evaluation import PromptSet, obedience, prompt_set
from sketchae.diffusion.picture_sets import frechet_distance, judge_features
from sketchae.diffusion.storage import load_diffusion
from sketchae.diffusion.studio import Studio, Turned, batches, clip_scores, read
from sketchae.errors import BadInputError, MissingFileError
from sketchae.profiles import find_root
from sketchae.progress import hide_if
from sketchae.scenes import FACTORS, SCENES_VERSION, Scenes, load_judge, render, split_scenes
from sketchae.scenes.captions import captions_with_factors
from sketchae.scenes.judges import ASSETS

STORED = ASSETS / "sweeps" / "diffusion.safetensors"
MADE_BY = "python -m sketchae.diffusion.studies"
GUIDANCE = (1.0, 2.0, 3.0, 5.0)
_REDRAW_SEED, _GUIDANCE_SEED = 1_000_000, 2_000_000


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
    features = _features(others, studio.codec)
    few = sizes.n_few * sizes.n_samples
    numbers = {"frechet": _frechet(features[: sizes.n_prompts * sizes.n_samples], real), "frechet_few": _frechet(features[:few], real)}
    numbers["floor"] = _frechet(_features(more), real)
    return read(_pictures(split_scenes("test", sizes.n_prompts), studio.codec)), numbers


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


def _features(scenes: Scenes, codec: LatentCodec | None = None) -> Float[np.ndarray, "n features"]:
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


# --- the whole --------------------------------------------------------------------------------------------------------


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


def run_studies(studio: Studio, file: Path, folder: Path, sizes: Sizes = Sizes(), progress: bool = True) -> Studies:
    """Draw and read every arm that `folder` does not hold yet, and gather all in `file`.

    Several processes may run at once: each takes the next arm that nobody works on, and all wait for the last. The studio's own guidance
    does not count: it is chosen here.

    Raises:
        BadInputError: `folder` holds arms of other networks or sizes.
    """
    desk = _Desk(folder, about_studies(studio, sizes), progress)
    n = sizes.n_control
    guidance = {f"guidance {w:g}, {levels}": (w, levels) for w in GUIDANCE for levels in studio.models}
    found = desk.all(guidance, lambda at: _try_guidance(dataclasses.replace(studio, guidance=at[0]), at[1], sizes))
    mean = {w: np.mean([found[f"guidance {w:g}, {levels}"][1]["obedience_a"] for levels in studio.models]) for w in GUIDANCE}
    studio = dataclasses.replace(studio, guidance=max(GUIDANCE, key=mean.__getitem__))

    scenes = split_scenes("test", sizes.n_prompts + sizes.n_real)[sizes.n_prompts :]
    real = desk.all({"real": scenes}, lambda real: ({"features": torch.from_numpy(_features(real))}, {}))["real"][0]["features"].numpy()
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
    _write(file, tensors, {"about": desk.about, "numbers": numbers})
    return load_studies(file)


def _try_guidance(studio: Studio, levels: str, sizes: Sizes) -> Found:
    """Mean κ of judge a over validation prompts."""
    prompts = prompt_set(split_scenes("val", sizes.n_guidance), "both")
    seeds = range(_GUIDANCE_SEED, _GUIDANCE_SEED + len(prompts))
    x = studio.draw(studio.models[levels], prompts.prompts, seeds, n_steps=sizes.n_steps)
    images = studio.pictures(studio.models[levels], x)
    return read(images), {"obedience_a": obedience(load_judge("a").predict(images), prompts, n_boot=0).mean}


def load_studies(file: Path = STORED, studio: Studio | None = None) -> Studies:
    """Stored studies; with a `studio`, only if they were made with its networks.

    Raises:
        MissingFileError: there are none. BadInputError: they were made with other networks, or the file is damaged.
    """
    if not file.is_file():
        raise MissingFileError(f"{file} is missing: make it by `{MADE_BY}`.")
    tensors, head = _load(file)
    if studio is not None:
        expected = about_studies(studio, Sizes())
        differing = [key for key in expected if key.endswith(("_id", "_version")) and head["about"].get(key) != expected[key]]
        if differing:
            raise BadInputError(f"{file} was made with another {', '.join(differing)}: make it again by `{MADE_BY}`.")
    readings: dict[str, dict[str, np.ndarray]] = {}
    for name, table in tensors.items():
        arm, key = name.split("/")
        readings.setdefault(arm, {})[key] = table.numpy()
    return Studies(head["about"], head["versions"], readings, head["numbers"])


def is_current(file: Path, studio: Studio, sizes: Sizes = Sizes()) -> bool:
    """Whether `file` holds the studies of these networks and sizes."""
    return file.is_file() and _load(file)[1]["about"] == about_studies(studio, sizes)


class _Desk:
    """A folder of finished arms, on which several processes work."""

    def __init__(self, folder: Path, about: dict[str, Any], progress: bool):
        self.folder, self.about, self.progress = Path(folder), about, progress
        self.folder.mkdir(parents=True, exist_ok=True)

    def all(self, jobs: Mapping[str, Any], work: Any) -> dict[str, Found]:
        """Every job's tensors and numbers, by name: first what nobody works on, then what others have not finished."""
        for timeout in (0, -1):
            for name, job in tqdm(jobs.items(), desc=f"{next(iter(jobs))} …", **hide_if(not self.progress or timeout != 0)):
                with self._free(name, timeout) as free:
                    if free:
                        tensors, numbers = work(job)
                        _write(self._file(name), tensors, {"about": self.about, "numbers": numbers})
        return {name: self._load(name) for name in jobs}

    @contextlib.contextmanager
    def _free(self, name: str, timeout: int) -> Iterator[bool]:
        """Whether the arm is still to be drawn, by this process; it stays ours within the block."""
        if self._file(name).exists():
            yield False
            return
        try:
            with filelock.FileLock(self._file(name).with_suffix(".lock"), timeout=timeout):
                yield not self._file(name).exists()
        except filelock.Timeout:
            yield False

    def _file(self, name: str) -> Path:
        return self.folder / f"{name.replace(', ', '_').replace(' ', '_')}.safetensors"

    def _load(self, name: str) -> Found:
        tensors, head = _load(self._file(name))
        if head["about"] != self.about:
            raise BadInputError(f"{self.folder} holds arms of other networks or sizes: remove it to start anew.")
        return tensors, head["numbers"]


def _write(file: Path, tensors: Mapping[str, Tensor], head: dict[str, Any]) -> None:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    metadata = {"head": json.dumps({**head, "versions": versions, "made_by": MADE_BY})}
    with atomic_path(file) as path:
        save_file({name: table.contiguous() for name, table in tensors.items()} or {"nothing": torch.zeros(0)}, path, metadata)


def _load(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(file, "pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}, json.loads(stored.metadata()["head"])  # noqa: SIM118 - no mapping
    except Exception as error:  # the library has its own for each kind of damage
        raise BadInputError(f"{file} cannot be read ({error}): remove it and make it again by `{MADE_BY}`.") from error


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
