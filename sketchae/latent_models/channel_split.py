"""Do the channels of a latent come apart by a rotation? The augmentation eigenproblem's split, by the main paper's swap score.

A vector latent of d numbers is taken as d channels of one place (`as_codec`); codes are split before they are quantised. The split
is `sketchae.basis.augmentation`'s, half of the channels semantic; `sketchae.metrics.evaluation.SwapBench` judges it.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.backbones.vae import LatentCodec, check_images
from sketchae.basis.augmentation import DEFAULT_CONTENT, augmentation_split
from sketchae.diffusion.picture_sets import Result
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import Interval
from sketchae.metrics.evaluation import Judge, SwapBench

Images = Float[Tensor, "n 3 height width"]
_BATCH = 64


@dataclass(frozen=True)
class AdaptedCodec:
    """Any encoder and decoder as a `LatentCodec`; made by `as_codec`.

    Attributes:
        latent_channels, downsampling: latents are (n, latent_channels, height / downsampling, width / downsampling).
        std: what the model's own latents are divided by, one number for all channels.
        vector: whether the model's own latents are (n, d), here (n, d, 1, 1).
    """

    encoder: Callable[[Tensor], Tensor]
    decoder: Callable[[Tensor], Tensor]
    latent_channels: int
    downsampling: int
    std: float = 1.0
    vector: bool = False
    needs_grad: bool = False

    @property
    def device(self) -> torch.device:
        """The models of this room are small, and stay on the CPU."""
        return torch.device("cpu")

    def encode(self, images: Images) -> Float[Tensor, "n channels h w"]:
        """Pictures in [0, 1] to latents, divided by `std`.

        Raises:
            BadInputError: latents that are not finite, or not of the shape that was promised.
        """
        z = self._encoded(images)
        z = (z[..., None, None] if self.vector else z) / self.std
        expected = (len(images), self.latent_channels, images.shape[2] // self.downsampling, images.shape[3] // self.downsampling)
        if tuple(z.shape) != expected:
            raise BadInputError(f"The encoder gave latents {tuple(z.shape)}, not {expected}: give its number of channels and its downsampling.")
        return z

    def decode(self, z: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n 3 height width"]:
        """Latents to pictures, clamped to [0, 1]."""
        if z.shape[1] != self.latent_channels:
            raise BadInputError(f"Latents of {z.shape[1]} channels do not fit a codec of {self.latent_channels}.")
        z = z * self.std
        return self.decoder(z.flatten(1) if self.vector else z).float().clamp(0, 1)

    def _encoded(self, images: Images) -> Tensor:
        # A bench encodes in inference mode, in which nothing can be differentiated, even by an encoder that asks to.
        with torch.inference_mode(False), torch.set_grad_enabled(self.needs_grad):
            z = self.encoder(images.clone() if images.is_inference() else images).detach().float()
        if not bool(torch.isfinite(z).all()):
            raise BadInputError("The encoder gave latents that are NaN or infinite: check that its weights are complete.")
        return z


def as_codec(
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    channels: int,
    downsampling: int,
    images: Images,
    *,
    needs_grad: bool = False,
) -> AdaptedCodec:
    """A model of this room as `SwapBench` and `augmentation_split` want a codec.

    Latents are divided by one number: their standard deviation over all entries of the latents of `images`. Their mean is not moved, and
    channels keep their relative sizes. Neither the eigenproblem nor a swap depends on that number or on the mean.

    Args:
        encode: pictures to latents (n, d), taken as d channels of 1x1, or (n, c, h, w). Of a VAE give the mean; of a VQ-VAE the encoder's
            continuous features.
        decode: the way back; of a VQ-VAE it takes the nearest codes first.
        channels: d or c.
        downsampling: side of the pictures / side of the latents; for (n, d) the side of the pictures.
        images: the fitting pictures, to measure the standard deviation.
        needs_grad: for an encoder that descends a gradient itself, as GLO's.

    Raises:
        BadInputError: as `AdaptedCodec.encode`, or latents that are the same for all pictures and places.
    """
    check_images(images)
    bare = AdaptedCodec(encode, decode, channels, downsampling, needs_grad=needs_grad)
    z = torch.cat([bare._encoded(batch) for batch in images.split(_BATCH)])
    std = float(z.double().std(correction=0))
    if not std > 0:
        raise BadInputError("All latents are one and the same number: give more pictures, or train the encoder first.")
    codec = AdaptedCodec(encode, decode, channels, downsampling, std, z.ndim == 2, needs_grad)
    codec.encode(images[:1])  # to have a wrong shape named here, and not in the middle of a bench
    return codec


@dataclass(frozen=True)
class SplitRow(Result):
    """How well the eigenproblem's split of the channels tells what is where from how it is painted.

    Attributes:
        score, semantic, style: swap score and its halves, in [-1, 1]; 0 is what a picture that shows one side only gets.
        neither: share of readings that are of neither picture.
        ceiling: the same figure as `score` for unswapped reconstructions: what a codec that blurs the factors away cannot exceed.
        counterfactual_mse: by pixels, 1 as good as the codec allows, 0 no better than no edit; NaN where the codec allows nothing better.
        n_semantic: of `channels`, how many are semantic.
    """

    score: float
    score_ci95: Interval
    semantic: float
    style: float
    neither: float
    ceiling: float
    ceiling_ci95: Interval
    counterfactual_mse: float
    n_semantic: int
    channels: int
    n_pairs: int
    n_pictures: int


def split_row(
    codec: LatentCodec,
    images: Images,
    scenes_a: Any,
    scenes_b: Any,
    judge: Judge,
    *,
    n_semantic: int | None = None,
    n_boot: int = 1000,
    name: str = "swaps",
    **bench_options: Any,
) -> SplitRow:
    """Swap score of the augmentation eigenproblem's split, half of the channels semantic (`n_semantic`: another number).

    The best *linear* split that can be had without labels; the ceiling stands beside it. A low score of a latent whose ceiling is high says
    that its channels do not separate by an orthogonal map, not that they hold nothing.

    Args:
        codec: the embedded VAE (`sketchae.backbones.load_vae`), or any model by `as_codec`.
        images: pictures that the split is fitted on, none of them of the scenes; some times as many as a vector latent has numbers.
        scenes_a, scenes_b: the pairs to judge.
        bench_options: of `SwapBench`.

    Raises:
        BadInputError: a latent of one channel, fewer content changes than channels, or as `augmentation_split` and `SwapBench`.
    """
    channels = codec.latent_channels
    if channels < 2:
        raise BadInputError("A latent of one channel has no two blocks: give a codec of two channels or more.")
    n_changes = len(DEFAULT_CONTENT) * len(images) * (images.shape[2] // codec.downsampling) * (images.shape[3] // codec.downsampling)
    if n_changes < channels:
        raise BadInputError(f"{len(images)} pictures give {n_changes} content changes for {channels} channels: give several times more pictures.")
    basis = augmentation_split(codec, images).basis(channels // 2 if n_semantic is None else n_semantic)
    bench = SwapBench(codec, judge, scenes_a, scenes_b, n_boot=n_boot, name=name, **bench_options)
    with warnings.catch_warnings():  # a score that does not exist is NaN here, which says it
        warnings.filterwarnings("ignore", message="The codec's reconstruction of the counterfactual")
        score, ceiling = bench.score(basis), bench.ceiling
    return SplitRow(
        score["score"],
        tuple(score["score_ci95"]),
        score["semantic"],
        score["style"],
        score["neither"],
        ceiling["score"],
        tuple(ceiling["score_ci95"]),
        score["counterfactual_mse"],
        basis.n_semantic,
        channels,
        bench.n_pairs,
        len(images),
    )
