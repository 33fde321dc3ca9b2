"""The loop itself: batches, steps, validation and checkpoints of one or several seeds trained side by side."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from sketchae.basis.planes import plane_angle
from sketchae.errors import BadInputError
from sketchae.progress import hide_if
from sketchae.training.batches import BatchOrder, Latents, named_seed
from sketchae.training.checkpoints import load_state, restore_training, save_state, training_tensors
from sketchae.training.config import TrainConfig
from sketchae.training.model import TERMS, SplitModel
from sketchae.training.result import Record, TrainResult, check_same_run, run_facts

VALIDATION_BATCH = 256

OnRecord = Callable[[int, list[Record]], None]


class TrainingLoop:
    """Trains `seeds` side by side to the end of `config`, continuing `checkpoint` if that file exists.

    Nothing random is drawn while it runs except by (seed, position), so the state is parameters, moments and a step.
    """

    def __init__(
        self,
        train: Latents,
        val: Latents,
        config: TrainConfig,
        seeds: list[int],
        checkpoint: Path,
        accelerator: Accelerator,
        on_record: OnRecord | None = None,
    ):
        _check(train, val, config, accelerator)
        self.train, self.val, self.config, self.seeds = train, val, config, seeds
        self.checkpoint, self.accelerator, self.on_record = checkpoint, accelerator, on_record
        self.device = accelerator.device
        self.model = SplitModel(train.latent_shape, train.embed_dim, config, seeds)
        self.start_weights = self.model.basis.weight.detach().clone()
        self.prepared = accelerator.prepare_model(self.model)  # moved to the device; wrapped where there are processes
        # Fused: one call for all parameters instead of some for each.
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=fused
        )
        self.orders = [BatchOrder(train.n_captions, seed) for seed in seeds]
        self.weights = torch.tensor([config.orthogonality_weight, 1.0, 1.0], device=self.device)
        self.autocast = autocast(config, self.device)
        self.n_steps = config.steps(len(train))
        self.facts = run_facts(train, val, config, seeds)
        # What a checkpoint holds besides parameters and moments:
        self.step, self.history, self.earlier_s = 0, [], 0.0
        self.sums = torch.zeros(len(seeds), len(TERMS), device=self.device)  # of the loss terms since the last record
        if checkpoint.is_file():
            self.load()
        self.started = time.perf_counter()

    @property
    def wall_s(self) -> float:
        return self.earlier_s + time.perf_counter() - self.started

    def run(self, progress: bool) -> list[TrainResult]:
        """All remaining steps; the results are those of an uninterrupted run."""
        config, accelerator = self.config, self.accelerator
        title = f"train seed {self.seeds[0]}" if len(self.seeds) == 1 else f"train {len(self.seeds)} seeds"
        hidden = not (progress and accelerator.is_main_process)
        bar = tqdm(total=self.n_steps, initial=self.step, desc=title, unit="step", mininterval=0.5, **hide_if(hidden))
        with bar:
            if not self.history:
                self.record()
            while self.step < self.n_steps and not self.plateaued():
                self.take_step()
                bar.update()
                if self.step % config.val_every == 0 or self.step == self.n_steps:
                    self.record()
                    bar.set_postfix(val_loss=f"{np.mean([r['val_loss'] for r in self.history[-1]]):.4f}", refresh=False)
                if self.step % config.checkpoint_every == 0:
                    self.save()
        self.save()
        return [
            TrainResult(
                weight=weight.clone(),
                start_weight=start.clone(),
                history=[records[i] for records in self.history],
                config=dataclasses.replace(config, seed=seed),
                data=self.facts["data"],
                wall_s=self.wall_s,
                n_together=len(self.seeds),
                stopped_early=self.step < self.n_steps,
            )
            for i, (seed, weight, start) in enumerate(
                zip(self.seeds, self._basis_weights(), self.start_weights, strict=True)
            )
        ]

    def take_step(self) -> None:
        """One batch a seed: loss, gradients, AdamW."""
        with self.autocast():
            terms = self.prepared(*self.batch(self.step))
        self.accelerator.backward((terms @ self.weights).sum())
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.sums += terms.detach()  # stays on the device: reading a number each step would make a GPU wait
        self.step += 1

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """`(z, clip_img, clip_txt)` with axes (seed, batch, ...): this process's part of every seed's batch."""
        part = self.config.batch_size // self.accelerator.num_processes
        start = step * self.config.batch_size + self.accelerator.process_index * part
        visits = [order.take(start, start + part) for order in self.orders]
        rows, which = (np.concatenate(arrays) for arrays in zip(*visits, strict=True))
        tensors = (*self.train.gather(rows), self.train.gather_captions(rows, which=which))
        return tuple(t.to(self.device, non_blocking=True).unflatten(0, (len(self.seeds), part)) for t in tensors)

    def record(self) -> None:
        """Add an entry to the history: what was trained on since the last one, and the validation split.

        Raises:
            BadInputError: the loss is no longer finite.
        """
        config = self.config
        since = self.step - self.history[-1][0]["step"] if self.history else 0
        train_terms = self.accelerator.reduce(self.sums, "mean").double().cpu() / max(1, since)
        val_terms = self.validate().double().cpu()
        if not (torch.isfinite(train_terms).all() and torch.isfinite(val_terms).all()):
            raise BadInputError(
                f"The loss is no longer finite at step {self.step}: lower lr={config.lr:g}, or look for extreme values in "
                "the latents; a checkpoint from before is intact."
            )
        factors = self.weights.double().cpu()
        records = []
        for i, weight in enumerate(self._basis_weights()):
            entry: Record = {
                "step": self.step,
                "epoch": self.step * config.batch_size / len(self.train),
                "lr": config.lr,
            }
            for split, terms in (("train", train_terms[i] if since else None), ("val", val_terms[i])):
                entry[f"{split}_loss"] = None if terms is None else float(terms @ factors)
                for j, name in enumerate(TERMS):
                    entry[f"{split}_{name}"] = None if terms is None else float(terms[j])
            entry["orthogonality_error"] = float(torch.linalg.norm(weight.mT @ weight - torch.eye(len(weight))))
            angles = plane_angle(weight, self.start_weights[i], config.n_semantic)
            entry["angle_from_start_deg"] = float(angles.max())
            entry["wall_s"] = self.wall_s
            records.append(entry)
        self.history.append(records)
        self.sums.zero_()
        if self.on_record and self.accelerator.is_main_process:
            self.on_record(self.step, records)

    @torch.no_grad()
    def validate(self) -> Float[Tensor, "seeds terms"]:
        """The loss terms averaged over the validation split, its captions drawn once and for all, the same for all seeds."""
        draws = np.random.Generator(np.random.PCG64(named_seed("validation captions"))).random(len(self.val))
        captions = (draws * self.val.n_captions).astype(np.int64)
        mine = np.arange(self.accelerator.process_index, len(self.val), self.accelerator.num_processes)
        sums = torch.zeros_like(self.sums)
        for start in range(0, len(mine), VALIDATION_BATCH):
            rows = mine[start : start + VALIDATION_BATCH]
            batch = (*self.val.gather(rows), self.val.gather_captions(rows, which=captions[rows]))
            with self.autocast():
                terms = self.model(*(t.to(self.device).expand(len(self.seeds), *t.shape) for t in batch))
            sums += len(rows) * terms
        return self.accelerator.reduce(sums, "sum") / len(self.val)

    def plateaued(self) -> bool:
        """Whether the last `plateau_patience` validations brought no lower total loss (of one seed: see `train_seeds`)."""
        if self.config.plateau_patience is None:
            return False
        best, since = float("inf"), 0
        for records in self.history:
            loss = records[0]["val_loss"]
            best, since = (loss, 0) if loss < best * (1 - self.config.plateau_tolerance) else (best, since + 1)
        return since >= self.config.plateau_patience

    def save(self) -> None:
        """Write the checkpoint; whoever continues it arrives at the same bits."""
        self.sums.copy_(self.accelerator.reduce(self.sums, "mean"))
        if self.accelerator.is_main_process:
            tensors = {**training_tensors(self.model, self.optimizer), "sums": self.sums}
            state = {"run": self.facts, "step": self.step, "history": self.history, "wall_s": self.wall_s}
            save_state(self.checkpoint, tensors, state)
        self.accelerator.wait_for_everyone()

    def load(self) -> None:
        """Continue from the checkpoint; raises BadInputError if it is damaged or belongs to another run."""
        tensors, state = load_state(self.checkpoint)
        check_same_run(state["run"], self.facts, self.checkpoint, state["step"], self.n_steps)
        self.sums.copy_(tensors.pop("sums"))
        restore_training(tensors, self.model, self.optimizer)
        self.step, self.history, self.earlier_s = state["step"], state["history"], state["wall_s"]

    def _basis_weights(self) -> Float[Tensor, "seeds channels channels"]:
        return self.model.basis.weight.detach().float().cpu()


def autocast(config: TrainConfig, device: torch.device) -> Callable:
    """A context for the forward pass: bfloat16 where asked for, or where "auto" finds a GPU that is made for it."""
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if config.precision == "bf16" or (config.precision == "auto" and fast):
        return functools.partial(torch.autocast, device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext


def _check(train: Latents, val: Latents, config: TrainConfig, accelerator: Accelerator) -> None:
    for name, table in (("training", train), ("validation", val)):
        if len(table) == 0:
            raise BadInputError(f"The {name} split has no pictures: preprocess some for it.")
    if (tuple(train.latent_shape), train.embed_dim) != (tuple(val.latent_shape), val.embed_dim):
        raise BadInputError(
            f"Training latents are {tuple(train.latent_shape)} with {train.embed_dim}-wide embeddings, validation latents "
            f"{tuple(val.latent_shape)} with {val.embed_dim}: preprocess both splits with the same backbones and size."
        )
    if config.batch_size % accelerator.num_processes:
        raise BadInputError(
            f"batch_size={config.batch_size} cannot be shared evenly by {accelerator.num_processes} processes: choose a "
            "multiple."
        )
    if accelerator.mixed_precision == "fp16":
        raise BadInputError(
            "float16 would need loss scaling, which is not done here: launch with --mixed_precision no."
        )
