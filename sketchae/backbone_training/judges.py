"""Train a judge: cross-entropy of every factor, on pictures some of which are blurred and noisy.

The blur and the noise are there because a judge must also read what comes out of a codec; they are the same for both.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.scenes import FACTORS
from sketchae.scenes.judges import Judge, make_judge


def train_judge(which: str, pool: ImagePool, out_dir: Path, config: LoopConfig, batch_size: int = 64) -> tuple[Judge, dict]:
    """Train judge "a" or "b" on the scenes of `pool`, which should be its own split."""
    torch.manual_seed(config.seed + ord(which))
    judge = make_judge(which)
    truth = {name: torch.from_numpy(values) for name, values in pool.scenes.factors.items()}

    def step_loss(step: int) -> dict[str, Tensor]:
        rows = np.sort(batch_rows(len(pool), batch_size, step, config.seed))
        logits = judge(degrade(pool.images(rows), np.random.default_rng([config.seed, step])))
        losses = {name: F.cross_entropy(logits[name], truth[name][rows]) for name in FACTORS}
        right = torch.stack([(logits[name].argmax(1) == truth[name][rows]).float().mean() for name in FACTORS])
        worst = max(losses, key=lambda name: float(losses[name].detach()))
        return {"loss": sum(losses.values()), "accuracy": right.mean(), "worst": losses[worst], "least_accuracy": right.min()}

    record = fit(judge, step_loss, config, out_dir, f"judge {which}")
    return judge, record


def degrade(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur about half of the pictures a little, and add noise to all, of a strength that varies."""
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    weight = torch.from_numpy((rng.random((len(images), 1, 1, 1)) * 2 - 1).clip(0).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
    level = torch.from_numpy((rng.random((len(images), 1, 1, 1)) * 0.06).astype(np.float32))
    return (torch.lerp(images, blurred, weight) + level * noise).clamp(0, 1)
