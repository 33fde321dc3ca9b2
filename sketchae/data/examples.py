"""What a source of data gives: pictures with captions, and the pictures that had to be left out, with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor

from sketchae.errors import BadInputError
from sketchae.images import open_image

N_CAPTIONS = 5  # MS-COCO's number: more are cut off
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "val": "val", "validation": "val", "valid": "val", "dev": "val", "test": "test"}
# First match wins. `en` is the paper's column; the others are common in imagefolder metadata.
CAPTION_COLUMNS = ("en", "captions", "caption", "text", "sentences")


@dataclass
class Example:
    """One picture with its captions.

    Attributes:
        image: RGB picture of any size; None where `tensor` is given.
        tensor: float32 (3, h, w) in [0, 1], already of the final size (Scenes draws it); else None.
        captions: at least one, unless `clip_txt` is given.
        id: what the source calls it (file name, MS-COCO's id); index: its number in the source.
        clip_img: the user's own image embedding (D,), float32; else None.
        clip_txt: the user's own caption embeddings (n, D), float32, one for each caption; else None.
    """

    image: Image.Image | None
    captions: list[str]
    id: str
    index: int
    clip_img: np.ndarray | None = None
    clip_txt: np.ndarray | None = None
    tensor: Tensor | None = None


@dataclass(frozen=True)
class Skipped:
    """A position of the source that gave no example, and why."""

    id: str
    index: int
    reason: str


@runtime_checkable
class Source(Protocol):
    """Pictures with captions in splits, read by position, so that any shard can be read by itself.

    `has_embeddings` says that examples bring `clip_img` and `clip_txt`, so that no CLIP is needed. `fingerprint`
    changes when the data would. `load` gives one entry a position, in order, and fewer only at the end of the split.
    """

    has_embeddings: bool

    @property
    def splits(self) -> list[str]: ...

    def n_examples(self, split: str) -> int | None: ...

    def load(self, split: str, start: int, stop: int) -> list[Example | Skipped]: ...

    def fingerprint(self, split: str) -> str: ...


def make_example(row: Mapping[str, Any], picture: Any, *, id: str, index: int, n_captions: int) -> Example | Skipped:
    """An example from a row of metadata and a picture (path, bytes, or an opened one); `Skipped` where one is unusable.

    Empty captions are dropped, with their rows of `clip_txt`; at most `n_captions` are kept.
    """
    try:
        captions = _captions(row)
        clip_img, clip_txt = _embedding(row, "clip_img", 1), _embedding(row, "clip_txt", 2)
        if clip_txt is not None and captions and len(captions) != len(clip_txt):
            raise BadInputError(f"it has {len(captions)} captions but {len(clip_txt)} rows in clip_txt")
        kept = [i for i, caption in enumerate(captions) if caption.strip()][:n_captions]
        if clip_txt is not None:
            clip_txt = clip_txt[kept] if captions else clip_txt[:n_captions]
        captions = [captions[i].strip() for i in kept]
        if not captions and (clip_txt is None or not len(clip_txt)):
            return Skipped(id, index, "it has no caption")
        if picture is None or (isinstance(picture, bytes) and not picture):
            return Skipped(id, index, "it has no picture")
        image = open_image(picture, name=id)
    except (BadInputError, FileNotFoundError) as error:
        return Skipped(id, index, str(error))
    return Example(image, captions, id, index, clip_img, clip_txt)


def check_range(n: int | None, split: str, splits: Sequence[str], start: int, stop: int) -> tuple[int, int]:
    """`start` and `stop` cut to the split's length.

    Raises:
        BadInputError: no such split, or a range that is none.
    """
    if split not in splits:
        raise BadInputError(f"There is no split {split!r}: this source has {', '.join(splits) or 'none'}.")
    if start < 0 or stop < start:
        raise BadInputError(f"Positions {start} to {stop} are no range: start at 0 or later, and stop after the start.")
    return (start, stop) if n is None else (min(start, n), min(stop, n))


def _captions(row: Mapping[str, Any]) -> list[str]:
    column = next((name for name in CAPTION_COLUMNS if row.get(name) is not None), None)
    if column is None:
        return []
    value = row[column]
    captions = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else None
    if captions is None or not all(caption is None or isinstance(caption, str) for caption in captions):
        raise BadInputError(f"its captions (column {column}) are neither a text nor a list of texts")
    return [caption or "" for caption in captions]


def _embedding(row: Mapping[str, Any], column: str, ndim: int) -> np.ndarray | None:
    if row.get(column) is None:
        return None
    try:
        array = np.asarray(row[column], dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"its {column} is not an array of numbers") from error
    if column == "clip_txt" and array.ndim == 1:
        array = array[None]  # one caption, written without the outer list
    if array.ndim != ndim or not array.size:
        raise BadInputError(f"its {column} has shape {array.shape}, not {'(D,)' if ndim == 1 else '(n, D)'}")
    if not np.isfinite(array).all():
        raise BadInputError(f"its {column} holds NaN or infinite numbers")
    return array
