"""The preprocessed dataset as training wants it: random rows as tensors, straight from the mapped files.

Nothing is loaded at opening: `LatentsTable` holds numpy views of the memory-mapped Arrow buffers, and `gather` copies
just the rows asked for. Memory does not grow with the number of images.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float

from sketchae.errors import BadInputError, MissingFileError
from sketchae.shards import open_shard

REMEDY = "run notebook 01_preprocess or `python -m sketchae.preprocess --profile NAME`"


class ShardedRows:
    """Rows that lie in several arrays, indexed as if they were one; `np.asarray` makes the one (and copies)."""

    def __init__(self, arrays: list[np.ndarray]):
        self.arrays = arrays
        self.starts = np.cumsum([0] + [len(array) for array in arrays])
        self.shape = (int(self.starts[-1]), *arrays[0].shape[1:])
        self.dtype = arrays[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows, copied (an int: one row, as a view)."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows = np.where(rows < 0, rows + len(self), rows).astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"Row {rows.max()} asked for, but there are {len(self)}: rows count from 0.")
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        if rows.ndim == 0:
            return self.arrays[int(shards)][int(rows - self.starts[shards])]
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        within = rows - self.starts[shards]
        # A plain loop: a batch of random rows hits nearly as many shards, and indexing shard by shard takes longer.
        for k, (shard, row) in enumerate(zip(shards.tolist(), within.tolist(), strict=True)):
            out[k] = self.arrays[shard][row]
        return out

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        whole = self.arrays[0] if len(self.arrays) == 1 and not copy else np.concatenate(self.arrays)
        return whole if dtype is None else whole.astype(dtype, copy=False)


class LatentsTable:
    """One split of a preprocessed dataset (see `open_latents`).

    Attributes:
        z: latents after scaling, float16, rows of (channels, height, width).
        clip_img: L2-normalised image embeddings, float16, rows of (embed_dim,).
        clip_txt: L2-normalised embeddings of all captions, float16; those of row i are
            `clip_txt[caption_starts[i]:caption_starts[i + 1]]`.
        indices: the source's index of every row, int64 (n,).
        configuration: what the latents were made with (backbones, source, sizes), from `preprocess.json`.
    """

    def __init__(self, out_dir: Path, split: str, paths: list[Path], configuration: dict):
        shards = [_open(path) for path in paths]
        self.out_dir, self.split, self.configuration = out_dir, split, configuration
        self.z = ShardedRows([shard.z for shard in shards])
        self.clip_img = ShardedRows([shard.clip_img for shard in shards])
        self.clip_txt = ShardedRows([shard.clip_txt for shard in shards])
        counts = np.concatenate([np.diff(shard.starts) for shard in shards])
        self.caption_starts = np.concatenate([[0], np.cumsum(counts)])
        self.indices = np.concatenate([shard.indices for shard in shards])
        self._captions = [shard.captions for shard in shards]
        self._image_ids = [shard.image_ids for shard in shards]

    def __len__(self) -> int:
        return len(self.z)

    def __repr__(self) -> str:
        channels, height, width = self.latent_shape
        return f"LatentsTable({self.split}: {len(self)} x ({channels}, {height}, {width}), embed_dim={self.embed_dim})"

    def __reduce__(self):  # a DataLoader's worker maps the files again instead of receiving a copy of them
        return open_latents, (self.out_dir, self.split)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.z.shape[1:]

    @property
    def embed_dim(self) -> int:
        return self.clip_img.shape[1]

    @property
    def n_captions(self) -> np.ndarray:
        """The number of captions of every row, int64 (n,)."""
        return np.diff(self.caption_starts)

    def gather(
        self, rows: np.ndarray | torch.Tensor | Sequence[int]
    ) -> tuple[Float[torch.Tensor, "n channels height width"], Float[torch.Tensor, "n embed_dim"]]:
        """`(z, clip_img)` of the rows, in their order, as float32.

        Raises:
            BadInputError: a latent is NaN or infinite (the file was changed or damaged after it was written).
        """
        rows = np.asarray(rows)
        z = torch.from_numpy(self.z[rows]).float()
        if not torch.isfinite(z.sum()):  # one reduction instead of a mask: float32 cannot overflow on float16 values
            bad = int(rows[(~torch.isfinite(z).flatten(1).all(1)).nonzero()[0, 0]])
            raise BadInputError(
                f"The latents of row {bad} (image {self.image_id(bad)}) in {self.out_dir / self.split} are not finite: "
                f"delete that folder and {REMEDY} again."
            )
        return z, torch.from_numpy(self.clip_img[rows]).float()

    def gather_captions(
        self,
        rows: np.ndarray | torch.Tensor | Sequence[int],
        generator: torch.Generator | np.random.Generator | None = None,
        which: int | np.ndarray | None = None,
    ) -> Float[torch.Tensor, "n embed_dim"]:
        """`clip_txt` of one caption for every row, as float32: drawn evenly by `generator`, or number `which`.

        Raises:
            BadInputError: neither or both of `generator` and `which` were given, or a row has no caption `which`.
        """
        if (generator is None) == (which is None):
            raise BadInputError("Pass either generator= (a caption is drawn for every row) or which= (its number).")
        rows = np.asarray(rows)
        counts = self.caption_starts[rows + 1] - self.caption_starts[rows]
        if which is None:
            # float64: a float32 just below 1 times 5 would round to 5, which is the next row's caption.
            if isinstance(generator, np.random.Generator):
                uniform = generator.random(len(rows))
            else:
                uniform = torch.rand(len(rows), generator=generator, dtype=torch.float64).numpy()
            which = (uniform * counts).astype(np.int64)
        elif np.any(np.asarray(which) >= counts) or np.any(np.asarray(which) < 0):
            raise BadInputError(
                f"which={which} is out of range: the rows have {counts.min()} to {counts.max()} captions."
            )
        return torch.from_numpy(self.clip_txt[self.caption_starts[rows] + which]).float()

    def captions(self, row: int) -> list[str]:
        return self._lookup(self._captions, row)

    def image_id(self, row: int) -> str:
        return self._lookup(self._image_ids, row)

    def _lookup(self, columns: list, row: int):
        row = range(len(self))[row]  # negative rows and the IndexError as for any sequence
        shard = int(np.searchsorted(self.z.starts, row, side="right")) - 1
        return columns[shard][row - int(self.z.starts[shard])].as_py()


def open_latents(out_dir: str | Path, split: str) -> LatentsTable:
    """Open one split ("train", "val", "test") of a finished dataset that `sketchae.preprocess` wrote.

    Raises:
        MissingFileError: there is none, it is not finished, or one of its shards is missing or damaged.
        BadInputError: it has no such split.
    """
    out_dir = Path(out_dir)
    if not out_dir.is_dir():
        raise MissingFileError(f"No preprocessed latents in {out_dir}: {REMEDY} first.")
    try:
        summary = json.loads((out_dir / "preprocess.json").read_text())
    except FileNotFoundError:
        raise MissingFileError(
            f"The latents in {out_dir} are not finished (no preprocess.json): {REMEDY} again, it continues where "
            "it stopped."
        ) from None
    if split not in summary["splits"]:
        raise BadInputError(
            f"{out_dir} has no split {split!r}, only {', '.join(summary['splits'])}: choose one of these."
        )
    files = summary["splits"][split]["files"]
    return LatentsTable(out_dir, split, [out_dir / split / name for name in files], summary["configuration"])


def _open(path: Path):
    try:
        return open_shard(path)
    except (OSError, pa.ArrowInvalid, StopIteration) as error:
        raise MissingFileError(
            f"The shard {path} is missing or damaged ({type(error).__name__}): {REMEDY} again, it makes just "
            "that shard anew."
        ) from error
