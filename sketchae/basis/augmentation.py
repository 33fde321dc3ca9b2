"""A split without training or captions: change pictures in a known way, and look at which latent channels move.

Some changes of a picture T leave its content and alter its style (other colours), others leave its style and alter
what is where (a flip). With z(x) the latents of a picture, and d = z(T x) - z(x) at every pixel,

    S = sum d d^T / trace    over style changes,      C = the same over content changes,

are the shares of all change along each direction v of the channels: v^T S v and v^T C v. The k orthonormal directions
that take the least of the style changes and the most of the content changes minimise sum_i v_i^T (S - C) v_i: the
eigenvectors of S - C with the lowest eigenvalues. They become the semantic rows of Q, the others its style rows.

One CxC eigenproblem: deterministic, for any codec, any pictures, any number of channels; memory for one batch.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.basis.planes import check_n_semantic
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import generator

Images = Float[Tensor, "batch 3 height width"]
Covariance = Float[np.ndarray, "channels channels"]
# (images in [0, 1], one random generator a picture) -> images of the same shape in [0, 1]
Transform = Callable[[Images, Sequence[np.random.Generator]], Images]

MIN_PICTURES = 2
_GRID = 4  # patches a side in `patch_shuffle`


# --- style changes: every pixel keeps its place -----------------------------------------------------------------------


def colour_mix(images: Images, generators: Sequence[np.random.Generator]) -> Images:
    """x' = m + A (x - m): a random orthogonal 3x3 matrix A mixes the colours about the picture's mean m."""
    matrices = _draw(generators, lambda random: _haar(random.normal(size=(3, 3))))
    mean = images.mean((2, 3), keepdim=True)
    return (mean + torch.einsum("bij,bjhw->bihw", matrices, images - mean)).clamp(0, 1)


def inversion(images: Images, generators: Sequence[np.random.Generator]) -> Images:
    """x' = 1 - x in a random, non-empty set of the three channels."""
    chosen = _draw(generators, lambda random: [bit for bit in np.binary_repr(random.integers(1, 8), 3)], (3, 1, 1))
    return torch.where(chosen > 0, 1 - images, images)


def offset(images: Images, generators: Sequence[np.random.Generator]) -> Images:
    """x' = x + c, with c uniform in [-0.3, 0.3] for each channel."""
    return (images + _draw(generators, lambda random: random.uniform(-0.3, 0.3, 3), (3, 1, 1))).clamp(0, 1)


def gamma(images: Images, generators: Sequence[np.random.Generator]) -> Images:
    """x' = x^g, with log2 g uniform in [-1, 1] for each channel."""
    return images.clamp(min=0) ** _draw(generators, lambda random: 2 ** random.uniform(-1, 1, 3), (3, 1, 1))


def contrast(images: Images, generators: Sequence[np.random.Generator]) -> Images:
    """x' = m + s (x - m) about the picture's mean m, with log2 s uniform in [-1, 1]."""
    mean = images.mean((2, 3), keepdim=True)
    scale = _draw(generators, lambda random: 2 ** random.uniform(-1, 1), (1, 1, 1))
    return (mean + scale * (images - mean)).clamp(0, 1)


def noise(images: Images, generators: Sequence[np.random.Generator]) -> Images:
    """x' = x + normal noise of standard deviation 0.1: grain."""
    grain = _draw(generators, lambda random: random.normal(0, 0.1, images.shape[1:]))
    return (images + grain).clamp(0, 1)


def blur(images: Images, generators: Sequence[np.random.Generator]) -> Images:
    """A Gaussian of 1/64 of the height (2 pixels at 128), the same for every picture."""
    sigma = images.shape[2] / 64
    radius = max(1, math.ceil(3 * sigma))
    taps = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float32) ** 2) / (2 * sigma**2))
    kernel = (taps / taps.sum()).to(images).expand(3, 1, 1, -1)
    across = functional.conv2d(functional.pad(images, (radius, radius, 0, 0), "replicate"), kernel, groups=3)
    padded = functional.pad(across, (0, 0, radius, radius), "replicate")
    return functional.conv2d(padded, kernel.transpose(2, 3), groups=3).clamp(0, 1)


# --- content changes: every colour and stroke stays, but somewhere else -----------------------------------------------


def flip(images: Images, generators: Sequence[np.random.Generator]) -> Images:
    """Mirror left and right."""
    return images.flip(3)


def shift(images: Images, generators: Sequence[np.random.Generator]) -> Images:
    """Roll by a random number of pixels, a quarter to three quarters of each side: what leaves on one side enters opposite."""
    return _each(
        images,
        generators,
        lambda image, random: image.roll([int(side * random.uniform(0.25, 0.75)) for side in image.shape[1:]], (1, 2)),
    )


def zoom(images: Images, generators: Sequence[np.random.Generator]) -> Images:
    """A random crop of half to nine tenths of the sides, enlarged to the full size (bilinear)."""
    return _each(images, generators, _random_crop)


