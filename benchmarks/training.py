"""How fast a training step is, measure by measure, against the same training fed and written the usual way.

    python -m benchmarks.training [--steps 30] [--device cuda] [--compile] [--only scenes|paper] [--whole-run]

Three things are varied: what feeds the model (a plain `DataLoader` over rows of the `datasets` files; one tuned with
worker processes, whole batches and prefetching; our gather from the mapped files), how the network is written (torch's
layers; the stack of `sketchae.embedders`), and how many seeds train side by side. All rows are timed in one run, in
rounds, and the best round of each counts, so that a machine that is busy with something else disturbs all alike.
Latents are random: no row depends on their values. Prints Markdown tables, writes `build/bench/training.json`.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from benchmarks.plain_split import PlainSplit
from sketchae.atomic import atomic_write_text
from sketchae.latents import LatentsTable, open_latents
from sketchae.shards import ShardArrays, ShardInfo, shard_path, write_shard
from sketchae.training import TrainConfig, train_basis
from sketchae.training.loop import TrainingLoop, autocast

SETTINGS = {  # latent shape, width of the embeddings
    "scenes": ((4, 16, 16), 128),
    "paper": ((4, 32, 32), 512),
}
N_CAPTIONS = 5
N_SEEDS = 5
SHARD = 1024

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass
class Row:
    """One way to train. `step()` takes one optimiser step of every seed, its data included."""

    name: str
    step: Callable[[], object]
    n_seeds: int = 1
    seconds: float = float("inf")  # of the best round, a step and seed


def main(arguments: Sequence[str] | None = None) -> dict:
    """Run the benchmark and return what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="steps a round (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts (default: 3)")
    parser.add_argument("--images", type=int, default=4096, help="latents on disk (default: 4096)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: CUDA where there is one")
    parser.add_argument("--compile", action="store_true", help="also torch.compile (minutes, on a CPU, to compile)")
    parser.add_argument("--only", choices=list(SETTINGS))
    parser.add_argument(
        "--whole-run", action="store_true", help="also five epochs over 80,000 latents of the paper's size"
    )
    parser.add_argument("--out", default="build/bench/training.json")
    options = parser.parse_args(arguments)
    accelerator = Accelerator(cpu=options.device == "cpu")
    if options.device == "cuda" and accelerator.device.type != "cuda":
        parser.error("no CUDA device was found")
    result: dict = {
        "machine": machine(accelerator.device),
        "steps": options.steps,
        "rounds": options.rounds,
        "settings": {},
    }
    print(f"{result['machine']}\n")
    for name, (shape, embed_dim) in SETTINGS.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                write_latents(Path(folder), {"train": options.images}, shape, embed_dim)
                table = open_latents(folder, "train")
                rows = time_rows(
                    make_rows(table, accelerator, options.compile), options.steps, options.rounds, accelerator
                )
            result["settings"][name] = {"latent_shape": shape, "embed_dim": embed_dim, "rows": rows}
            print(as_markdown(name, shape, embed_dim, rows), flush=True)
    if options.whole_run:
        result["whole_run"] = whole_run(accelerator)
        print("five epochs over {n_images} latents: {wall_s:.1f} s, {n_steps} steps\n".format(**result["whole_run"]))
    result["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    out = atomic_write_text(options.out, json.dumps(result, indent=2) + "\n")
    print(f"written: {out}")
    return result


def make_rows(table: LatentsTable, accelerator: Accelerator, with_compile: bool) -> list[Row]:
    """Every way to train that is compared, in order of speed as expected."""
    device, config = accelerator.device, TrainConfig()
    plain_loader, tuned_loader = plain_batches(table, config, device), tuned_batches(table, config, device)

    def loop(seeds: list[int]) -> TrainingLoop:
        return TrainingLoop(table, table, config, seeds, table.out_dir / "no-checkpoint", accelerator)

    def plain(batches: Iterator[Batch]) -> Callable[[], object]:
        torch.manual_seed(0)
        model = PlainSplit(table.latent_shape, table.embed_dim, config.n_semantic, config.n_blocks).to(device)
        return stepper(model, torch.optim.AdamW(model.parameters(), lr=config.lr), batches, config, device)

    def stacked(batches: Iterator[Batch], compiled: bool = False) -> Callable[[], object]:
        own = loop([0])
        model = torch.compile(own.model) if compiled else own.model
        return stepper(model, own.optimizer, (tuple(t[None] for t in batch) for batch in batches), config, device)

    rows = [
        Row("plain network, plain DataLoader", plain(plain_loader)),
        Row("plain network, tuned DataLoader", plain(tuned_loader)),
        Row("plain network, gather", plain(gathered(table, config, device))),
        Row("stacked network, plain DataLoader", stacked(plain_loader)),
        Row("stacked network, tuned DataLoader", stacked(tuned_loader)),
        Row("stacked network, gather (train_basis)", loop([0]).take_step),
        Row(f"{N_SEEDS} seeds side by side (train_seeds)", loop(list(range(N_SEEDS))).take_step, n_seeds=N_SEEDS),
    ]
    if with_compile:
        rows.append(
            Row("stacked network, gather, torch.compile", stacked(gathered(table, config, device), compiled=True))
        )
    feeds = {
        "plain DataLoader": plain_loader,
        "tuned DataLoader": tuned_loader,
        "gather": gathered(table, config, device),
    }
    return rows + [Row(f"feed alone: {name}", lambda feed=feed: next(feed)) for name, feed in feeds.items()]


def stepper(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    config: TrainConfig,
    device: torch.device,
) -> Callable[[], object]:
    """One optimiser step on the next batch, as everyone writes it."""
    context = autocast(config, device)

    def step() -> None:
        batch = next(batches)
        with context():
            loss = model(*batch).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain_batches(table: LatentsTable, config: TrainConfig, device: torch.device) -> Iterator[Batch]:
    """A DataLoader as one writes it first: rows of the `datasets` files, one by one, in the training process."""
    files = sorted((table.out_dir / "train").glob("*.arrow"))
    rows = datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])
    rows = rows.select_columns(["z", "clip_img", "clip_txt"]).with_format("torch")

    def collate(examples: list[dict]) -> Batch:
        captions = [torch.as_tensor(e["clip_txt"]) for e in examples]
        drawn = [texts[torch.randint(len(texts), ())] for texts in captions]
        columns = [torch.stack([torch.as_tensor(e[name]) for e in examples]) for name in ("z", "clip_img")]
        return tuple(t.float() for t in (*columns, torch.stack(drawn)))

    loader = DataLoader(rows, batch_size=config.batch_size, shuffle=True, drop_last=True, collate_fn=collate)
    return forever(loader, device)


