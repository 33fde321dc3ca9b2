"""What `sketchae fit` says of a basis where no factor is known: its proxies (`sketchae.metrics.proxies`), beside those of random splits.

The pairs are of pictures that the basis was fitted to: no held-out score.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sketchae.backbones import LatentCodec
from sketchae.basis import OrthogonalBasis, random_basis
from sketchae.metrics.proxies import ProxyBench

N_PAIRS, N_RANDOM = 8, 3
_SIDES = ("combined_content", "combined_style", "combined")


def measure_proxies(
    codec: LatentCodec,
    basis: OrthogonalBasis,
    pairs: Sequence[Sequence[str]],
    read: Callable[[str], Tensor],
    clip: Any | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """The proxies of `basis` on pairs of pictures, and of `N_RANDOM` random splits of the same k: plain numbers for fit.json.

    Args:
        pairs: names of pictures; `read(name)` gives one in [0, 1].
        clip, captions: with both, CLIP's proxies too.

    Returns:
        "n_pairs"; "n_random"; "left_out": proxies that cannot tell these pictures from each other; and for every other one, and for
        their combinations, {"found": …, "ci95": over pairs, "random": mean over random splits}.
    """
    a, b = (torch.stack([read(name) for name in names]) for names in zip(*pairs, strict=True))
    texts = [[captions[name] for name in names] for names in zip(*pairs, strict=True)] if clip is not None and captions else [None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what is left out is told in the result
        bench = ProxyBench(codec, clip, a, b, *texts, batch_size=8, name="fit", device=codec.device)
    found = bench.score(basis)
    random = [bench.score(random_basis(basis.channels, basis.n_semantic, seed)) for seed in range(N_RANDOM)]
    result: dict[str, Any] = {"n_pairs": len(pairs), "n_random": N_RANDOM, "left_out": [name for name in bench.names if name not in bench.usable]}
    for key in (*(f"{name}_rescaled" for name in bench.usable), *_SIDES):
        if key in found:
            mean = float(np.mean([one[key] for one in random]))
            result[key.removesuffix("_rescaled")] = {"found": found[key], "ci95": found[f"{key}_ci95"], "random": mean}
    return result


def tell(proxies: Mapping[str, Any]) -> str:
    """One line: both sides where both could be measured, else every proxy that could."""
    names = [name for name in _SIDES if name in proxies] or [name for name, value in proxies.items() if isinstance(value, dict)]
    parts = [f"{name.removeprefix('combined_')} {proxies[name]['found']:+.2f} (random splits {proxies[name]['random']:+.2f})" for name in names]
    return ", ".join(parts) or "none: they cannot tell these pictures from each other"
