"""The folder around the shards: what it is for, how long its shards took, and the files that say that all is done.

configuration.json   what every run in this folder must agree on, written first
train/ val/ test/    shards, and the index that makes `datasets.load_from_disk` read them
dataset_dict.json    the splits
preprocess.json      the summary, written last: where it is, the dataset is complete
.locks/ .timings/    bookkeeping of the processes
"""

import hashlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from sketchae.atomic import TEMPORARY_MARK, atomic_write_text
from sketchae.errors import BadInputError
from sketchae.shards import ShardInfo, open_shard, shard_features, shard_path, write_index


class LatentsFolder:
    """One output folder as one process sees it."""

    def __init__(self, path: Path):
        self.path, self.locks, self.timings = path, path / ".locks", path / ".timings"
        self.summary_path = path / "preprocess.json"
        self._own_timings = self.timings / f"{uuid.uuid4().hex}.jsonl"
        self.configuration: dict = {}

    def claim(self, configuration: dict) -> None:
        """Write down what this folder is for, or check that it is for the same.

        Raises:
            BadInputError: it holds latents of another configuration.
        """
        self.configuration = json.loads(json.dumps(configuration))  # as it will be read back
        self.locks.mkdir(parents=True, exist_ok=True)
        self.timings.mkdir(exist_ok=True)
        path = self.path / "configuration.json"
        with FileLock(self.locks / "folder.lock"):
            if not path.exists():
                atomic_write_text(path, _json(self.configuration))
                return
            there = json.loads(path.read_text())
        differences = list(_differences(there, self.configuration))
        if differences:
            raise BadInputError(
                f"{self.path} holds latents of another configuration ({'; '.join(differences[:3])}): delete the folder "
                "to make them anew, or choose another one."
            )

    def shard(self, split: str, number: int) -> Path:
        return shard_path(self.path / split, number)

    def lock(self, split: str, number: int, wait: bool) -> FileLock:
        """The lock under which a shard is made; it is free again when its process ends, however it ends."""
        return FileLock(self.locks / f"{split}-{number:05d}.lock", timeout=-1 if wait else 0)

    def remove_leftovers(self, split: str, number: int) -> None:
        """Unfinished files of a run that was killed at this shard; call it only under the shard's lock."""
        path = self.shard(split, number)
        for leftover in path.parent.glob(f".{path.stem}{TEMPORARY_MARK}*"):
            leftover.unlink(missing_ok=True)

    def note_time(self, seconds: dict[str, float], n_images: int) -> None:
        with open(self._own_timings, "a") as file:
            file.write(json.dumps({**seconds, "n_images": n_images}) + "\n")

    def finish(self, shards: dict[str, list[ShardInfo]], remarks: dict, is_changed: bool) -> dict:
        """Write the index of the shards (all of each split, in order) and return the summary, `preprocess.json`.

        Raises:
            BadInputError: a split, or the whole source, has no usable image.
        """
        with FileLock(self.locks / "folder.lock"):
            if is_changed or not self.summary_path.exists() or not (self.path / "dataset_dict.json").exists():
                summary = {**self._summary(shards), **remarks, "timings": self._total_timings()}
                for split, content in summary["splits"].items():
                    if content["files"]:
                        self._write_index(split, content)
                with_rows = [split for split, content in summary["splits"].items() if content["files"]]
                atomic_write_text(self.path / "dataset_dict.json", json.dumps({"splits": with_rows}) + "\n")
                atomic_write_text(self.summary_path, _json(summary))
                self._clean_up(shards)
            return json.loads(self.summary_path.read_text())

    def _summary(self, shards: dict[str, list[ShardInfo]]) -> dict:
        splits = {
            split: {
                "n_rows": sum(info.n_rows for info in infos),
                "n_captions": sum(info.n_captions for info in infos),
                "n_skipped": sum(len(info.skipped) for info in infos),
                "files": [self.shard(split, info.number).name for info in infos if info.n_rows],
            }
            for split, infos in shards.items()
        }
        every = [info for infos in shards.values() for info in infos]
        skipped = [entry for info in every for entry in info.skipped]
        for split, content in splits.items():
            if content["n_skipped"] and not content["n_rows"]:
                first = next(entry for entry in skipped if entry["split"] == split)
                raise BadInputError(
                    f"The split {split!r} has no usable image (the first: {first['id']}, {first['reason']}): check the "
                    f"pictures and captions of the source, then delete {self.path} and run again."
                )
        if not any(content["n_rows"] for content in splits.values()):
            raise BadInputError("The source has no images at all: check its folder, its name and its limits.")
        n_latents = sum(info.n_latents for info in every)
        is_clipped = self.configuration["latent_clip"] is not None
        return {
            "configuration": self.configuration,
            "splits": splits,
            "skipped": skipped,
            "clipped_share": sum(info.n_clipped for info in every) / n_latents if is_clipped else None,
        }

    def _write_index(self, split: str, content: dict) -> None:
        first = open_shard(self.path / split / content["files"][0])
        features = shard_features(first.z.shape[1:], first.clip_img.shape[1])
        identity = _json({"configuration": self.configuration, "split": split, **content})
        fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]  # names the caches of `datasets`
        write_index(self.path / split, split, content["files"], features, fingerprint)

    def _clean_up(self, shards: dict[str, list[ShardInfo]]) -> None:
        """Remove what a finished folder does not need: locks, leftovers of killed runs, shards beyond an open end."""
        for path in [*self.locks.glob("*-*.lock"), *self.path.rglob(f".*{TEMPORARY_MARK}*")]:
            path.unlink(missing_ok=True)
        for split, infos in shards.items():
            beyond = len(infos)
            while (path := self.shard(split, beyond)).exists():
                path.unlink()
                beyond += 1

    def _total_timings(self) -> dict[str, float]:
        """Seconds by part over all processes and all runs that made these shards (of killed ones, what was noted)."""
        total: dict[str, float] = {}
        for path in sorted(self.timings.glob("*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # the last line of a killed run
                    continue
                for key, value in entry.items():
                    total[key] = total.get(key, 0) + value
        return total


def _differences(there: object, now: object, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted({*there, *now}):
            yield from _differences(there.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif there != now:
        yield f"{name} was {there}, now {now}"


def _json(content: dict) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
