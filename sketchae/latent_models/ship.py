"""Train the latent models that ship, and put them where the package finds them (`python -m sketchae.latent_models`)."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool
from sketchae.backbone_training.provenance import install_finished, is_finished, read_provenance, write_provenance
from sketchae.backbones import load_clip
from sketchae.diffusion.conditioning import scene_prompts
from sketchae.diffusion.training import open_pool
from sketchae.errors import BadInputError, MissingFileError
from sketchae.latent_models.autoencoder import LOSSES, Autoencoder, train_autoencoder
from sketchae.latent_models.digits import Digits, load_digits_split
from sketchae.latent_models.dvae import DiscreteVAE, train_dvae
from sketchae.latent_models.glo import GLO, train_glo
from sketchae.latent_models.networks import n_parameters
from sketchae.latent_models.paired import PairedAutoencoder, train_paired
from sketchae.latent_models.prior import TokenPrior, encode_tokens, train_prior
from sketchae.latent_models.vae_models import DigitsVAE, VectorVAE, train_digits_vae, train_vector_vae
from sketchae.latent_models.vqvae import VQVAE, train_vqvae
from sketchae.profiles import Profile, find_root
from sketchae.scenes.judges import ASSETS, load_judge


@dataclass(frozen=True)
class Workshop:
    """What a training is given.

    Attributes:
        n_scenes: how many of the pool's scenes to use; 0 where the model learns from none.
        training: a folder for checkpoints. finished: where finished models lie. pools: where drawn scenes lie.
        config: of the loop.
        digits: other digits than scikit-learn's.
    """

    n_scenes: int
    training: Path
    config: LoopConfig
    finished: Path
    pools: Path
    digits: Digits | None = None

    @cached_property
    def pool(self) -> ImagePool:
        """Scenes of the split "backbones", drawn when first asked for."""
        scenes = open_pool(self.pools, self.n_scenes)
        # A larger pool begins with these scenes, and the rest is not to be learnt from: provenance says how many were.
        scenes.pixels, scenes.scenes = scenes.pixels[: self.n_scenes], scenes.scenes[: self.n_scenes]
        return scenes


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    Attributes:
        train: from a `Workshop` to the model and the loop's record.
        config: of the loop; what ships was trained with it.
        n_scenes: the first so many scenes of the split "backbones".
        about: what the model is, in a line, for provenance.
    """

    train: Callable[[Workshop], tuple[nn.Module, dict]]
    config: LoopConfig
    n_scenes: int
    about: str


def _train_prior(w: Workshop) -> tuple[nn.Module, dict]:
    codec = DiscreteVAE.from_pretrained(shipped("dvae", w.finished)).eval()
    tokens = encode_tokens(codec, w.pool, w.n_scenes, w.finished)
    prompts = scene_prompts(w.pool.scenes[: w.n_scenes])
    return train_prior(tokens, prompts, load_clip(device="cpu"), w.training, w.config, codec=codec)


def _train_digits(latent_dim: int, beta: float, w: Workshop) -> tuple[nn.Module, dict]:
    digits = w.digits or load_digits_split()
    model, record = train_digits_vae(digits, w.training, w.config, latent_dim=latent_dim, beta=beta)
    return model, {**record, "trained_on": digits.source}


DIGIT_VAES = (("2", 2, 1.0), ("5", 5, 1.0), ("10", 10, 1.0), ("20", 20, 1.0), ("10_beta0.25", 10, 0.25), ("10_beta2", 10, 2.0), ("10_beta4", 10, 4.0))
DIGITS_MODELS = [f"digits_{name}" for name, _, _ in DIGIT_VAES]
NARROW = (16, 32, 64, 128)
PAIRED_LOOP = LoopConfig(n_steps=800, lr=2e-3, n_warmup=50, ema_decay=0.995)


def _train_autoencoder(loss: str, w: Workshop) -> tuple[nn.Module, dict]:
    judge = load_judge("a") if loss == "perceptual" else None
    return train_autoencoder(w.pool, w.training, w.config, loss=loss, judge=judge)


RECIPES: dict[str, Recipe] = {
    "vqvae": Recipe(
        lambda w: train_vqvae(w.pool, w.training, w.config),
        LoopConfig(n_steps=1800, lr=2e-3, ema_decay=0.995),
        48_000,
        "VQ-VAE, 32x32 codes of 9 bits",
    ),
    **{
        f"autoencoder_{loss}": Recipe(
            partial(_train_autoencoder, loss),
            LoopConfig(n_steps=1000, lr=2e-3, n_warmup=50, ema_decay=0.995),
            48_000,
            f"autoencoder, 64 numbers, {loss} loss",
        )
        for loss in LOSSES
    },
    "glo": Recipe(
        lambda w: train_glo(w.pool, w.training, w.config, batch_size=32, n_pictures=w.n_scenes, widths=NARROW),
        LoopConfig(n_steps=1200, lr=3e-3, n_warmup=100, ema_decay=0.99),
        2048,
        "GLO, 64 numbers in the unit ball",
    ),
    "vae": Recipe(
        lambda w: train_vector_vae(w.pool, w.training, w.config),
        LoopConfig(n_steps=700, lr=2e-3, n_warmup=50, ema_decay=0.995),
        48_000,
        "VAE, 64 numbers",
    ),
    "paired": Recipe(
        lambda w: train_paired(w.finished, w.training, w.config, n_scenes=w.n_scenes, batch_size=16),
        PAIRED_LOOP,
        8000,
        "paired autoencoders, one encoder",
    ),
    "paired_control": Recipe(
        lambda w: train_paired(w.finished, w.training, w.config, n_scenes=w.n_scenes, batch_size=16, shared=False),
        PAIRED_LOOP,
        8000,
        "paired autoencoders, an encoder for each",
    ),
    "dvae": Recipe(
        lambda w: train_dvae(w.pool, w.training, w.config, judge=load_judge("a")),
        LoopConfig(n_steps=2400, lr=1e-3, n_warmup=50, ema_decay=0.995),
        48_000,
        "dVAE, 8x8 codes of 10 bits",
    ),
    "prior": Recipe(_train_prior, LoopConfig(n_steps=2500, lr=1e-3, n_warmup=100, ema_decay=0.998), 48_000, "captions to the dVAE's codes"),
    **{
        f"digits_{name}": Recipe(
            partial(_train_digits, dim, beta), LoopConfig(n_steps=3000, lr=2e-3, n_warmup=50, ema_decay=0.99), 0, f"VAE, {dim} numbers, β = {beta:g}"
        )
        for name, dim, beta in DIGIT_VAES
    },
}


