"""Training one seed or several into folders, continuing what was interrupted and skipping what is finished."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm

from sketchae.errors import BadInputError
from sketchae.processes import new_accelerator
from sketchae.progress import hide_if
from sketchae.training.batches import Latents
from sketchae.training.config import TrainConfig
from sketchae.training.loop import OnRecord, TrainingLoop
from sketchae.training.result import TrainResult, finished_result


def train_basis(
    train: Latents,
    val: Latents,
    config: TrainConfig,
    out_dir: str | Path,
    *,
    progress: bool = True,
    accelerator: Accelerator | None = None,
    on_record: OnRecord | None = None,
) -> TrainResult:
    """Train one seed (`config.seed`) in `out_dir`: continued where it stopped, returned at once where it had finished.

    A finished run that is asked for more steps goes on. `on_record(step, records)` is called at each validation, with
    one record a seed, on the main process.

    Raises:
        BadInputError: settings that do not fit the data, a folder with a run of other settings or data, a loss that is
            no longer finite. NoSpaceError: the disk is full (the last checkpoint is intact).
    """
    out_dir = Path(out_dir)
    done = finished_result(out_dir, train, val, config)
    if done:
        return done
    checkpoint = out_dir / "checkpoint.safetensors"
    return _run(train, val, config, [config.seed], checkpoint, [out_dir], progress, accelerator, on_record)[0]


def train_seeds(
    train: Latents,
    val: Latents,
    config: TrainConfig,
    out_dir: str | Path,
    seeds: Sequence[int],
    *,
    together: bool = True,
    progress: bool = True,
    accelerator: Accelerator | None = None,
    on_record: OnRecord | None = None,
) -> dict[int, TrainResult]:
    """Train several seeds into `out_dir/seed-N`, skipping finished ones.

    `together` trains them side by side, which takes much less time than one after the other, because networks this
    small cost little more than the calls that compute them; the results agree up to rounding. With a
    `plateau_patience` each seed stops at a time of its own, so they are trained one after the other.

    Raises: as `train_basis`.
    """
    out_dir = Path(out_dir)
    if not seeds or len(set(seeds)) < len(seeds):
        raise BadInputError(f"seeds={list(seeds)} must be one or more different numbers.")
    folders = {seed: out_dir / f"seed-{seed}" for seed in seeds}
    configs = {seed: dataclasses.replace(config, seed=seed) for seed in seeds}
    results = {seed: finished_result(folders[seed], train, val, configs[seed]) for seed in seeds}
    pending = [seed for seed in seeds if results[seed] is None]
    if pending and together and config.plateau_patience is None:
        # A run over all of the seeds may have been killed after writing only some of its results: continue that one.
        if _checkpoint_of(out_dir, seeds).is_file():
            pending = list(seeds)
        places, checkpoint = [folders[seed] for seed in pending], _checkpoint_of(out_dir, pending)
        new = _run(train, val, config, pending, checkpoint, places, progress, accelerator, on_record)
        return {**results, **dict(zip(pending, new, strict=True))}
    if pending:
        accelerator = accelerator or new_accelerator()
        hidden = not (progress and accelerator.is_main_process and len(pending) > 1)
        for seed in tqdm(pending, desc="seeds", **hide_if(hidden)):
            results[seed] = train_basis(
                train,
                val,
                configs[seed],
                folders[seed],
                progress=progress,
                accelerator=accelerator,
                on_record=on_record,
            )
    return results


def _checkpoint_of(out_dir: Path, seeds: Sequence[int]) -> Path:
    return out_dir / f"checkpoint-seeds-{'-'.join(map(str, seeds))}.safetensors"


def _run(
    train: Latents,
    val: Latents,
    config: TrainConfig,
    seeds: list[int],
    checkpoint: Path,
    folders: list[Path],
    progress: bool,
    accelerator: Accelerator | None,
    on_record: OnRecord | None,
) -> list[TrainResult]:
    accelerator = accelerator or new_accelerator()
    results = TrainingLoop(train, val, config, seeds, checkpoint, accelerator, on_record).run(progress)
    if accelerator.is_main_process:
        for result, folder in zip(results, folders, strict=True):
            result.save(folder)
    accelerator.wait_for_everyone()
    return results
