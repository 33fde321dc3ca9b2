"""Any folder of pictures, without metadata, in batches; and the captions that a file gives for its pictures.

(`sketchae.data.folder_source` reads a folder that its metadata.jsonl describes, as train, val and test.)
"""

import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from sketchae.basis.augmentation import MIN_PICTURES
from sketchae.errors import BadInputError, MissingFileError
from sketchae.images import center_crop, open_image, to_tensor
from sketchae.progress import hide_if

BATCH_SIZE = 8  # pictures that are read, and encoded, at a time


@dataclass
class PictureFolder:
    """The pictures of a folder and of the folders in it, in the order of their paths, as middle squares of `size` pixels.

    Not looked at are files whose ending is no picture's, hidden ones, and those that `only` does not name. While the
    pictures are read, `used` and `skipped` fill up: paths relative to the folder, and the reason why a picture was left
    out (unreadable, or smaller than `size`, so that it would have to be enlarged). Only one batch is held in memory.

    Raises:
        MissingFileError: no such folder. BadInputError: no picture in it, or a limit below two.
    """

    folder: Path
    size: int
    limit: int = 100
    only: Collection[str] | None = None
    used: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if not self.folder.is_dir():
            raise MissingFileError(f"There is no folder {self.folder}: give one that holds pictures.")
        if self.limit < MIN_PICTURES:
            raise BadInputError(f"A limit of {self.limit} pictures is too low: at least {MIN_PICTURES} are needed.")
        endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        self.paths = sorted(
            path.as_posix()
            for path in found
            if path.suffix.lower() in endings and not any(part.startswith(".") for part in path.parts)
        )
        if self.paths and self.only is not None:
            self.paths = [path for path in self.paths if path in self.only]
            if not self.paths:
                raise BadInputError(f"No picture in {self.folder} has captions: file_name must be a path relative to that folder.")
        if not self.paths:
            raise BadInputError(
                f"{self.folder} holds no pictures: give a folder with JPEG, PNG or other picture files."
            )

    def batches(self, progress: bool = True) -> Iterator[Float[Tensor, "batch 3 size size"]]:
        """Read up to `limit` pictures.

        Raises:
            BadInputError: at the end, if fewer than two could be used.
        """
        self.used.clear()
        self.skipped.clear()
        total = min(self.limit, len(self.paths))
        largest = 0  # short side of the largest picture that is too small
        batch: list[Tensor] = []
        with tqdm(total=total, unit="picture", desc="pictures", **hide_if(not progress)) as bar:
            for name in self.paths:
                try:
                    picture = open_image(self.folder / name, name)
                except BadInputError as error:
                    self.skipped[name] = str(error)
                    continue
                if min(picture.size) < self.size:
                    largest = max(largest, min(picture.size))
                    self.skipped[name] = (
                        f"{name} has {picture.size[0]} x {picture.size[1]} pixels, less than {self.size}."
                    )
                    continue
                batch.append(to_tensor(center_crop(picture, self.size)))
                self.used.append(name)
                full = len(self.used) == self.limit
                if len(batch) == BATCH_SIZE or full:
                    yield torch.stack(batch)
                    bar.update(len(batch))
                    batch = []
                if full:
                    break
            if batch:
                yield torch.stack(batch)
                bar.update(len(batch))
        if len(self.used) < MIN_PICTURES:
            raise BadInputError(self._too_few(largest))

    def read(self, name: str) -> Float[Tensor, "3 size size"]:
        """One picture again, by its path relative to the folder."""
        return to_tensor(center_crop(open_image(self.folder / name, name), self.size))

    def _too_few(self, largest: int) -> str:
        usable = f"Of the {len(self.paths)} pictures in {self.folder}, {len(self.used)} can be used, and {MIN_PICTURES} are needed"
        if largest:
            return f"{usable}: add pictures of at least {self.size} pixels, or lower --image-size (the largest left out has {largest})."
        reason = next(iter(self.skipped.values()), None)
        return f"{usable}: add more{f'; the first left out: {reason}' if reason else '.'}"


def read_captions(file: str | os.PathLike) -> dict[str, list[str]]:
    """Captions by file name, from a metadata.jsonl: a line a picture, `{"file_name": …, "captions": … or [ … ]}`.

    Empty captions are left out, and so are pictures that have no other.

    Raises:
        MissingFileError: no such file. BadInputError: a line that is no such object; the message gives its number.
    """
    file, found = Path(file), {}
    if not file.is_file():
        raise MissingFileError(f"There is no file {file}: give a metadata.jsonl with file_name and captions.")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, captions = row["file_name"], row["captions"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BadInputError(f"Line {number} of {file} is no object with file_name and captions: correct it there.") from error
        texts = [text.strip() for text in ([captions] if isinstance(captions, str) else captions or []) if text.strip()]
        if texts:
            found[str(name)] = texts
    return found