class WholeBatches(Dataset):
    """Rows of the table, a batch at a time (torch calls `__getitems__` where there is one)."""

    def __init__(self, table: LatentsTable):
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, rows: list[int]) -> Batch:
        captions = self.table.gather_captions(rows := np.asarray(rows), generator=torch.default_generator)
        return (*self.table.gather(rows), captions)


def tuned_batches(table: LatentsTable, config: TrainConfig, device: torch.device) -> Iterator[Batch]:
    """A DataLoader at its best: worker processes that persist and prefetch, whole batches, pinned memory."""
    loader = DataLoader(
        WholeBatches(table),
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=_as_it_is,
        num_workers=max(1, min(4, (os.cpu_count() or 2) - 1)),
        persistent_workers=True,
        prefetch_factor=4,
        pin_memory=device.type == "cuda",
    )
    return forever(loader, device)


def _as_it_is(batch: Batch) -> Batch:
    return batch


def gathered(table: LatentsTable, config: TrainConfig, device: torch.device) -> Iterator[Batch]:
    """Our gather, for a model that is not ours."""
    rng = np.random.default_rng(0)
    while True:
        rows = rng.integers(0, len(table), config.batch_size)
        batch = (*table.gather(rows), table.gather_captions(rows, generator=rng))
        yield tuple(t.to(device, non_blocking=True) for t in batch)


