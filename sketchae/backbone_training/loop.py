"""One resumable loop for every network of the embedded world.

A task says how to make a step's batch and loss; the loop owns the optimiser, the schedule, the moving average of the
weights, the log and the checkpoints (safetensors and JSON, written whole or not at all).
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from sketchae.atomic import atomic_path, atomic_write_text
from sketchae.errors import BadInputError
from sketchae.progress import hide_if


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn: AdamW, linear warm-up, cosine decay to zero, gradient clipping."""

    n_steps: int
    lr: float
    weight_decay: float = 0.01
    n_warmup: int = 200
    ema_decay: float = 0.999
    max_grad_norm: float = 1.0
    seed: int = 0
    checkpoint_every: int = 250


def fit(
    model: nn.Module,
    step_loss: Callable[[int], dict[str, Tensor]],
    config: LoopConfig,
    out_dir: Path,
    name: str,
    accelerator: Accelerator | None = None,
) -> dict:
    """Train `model` in place, leave its moving average in it, and return the log; resumes from `out_dir`.

    Args:
        step_loss: from the step's number to its loss terms; must depend on that number alone, so that a resumed
            run sees what an uninterrupted one would have seen. The term "loss" is minimised.
        accelerator: of several processes, each of which begins with the same weights and gives `step_loss` of its own part of
            the batch: gradients and terms are averaged over them, and the first one writes. Parts of equal size then
            give the same weights as one process, up to rounding.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    start, log, spent = _resume(out_dir, model, optimizer, average, config)
    began = time.monotonic()
    model.train()
    several, first = (accelerator is not None and accelerator.num_processes > 1), (accelerator is None or accelerator.is_main_process)
    bar = tqdm(range(start, config.n_steps), desc=name, initial=start, total=config.n_steps, mininterval=5, **hide_if(not first))
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _schedule(step, config)
        terms = step_loss(step)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if several:
            terms = _averaged(model, terms, accelerator)
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        decay = min(config.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for key, value in model.state_dict().items():
                average[key].lerp_(value, 1 - decay) if value.is_floating_point() else average[key].copy_(value)
        if step % 50 == 0 or step + 1 == config.n_steps:
            row = {k: round(float(v.detach()), 5) for k, v in terms.items()}
            log.append({"step": step, **row})
            bar.set_postfix(row)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.n_steps:
            seconds = spent + time.monotonic() - began
            if first:
                _save(out_dir, model, optimizer, average, {"step": step + 1, "seconds": seconds, "log": log, "config": asdict(config)})
            if several:
                accelerator.wait_for_everyone()
    model.load_state_dict(average)
    model.eval()
    return {"log": log, "duration_s": spent + time.monotonic() - began, "config": asdict(config)}


def _averaged(model: nn.Module, terms: dict[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """Gradients, in place, and terms of all processes; every parameter has a gradient in all of them or in none."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad = accelerator.reduce(parameter.grad, "mean")
    return {name: accelerator.reduce(value.detach().reshape(1), "mean")[0] for name, value in terms.items()}


def _schedule(step: int, config: LoopConfig) -> float:
    warm = min(1.0, (step + 1) / config.n_warmup)
    return warm * 0.5 * (1 + math.cos(math.pi * step / config.n_steps))


def _save(out_dir: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], state: dict) -> None:
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v.contiguous() for k, v in average.items()}
    for i, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v).contiguous() for k, v in moments.items()}
    with atomic_path(out_dir / f"step-{state['step']:07d}.safetensors") as path:
        save_file({k: v.clone() for k, v in tensors.items()}, path)
    atomic_write_text(out_dir / "state.json", json.dumps(state))
    for old in out_dir.glob("step-*.safetensors"):
        if old.name != f"step-{state['step']:07d}.safetensors":
            old.unlink()


def _resume(out_dir: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], config: LoopConfig):
    """Load the last checkpoint, if it belongs to this configuration; returns (step, log, seconds spent)."""
    file = out_dir / "state.json"
    if not file.exists():
        return 0, [], 0.0
    state = json.loads(file.read_text())
    if state["config"] != asdict(config):
        raise BadInputError(f"{out_dir} holds a training with other settings; remove the folder to start anew.")
    tensors = load_file(out_dir / f"step-{state['step']:07d}.safetensors", device=str(next(model.parameters()).device))
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    average.update({k[8:]: v for k, v in tensors.items() if k.startswith("average.")})
    moments: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return state["step"], state["log"], state["seconds"]