def patch_shuffle(images: Images, generators: Sequence[np.random.Generator]) -> Images:
    """Permute the patches of a 4x4 grid; pixels beyond the last whole patch stay."""
    return _each(images, generators, _shuffled)


STYLE_TRANSFORMS: dict[str, Transform] = {
    function.__name__: function for function in (colour_mix, inversion, offset, gamma, contrast, noise, blur)
}
"""Changes that leave the content: the last two change the texture, the others the colours."""

CONTENT_TRANSFORMS: dict[str, Transform] = {
    function.__name__: function for function in (flip, shift, zoom, patch_shuffle)
}
"""Changes that leave the style: what is where differs afterwards."""

DEFAULT_STYLE = ("colour_mix", "inversion", "offset")
DEFAULT_CONTENT = ("flip", "shift")


# --- the eigenproblem -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AugmentationSplit:
    """What moved, and the directions that follow from it.

    Attributes:
        S, C: covariances of the latent changes by style and by content changes, each of trace 1.
        eigenvalues: of S - C, ascending, in [-1, 1]; they sum to 0.
        eigenvectors: as *rows*, in the same order, each with its largest entry positive.
        style, content: names of the changes.
        n_pictures, n_repeats: how many pictures, and how often each change was drawn for one.
    """

    S: Covariance
    C: Covariance
    eigenvalues: Float[np.ndarray, " channels"]
    eigenvectors: Covariance
    style: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    n_pictures: int = 0
    n_repeats: int = 1

    @classmethod
    def from_covariances(
        cls, style_change: Covariance, content_change: Covariance, **known: Any
    ) -> "AugmentationSplit":
        """Solve for the covariances of the changes, of any scale; `known` fills the other attributes.

        Raises:
            BadInputError: a covariance that is zero (nothing moved) or not finite.
        """
        S, C = (_unit_trace(matrix, kind) for matrix, kind in ((style_change, "style"), (content_change, "content")))
        eigenvalues, columns = np.linalg.eigh(S - C)
        rows = columns.T
        largest = np.abs(rows).argmax(axis=1)
        return cls(S, C, eigenvalues, rows * np.sign(rows[np.arange(len(rows)), largest])[:, None], **known)

    @property
    def n_semantic(self) -> int:
        """The number of negative eigenvalues, kept in 1 .. C - 1.

        A negative eigenvalue means that a direction takes a larger share of the content changes than of the style
        changes; with exactly those directions, sum_i v_i^T (S - C) v_i is as low as any number of them can make it.
        The eigenvalues sum to 0, so both signs occur unless S = C.
        """
        return min(max(int((self.eigenvalues < 0).sum()), 1), len(self.eigenvalues) - 1)

    def basis(self, n_semantic: int | None = None, **meta: Any) -> OrthogonalBasis:
        """Q, whose first `n_semantic` rows (None: see the property) are the lowest eigenvectors.

        `meta`: vae, vae_id and facts, as in `OrthogonalBasis`. Where eigenvalues coincide, the rows are determined
        only up to a rotation among them.

        Raises:
            BadInputError: `n_semantic` leaves a block empty.
        """
        n_semantic = self.n_semantic if n_semantic is None else n_semantic
        check_n_semantic(n_semantic, len(self.eigenvalues))
        return OrthogonalBasis.from_matrix(self.eigenvectors, n_semantic, **meta)


def augmentation_split(
    codec: Any,
    images: Images | Iterable[Tensor],
    *,
    style: Sequence[str] = DEFAULT_STYLE,
    content: Sequence[str] = DEFAULT_CONTENT,
    n_repeats: int = 1,
    name: str = "augmentation",
    batch_size: int = 16,
) -> AugmentationSplit:
    """The split of a codec's channels into those that content changes move and those that style changes move.

    The defaults leave the other side as it was, but for pixels that run into black or white: colours, and mirroring and
    shifting. Zooming changes the scale of strokes, shuffling patches adds edges, noise and blur add or remove detail, so
    those four touch both sides. On 96 pairs of validation scenes, with two semantic channels, the swap scores of the
    defaults and of all colour with all content changes could not be told apart; colour mixing, noise or blur as the
    only style change scored like a random basis.

    Args:
        codec: anything with `encode` from pixels in [0, 1] to latents (see `sketchae.backbones.load_vae`).
        images: pictures (n, 3, h, w) in [0, 1], or an iterable of batches of them, which is read once.
        style, content: keys of `STYLE_TRANSFORMS` and `CONTENT_TRANSFORMS`.
        n_repeats: draws of each change for each picture.
        name: seeds the draws, together with each picture's number.
        batch_size: pictures encoded at a time; it changes nothing but memory and speed.

    Raises:
        BadInputError: an unknown change, fewer than two pictures, pictures or latents with NaNs, a codec that a change does not move.
    """
    chosen = {**_select(style, STYLE_TRANSFORMS, "style"), **_select(content, CONTENT_TRANSFORMS, "content")}
    changes, n_pictures = _changes(codec, images, chosen, n_repeats, name, batch_size)
    return AugmentationSplit.from_covariances(
        np.sum([changes[key] for key in style], axis=0),
        np.sum([changes[key] for key in content], axis=0),
        style=tuple(style),
        content=tuple(content),
        n_pictures=n_pictures,
        n_repeats=n_repeats,
    )


