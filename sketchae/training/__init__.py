"""Training of the split: the change of basis and its two embedders, from preprocessed latents.

    result = train_basis(open_latents(folder, "train"), open_latents(folder, "val"), TrainConfig(seed=0), out_dir)
    result.weight  # nearly orthogonal; sketchae.basis.finalize makes it exactly so

On several processes, GPUs or machines: `torchrun --nproc_per_node 2 -m sketchae.training --profile coco`, or `accelerate launch`.
"""

from sketchae.training.batches import BatchOrder, Latents, TensorLatents
from sketchae.training.config import TrainConfig
from sketchae.training.model import SplitModel
from sketchae.training.penalty import train_without_data
from sketchae.training.result import Record, TrainResult
from sketchae.training.run import train_basis, train_seeds

__all__ = [
    "BatchOrder",
    "Latents",
    "Record",
    "SplitModel",
    "TensorLatents",
    "TrainConfig",
    "TrainResult",
    "train_basis",
    "train_seeds",
    "train_without_data",
]
