"""What the recipe's choices (`sketchae.ablation`) are trained on: tables of latents, pictures, and a second VAE and CLIP.

The second pair of backbones was trained as those that ship, from another seed; it is trained again where it is missing.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from sketchae.atomic import atomic_path
from sketchae.backbone_training.ship import BackboneBudget, train_backbones
from sketchae.backbones import load_clip, load_vae
from sketchae.errors import BadInputError
from sketchae.latents import LatentsTable, open_latents
from sketchae.preprocess import preprocess_profile
from sketchae.profiles import Profile, find_root, load_profile
from sketchae.scenes import captions, render, split_scenes
from sketchae.training.batches import Latents, TensorLatents

SECOND = {"vae_steps": 1000, "seed": 1}  # fewer steps than the VAE that ships took, so that all of it stays within two hours
DEPENDENCE = 0.9


def train_second(only: tuple[str, ...] = ("clip", "vae")) -> Path:
    """The folder of the second pair of backbones; hours, where they must be trained."""
    return train_backbones(find_root() / "build" / "second", BackboneBudget(vae_steps=SECOND["vae_steps"]), only=only, seed=SECOND["seed"])


class Data:
    """The tables of latents that choices ask for, made when they are first asked for, under `work_dir`."""

    TABLES = (
        *("as it is", "first half", "second half", "a quarter", "a sixteenth", "style words", "dependent"),
        *("another CLIP", "another VAE", "another VAE and CLIP"),
    )

    def __init__(self, profile: Profile, work_dir: Path):
        self.profile, self.work_dir = profile, work_dir

    @cached_property
    def second(self) -> Path:
        """The folder of the second pair of backbones."""
        return train_second()

    def vae(self, data: str) -> Any:
        return load_vae(str(self.second / "vae") if "another VAE" in data else self.profile.vae)

    def clip(self, data: str) -> Any:
        return load_clip(str(self.second / "clip") if "CLIP" in data else self.profile.clip)

    def pictures(self, data: str, n: int) -> Float[torch.Tensor, "n 3 height width"]:
        """The pictures of the first `n` training rows."""
        return render(split_scenes("train", n, dependence=DEPENDENCE if data == "dependent" else 0.0)).images

    def tables(self, data: str) -> tuple[Latents, Latents]:
        """Training and validation rows.

        Raises:
            BadInputError: an unknown `data`.
        """
        if data not in self.TABLES:
            raise BadInputError(f"There are no data {data!r}; choose one of {', '.join(self.TABLES)}.")
        train, val = (open_latents(self.folder(data), split) for split in ("train", "val"))
        if data == "style words":
            clip = self.clip(data)
            return self._with_style_words(train, clip), self._with_style_words(val, clip)
        if data == "another CLIP":
            return tuple(_combine(open_latents(self.profile.latents_dir, table.split), table) for table in (train, val))
        if data == "another VAE":
            return tuple(_combine(table, open_latents(self.profile.latents_dir, table.split)) for table in (train, val))
        n = len(train)
        parts = {"first half": range(n // 2), "second half": range(n // 2, n), "a quarter": range(n // 4), "a sixteenth": range(n // 16)}
        return (_combine(train, train, parts[data]), val) if data in parts else (train, val)

    def folder(self, data: str) -> Path:
        """The preprocessed dataset that `data` is made from."""
        if data == "dependent":
            return self._preprocessed("dependent", dependence=DEPENDENCE)
        if "another" in data:
            return self._preprocessed("second", vae=str(self.second / "vae"), clip=str(self.second / "clip"))
        return self.profile.latents_dir

    def _preprocessed(self, name: str, **changes: Any) -> Path:
        kept = {field: getattr(self.profile, field) for field in self.profile.overridden}
        folder = self.work_dir / "latents" / name
        preprocess_profile(load_profile(self.profile.name, **{**kept, **changes, "n_test": 1}), out_dir=folder)
        return folder

    def _with_style_words(self, table: LatentsTable, clip: Any) -> TensorLatents:
        """The same rows with captions that name content and style; kept in a file, for they take a minute."""
        n = self.profile.n_captions
        file = self.work_dir / f"style-words-{table.split}-{len(table)}.npy"
        if not file.is_file():
            texts = [c for row in captions(split_scenes(table.split, len(table)), "both", n) for c in row]
            parts = [clip.embed_texts(texts[i : i + 256]).cpu() for i in tqdm(range(0, len(texts), 256), desc=f"captions of {table.split}")]
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as path, path.open("wb") as stream:
                np.save(stream, torch.cat(parts).half().numpy())
        z, clip_img, _ = _rows(table, range(len(table)))
        return TensorLatents(z, clip_img, torch.from_numpy(np.load(file)).unflatten(0, (-1, n)))


def _rows(table: LatentsTable, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    starts = table.caption_starts
    texts = [torch.from_numpy(np.asarray(table.clip_txt[starts[row] : starts[row + 1]])) for row in rows]
    return torch.from_numpy(table.z[list(rows)]), torch.from_numpy(table.clip_img[list(rows)]), texts


def _combine(latents: LatentsTable, embeddings: LatentsTable, rows: Sequence[int] | None = None) -> TensorLatents:
    """Latents of the one table with embeddings of the other, of the same pictures in the same order."""
    rows = range(len(latents)) if rows is None else rows
    return TensorLatents(_rows(latents, rows)[0], *_rows(embeddings, rows)[1:])
