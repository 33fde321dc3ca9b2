"""The loop over shards: which are there, which to make now, and when all are done.

Any number of processes may run this over one folder, together or one after the other, and any of them may be killed.
A shard is made under its own file lock and appears by a rename, so that it is there whole or not at all; a lock dies
with its process. Every process first makes the shards that are its own, then those that nobody has begun, then waits
for the rest; each writes the same index at the end. So no process has to be told of another, and the end does not hang
on one of them.
"""

import errno
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout
from tqdm.auto import tqdm

from sketchae.backbones import LatentCodec, backbone_id
from sketchae.data import Source
from sketchae.errors import BadInputError, NoSpaceError
from sketchae.preprocess.encoding import Embedder, ShardEncoder
from sketchae.preprocess.folder import LatentsFolder
from sketchae.preprocess.report import PreprocessReport
from sketchae.progress import hide_if
from sketchae.shards import SHARD_FORMAT, ShardInfo, read_info, write_shard


def preprocess(
    source: Source,
    vae: LatentCodec,
    clip: Embedder | None,
    out_dir: str | Path,
    *,
    image_size: int,
    shard_size: int = 256,
    batch_size: int = 32,
    n_captions: int = 5,
    progress: bool = True,
    process_index: int = 0,
    n_processes: int = 1,
) -> PreprocessReport:
    """Write `z`, `clip_img` and `clip_txt` of every image of `source` to `out_dir`, or continue where a run stopped.

    The folder can be opened by `sketchae.latents.open_latents` and by `datasets.load_from_disk`. Killed at any moment,
    the next call continues and loses at most the shard that was being made; the result is the same to the last byte.
    Examples that cannot be used are skipped and listed in the report and in `preprocess.json`.

    Args:
        clip: a `ClipEmbedder`, or None where the source brings columns `clip_img` and `clip_txt`.
        image_size: side in pixels of the square that the VAE sees, a multiple of its downsampling.
        shard_size: images a file; it also bounds what a killed run loses.
        batch_size: images a batch; it may change between runs (results then differ by rounding).
        process_index, n_processes: this process's place among those that share the work.

    Raises:
        BadInputError: the folder holds latents of another configuration, or an image gives unusable numbers.
        NoSpaceError: the disk is full; finished shards are kept.
    """
    if image_size % vae.downsampling:
        raise BadInputError(
            f"image_size={image_size} is no multiple of the VAE's downsampling ({vae.downsampling}): "
            f"choose {image_size // vae.downsampling * vae.downsampling or vae.downsampling}."
        )
    if min(shard_size, batch_size, n_captions, n_processes) < 1 or not 0 <= process_index < n_processes:
        raise BadInputError(
            f"shard_size={shard_size}, batch_size={batch_size}, n_captions={n_captions} and n_processes={n_processes} "
            f"must be at least 1, and process_index={process_index} below n_processes."
        )
    begin = time.perf_counter()
    encoder = ShardEncoder(source, vae, clip, image_size=image_size, batch_size=batch_size, n_captions=n_captions)
    run = _Run(source, encoder, LatentsFolder(Path(out_dir)), shard_size, process_index, n_processes)
    with _disk_full_in_words(run):
        run.folder.claim(_configuration(source, vae, clip, image_size, shard_size, n_captions))
        total = sum(run.n_examples.values()) if None not in run.n_examples.values() else None
        with tqdm(total=total, unit="image", desc="preprocess", **hide_if(not progress or process_index > 0)) as bar:
            run.make_shards(bar)
        remarks = {"batch_size": batch_size, "vae": _provenance(vae), "clip": _provenance(clip)}
        summary = run.folder.finish(
            {split: run.shards(split) for split in source.splits}, remarks, is_changed=run.n_computed > 0
        )
    return PreprocessReport.from_summary(
        Path(out_dir), summary, n_computed=run.n_computed, wall_s=time.perf_counter() - begin
    )


