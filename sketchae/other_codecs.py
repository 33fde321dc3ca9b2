"""The searches of `sketchae.sweeps` on other codecs than the VAE that ships: one with many channels, and another VAE.

    python -m sketchae.other_codecs          # part of `make sweeps`

`wide.json` is about Gr(16, 32), where no covering is affordable, on the linear codec `backbones.patches`. `second.json` is about Gr(2, 4) again, on a
second VAE, trained as the one that ships but from another seed and for fewer steps (`ablation_data.SECOND`; it is trained again where it is missing).
Their rows, by "split", are random splits, what each way to fit one finds, and where the searches with labels end, all scored by judge b on
one fixed set of pairs of validation scenes. The searches use judge a, and validation scenes that no other sweep looks at.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae import ablation_data, load_clip, load_vae, sweeps
from sketchae.backbones.patches import PatchCodec
from sketchae.basis import random_basis
from sketchae.basis.augmentation import augmentation_split
from sketchae.profiles import TRACKED, load_profile
from sketchae.scenes import SCENES_VERSION, captions, render, split_scenes
from sketchae.sweeps import SWEEPS, climb, load_sweep, plane_scores, validation_bench, write_sweep
from sketchae.training.effect import EffectObjective, fit_effect

N_PICTURES = 256
WIDE_CHANNELS, N_WIDE_RANDOM = 32, 20
N_SECOND_RANDOM = 200
MADE_BY = "python -m sketchae.other_codecs"


def sweep_wide(clip: Any, file: Path, progress: bool = True) -> dict[str, Any]:
    """Splits of 32 linear channels into halves; searched from the eigenproblem's."""
    about = wide_about(clip)
    if not sweeps.is_about(file, about):
        images = _pictures()
        codec = PatchCodec.fit(images, WIDE_CHANNELS)
        write_sweep(file, about, _rows(codec, clip, images, WIDE_CHANNELS // 2, N_WIDE_RANDOM, "wide", False, progress), MADE_BY)
    return load_sweep(file, about)


def sweep_second(vae: Any, clip: Any, file: Path, progress: bool = True) -> dict[str, Any]:
    """Splits of a second VAE; searched from the eigenproblem's and from the best random one."""
    about = second_about(clip)
    if not sweeps.is_about(file, about):
        write_sweep(file, about | {"vae_id": vae.id}, _rows(vae, clip, _pictures(), 2, N_SECOND_RANDOM, "other", True, progress), MADE_BY)
    return load_sweep(file, about)


def _pictures() -> Float[Tensor, "n 3 height width"]:
    return render(split_scenes("train", N_PICTURES)).images


def _rows(codec: Any, clip: Any, images: Tensor, k: int, n_random: int, name: str, from_random: bool, progress: bool) -> list[dict[str, Any]]:
    """`name` seeds the draws of batches and of steps."""
    bench = validation_bench(codec, sweeps.N_PAIRS_OPTIMUM)
    searched = validation_bench(codec, sweeps.N_PAIRS_OPTIMUM, sweeps.SEARCHED)
    ceiling = round(float(bench.ceiling["score"]), 4)
    rows: list[dict[str, Any]] = []

    def add(split: str, basis: Any) -> Any:
        rows.append({"split": split, **plane_scores(bench, basis), "ceiling": ceiling})
        return basis

    random = [add(f"random {seed}", random_basis(codec.latent_channels, k, seed)) for seed in range(n_random)]
    best = random[int(np.argmax([row["judge_a"] for row in rows]))]
    start = add("eigenproblem", augmentation_split(codec, images).basis(k))
    objective = _effect(codec, clip, images)
    add("effect objective", fit_effect(objective, [start], n_steps=sweeps.N_GRADIENT_STEPS, name=name, progress=progress).basis)
    for where, begin in {"": start, ", from the best random": best}.items() if from_random else [("", start)]:
        for how, basis in climb(codec, searched, begin, f"{name}{where}", progress).items():
            add(f"labels, {how}{where}", basis)
    return rows


def _effect(codec: Any, clip: Any, images: Tensor) -> EffectObjective:
    texts = torch.stack([clip.embed_texts(row) for row in captions(split_scenes("train", len(images)))]).cpu()
    z, clip_img = (torch.cat([f(part).cpu() for part in images.split(64)]) for f in (codec.encode, clip.embed_images))
    return EffectObjective(codec, clip, z, clip_img, texts.mean(1), texts.flatten(0, 1))


def wide_about(clip: Any) -> dict[str, Any]:
    """What a stored `wide.json` belongs to."""
    return {"clip_id": clip.id, "scenes_version": SCENES_VERSION, "channels": WIDE_CHANNELS, "n_pictures": N_PICTURES, **_searches()}


def second_about(clip: Any) -> dict[str, Any]:
    """What a stored `second.json` belongs to; the second VAE does not ship, so that it is known by its training only."""
    about = {"clip_id": clip.id, "scenes_version": SCENES_VERSION, "second": ablation_data.SECOND, "n_pictures": N_PICTURES}
    return about | {"n_random": N_SECOND_RANDOM, **_searches()}


def _searches() -> dict[str, Any]:
    climb = {"n_steps": sweeps.N_STEPS, "n_gradient_steps": sweeps.N_GRADIENT_STEPS, "tau": sweeps.LABEL_TAU, "lr": sweeps.LABEL_LR}
    return climb | {"n_pairs": sweeps.N_PAIRS_OPTIMUM, "searched": sweeps.SEARCHED}


def find_wide(clip: Any, folder: Path | None = None) -> dict[str, Any] | None:
    """The stored `wide.json` if it was made with this `clip` and these settings, else None."""
    return _find((folder or SWEEPS) / "wide.json", wide_about(clip))


def find_second(clip: Any, folder: Path | None = None) -> dict[str, Any] | None:
    """The stored `second.json` if it was made with this `clip` and these settings, else None."""
    return _find((folder or SWEEPS) / "second.json", second_about(clip))


def _find(file: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    return load_sweep(file, about) if sweeps.is_about(file, about) else None


if __name__ == "__main__":
    clip = load_clip(load_profile(TRACKED).clip)
    sweep_wide(clip, SWEEPS / "wide.json")
    if find_second(clip) is None:
        sweep_second(load_vae(str(ablation_data.train_second(("vae",)) / "vae")), clip, SWEEPS / "second.json")
