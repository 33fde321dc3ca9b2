"""Pairs of pictures to edit: two files of the user's, then pairs from the profile's test split."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.data.examples import Skipped
from sketchae.errors import BadInputError
from sketchae.images import center_crop, open_image, to_tensor
from sketchae.profiles import Profile


@dataclass(frozen=True)
class PicturePairs:
    """Originals and the targets that lend them content or style: pixels in [0, 1], one size, row by row."""

    originals: Float[Tensor, "pairs 3 size size"]
    targets: Float[Tensor, "pairs 3 size size"]


def picture_pairs(profile: Profile, original: str | None = None, target: str | None = None, n_pairs: int = 4) -> PicturePairs:
    """`n_pairs` pairs: the files `original` and `target` first, if named, then neighbours in the test split.

    Pictures of any mode are converted to RGB, resized to `profile.image_size` by their short side, and cropped.

    Raises:
        BadInputError: only one of the two files is named, or one is not a picture. MissingFileError: it does not exist.
    """
    if (original is None) != (target is None):
        raise BadInputError("Name both ORIGINAL and TARGET, or neither: an edit needs two pictures.")
    pairs = []
    if original is not None:
        pairs.append(tuple(read_picture(path, profile.image_size) for path in (original, target)))
    if len(pairs) < n_pairs:
        found = _test_pictures(profile, 2 * (n_pairs - len(pairs)))
        pairs += list(zip(found[::2], found[1::2]))
    return PicturePairs(*(torch.stack(group) for group in zip(*pairs)))


def read_picture(path: str | Path, size: int) -> Float[Tensor, "3 size size"]:
    """A picture file as pixels in [0, 1], its middle square at `size` pixels."""
    return to_tensor(center_crop(open_image(path), size))


def _test_pictures(profile: Profile, n: int) -> list[Tensor]:
    from sketchae.data import open_source

    source, found, start = open_source(profile), [], 0
    split = "test" if "test" in source.splits else source.splits[-1]
    available = source.n_examples(split)
    while len(found) < n and (available is None or start < available):
        stop = start + n if available is None else min(start + n, available)
        loaded = source.load(split, start, stop)
        for example in loaded:
            if not isinstance(example, Skipped):
                picture = example.tensor if example.tensor is not None else to_tensor(center_crop(example.image, profile.image_size))
                found.append(picture)
        if not loaded:
            break
        start = stop
    if len(found) < 2:
        raise BadInputError(f"The split '{split}' has fewer than two readable pictures: name ORIGINAL and TARGET instead.")
    return found[: n - n % 2] if len(found) >= n else found[: len(found) - len(found) % 2]