class _Run:
    """One process's share of the work; `n_computed` counts the images that it encoded."""

    def __init__(
        self,
        source: Source,
        encoder: ShardEncoder,
        folder: LatentsFolder,
        shard_size: int,
        process_index: int,
        n_processes: int,
    ):
        self.source, self.encoder, self.folder, self.shard_size = source, encoder, folder, shard_size
        self.process_index, self.n_processes = process_index, n_processes
        self.n_examples = {split: source.n_examples(split) for split in source.splits}
        self.infos: dict[tuple[str, int], ShardInfo] = {}
        self.n_computed = 0

    def make_shards(self, bar: tqdm) -> None:
        """Own shards, then what nobody has begun, then (waiting) what others were at or left behind."""
        for own_only, wait in ((True, False), (False, False), (False, True)):
            for split in self.source.splits:
                for number in self._numbers(split):
                    make = not own_only or number % self.n_processes == self.process_index
                    info = self._ensure(split, number, make, wait, bar)
                    if info is not None and self._is_last(split, info):
                        break

    def shards(self, split: str) -> list[ShardInfo]:
        """All shards of a split, in order; complete after `make_shards`."""
        infos = []
        for number in self._numbers(split):
            infos.append(self.infos[split, number])
            if self._is_last(split, infos[-1]):
                break
        return infos

    def _numbers(self, split: str) -> Iterator[int]:
        n = self.n_examples[split]
        return itertools.count() if n is None else iter(range(-(-n // self.shard_size)))

    def _is_last(self, split: str, info: ShardInfo) -> bool:
        """Where a split's length was not known, the first shard that is not full (perhaps empty) is its end."""
        return self.n_examples[split] is None and info.n_positions < self.shard_size

    def _ensure(self, split: str, number: int, make: bool, wait: bool, bar: tqdm) -> ShardInfo | None:
        """The shard's info; if it is not there, make it, or give None where that is not for us or another is at it."""
        key, path = (split, number), self.folder.shard(split, number)
        if key in self.infos:
            return self.infos[key]
        info = read_info(path)
        if info is None:
            if not make:
                return None
            try:
                with self.folder.lock(split, number, wait):
                    info = read_info(path)  # it may have been finished while we came to the lock
                    if info is None:
                        self.infos[key] = self._make(split, number, path, bar)
                        return self.infos[key]
            except Timeout:
                return None
        bar.update(info.n_positions)
        self.infos[key] = info
        return info

    def _make(self, split: str, number: int, path: Path, bar: tqdm) -> ShardInfo:
        self.folder.remove_leftovers(split, number)
        before, n = dict(self.encoder.seconds), self.n_examples[split]
        start = number * self.shard_size
        stop = start + self.shard_size if n is None else min(start + self.shard_size, n)
        arrays, info = self.encoder.encode(split, number, start, stop, bar.update)
        if n is not None and info.n_positions != stop - start:
            raise BadInputError(
                f"The source announced {n} examples for the split {split!r} but ended at {start + info.n_positions}: "
                "it has changed or was cut short; open it again."
            )
        with self.encoder.timed("writing_s"):
            write_shard(path, arrays, info)
        self.n_computed += info.n_rows
        spent = {part: seconds - before.get(part, 0.0) for part, seconds in self.encoder.seconds.items()}
        self.folder.note_time(spent, info.n_rows)
        n_skipped = len(info.skipped) + sum(len(other.skipped) for other in self.infos.values())
        bar.set_postfix(split=split, skipped=n_skipped, refresh=False)
        return info


def _configuration(
    source: Source, vae: LatentCodec, clip: Embedder | None, image_size: int, shard_size: int, n_captions: int
) -> dict:
    """Everything that the numbers depend on; two runs may share a folder only if these agree."""
    return {
        "format": SHARD_FORMAT,
        "image_size": image_size,
        "shard_size": shard_size,
        "n_captions": n_captions,
        "vae": _identity(vae),
        "latent_clip": getattr(vae, "latent_clip", None),
        "clip": None if clip is None else _identity(clip),
        "source": {
            split: {"fingerprint": source.fingerprint(split), "n_examples": source.n_examples(split)}
            for split in source.splits
        },
    }


def _identity(backbone: object) -> dict:
    return {"id": backbone_id(backbone), "dtype": _text(getattr(backbone, "dtype", None))}


def _provenance(backbone: object) -> dict:
    """Where a network came from: worth knowing, but the same weights from another folder are the same network."""
    return {key: _text(getattr(backbone, key, None)) for key in ("source", "revision")}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@contextmanager
def _disk_full_in_words(run: _Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not isinstance(error, NoSpaceError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        out_dir = run.folder.path
        free_mb = shutil.disk_usage(out_dir if out_dir.exists() else os.curdir).free / 1e6
        raise NoSpaceError(
            f"No space left on the disk of {out_dir} ({free_mb:.0f} MB free): free some and run again, it continues "
            f"after the {len(run.infos)} shards that are finished and kept."
        ) from error