def forever(loader: DataLoader, device: torch.device) -> Iterator[Batch]:
    while True:
        for batch in loader:
            yield tuple(t.to(device, non_blocking=True) for t in batch)


def time_rows(rows: list[Row], n_steps: int, rounds: int, accelerator: Accelerator) -> list[dict]:
    """The best round of each row; the first round, which warms up, is not counted."""
    for round_ in tqdm(range(rounds + 1), desc="rounds", leave=False):
        for row in rows:
            _wait(accelerator.device)
            start = time.perf_counter()
            for _ in range(n_steps if round_ else min(3, n_steps)):
                row.step()
            _wait(accelerator.device)
            if round_:
                row.seconds = min(row.seconds, (time.perf_counter() - start) / n_steps / row.n_seeds)
    return [
        {"name": row.name, "ms_per_step": 1e3 * row.seconds, "times_the_first": rows[0].seconds / row.seconds}
        for row in rows
    ]


def as_markdown(name: str, shape: tuple[int, ...], embed_dim: int, rows: list[dict]) -> str:
    """The table, one row a way to train."""
    size = "x".join(map(str, shape))
    lines = [f"### {name}: latents {size}, embeddings {embed_dim}, batch {TrainConfig().batch_size}", ""]
    lines += ["| a training step of one seed | ms | times as fast |", "|---|---:|---:|"]
    lines += [f"| {row['name']} | {row['ms_per_step']:.2f} | {row['times_the_first']:.1f} |" for row in rows]
    return "\n".join(lines) + "\n"


def whole_run(accelerator: Accelerator, n_images: int = 80_000, n_epochs: float = 5.0) -> dict:
    """The author's training, start to end, over random latents on disk."""
    shape, embed_dim = SETTINGS["paper"]
    with tempfile.TemporaryDirectory() as folder:
        write_latents(Path(folder), {"train": n_images, "val": 1024}, shape, embed_dim)
        train, val = (open_latents(folder, split) for split in ("train", "val"))
        config = TrainConfig(n_epochs=n_epochs, val_every=2000)
        result = train_basis(train, val, config, Path(folder) / "training", accelerator=accelerator)
    return {"n_images": n_images, "n_epochs": n_epochs, "n_steps": result.n_steps, "wall_s": result.wall_s}


def write_latents(folder: Path, sizes: dict[str, int], shape: tuple[int, int, int], embed_dim: int) -> None:
    """Random latents in the files that `sketchae.preprocess` writes: splits by name, and how many rows each has."""
    rng, splits = np.random.default_rng(0), {}

    def unit(count: int) -> np.ndarray:
        vectors = rng.standard_normal((count, embed_dim), np.float32)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)

    for split, n in sizes.items():
        splits[split] = {"files": []}
        for number, start in enumerate(range(0, n, SHARD)):
            count = min(SHARD, n - start)
            path = shard_path(folder / split, number)
            arrays = ShardArrays(
                z=rng.standard_normal((count, *shape), np.float32).astype(np.float16),
                clip_img=unit(count),
                clip_txt=unit(count * N_CAPTIONS),
                starts=np.arange(0, count * N_CAPTIONS + 1, N_CAPTIONS),
                captions=[[""] * N_CAPTIONS] * count,
                image_ids=[str(start + i) for i in range(count)],
                indices=np.arange(start, start + count),
            )
            write_shard(
                path, arrays, ShardInfo(number, count, count, count * N_CAPTIONS, count * int(np.prod(shape)), 0)
            )
            splits[split]["files"].append(path.name)
    atomic_write_text(folder / "preprocess.json", json.dumps({"splits": splits, "configuration": {}}))


def machine(device: torch.device) -> str:
    """What the numbers were measured on."""
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
