"""Paired ("dewarping") autoencoders, the DeepFake system: one encoder, a decoder for each identity.

Every picture is warped, and its own identity's decoder gives it back unwarped:

    L = Σ_k E_{x ~ k} loss(D_k(E(warp(x))), x),    k in {a, b}

The encoder serves both identities and should find one code for what they share; what is always so within an identity is left to its decoder.
D_b(E(x)) should then show the content of a's picture x as b, which `measure_swap` measures. No pair of pictures is ever seen. The system has no
paper; the code published as "faceswap" in 2017 is its source, and that of the warp: a coarse grid of random displacements.

On Scenes the identities are painters, `PAINTERS`: palette and medium are theirs, all other factors vary freely. An identity swapped rightly has an
exact answer here, the same scene drawn by the other painter. The control has an encoder for each identity (`shared=False`).

Axes: n pictures, z of latent_dim numbers without a scale of their own, y and x of a grid of displacements.

Lecture: "DeepFake system".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.diffusion.readings import KINDS
from sketchae.errors import BadInputError
from sketchae.latent_models.networks import VectorDecoder, VectorEncoder, picture_loss
from sketchae.scenes import SCENES_VERSION, Scenes, render, split_scenes

PAINTERS: dict[str, dict[str, str]] = {
    "a": {"palette": "autumn", "medium": "watercolour"},
    "b": {"palette": "ocean", "medium": "ink"},
}
"""The two identities: the value of each factor that is the same in all pictures of a painter."""

KEPT = {factor: kind for factor, kind in KINDS.items() if factor not in PAINTERS["a"]}
"""The factors that belong to no painter, with their kinds: what a swap must keep."""

CHANCE = {"palette": 1 / 8, "medium": 1 / 5, "identity": 1 / 40, "kappa": 0.0}
"""What a reader who guesses would find in any pictures: shares of palettes, media and both, and κ."""

_GRID = 5  # displacements along each side


# --- the painters' pictures -------------------------------------------------------------------------------------------


def painter_scenes(painter: str, split: str, n: int) -> Scenes:
    """The painter's first `n` scenes of a split: its even rows are a's and its odd rows b's, so that they never share one.

    Raises:
        BadInputError: an unknown painter or split, or more than half of the split.
    """
    _check_painter(painter)
    own = split_scenes(split, 2 * n)[list(PAINTERS).index(painter) :: 2]
    return painted_by(own, painter)


def painted_by(scenes: Scenes, painter: str) -> Scenes:
    """The same scenes as the painter would draw them: the exact answer to a swap.

    Raises:
        BadInputError: an unknown painter.
    """
    _check_painter(painter)
    for factor, value in PAINTERS[painter].items():
        scenes = scenes.with_factor(factor, value)
    return scenes


def painter_images(painter: str, split: str, n: int) -> Float[Tensor, "n 3 128 128"]:
    """The pictures of `painter_scenes`, in [0, 1]."""
    return render(painter_scenes(painter, split, n)).images


class PainterPool(ImagePool):
    """The pictures of `painter_scenes`, drawn once and kept under `folder` as a memory-mapped array of bytes (n, 3, 128, 128)."""

    def __init__(self, folder: Path, painter: str, split: str, n: int):
        self.vary = None
        self.scenes = painter_scenes(painter, split, n)
        look = "-".join(PAINTERS[painter].values())
        self.file = Path(folder) / f"scenes-v{SCENES_VERSION}-{split}-{n}-painter-{painter}-{look}.npy"
        if not self.file.exists():
            self._draw(split, n)
        self.pixels = np.load(self.file, mmap_mode="r", allow_pickle=False)


# --- warping ----------------------------------------------------------------------------------------------------------


def displace(images: Float[Tensor, "n 3 height width"], shifts: Float[Tensor, "n 2 y x"]) -> Float[Tensor, "n 3 height width"]:
    """Pictures whose pixel at p shows what was at p + d(p), d being `shifts` upsampled (bicubic); reflected at the border.

    Args:
        shifts: in pixels, first along x and then along y, at the points of a regular grid from corner to corner.
    """
    height, width = images.shape[-2:]
    smooth = F.interpolate(shifts, (height, width), mode="bicubic", align_corners=True)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    to_unit = torch.tensor([2 / (width - 1), 2 / (height - 1)])  # grid_sample has -1 and 1 at the centres of the outermost pixels
    places = torch.stack([x, y], -1) + smooth.movedim(1, -1) * to_unit
    return F.grid_sample(images, places, mode="bilinear", padding_mode="reflection", align_corners=True)


def warp(
    images: Float[Tensor, "n 3 height width"], rng: np.random.Generator | int, strength: float | int = 4.0
) -> Float[Tensor, "n 3 height width"]:
    """Each picture under a smooth random warp of its own: normal displacements on a grid of 5x5 points.

    Args:
        rng: a generator, or a seed.
        strength: their standard deviation in pixels; 0 changes nothing. The system of 2017 has an eighth of the grid's step, here 4 of 32 pixels.

    Raises:
        BadInputError: a negative strength.
    """
    if not strength >= 0:
        raise BadInputError(f"A warp of {strength} pixels: give a standard deviation of at least 0.")
    shifts = np.random.default_rng(rng).standard_normal((len(images), 2, _GRID, _GRID), dtype=np.float32)
    return displace(images, torch.from_numpy(shifts) * float(strength))


# --- the model and its training ---------------------------------------------------------------------------------------


class PairedAutoencoder(ModelMixin, ConfigMixin):
    """One encoder and a decoder for each painter; with `shared=False` an encoder for each as well, which is the control.

    Raises:
        BadInputError: widths and blocks that do not fit each other.
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 64,
        widths: Sequence[int] = (32, 64, 96, 128),
        n_blocks: Sequence[int] = (1, 1, 1, 1),
        grid: int = 4,
        shared: bool = True,
    ):
        super().__init__()
        names = ["shared"] if shared else list(PAINTERS)
        self.encoders = nn.ModuleDict({name: VectorEncoder(latent_dim, widths, n_blocks, grid) for name in names})
        self.decoders = nn.ModuleDict({name: VectorDecoder(latent_dim, widths, n_blocks, grid) for name in PAINTERS})

    def encode(self, images: Float[Tensor, "n 3 128 128"], painter: str) -> Float[Tensor, "n latent_dim"]:
        """Pictures in [0, 1] of a painter to z; a shared encoder does not look who the painter is.

        Raises:
            BadInputError: an unknown painter.
        """
        _check_painter(painter)
        return self.encoders["shared" if self.config.shared else painter](images)

    def decode(self, z: Float[Tensor, "n latent_dim"], painter: str) -> Float[Tensor, "n 3 128 128"]:
        """z to the painter's pictures in [0, 1].

        Raises:
            BadInputError: an unknown painter.
        """
        _check_painter(painter)
        return self.decoders[painter](z).clamp(0, 1)

    def swap(self, images: Float[Tensor, "n 3 128 128"], source: str, target: str) -> Float[Tensor, "n 3 128 128"]:
        """Pictures by `source` as `target` would have painted them, D_target(E(x)); with target = source, their reconstructions.

        Raises:
            BadInputError: an unknown painter.
        """
        return self.decode(self.encode(images, source), target)


