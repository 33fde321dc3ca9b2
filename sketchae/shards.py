"""One shard of a preprocessed split: an Arrow file that is complete or absent, and says itself what it covers.

A shard is one Arrow stream with one record batch, so that every column is one contiguous buffer: the file can be
memory-mapped and looked at as numpy arrays without a copy, and `datasets.load_from_disk` reads it where it lies. What
else must be known of a shard (the positions it covers, what was skipped) travels in the schema's metadata: one file,
one rename, and nothing that could disagree with it after a crash.

Columns: `z` float16 (channels, height, width), `clip_img` float16 (embed_dim,), `clip_txt` float16 (n, embed_dim) with
n the image's number of captions, `captions` list of str, `image_id` str, `index` int64.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Float16, Int64

from sketchae.atomic import atomic_path, atomic_write_text

if TYPE_CHECKING:
    import datasets  # slow to import: only where a dataset is written

SHARD_FORMAT = 1  # raised whenever the files change in a way that an older reader would misread
METADATA_KEY = b"sketchae"


@dataclass(frozen=True)
class ShardInfo:
    """What a shard covers, beside its rows. `n_positions` counts kept and skipped examples of the source."""

    number: int
    n_positions: int
    n_rows: int
    n_captions: int
    n_latents: int
    n_clipped: int
    skipped: list[dict] = field(default_factory=list)  # {"split", "index", "id", "reason"}


@dataclass(frozen=True)
class ShardArrays:
    """The rows of one shard; read from disk, the arrays are views of the mapped file.

    `clip_txt` holds all captions one after the other: those of row i are `clip_txt[starts[i]:starts[i + 1]]`.
    """

    z: Float16[np.ndarray, "n channels height width"]
    clip_img: Float16[np.ndarray, "n embed_dim"]
    clip_txt: Float16[np.ndarray, "m embed_dim"]
    starts: Int64[np.ndarray, "n_plus_1"]
    captions: object  # indexable by row: list[list[str]], or Arrow's list array
    image_ids: object  # likewise of str
    indices: Int64[np.ndarray, "n"]


def shard_path(split_folder: Path, number: int) -> Path:
    return split_folder / f"shard-{number:05d}.arrow"


def shard_features(latent_shape: tuple[int, ...], embed_dim: int) -> "datasets.Features":
    """The dataset's columns for latents of (channels, height, width) and embeddings of `embed_dim`."""
    from datasets import Array2D, Array3D, Features, List, Value

    return Features(
        {
            "z": Array3D(tuple(latent_shape), "float16"),
            "clip_img": List(Value("float16"), length=embed_dim),
            "clip_txt": Array2D((None, embed_dim), "float16"),
            "captions": List(Value("string")),
            "image_id": Value("string"),
            "index": Value("int64"),
        }
    )


def write_shard(path: Path, arrays: ShardArrays | None, info: ShardInfo) -> None:
    """Write a shard atomically; `arrays=None` for one of which every example was skipped.

    Raises:
        NoSpaceError: the disk is full; no half file is left.
    """
    schema, batches = pa.schema([]), []
    if arrays is not None:
        schema = shard_features(arrays.z.shape[1:], arrays.clip_img.shape[1]).arrow_schema
        batches = [_record_batch(arrays, schema)]
    metadata = {**(schema.metadata or {}), METADATA_KEY: json.dumps({"format": SHARD_FORMAT, **asdict(info)}).encode()}
    schema = schema.with_metadata(metadata)
    sink = pa.BufferOutputStream()  # in memory first: a shard is a few MB, and Python's errors carry an errno
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(metadata))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(sink.getvalue())


def read_info(path: Path) -> ShardInfo | None:
    """What a shard covers, or None where the file is absent or damaged (it must then be made again)."""
    try:
        reader = pa.ipc.open_stream(pa.memory_map(str(path)))
        content = json.loads(reader.schema.metadata[METADATA_KEY])
        if content.pop("format") != SHARD_FORMAT:
            return None
        info = ShardInfo(**content)
        # A file cut short keeps its header: only the batches say that the rows are there.
        n_rows = sum(batch.num_rows for batch in reader)
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None
    return info if n_rows == info.n_rows else None


def open_shard(path: Path) -> ShardArrays:
    """The rows of a shard with at least one row, as views of the mapped file (nothing is copied).

    Raises:
        OSError, pyarrow.ArrowInvalid: the file is missing or damaged.
    """
    batch = pa.ipc.open_stream(pa.memory_map(str(path))).read_next_batch()
    z, clip_txt, clip_img = _plain(batch.column("z")), _plain(batch.column("clip_txt")), batch.column("clip_img")
    embed_dim = clip_img.type.list_size
    return ShardArrays(
        z=_leaves(z).reshape(len(batch), *_row_shape(z)),
        clip_img=_leaves(clip_img).reshape(len(batch), embed_dim),
        clip_txt=_leaves(clip_txt).reshape(-1, embed_dim),
        starts=clip_txt.offsets.to_numpy().astype(np.int64),
        captions=batch.column("captions"),
        image_ids=batch.column("image_id"),
        indices=batch.column("index").to_numpy(),
    )


def write_index(split_folder: Path, split: str, files: list[str], features: "datasets.Features", fingerprint: str) -> None:
    """The two files beside the shards that make `datasets.load_from_disk` take the folder as a saved dataset."""
    from datasets import DatasetInfo

    state = {
        "_data_files": [{"filename": name} for name in files],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    atomic_write_text(split_folder / "dataset_info.json", _json(asdict(DatasetInfo(features=features))))
    atomic_write_text(split_folder / "state.json", _json(state))


def _json(content: dict) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _record_batch(arrays: ShardArrays, schema: pa.Schema) -> pa.RecordBatch:
    embed_dim = arrays.clip_img.shape[1]
    clip_txt = pa.ListArray.from_arrays(pa.array(arrays.starts.astype(np.int32)), _nested(arrays.clip_txt))
    columns = [
        pa.ExtensionArray.from_storage(schema.field("z").type, _nested(arrays.z)),
        pa.FixedSizeListArray.from_arrays(pa.array(arrays.clip_img.reshape(-1)), embed_dim),
        pa.ExtensionArray.from_storage(schema.field("clip_txt").type, clip_txt),
        pa.array(arrays.captions, type=schema.field("captions").type),
        pa.array(arrays.image_ids, type=pa.string()),
        pa.array(arrays.indices),
    ]
    return pa.record_batch(columns, schema=schema)


def _nested(array: np.ndarray) -> pa.Array:
    """An n-dimensional array as Arrow lists of lists: the values as they lie in memory, plus offsets."""
    out = pa.array(np.ascontiguousarray(array).reshape(-1))
    for axis in range(array.ndim - 1, 0, -1):
        n_lists = int(np.prod(array.shape[:axis]))
        offsets = np.arange(n_lists + 1, dtype=np.int32) * np.int32(array.shape[axis])
        out = pa.ListArray.from_arrays(pa.array(offsets), out)
    return out


def _plain(column: pa.Array) -> pa.Array:
    """Lists of lists: `datasets` declares them as arrays of fixed shape, which Arrow knows only where it has been imported."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _row_shape(column: pa.ListArray) -> tuple[int, ...]:
    """The shape that every row of nested lists has; there is at least one row."""
    values = column.values
    return (len(values) // len(column), *(_row_shape(values) if isinstance(values, pa.ListArray) else ()))


def _leaves(column: pa.Array) -> np.ndarray:
    while isinstance(column, (pa.ListArray, pa.FixedSizeListArray)):
        column = column.values
    return column.to_numpy(zero_copy_only=True)
