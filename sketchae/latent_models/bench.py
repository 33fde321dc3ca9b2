"""One bench for all latent models of Scenes: what is lost, what samples are worth, what a picture costs, whether its channels split.

    PSNR = -10 log10 |x - g(e(x))|²/N            reconstruction, beside what a judge still reads in it: share read right, and Cohen's κ
    d²(samples, real)                            Fréchet distance of the judge's features (`sketchae.diffusion.picture_sets`)
    h · w · log2 K  and  h · w · H(codes)        bits of discrete codes: nominal, and if codes are coded by their frequencies alone
    swap score of the eigenproblem's split       `sketchae.basis.augmentation`, judged by `sketchae.metrics.evaluation.SwapBench`

n pictures of N numbers; h, w: the grid of codes; K codes in the codebook; H in bits, of the frequencies of codes in all places of all pictures.
Pictures are in [0, 1]. Choose with judge a, report with judge b. Every interval is a 95 % percentile bootstrap over pictures or over pairs.

Lecture: "Latent models"; it shows one model after another, and this puts their numbers side by side.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from sketchae.backbones.vae import check_images
from sketchae.diffusion.evaluation import preview_agreement
from sketchae.diffusion.picture_sets import NAN, FeatureReader, Result, frechet_distance, frechet_floor, judge_features
from sketchae.diffusion.readings import KIND_NAMES, KINDS
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import Interval, bootstrap_ci
from sketchae.metrics.distances import psnr
from sketchae.metrics.evaluation import Judge
from sketchae.scenes import render

Images = Float[Tensor, "n 3 height width"]
OtherImages = Float[Tensor, "_ _ _ _"]  # must agree with the first; checked in the function, with a sentence

_BATCH = 64
_FLOAT_BITS = 32
_MISSING = "–"


# --- reconstruction ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReconstructionRow(Result):
    """What is left of `n` pictures after encoding and decoding.

    Attributes:
        psnr: in dB, mean over pictures; infinite, without interval, where a picture comes back without any error.
        semantic_accuracy, style_accuracy: share of factors, in [0, 1], that the judge reads as the scene says; mean over the kind's factors.
        semantic_kappa, style_kappa: Cohen's κ of the same, mean over the kind's factors; 0 is what guessing by frequencies gives, 1 perfect.
        per_factor: accuracy of every factor.
    """

    psnr: float
    psnr_ci95: Interval
    semantic_accuracy: float
    semantic_accuracy_ci95: Interval
    style_accuracy: float
    style_accuracy_ci95: Interval
    semantic_kappa: float
    semantic_kappa_ci95: Interval
    style_kappa: float
    style_kappa_ci95: Interval
    n: int
    per_factor: dict[str, float]


def reconstruction_row(
    reconstruct: Callable[[Tensor], Tensor],
    scenes: Any,
    judge: Judge,
    *,
    images: Images | None = None,
    kinds: Mapping[str, str] = KINDS,
    batch_size: int = _BATCH,
    needs_grad: bool = False,
    n_boot: int = 1000,
    name: str = "reconstruction",
) -> ReconstructionRow:
    """PSNR of `reconstruct(images)`, and what a judge reads in it. The identity as `reconstruct` gives the judge's own ceiling.

    Args:
        reconstruct: pictures in [0, 1] to as many of the same shape.
        scenes: `sketchae.scenes.Scenes`, or anything with `.factors` where `images` are given.
        images: the scenes' pictures, if they are drawn already.
        kinds: which factors to look at, "semantic" or "style" each.
        needs_grad: for a reconstruction that descends a gradient itself, as GLO's.

    Raises:
        BadInputError: no scene, another number of pictures than of scenes, or reconstructions of another shape or beyond [0, 1].
    """
    n = len(next(iter(scenes.factors.values())))
    if not n or (images is not None and len(images) != n):
        raise BadInputError(f"{0 if images is None else len(images)} pictures of {n} scenes: give at least one scene, and one picture for each.")
    db, parts = [], []
    for start in range(0, n, batch_size):
        rows = slice(start, start + batch_size)
        batch = render(scenes[rows]).images if images is None else images[rows]
        with torch.set_grad_enabled(needs_grad):
            out = reconstruct(batch).detach()
        check_images(out)
        db.append(psnr(out, batch).double())
        parts.append(judge.predict(out))
    readings = {factor: torch.cat([part[factor] for part in parts]).cpu().numpy() for factor in kinds}
    right = {factor: readings[factor] == np.asarray(scenes.factors[factor]) for factor in kinds}
    # Its κ is of any two readings of the same pictures; here one of them is what the scenes say.
    agreement = preview_agreement({factor: scenes.factors[factor] for factor in kinds}, readings, kinds, n_boot=n_boot, name=name)
    decibels, of_kind = torch.cat(db).cpu().numpy(), {}
    for kind in KIND_NAMES:
        hits = np.array([right[factor] for factor in kinds if kinds[factor] == kind])  # (factors, n)
        of_kind[kind] = _mean(hits.mean(0), n_boot, name) if len(hits) else (NAN, (NAN, NAN))
    return ReconstructionRow(
        *_mean(decibels, n_boot, name),
        *of_kind["semantic"],
        *of_kind["style"],
        agreement.semantic,
        agreement.semantic_ci95,
        agreement.style,
        agreement.style_ci95,
        n,
        {factor: float(hits.mean()) for factor, hits in right.items()},
    )


def _mean(values: Float[np.ndarray, " n"], n_boot: int, name: str) -> tuple[float, Interval]:
    spread = bootstrap_ci(values, n_boot=n_boot, name=name) if np.isfinite(values).all() else (NAN, NAN)
    return float(values.mean()), spread


# --- samples ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleRow(Result):
    """Fréchet distance d² of `n` samples from `n` real pictures; compare at equal n only.

    `floor` is d² between real pictures and other real ones, as many of each: what the best samples can reach. NaN where 2 n were not given.
    """

    frechet: float
    frechet_ci95: Interval
    floor: float
    n: int
    n_features: int


def sample_row(
    samples: Images,
    real: OtherImages | Float[np.ndarray, "_ _"],
    judge: FeatureReader,
    *,
    n_boot: int = 200,
    name: str = "samples",
) -> SampleRow:
    """d² of samples from real pictures in the judge's features.

    Args:
        samples: n pictures in [0, 1]; more than the judge has features (192).
        real: n real pictures, or 2 n: then the first n are compared with, and the floor comes of all. Or their features by the same judge
            (`judge_features`), so that these need not be read again for every model.
        n_boot: resamples; 0 leaves out the interval (NaN).

    Raises:
        BadInputError: neither n nor 2 n real pictures, or as `frechet_distance`.
    """
    check_images(samples)
    n = len(samples)
    if len(real) not in (n, 2 * n):
        raise BadInputError(f"{len(real)} real pictures for {n} samples: give as many, or twice as many to have the floor as well.")
    if isinstance(real, Tensor):
        check_images(real)
        real = judge_features(judge, real)
    found = frechet_distance(judge_features(judge, samples), real[:n], n_boot=n_boot, name=name)
    floor = frechet_floor(real, n_boot=0).distance if len(real) == 2 * n else NAN
    return SampleRow(found.distance, found.ci95, floor, n, found.n_features)


# --- what a picture costs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CodeUse(Result):
    """How a codebook is used in `n` pictures.

    Attributes:
        perplexity: exp of the entropy of the codes' frequencies over the whole set, from 1 to `codebook_size`.
        share_used: of the codes, how many occur at least once, in (0, 1].
        bits_nominal: a picture, all codes taken as equally likely: h · w · log2(codebook_size).
        bits_entropy: a picture, by a code for these frequencies that takes places as independent: h · w · H. A prior that knows which codes
            stand together needs less. H is of the sample, which for few pictures is somewhat too low.
    """

    perplexity: float
    share_used: float
    bits_nominal: float
    bits_entropy: float
    codebook_size: int
    n: int


def code_use(indices: Integer[Tensor, "n h w"] | Integer[np.ndarray, "n h w"], codebook_size: int) -> CodeUse:
    """Perplexity, share of used codes, and bits a picture.

    Raises:
        BadInputError: no codes, or an index that no code has.
    """
    codes = (indices.cpu().numpy() if isinstance(indices, Tensor) else indices).astype(np.int64)
    if not codes.size:
        raise BadInputError("There are no codes to count: give the codes of at least one picture.")
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise BadInputError(f"Codes lie between {codes.min()} and {codes.max()}; of a codebook of {codebook_size} give 0 to {codebook_size - 1}.")
    counts = np.bincount(codes.ravel(), minlength=codebook_size)
    shares = counts[counts > 0] / codes.size
    entropy = -float((shares * np.log(shares)).sum())  # nats
    places = codes.shape[1] * codes.shape[2]
    return CodeUse(
        perplexity=math.exp(entropy),
        share_used=float((counts > 0).mean()),
        bits_nominal=places * math.log2(codebook_size),
        bits_entropy=places * entropy / math.log(2),
        codebook_size=codebook_size,
        n=len(codes),
    )


@dataclass(frozen=True)
class Storage(Result):
    """What continuous latents of one picture take as they are *stored*, and that is no rate.

    Bits a picture are defined only with a quantiser: how finely the numbers could be rounded before pictures suffer, nobody asked.
    """

    n_numbers: int
    bits_stored: int
    stored_as: str


def storage_bits(shape: Sequence[int]) -> Storage:
    """32 bits for each number of a latent of this shape, without the batch (`z.shape[1:]`).

    Raises:
        BadInputError: a shape that holds no number.
    """
    if not len(shape) or min(shape) < 1:
        raise BadInputError(f"A latent of shape {tuple(shape)} holds no number: give the shape of one picture's, z.shape[1:].")
    n = math.prod(shape)
    return Storage(n, n * _FLOAT_BITS, f"{n:,} float32 numbers")


# --- the table --------------------------------------------------------------------------------------------------------

Cell = float | int | str | None


def table(rows: Mapping[str, Mapping[str, Cell]], forms: Mapping[str, str] | None = None) -> str:
    """Rows by model, columns in the order in which they first occur, as aligned text; an en dash for what does not apply (absent, None, NaN).

    Args:
        forms: a column's format, as of `format`; by default ".2f" for floats and "," for whole numbers. Text stands as it is.

    Raises:
        BadInputError: no row.
    """
    if not rows:
        raise BadInputError("A table needs at least one row.")
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [["", *columns], *([name, *(_cell(row.get(column), (forms or {}).get(column)) for column in columns)] for name, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(_aligned(line, widths)).rstrip() for line in lines)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """The name to the left, everything else to the right."""
    for i, (text, width) in enumerate(zip(line, widths, strict=True)):
        yield text.rjust(width) if i else text.ljust(width)


def _cell(value: Cell, form: str | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _MISSING
    if isinstance(value, str):
        return value
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return format(value, form or ("," if isinstance(value, int) else ".2f"))
