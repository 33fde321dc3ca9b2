"""Judge many splits on the same pairs: decode, read, compare; what does not depend on the split is done once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sketchae import edits
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import generator
from sketchae.metrics.swaps import (
    counterfactual_from_distances,
    distance_function,
    score_swaps,
    score_unswapped,
)

DISTANCES = ("mse", "ssim", "gradient")

SwapFunction = Callable[[Tensor, Tensor], Tensor]  # (z_content, z_style) -> latents of the swap


@runtime_checkable
class Codec(Protocol):
    """`encode` pictures in [0, 1] to scaled latents, `decode` them back."""

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...


@runtime_checkable
class Judge(Protocol):
    """Reads factor values, one integer a picture and factor, from pictures in [0, 1]."""

    def predict(self, images: Tensor) -> dict[str, Tensor]: ...


def pair_indices(
    n_examples: int, n_pairs: int, name: str = "pairs"
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Draw `n_pairs` ordered pairs of different examples, determined by `name`; no pair occurs in both directions.

    Up to n_examples // 2 pairs share no example; beyond, each example occurs at most once in each role.

    Raises:
        BadInputError: more pairs are asked for than there are examples, or there are fewer than three examples.
    """
    if n_examples < 3 or not 1 <= n_pairs <= n_examples:
        raise BadInputError(
            f"Cannot draw {n_pairs} pairs from {n_examples} examples: "
            "ask for at least 1 pair and at most as many as there are examples, of which 3 are needed."
        )
    order = generator(f"{name}/{n_examples}").permutation(n_examples)
    starts = np.concatenate([np.arange(0, n_examples - 1, 2), np.arange(1, n_examples - 1, 2), [n_examples - 1]])
    starts = starts[:n_pairs]
    return order[starts], order[(starts + 1) % n_examples]