def latent_change_covariance(
    codec: Any,
    images: Images | Iterable[Tensor],
    transforms: Mapping[str, Transform],
    *,
    n_repeats: int = 1,
    name: str = "augmentation",
    batch_size: int = 16,
) -> Covariance:
    """sum d d^T with d = z(T x) - z(x), over the pixels of all pictures and over all `transforms`; float64.

    The second moment, not centred: a change that moves every picture alike is a change too. The other arguments and
    the errors are those of `augmentation_split`; the transforms may be functions of your own.
    """
    return np.sum(list(_changes(codec, images, transforms, n_repeats, name, batch_size)[0].values()), axis=0)


@torch.no_grad()
def _changes(
    codec: Any,
    images: Images | Iterable[Tensor],
    transforms: Mapping[str, Transform],
    n_repeats: int,
    name: str,
    batch_size: int,
) -> tuple[dict[str, Covariance], int]:
    """The covariance of each transform by its name, and the number of pictures; every picture is encoded once unchanged."""
    if not transforms or n_repeats < 1 or batch_size < 1:
        raise BadInputError("At least one change of the pictures, one repeat and a batch of one picture are needed.")
    sums: dict[str, Any] = dict.fromkeys(transforms, 0.0)
    n_pictures = 0
    for batch in _batches(images, batch_size):
        z = _encode(codec, batch)
        for key, transform in transforms.items():
            for repeat in range(n_repeats):
                generators = [generator(f"{name}/{key}/{repeat}/{n_pictures + i}") for i in range(len(batch))]
                change = (_encode(codec, transform(batch, generators)) - z).movedim(1, 0).flatten(1)
                sums[key] = sums[key] + (change @ change.T).numpy()
        n_pictures += len(batch)
    if n_pictures < MIN_PICTURES:
        raise BadInputError(f"The changes of {n_pictures} picture(s) say too little: give at least {MIN_PICTURES}.")
    return sums, n_pictures


def _batches(images: Images | Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    from sketchae.backbones.vae import check_images  # here, because it loads diffusers

    for batch in [images] if isinstance(images, Tensor) else images:
        check_images(batch)
        yield from batch.split(batch_size)


def _encode(codec: Any, images: Tensor) -> Tensor:
    z = codec.encode(images).cpu().double()
    if not bool(torch.isfinite(z).all()):
        raise BadInputError(
            "The codec gave latents that are NaN or infinite: load it in float32 and check its weights."
        )
    return z


def _select(names: Sequence[str], known: Mapping[str, Transform], kind: str) -> dict[str, Transform]:
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        what = f"{unknown[0]!r} is no" if unknown else "Name at least one, and each once, as"
        raise BadInputError(f"{what} {kind} change: choose from {', '.join(known)}.")
    return {name: known[name] for name in names}


def _unit_trace(matrix: Covariance, kind: str) -> Covariance:
    trace = float(np.trace(matrix))
    if not np.isfinite(matrix).all() or trace <= 0:
        raise BadInputError(
            f"The {kind} changes moved the latents by {trace:.3g} in all: a positive, finite number is needed, so check the "
            "codec and that the pictures are not all blank."
        )
    return (matrix + matrix.T) / (2 * trace)


def _draw(
    generators: Sequence[np.random.Generator], sample: Callable[[np.random.Generator], Any], shape: tuple[int, ...] = ()
) -> Tensor:
    """One sample a picture, stacked as float32; `shape` without the batch, where it differs from the sample's."""
    values = torch.from_numpy(np.array([sample(random) for random in generators], dtype=np.float32))
    return values.reshape(len(generators), *shape) if shape else values


def _haar(normal: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    q, r = np.linalg.qr(normal)
    return q * np.sign(np.diag(r))


def _each(
    images: Images, generators: Sequence[np.random.Generator], change: Callable[[Tensor, np.random.Generator], Tensor]
) -> Images:
    return torch.stack([change(image, random) for image, random in zip(images, generators, strict=True)])


def _random_crop(image: Tensor, random: np.random.Generator) -> Tensor:
    height, width = image.shape[1:]
    scale = random.uniform(0.5, 0.9)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
    crop = image[None, :, top : top + rows, left : left + columns]
    return functional.interpolate(crop, (height, width), mode="bilinear", align_corners=False)[0].clamp(0, 1)


def _shuffled(image: Tensor, random: np.random.Generator) -> Tensor:
    rows, columns = image.shape[1] // _GRID, image.shape[2] // _GRID
    corners = [(row * rows, column * columns) for row in range(_GRID) for column in range(_GRID)]
    result = image.clone()
    for (top, left), source in zip(corners, random.permutation(len(corners)), strict=True):
        y, x = corners[source]
        result[:, top : top + rows, left : left + columns] = image[:, y : y + rows, x : x + columns]
    return result