def train_model(
    name: str, folder: Path, *, n_steps: int | None = None, n_scenes: int | None = None, pool: Path | None = None, digits: Digits | None = None
) -> Path:
    """Train one model of `RECIPES` into `folder`/`name`; interrupted it resumes, finished it is kept.

    Args:
        n_steps, n_scenes: other than the recipe's, for a trial.
        pool: the folder of drawn scenes, by default that of the backbones.
        digits: for the models of digits, others than scikit-learn's.

    Raises:
        BadInputError: an unknown name.
    """
    if name not in RECIPES:
        raise BadInputError(f"There is no latent model '{name}'; choose from {', '.join(RECIPES)}.")
    out, recipe = Path(folder) / name, RECIPES[name]
    if is_finished(out):
        return out
    config = replace(recipe.config, n_steps=n_steps or recipe.config.n_steps)
    pools = pool or find_root() / "build" / "backbones" / "pool"
    n = min(n_scenes or recipe.n_scenes, recipe.n_scenes)
    model, record = recipe.train(Workshop(n, Path(folder) / "training" / name, config, Path(folder), pools, digits))
    model.save_pretrained(out)  # type: ignore[operator]  # every model here is one of diffusers' or transformers'
    about = {
        "model": name,
        "about": recipe.about,
        "made_by": f"python -m sketchae.latent_models --only {name}",
        "trained_on": record.get("trained_on", f"the first {n:,} scenes of the split 'backbones'"),
    }
    write_provenance(out, about, record, n_parameters(model))
    return out


CLASSES = {"autoencoder": Autoencoder, "digits": DigitsVAE, "dvae": DiscreteVAE, "glo": GLO, "paired": PairedAutoencoder}
CLASSES |= {"prior": TokenPrior, "vae": VectorVAE, "vqvae": VQVAE}


def open_model(name: str, folder: Path | None = None) -> nn.Module:
    """A finished model, frozen: from `folder`, if it was trained there, or else from the package.

    Raises:
        BadInputError: an unknown name.
        MissingFileError: a model that nobody has trained.
    """
    if name not in RECIPES:
        raise BadInputError(f"There is no latent model '{name}'; choose from {', '.join(RECIPES)}.")
    model = CLASSES[name.split("_")[0]].from_pretrained(shipped(name, folder))
    return model.eval().requires_grad_(False)


def train_for(names: Sequence[str], profile: Profile) -> Path:
    """Train all models of `names` as a profile says, into its working folder, which is returned."""
    folder = profile.work_dir / "latent_models"
    pool = folder / "pool" if profile.n_latent_scenes else None
    for name in names:
        train_model(name, folder, n_steps=profile.n_latent_steps, n_scenes=profile.n_latent_scenes, pool=pool)
    return folder


def train_on_digits(profile: Profile, digits: Digits) -> Path:
    """Train the VAEs of digits on those that a profile names (`load_digits_of`), into a folder of their own, which is returned."""
    origin = hashlib.sha256(f"{profile.digits}@{profile.digits_revision}".encode()).hexdigest()[:8]
    folder = profile.work_dir / "latent_models" / f"digits-{origin}"
    for name in DIGITS_MODELS:
        train_model(name, folder, n_steps=profile.n_latent_steps, digits=digits)
    return folder


def install_model(name: str, folder: Path, assets: Path = ASSETS) -> None:
    """Copy a finished model from `folder` into the package's assets.

    Raises:
        MissingFileError: where it is not finished.
        BadInputError: where it is a trial, of another number of steps than the recipe's.
    """
    source = Path(folder) / name
    if is_finished(source):
        stages = read_provenance(source)["loop"]
        n_steps = (stages[-1] if isinstance(stages, list) else stages)["n_steps"]
        if n_steps != RECIPES[name].config.n_steps:
            raise BadInputError(
                f"{source} is a trial of {n_steps} steps, and the recipe has {RECIPES[name].config.n_steps}: remove it, and train {name} whole."
            )
    install_finished({source: assets / "latent_models" / name}, {source: f"python -m sketchae.latent_models --only {name}"})


def shipped(name: str, folder: Path | None = None) -> Path:
    """Where a finished model lies: in `folder`, if it was trained there, or else in the package.

    Raises:
        MissingFileError: where it lies in neither.
    """
    for place in ([Path(folder) / name] if folder else []) + [ASSETS / "latent_models" / name]:
        if is_finished(place):
            return place
    raise MissingFileError(f"No trained '{name}': reinstall sketchae, or run python -m sketchae.latent_models --only {name}.")


def provenance(name: str, folder: Path | None = None) -> dict[str, Any]:
    """How, on what and for how long a finished model was trained."""
    return read_provenance(shipped(name, folder))
