"""Scenes drawn once and kept on disk, for trainings that look at each of them many times."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from sketchae.atomic import atomic_path
from sketchae.scenes import IMAGE_SIZE, split_scenes
from sketchae.scenes.factors import FACTORS, SCENES_VERSION, Scenes, hash_seeds
from sketchae.scenes.render import render


class ImagePool:
    """The first `n` scenes of a split, as a memory-mapped array of bytes (n, 3, 128, 128) under `folder`.

    With `vary`, a factor's name, they come in minimal sets: each of the first scenes once with every value of the
    factor and equal in everything else, n in all.
    """

    def __init__(self, folder: Path, split: str, n: int, vary: str | None = None):
        self.vary = vary
        self.scenes = split_scenes(split, n) if vary is None else minimal_sets(split, n, vary)
        self.file = Path(folder) / f"scenes-v{SCENES_VERSION}-{split}-{n}{f'-{vary}' if vary else ''}.npy"
        if not self.file.exists():
            self._draw(split, n)
        self.pixels = np.load(self.file, mmap_mode="r", allow_pickle=False)

    def _draw(self, split: str, n: int) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.file) as path:
            shape = (n, 3, IMAGE_SIZE, IMAGE_SIZE)
            pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            for i in tqdm(range(0, n, 512), desc=f"drawing {split}"):
                images = render(self.scenes[i : i + 512]).images
                pixels[i : i + len(images)] = (images * 255).round().to(torch.uint8).numpy()
            pixels.flush()

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, rows: np.ndarray) -> Float[Tensor, "n 3 128 128"]:
        """The pictures at `rows`, in [0, 1]."""
        return torch.from_numpy(self.pixels[np.asarray(rows)]).float().div_(255)


def minimal_sets(split: str, n: int, vary: str) -> Scenes:
    """`n` scenes of a split, of which each run of len(values) differs in the factor `vary` only (n divides evenly)."""
    values = FACTORS[vary].values
    repeated = split_scenes(split, n // len(values))[np.repeat(np.arange(n // len(values)), len(values))]
    return repeated.with_factor(vary, values * (n // len(values)))


def batch_rows(n: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Rows of a training step's batch: epochs of permutations, from the seed and the step alone."""
    per_epoch = n // batch_size
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return order[place * batch_size : (place + 1) * batch_size]


def step_uniform(seed: int, step: int, name: str) -> float:
    """A draw in [0, 1) that belongs to one step, by name."""
    return float(hash_seeds(np.array([seed * 1_000_003 + step], dtype=np.uint64), name)[0] >> np.uint64(11)) / 2.0**53
