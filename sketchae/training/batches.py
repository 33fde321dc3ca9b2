"""Which pictures and captions every training step sees, decided by (seed, position) alone; and latents held in memory."""

import functools
import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError


def named_seed(*names: str | int) -> int:
    """A 63-bit seed that depends on the names only, so that adding a random draw shifts no other."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@runtime_checkable
class Latents(Protocol):
    """What training asks of a table of latents; `sketchae.latents.LatentsTable` and `TensorLatents` are two."""

    latent_shape: tuple[int, int, int]
    embed_dim: int
    n_captions: np.ndarray

    def __len__(self) -> int: ...

    def gather(self, rows: np.ndarray) -> tuple[Tensor, Tensor]: ...

    def gather_captions(self, rows: np.ndarray, *, which: np.ndarray) -> Tensor: ...


class TensorLatents:
    """Latents and embeddings that are already in memory, with the interface of `sketchae.latents.LatentsTable`.

    Args:
        z: latents after scaling, about unit variance.
        clip_img: L2-normalised image embeddings.
        clip_txt: L2-normalised caption embeddings: a tensor with the same number for every picture, or a list of one
            (captions, D) tensor a picture.

    Raises:
        BadInputError: the lengths or widths disagree, there is no row, a picture has no caption, or a value is not finite.
    """

    def __init__(
        self,
        z: Float[Tensor, "n channels height width"],
        clip_img: Float[Tensor, "n_images embed_dim"],
        clip_txt: Float[Tensor, "n_texts captions dim"] | Sequence[Float[Tensor, "_ _"]],
    ):
        if not len(z) == len(clip_img) == len(clip_txt) or not len(z):
            raise BadInputError(
                f"{len(z)} latents, {len(clip_img)} image embeddings and {len(clip_txt)} groups of captions do not belong "
                "together: pass one of each for every picture, and at least one picture."
            )
        self.n_captions = np.array([len(captions) for captions in clip_txt])
        if self.n_captions.min() < 1:
            raise BadInputError(f"Picture {int(self.n_captions.argmin())} has no caption: drop it or give it one.")
        self.z, self.clip_img = z, clip_img
        self.clip_txt = clip_txt.flatten(0, 1) if isinstance(clip_txt, Tensor) else torch.cat(list(clip_txt))
        if self.clip_txt.shape[1] != clip_img.shape[1]:
            raise BadInputError(
                f"Image embeddings have {clip_img.shape[1]} numbers and caption embeddings {self.clip_txt.shape[1]}: take "
                "both from the same CLIP model."
            )
        for name in ("z", "clip_img", "clip_txt"):
            if not torch.isfinite(getattr(self, name)).all():
                raise BadInputError(f"{name} holds values that are not finite: look for the pictures they came from.")
        self.caption_starts = np.concatenate([[0], np.cumsum(self.n_captions)])

    def __len__(self) -> int:
        return len(self.z)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return tuple(self.z.shape[1:])

    @property
    def embed_dim(self) -> int:
        return self.clip_img.shape[1]

    def gather(self, rows: np.ndarray) -> tuple[Float[Tensor, "n channels height width"], Float[Tensor, "n embed_dim"]]:
        """`(z, clip_img)` of the rows, in their order, as float32."""
        rows = torch.as_tensor(rows)
        return self.z[rows].float(), self.clip_img[rows].float()

    def gather_captions(self, rows: np.ndarray, *, which: int | np.ndarray) -> Float[Tensor, "n embed_dim"]:
        """`clip_txt` of caption number `which` of every row, as float32."""
        return self.clip_txt[torch.as_tensor(self.caption_starts[np.asarray(rows)] + which)].float()


class BatchOrder:
    """An endless stream of pictures, each epoch a fresh permutation, each visit with one caption drawn at random.

    Any part of the stream can be asked for: a resumed run, and each of several processes, sees exactly what it would
    have seen anyway. Batches run on across the end of an epoch, so that no picture is left out.

    Args:
        n_captions: captions of every picture.
        seed: of the training run.
    """

    def __init__(self, n_captions: np.ndarray, seed: int):
        self.n_captions = np.asarray(n_captions)
        self.seed = seed
        self._epoch = functools.lru_cache(maxsize=2)(self._draw)  # a batch may straddle two epochs

    def __len__(self) -> int:
        return len(self.n_captions)

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.Generator(np.random.PCG64(named_seed("order", self.seed, epoch)))
        rows = generator.permutation(len(self))
        return rows, (generator.random(len(self)) * self.n_captions[rows]).astype(np.int64)

    def take(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """`(rows, caption numbers)` of the visits start, start + 1, ..., stop - 1 since training began."""
        rows, which = [], []
        while start < stop:
            epoch, offset = divmod(start, len(self))
            length = min(stop - start, len(self) - offset)
            epoch_rows, epoch_which = self._epoch(epoch)
            rows.append(epoch_rows[offset : offset + length])
            which.append(epoch_which[offset : offset + length])
            start += length
        return np.concatenate(rows), np.concatenate(which)
