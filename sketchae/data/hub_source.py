"""A dataset on the hub, or a local folder of parquet files, in the paper's schema: image, en, filename, cocoid.

Nothing is downloaded as a whole. Parquet files are read by row group, by position, over the network: a run that starts
in the middle fetches no more than what it needs. Other formats are streamed from their beginning.
"""

import bisect
import contextlib
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.data_files import EmptyDatasetError

from sketchae.data import examples
from sketchae.data.examples import CAPTION_COLUMNS, Example, Skipped
from sketchae.errors import BadInputError, MissingFileError, SketchaeError
from sketchae.hub import hub_error

_IDS = ("filename", "file_name", "cocoid", "id")  # the first that a row has is its id
_COLUMNS = ("image", *CAPTION_COLUMNS, *_IDS, "clip_img", "clip_txt")


class HubSource:
    """Pictures of a hub dataset, each decoded when read, so that a broken one is `Skipped` and not fatal.

    Args:
        dataset_id: "owner/name" on the hub, or a local folder in the same form.
        revision: branch, tag or commit; None: main. The commit that was resolved is `.revision`.
        limits: at most so many pictures a split, as {"train": 1000}; None or absent: all.
        n_captions: at most so many captions a picture.
        name: the dataset's configuration, where it has several.

    Raises:
        BadInputError: no such dataset, revision or column; NoNetworkError: the hub cannot be reached.
    """

    def __init__(
        self,
        dataset_id: str | os.PathLike,
        revision: str | None = None,
        limits: Mapping[str, int | None] | None = None,
        n_captions: int = examples.N_CAPTIONS,
        name: str | None = None,
    ):
        self.dataset_id, self.n_captions = os.fspath(dataset_id), n_captions
        self._limits = dict(limits or {})
        is_folder = os.path.isdir(self.dataset_id)
        if not is_folder and (self.dataset_id.count("/") > 1 or self.dataset_id.startswith((".", "/", "~"))):
            raise MissingFileError(
                f"There is no folder {self.dataset_id}: give an existing one, or a hub id (owner/name)."
            )
        with _translated(self.dataset_id, revision):
            builder = datasets.load_dataset_builder(self.dataset_id, name, revision=None if is_folder else revision)
            files = {
                examples.SPLIT_NAMES.get(str(s), str(s)): list(paths)
                for s, paths in (builder.config.data_files or {}).items()
            }
            self.splits = [split for split in examples.SPLITS if files.get(split)]
            if not self.splits:
                raise BadInputError(
                    f"{self.dataset_id} has the splits {', '.join(files) or 'none'}: a split named train, val or test "
                    "is needed."
                )
            self.revision = None if is_folder else _commit(files[self.splits[0]], revision)
            self._files = files
            reader = (
                _ParquetRows if all(f.endswith(".parquet") for s in self.splits for f in files[s]) else _StreamedRows
            )
            self._rows = {s: reader(builder, s, files[s], self._limits.get(s)) for s in self.splits}
            columns = self._rows[self.splits[0]].columns
        self.has_embeddings = {"clip_img", "clip_txt"} <= set(columns)
        if "image" not in columns or not (self.has_embeddings or set(CAPTION_COLUMNS) & set(columns)):
            raise BadInputError(
                f"{self.dataset_id} has the columns {', '.join(columns)}: 'image' and captions in "
                f"{' or '.join(repr(name) for name in CAPTION_COLUMNS[:4])} are needed; rename them."
            )

    def n_examples(self, split: str) -> int | None:
        """Pictures in the split, after the limit; None where only reading to the end would tell."""
        examples.check_range(None, split, self.splits, 0, 0)
        with _translated(self.dataset_id, self.revision):
            return self._rows[split].n_rows()

    def load(self, split: str, start: int, stop: int) -> list[Example | Skipped]:
        """Fetch and decode the pictures at positions start..stop; fewer at the end of the split.

        Raises:
            NoNetworkError: the hub could not be reached; what was read before stays valid.
        """
        start, stop = examples.check_range(self._limits.get(split), split, self.splits, start, stop)
        with _translated(self.dataset_id, self.revision):
            rows = self._rows[split].read(start, stop)
        return [self._example(split, position, row) for position, row in enumerate(rows, start)]

    def fingerprint(self, split: str) -> str:
        files = [(os.path.basename(f), os.path.getsize(f)) if os.path.isfile(f) else f for f in self._files[split]]
        digest = hashlib.sha256(repr(files).encode()).hexdigest()[:16]
        return f"hub/{self.revision or 'folder'}/{split}/{digest}/limit={self._limits.get(split)}/captions={self.n_captions}"

    def _example(self, split: str, position: int, row: dict[str, Any]) -> Example | Skipped:
        name = next((str(row[column]) for column in _IDS if row.get(column) is not None), f"{split}-{position}")
        try:
            picture = _picture_bytes(row.get("image"))
        except OSError as error:
            return Skipped(name, position, f"its file could not be fetched ({error})")
        return examples.make_example(row, picture, id=name, index=position, n_captions=self.n_captions)


