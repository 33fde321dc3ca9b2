"""A folder of one's own pictures, described by `metadata.jsonl` (the imagefolder convention).

One JSON object a line: `file_name`, relative to that file, and captions in `en`, `captions`, `caption` or `text`, as a
text or a list of texts (the same in every line). Optional: `split`, and `clip_img` and `clip_txt` where embeddings are
already there. Alternatively each of the folders train, val (or validation) and test has a `metadata.jsonl` of its own.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sketchae.data.examples import (
    CAPTION_COLUMNS,
    N_CAPTIONS,
    SPLIT_NAMES,
    SPLITS,
    Example,
    Skipped,
    check_range,
    make_example,
)
from sketchae.errors import BadInputError, MissingFileError

METADATA = "metadata.jsonl"
_HELD_OUT = 0.1  # share of the pictures for val, and again for test, where the file names no splits


class FolderSource:
    """Pictures in a folder. Without a `split` column, a tenth each goes to val and test, decided by a hash of the name.

    Args:
        folder: where `metadata.jsonl` is.
        limits: at most so many pictures a split, as {"train": 100}; None or absent: all.
        n_captions: at most so many captions a picture.

    Raises:
        MissingFileError: no folder or no metadata; BadInputError: a line that cannot be used, with its number.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        limits: Mapping[str, int | None] | None = None,
        n_captions: int = N_CAPTIONS,
    ):
        self.folder, self.n_captions = Path(folder), n_captions
        lines = _read_folder(self.folder)
        self.has_embeddings = all(line.has_embeddings for line in lines)
        self._lines = {split: [line for line in lines if line.split == split] for split in SPLITS}
        for split, limit in (limits or {}).items():
            self._lines[split] = self._lines[split][:limit]

    @property
    def splits(self) -> list[str]:
        return [split for split in SPLITS if self._lines[split]]

    def n_examples(self, split: str) -> int:
        return len(self._lines[split])

    def load(self, split: str, start: int, stop: int) -> list[Example | Skipped]:
        """Read the pictures at positions start..stop; an unreadable one, or one without a caption, is `Skipped`."""
        lines = self._lines.get(split, [])
        start, stop = check_range(len(lines), split, self.splits, start, stop)
        return [
            make_example(
                line.read(),
                line.picture,
                id=line.picture.relative_to(self.folder).as_posix(),
                index=position,
                n_captions=self.n_captions,
            )
            for position, line in enumerate(lines[start:stop], start)
        ]

    def fingerprint(self, split: str) -> str:
        """Of the metadata and each picture's size in bytes: moving the folder, or touching a file, changes nothing."""
        digest = hashlib.sha256(str(self.n_captions).encode())
        for line in self._lines[split]:
            size = line.picture.stat().st_size if line.picture.is_file() else None
            digest.update(line.digest + f"{size}".encode())
        return f"folder/{split}/{digest.hexdigest()[:16]}"


@dataclass(frozen=True)
class _Line:
    """Where a picture's metadata stands: it is read again when needed, so that memory does not grow with embeddings."""

    metadata: Path
    offset: int
    digest: bytes
    file_name: str
    split: str | None
    has_embeddings: bool

    @property
    def picture(self) -> Path:
        return self.metadata.parent / self.file_name

    def read(self) -> dict[str, Any]:
        with self.metadata.open("rb") as file:
            file.seek(self.offset)
            return json.loads(file.readline())


def _read_folder(folder: Path) -> list[_Line]:
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}: give the folder that holds the pictures and {METADATA}.")
    files: dict[str | None, Path] = {}
    if (folder / METADATA).is_file():
        files[None] = folder / METADATA
    else:
        files = {
            split: folder / name / METADATA
            for name, split in SPLIT_NAMES.items()
            if (folder / name / METADATA).is_file()
        }
    if not files:
        raise MissingFileError(
            f"{folder} has no {METADATA}: write one with a line for each picture, such as "
            '{"file_name": "cat.jpg", "captions": ["a cat on a sofa"]}.'
        )
    lines = [line for split, file in files.items() for line in _read_metadata(file, split)]
    if not lines:
        raise BadInputError(f"{next(iter(files.values()))} is empty: write one line for each picture.")
    n_named = sum(line.split is not None for line in lines)
    if 0 < n_named < len(lines):
        raise BadInputError(
            f"{files[None]} names a split in {n_named} of its {len(lines)} lines: name one in every line, or in none."
        )
    return lines if n_named else _with_splits(lines)


def _read_metadata(file: Path, split: str | None) -> list[_Line]:
    """Check every line once, and remember where it stands."""
    lines: list[_Line] = []
    kinds: dict[str, int] = {}  # text or list, and the first line that has it
    offset, described = 0, False
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if raw.strip():
                row = _parse(file, number, raw)
                column = next((name for name in CAPTION_COLUMNS if row.get(name) is not None), None)
                described |= column is not None or row.get("clip_txt") is not None
                if column is not None:
                    kinds.setdefault("list" if isinstance(row[column], list) else "text", number)
                if len(kinds) > 1:
                    raise BadInputError(
                        f"{file} mixes captions that are texts with captions that are lists (lines "
                        f"{' and '.join(str(n) for n in sorted(kinds.values()))}): write all of them as lists, such as "
                        '["a cat"].'
                    )
                own = all(row.get(name) is not None for name in ("clip_img", "clip_txt"))
                named = split if split is not None else row.get("split")
                lines.append(_Line(file, offset, hashlib.sha256(raw.strip()).digest(), row["file_name"], named, own))
            offset += len(raw)
    if lines and not described:
        raise BadInputError(f"{file} has no captions: add a column named {' or '.join(CAPTION_COLUMNS[:4])}.")
    return lines


def _parse(file: Path, number: int, raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw)
    except UnicodeDecodeError as error:
        raise BadInputError(f"{file}, line {number} is not UTF-8 text: save the file as UTF-8.") from error
    except ValueError as error:
        raise BadInputError(f"{file}, line {number} is not JSON ({error}): write one JSON object a line.") from error
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or not row["file_name"]:
        raise BadInputError(f"{file}, line {number} has no file_name: name the picture, relative to this file.")
    path = Path(row["file_name"])
    if path.is_absolute() or ".." in path.parts:
        raise BadInputError(f"{file}, line {number}: {path} lies outside the folder; give a path inside it.")
    if row.get("split") is not None:
        if row["split"] not in SPLIT_NAMES:
            raise BadInputError(f"{file}, line {number} has the split {row['split']!r}: use train, val or test.")
        row["split"] = SPLIT_NAMES[row["split"]]
    return row


def _with_splits(lines: list[_Line]) -> list[_Line]:
    """A tenth each for val and test (at least one from three pictures on), chosen by a hash of the name."""
    order = sorted(range(len(lines)), key=lambda i: hashlib.sha256(lines[i].file_name.encode()).hexdigest())
    n_held_out = max(int(len(lines) * _HELD_OUT), 1 if len(lines) >= 3 else 0)
    rank = {i: position for position, i in enumerate(order)}
    name = lambda i: "test" if rank[i] < n_held_out else "val" if rank[i] < 2 * n_held_out else "train"  # noqa: E731
    return [replace(line, split=name(i)) for i, line in enumerate(lines)]