class PairBench:
    """What benches on a fixed set of pairs share: batches of pairs, and decoding on the device."""

    codec: Codec
    n_pairs: int
    batch_size: int
    device: torch.device

    def _count(self, n_pairs: int | None) -> int:
        if n_pairs is None:
            return self.n_pairs
        if not 1 <= n_pairs <= self.n_pairs:
            raise BadInputError(f"{n_pairs} pairs asked for; this bench has 1 to {self.n_pairs}.")
        return n_pairs

    def _batches(self, n: int) -> list[slice]:
        return [slice(start, min(start + self.batch_size, n)) for start in range(0, n, self.batch_size)]

    def _z(self, z: Tensor, rows: slice) -> Tensor:
        return z[rows].to(self.device)

    def _decode(self, z: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.codec.decode(z.to(self.device)).float()


class SwapBench(PairBench):
    """Scores any number of splits on one set of pairs (a, b) of scenes: a's semantic with b's style.

    Encoding, reconstructions and their readings, the ceiling, and the counterfactual pictures are computed once, at
    construction; `score(basis)` then costs one decoding of every pair. Only 16-bit copies of the counterfactual
    pictures are kept (about 0.1 MB a pair at 128 pixels).
    """

    def __init__(
        self,
        codec: Codec,
        judge: Judge,
        scenes_a: Any,
        scenes_b: Any,
        *,
        z_a: edits.Latents | None = None,
        z_b: edits.OtherLatents | None = None,
        counterfactual_images: edits.OtherLatents | None = None,
        kinds: Mapping[str, str] | None = None,
        other_judges: Mapping[str, Judge] | None = None,
        batch_size: int = 64,
        n_boot: int = 1000,
        name: str = "swaps",
        device: str | torch.device = "cpu",
    ) -> None:
        """Prepare the pairs (scenes_a[i], scenes_b[i]).

        `scenes_*` are `sketchae.scenes.Scenes` (or anything with `.factors`, if `counterfactual_images` and both `z`
        are given). Latents that are not given are made by drawing and encoding the scenes. `judge` gives the headline;
        `other_judges` read the same decoded pictures at little extra cost. `name` seeds the bootstraps, so that every
        split is resampled alike.

        Raises:
            BadInputError: no pairs, or numbers of scenes, latents and pictures that do not agree.
        """
        self.codec, self.judge, self.other_judges = codec, judge, dict(other_judges or {})
        self.batch_size, self.n_boot, self.name, self.device = batch_size, n_boot, name, torch.device(device)
        self.kinds = dict(kinds) if kinds is not None else _scene_kinds()
        self.factors_a = {factor: np.asarray(scenes_a.factors[factor]) for factor in self.kinds}
        self.factors_b = {factor: np.asarray(scenes_b.factors[factor]) for factor in self.kinds}
        self.n_pairs = len(next(iter(self.factors_a.values())))
        if self.n_pairs == 0:
            raise BadInputError("A SwapBench needs at least one pair of scenes; the selection is empty.")
        self.z_a = self._encode_scenes(scenes_a) if z_a is None else z_a.float()
        self.z_b = self._encode_scenes(scenes_b) if z_b is None else z_b.float()
        if counterfactual_images is None:
            counterfactual_images = _draw_counterfactuals(scenes_a, scenes_b)
        self.counterfactual_images = counterfactual_images.half()
        counts = {
            self.n_pairs,
            len(next(iter(self.factors_b.values()))),
            len(self.z_a),
            len(self.z_b),
            len(self.counterfactual_images),
        }
        if len(counts) > 1:
            raise BadInputError(
                f"Scenes, latents and counterfactual pictures of one bench have {sorted(counts)} items: "
                "pass one per pair."
            )
        self._prepare()

    @torch.inference_mode()
    def _prepare(self) -> None:
        """Everything that is the same for every split."""
        readings: dict[str, list[dict[str, dict[str, np.ndarray]]]] = {"a": [], "b": []}
        columns: dict[str, list[Tensor]] = {}
        for rows in self._batches(self.n_pairs):
            truth = self._truth(rows)
            recon = {"a": self._decode(self.z_a[rows]), "b": self._decode(self.z_b[rows])}
            for key, pictures in recon.items():
                readings[key].append(self._read(pictures))
            for key, pictures in (*recon.items(), ("codec", self._decode(self.codec.encode(truth)))):
                for distance in DISTANCES:
                    measured = distance_function(distance)(pictures, truth).cpu()
                    columns.setdefault(f"{distance}/{key}", []).append(measured)
        self._fixed = {key: torch.cat(parts) for key, parts in columns.items()}
        self._recon_readings = {key: _concatenate(parts) for key, parts in readings.items()}

    @property
    def ceiling(self) -> dict[str, Any]:
        """What the judge reads from unswapped reconstructions, in the shape of `score`'s swap part."""
        scores = {
            judge: score_unswapped(read, self.factors_a, self.factors_b, self.kinds, n_boot=self.n_boot, name=self.name)
            for judge, read in self._recon_readings["a"].items()
        }
        return _flat(scores)

    def score(self, basis: edits.Split | SwapFunction, *, n_pairs: int | None = None) -> dict[str, Any]:
        """Score a basis, or a function (z_content, z_style) -> latents; optionally on the first `n_pairs` pairs only.

        Returns a dict of plain numbers: score, semantic, style, neither (each with `<key>_ci95`), n_pairs, per_factor,
        counterfactual_{mse,ssim,gradient} (each with `_ci95`), mse, ssim, gradient (mean distance to the true
        counterfactual; ssim as 1 − SSIM), and `judges`: the swap part again for each other judge.
        """
        swap = (lambda a, b: edits.swap(basis, a, b)) if isinstance(basis, edits.Split) else basis
        rows = self._batches(self._count(n_pairs))
        return self._score(self._decode(swap(self._z(self.z_a, part), self._z(self.z_b, part))) for part in rows)

    def score_unchanged(self, which: Literal["a", "b"], *, n_pairs: int | None = None) -> dict[str, Any]:
        """Score a trivial answer, a or b as the codec reconstructs it, like `score`; nothing is decoded again."""
        n = self._count(n_pairs)
        readings = {
            judge: {factor: values[:n] for factor, values in read.items()}
            for judge, read in self._recon_readings[which].items()
        }
        return self._summary(readings, {distance: self._fixed[f"{distance}/{which}"][:n] for distance in DISTANCES})

    def score_pictures(self, images: Float[Tensor, "pairs channels height width"]) -> dict[str, Any]:
        """Score pictures in [0, 1] made by any other method, one for each of the first len(images) pairs."""
        rows = self._batches(self._count(len(images)))
        return self._score(images[part].to(self.device, torch.float32) for part in rows)

    @torch.inference_mode()
    def _score(self, pictures: Iterable[Tensor]) -> dict[str, Any]:
        readings: list[dict[str, dict[str, np.ndarray]]] = []
        columns: dict[str, list[Tensor]] = {distance: [] for distance in DISTANCES}
        done = 0
        for batch in pictures:
            truth = self._truth(slice(done, done + len(batch)))
            readings.append(self._read(batch))
            for distance in DISTANCES:
                columns[distance].append(distance_function(distance)(batch, truth).cpu())
            done += len(batch)
        return self._summary(_concatenate(readings), {distance: torch.cat(parts) for distance, parts in columns.items()})

    def _summary(
        self, readings: Mapping[str, Mapping[str, np.ndarray]], reached: Mapping[str, Float[Tensor, " pairs"]]
    ) -> dict[str, Any]:
        """Scores of the first pairs from each judge's readings, and from the distances to the true counterfactuals."""
        done = len(next(iter(reached.values())))
        a = {factor: values[:done] for factor, values in self.factors_a.items()}
        b = {factor: values[:done] for factor, values in self.factors_b.items()}
        result = _flat(
            {
                judge: score_swaps(read, a, b, self.kinds, n_boot=self.n_boot, name=self.name)
                for judge, read in readings.items()
            }
        )
        for distance in DISTANCES:
            fixed = (self._fixed[f"{distance}/{key}"][:done] for key in ("codec", "a", "b"))
            score = counterfactual_from_distances(reached[distance], *fixed, n_boot=self.n_boot, name=self.name)
            result |= {f"counterfactual_{distance}": score.score, f"counterfactual_{distance}_ci95": list(score.ci95)}
            result |= {distance: score.swapped, f"{distance}_trivial": score.trivial, f"{distance}_codec": score.codec}
        return result

    def _truth(self, rows: slice) -> Tensor:
        return self.counterfactual_images[rows].to(self.device, torch.float32)

    def _read(self, images: Tensor) -> dict[str, dict[str, np.ndarray]]:
        judges = {"": self.judge, **self.other_judges}
        return {
            key: {factor: np.asarray(values.cpu()) for factor, values in judge.predict(images).items()}
            for key, judge in judges.items()
        }

    @torch.inference_mode()
    def _encode_scenes(self, scenes: Any) -> Tensor:
        from sketchae.scenes import render

        parts = [self.codec.encode(render(scenes[rows]).images.to(self.device)) for rows in self._batches(len(scenes))]
        return torch.cat(parts).float().cpu()


def _draw_counterfactuals(scenes_a: Any, scenes_b: Any) -> Tensor:
    from sketchae.scenes import counterfactual, render

    return render(counterfactual(scenes_a, scenes_b)).images


def _scene_kinds() -> dict[str, str]:
    from sketchae.scenes import FACTORS

    return {name: factor.kind for name, factor in FACTORS.items()}


def _concatenate(parts: list[dict[str, dict[str, np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
    return {
        judge: {factor: np.concatenate([part[judge][factor] for part in parts]) for factor in parts[0][judge]}
        for judge in parts[0]
    }


def _flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The headline judge's numbers at the top, the other judges' under `judges`."""
    plain = {judge: _lists(score.as_dict()) for judge, score in scores.items()}
    return plain.pop("") | {"judges": plain}


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