class _ParquetRows:
    """Random access to the rows of several parquet files, one row group in memory at a time."""

    def __init__(self, builder: datasets.DatasetBuilder, split: str, files: list[str], limit: int | None):
        self._files, self._limit, self._lock = files, limit, threading.Lock()
        self._starts = [0]  # first row of each row group, grown as files are opened
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        self._n_opened, self._open, self._held = 0, (-1, None), (-1, None)
        self.columns = self._parquet(0).schema_arrow.names

    def n_rows(self) -> int:
        """Rows after the limit; no more footers are fetched than the limit asks for."""
        with self._lock:
            self._open_until(self._limit)
        return self._starts[-1] if self._limit is None else min(self._starts[-1], self._limit)

    def read(self, start: int, stop: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        with self._lock:
            self._open_until(stop)
            while start < min(stop, self._starts[-1]):
                group = bisect.bisect_right(self._starts, start) - 1
                first, end = self._starts[group], min(stop, self._starts[group + 1])
                rows += self._group(group).slice(start - first, end - start).to_pylist()
                start = end
        return rows

    def _open_until(self, n_rows: int | None) -> None:
        while self._n_opened < len(self._files) and (n_rows is None or self._starts[-1] < n_rows):
            metadata = self._parquet(self._n_opened).metadata
            for group in range(metadata.num_row_groups):
                if metadata.row_group(group).num_rows:
                    self._groups.append((self._n_opened, group))
                    self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
            self._n_opened += 1

    def _parquet(self, number: int) -> pq.ParquetFile:
        if self._open[0] != number:
            try:
                self._open = number, pq.ParquetFile(fsspec.open(self._files[number], "rb").open())
            except pa.ArrowInvalid as error:
                raise BadInputError(
                    f"{self._files[number]} is not a complete parquet file ({error}): download or write it again."
                ) from error
        return self._open[1]

    def _group(self, number: int) -> pa.Table:
        if self._held[0] != number:
            self._held = -1, None  # free the old one first
            file, group = self._groups[number]
            parquet = self._parquet(file)
            columns = [name for name in parquet.schema_arrow.names if name in _COLUMNS]
            self._held = number, parquet.read_row_group(group, columns=columns)
        return self._held[1]


class _StreamedRows:
    """Rows in order, from any format that `datasets` can stream; going back starts from the beginning."""

    def __init__(self, builder: datasets.DatasetBuilder, split: str, files: list[str], limit: int | None):
        own_name = next(s for s in builder.config.data_files if examples.SPLIT_NAMES.get(str(s), str(s)) == split)
        stream = builder.as_streaming_dataset(split=own_name)
        info = (builder.info.splits or {}).get(own_name)
        self._n = info.num_examples if info is not None and info.num_examples else None
        self._limit, self._lock = limit, threading.Lock()
        features = stream.features or next(iter(stream.take(1)), {})
        self.columns = list(features)
        if "image" in self.columns:
            stream = stream.cast_column("image", datasets.Image(decode=False))
        self._stream = stream.select_columns([name for name in self.columns if name in _COLUMNS])
        self._position, self._iterator = 0, iter(())  # nothing is under way yet

    def n_rows(self) -> int | None:
        return self._n if self._limit is None or self._n is None else min(self._n, self._limit)

    def read(self, start: int, stop: int) -> list[dict[str, Any]]:
        with self._lock:
            if start != self._position or start == 0:
                self._position, self._iterator = start, iter(self._stream.skip(start) if start else self._stream)
            rows = list(itertools.islice(self._iterator, stop - start))
            self._position += len(rows)
        return rows


@contextlib.contextmanager
def _translated(dataset_id: str, revision: str | None) -> Iterator[None]:
    """Within the block, the errors of the hub's libraries become one sentence with the remedy."""
    try:
        yield
    except SketchaeError:
        raise
    except Exception as error:
        raise _translation(dataset_id, revision, error) from error


def _translation(dataset_id: str, revision: str | None, error: Exception) -> Exception:
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, datasets.exceptions.DatasetNotFoundError):
            return BadInputError(
                f"There is no public dataset {dataset_id}"
                + (f" with the revision {revision}" if revision else "")
                + " on the hub: check the spelling (owner/name); if it is private or gated, log in with `hf auth login`."
            )
        if isinstance(cause, datasets.exceptions.DataFilesNotFoundError | EmptyDatasetError):
            return BadInputError(f"{dataset_id} holds no data files ({cause}): give a dataset of pictures.")
    for cause in chain:
        translated = hub_error(dataset_id, revision, cause)
        if translated is not cause:
            return translated
    return error


def _causes(error: BaseException | None) -> Iterator[Exception]:
    while isinstance(error, Exception):
        yield error
        error = error.__cause__ or error.__context__


def _commit(files: list[str], revision: str | None) -> str | None:
    """The commit hash that `datasets` wrote into the addresses of the files; else what was asked for."""
    found = re.search(r"@([0-9a-f]{40})/", files[0])
    return found.group(1) if found else revision


def _picture_bytes(image: Any) -> bytes | None:
    """The content of the picture's file, from a parquet cell or a stream's row."""
    if isinstance(image, Mapping):
        if image.get("bytes"):
            return image["bytes"]
        image = image.get("path")
    if isinstance(image, str) and ("://" in image or os.path.isfile(image)):
        with fsspec.open(image, "rb") as file:
            return file.read()
    return image if isinstance(image, bytes) else None
