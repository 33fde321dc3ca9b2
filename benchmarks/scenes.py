"""How many scenes a second are drawn, in one process and in one process a core."""

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from sketchae.atomic import atomic_write_text


def draw(indices: range) -> int:
    """Draw the scenes and return how many there were; one thread."""
    import torch

    from sketchae.scenes import render, sample_scenes

    torch.set_num_threads(1)
    return len(render(sample_scenes(indices)).images)


def main(arguments: Sequence[str] | None = None) -> dict:
    """Print a table and write build/bench/scenes.json."""
    n, n_cores = 512, os.cpu_count() or 1
    rates = {}
    with ProcessPoolExecutor(n_cores, mp_context=get_context("spawn")) as pool:
        list(pool.map(draw, [range(8)] * 2 * n_cores))  # imports
        for workers in dict.fromkeys((1, n_cores)):
            started = time.perf_counter()
            parts = [range(i * n // workers, (i + 1) * n // workers) for i in range(workers)]
            total = sum(pool.map(draw, parts))
            rates[workers] = total / (time.perf_counter() - started)
    print("| processes | scenes/s | ratio |\n|---|---|---|")
    for workers, rate in rates.items():
        print(f"| {workers} | {rate:.0f} | {rate / rates[1]:.2f} |")
    result = {"n_scenes": n, "scenes_per_s": {str(w): round(r, 1) for w, r in rates.items()}}
    atomic_write_text(Path("build/bench/scenes.json"), json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