def paired_loss(
    model: PairedAutoencoder, images: Mapping[str, Float[Tensor, "_ 3 128 128"]], rng: np.random.Generator | int, warp_strength: float | int
) -> dict[str, Tensor]:
    """L over the pictures of both painters, and each painter's squared error ("mse_a", "mse_b"): inputs are warped, targets are not."""
    rng = np.random.default_rng(rng)
    losses, terms = [], {}
    for painter in PAINTERS:
        target = images[painter]
        out = model.decoders[painter](model.encode(warp(target, rng, warp_strength), painter))
        losses.append(picture_loss(out, target))
        terms[f"mse_{painter}"] = F.mse_loss(out, target)
    return {"loss": torch.stack(losses).mean(), **terms}


def train_paired(
    folder: Path,
    out_dir: Path,
    config: LoopConfig,
    *,
    n_scenes: int = 8000,
    split: str = "backbones",
    batch_size: int = 32,
    shared: bool = True,
    warp_strength: float | int = 4.0,
    **options,
) -> tuple[PairedAutoencoder, dict]:
    """Train on `n_scenes` pictures of each painter, half a batch of each; resumes from `out_dir`.

    Args:
        folder: where the drawn pictures lie, or are put.
        shared: one encoder for both painters; False is the control.
        warp_strength: pixels, of `warp`.
        options: of `PairedAutoencoder`.

    Raises:
        BadInputError: a batch that cannot be halved, or fewer scenes than half a batch.
    """
    half = batch_size // 2
    if half < 1 or batch_size % 2:
        raise BadInputError(f"Half of a batch comes from each painter, and batch_size is {batch_size}: give an even number of pictures.")
    if n_scenes < half:
        raise BadInputError(f"{n_scenes} scenes of each painter do not fill half a batch of {half}: give more scenes, or a smaller batch.")
    pools = {painter: PainterPool(folder, painter, split, n_scenes) for painter in PAINTERS}
    torch.manual_seed(config.seed)
    model = PairedAutoencoder(shared=shared, **options)

    def step_loss(step: int) -> dict[str, Tensor]:
        rows = np.sort(batch_rows(n_scenes, half, step, config.seed))  # the same rows are other scenes for another painter
        images = {painter: pool.images(rows) for painter, pool in pools.items()}
        return paired_loss(model, images, np.random.default_rng([config.seed, step]), warp_strength)

    record = fit(model, step_loss, config, out_dir, "paired autoencoder" if shared else "paired autoencoder, encoders apart")
    looks = " and ".join(f"{n_scenes:,} in {look['medium']} with the palette '{look['palette']}'" for look in PAINTERS.values())
    about = f"scenes of the split '{split}', {looks}; no scene is in both sets"
    return model, record | {"trained_on": about, "shared": shared, "warp_strength": float(warp_strength)}



def _check_painter(painter: str) -> None:
    if painter not in PAINTERS:
        raise BadInputError(f"There is no painter '{painter}'; choose from {', '.join(PAINTERS)}.")
