"""What a profile is, how it is read and checked, and where its work and its results go."""

import dataclasses
import difflib
import functools
import os
import tomllib
import types
import typing
from importlib import resources
from pathlib import Path

from sketchae.errors import BadInputError, MissingFileError

TRACKED = "scenes"  # the one profile whose results git tracks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """Every choice that a run depends on. Sizes are in pixels, counts in images, steps or pairs.

    `None` for a count means all there are; for a revision, whatever the first download finds (the manifest records it).
    """

    name: str
    description: str = ""
    notebooks: tuple[str, ...] = ()  # that a run over all executes, by number; all of them if empty
    # pictures and captions
    source: str  # "scenes", "hub" (the schema of romrawinjp/mscoco) or "folder" (with metadata.jsonl)
    dataset: str | None = None  # hub id or folder; None for scenes
    dataset_revision: str | None = None
    image_size: int
    n_train: int | None = None
    n_val: int | None = None
    n_test: int | None = None
    n_captions: int = 5  # at most so many are kept for an image
    test_seed: int = 0  # another seed gives test scenes that nobody has seen
    dependence: float = 0.0  # in [0, 1]: between one semantic and one style factor of Scenes
    # frozen backbones
    vae: str = "embedded"
    vae_revision: str | None = None
    clip: str = "embedded"
    clip_revision: str | None = None
    latent_clip: float | None = 3.0  # latents are clipped to [-latent_clip, latent_clip]; None: not at all
    # preprocessing
    shard_size: int = 256
    preprocess_batch_size: int = 32
    # training
    n_semantic: int = 2
    n_steps: int
    batch_size: int = 64
    lr: float = 1e-4
    loss: str = "mse"
    orthogonality_weight: float = 1.0
    parametrization: str = "penalty"
    train_seeds: tuple[int, ...] = (0,)
    val_every: int = 500
    # evaluation
    n_pairs: int = 512
    n_random_bases: int = 20
    alpha: float = 0.9  # how far the paper's lerp goes from the original to the target
    n_boot: int = 1000
    # is the split real? (05)
    n_fit_pictures: int = 256  # that the eigenproblem and the effect objective look at
    n_effect_steps: int = 50
    n_headline_pairs: int = 1024
    n_rival_pairs: int = 256
    n_lerp_pairs: int = 128
    n_proxy_bases: int = 40
    n_sketch_pairs: int = 64  # of test scenes, in 06
    n_diffusion_check: int = 4  # pictures of the stored studies that 06 draws again
    # how latents come to be (07)
    n_latent_steps: int | None = None  # train every latent model for so many steps; None: take the shipped ones
    n_latent_scenes: int | None = None  # that they then learn from; None: as many as the shipped ones
    digits: str | None = None  # hub id or folder in the form of MNIST, on which the digits' VAEs are then trained; None: the shipped ones
    digits_revision: str | None = None  # its commit on the hub
    n_latent_pictures: int = 24  # test scenes that are reconstructed, edited and painted
    n_glo_steps: int = 10  # by which GLO fits a new picture
    n_prior_prompts: int = 4
    n_candidates: int = 4  # pictures drawn for a prompt, of which CLIP chooses
    n_prior_samples: int = 200  # of every model, for Fréchet distances
    # names of the fields that a caller set to something else than the profile's file says
    overridden: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        return find_root()

    @property
    def work_dir(self) -> Path:
        return self.root / "build" / self.name

    @property
    def latents_dir(self) -> Path:
        return self.work_dir / "latents"

    @property
    def training_dir(self) -> Path:
        return self.work_dir / "training"

    @property
    def basis_dir(self) -> Path:
        return self.work_dir / "basis"

    @property
    def figures_dir(self) -> Path:
        return self._output_dir / "figures"

    @property
    def results_dir(self) -> Path:
        return self._output_dir / "results"

    @property
    def _output_dir(self) -> Path:
        # Only the tracked profile, exactly as its file has it, may touch what git tracks.
        if self.name != TRACKED:
            return self.work_dir
        if os.environ.get("SKETCHAE_OUTPUT"):
            return Path(os.environ["SKETCHAE_OUTPUT"]).resolve()
        return self.work_dir if self.overridden else self.root


def find_root() -> Path:
    """The folder that `build/`, `figures/` and `results/` belong to.

    The environment variable SKETCHAE_ROOT if set; else the nearest folder upwards from the working directory that
    holds `pyproject.toml` and `notebooks/`; else the working directory.
    """
    if os.environ.get("SKETCHAE_ROOT"):
        return Path(os.environ["SKETCHAE_ROOT"]).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return here


def profile_names() -> tuple[str, ...]:
    """The profiles that ship with the package."""
    files = resources.files("sketchae.profiles").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def load_profile(name: str, **overrides) -> Profile:
    """Read a profile by name, or from a TOML file of one's own (a path ending in `.toml`), and check it.

    Overrides replace single fields; `None` means "as the profile says", so that a notebook can pass all its parameters.

    Raises:
        BadInputError: an unknown profile or field, or a value of the wrong type or out of range.
        MissingFileError: the TOML file does not exist.
    """
    from_file = _read(name)
    changes = {field: value for field, value in overrides.items() if value is not None}
    for field, value in {**from_file, **changes}.items():
        if field not in _types() or field in ("name", "overridden"):  # these two are derived
            hint = difflib.get_close_matches(field, _types(), n=1)
            raise BadInputError(
                f"The profile {name!r} has no field {field!r}"
                + (f": did you mean {hint[0]!r}?" if hint else f"; the fields are {', '.join(_types())}.")
            )
        target = changes if field in changes else from_file
        target[field] = _typed(name, field, value)
    missing = [
        field.name
        for field in dataclasses.fields(Profile)
        if field.default is dataclasses.MISSING and field.name not in {"name", *from_file, *changes}
    ]
    if missing:
        raise BadInputError(f"The profile {name!r} does not say {' and '.join(missing)}: add it to its TOML file.")
    changed = tuple(sorted(field for field, value in changes.items() if value != _value(from_file, field)))
    profile = Profile(name=Path(name).stem, **{**from_file, **changes}, overridden=changed)
    _check(profile)
    return profile


def _read(name: str) -> dict:
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise MissingFileError(f"There is no profile file {name}: check the path.")
        if path.stem in profile_names():
            raise BadInputError(f"The file {name} is named like a profile that ships with sketchae: rename it.")
        text = path.read_text(encoding="utf-8")
    elif name in profile_names():
        text = (resources.files("sketchae.profiles") / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise BadInputError(
            f"There is no profile {name!r}: choose one of {', '.join(profile_names())}, or a .toml file of yours."
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"The profile file {name} is not valid TOML ({error}): correct it there.") from error


@functools.cache
def _types() -> dict[str, object]:
    return {field.name: field.type for field in dataclasses.fields(Profile)}


def _value(from_file: dict, field: str) -> object:
    defaults = {item.name: item.default for item in dataclasses.fields(Profile)}
    return from_file.get(field, defaults[field])


def _typed(name: str, field: str, value: object) -> object:
    """`value` as the field's type: an int may stand for a float, a list for a tuple, a Path for a string."""
    kind = _types()[field]
    allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if float in allowed and type(value) is int:
        return float(value)
    if str in allowed and isinstance(value, os.PathLike):
        return os.fspath(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        if all(type(item) is typing.get_args(kind)[0] for item in value):
            return tuple(value)
    elif any(isinstance(option, type) and type(value) is option for option in allowed):
        return value
    expected = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
    raise BadInputError(f"{field} of the profile {name!r} must be {expected}, and is {value!r}: correct that value.")


_CHOICES = {"source": ("scenes", "hub", "folder"), "loss": ("mse", "l1"), "parametrization": ("penalty", "orthogonal")}
_AT_LEAST_ONE = (
    *("n_train", "n_val", "n_test", "n_captions", "shard_size", "preprocess_batch_size", "n_semantic"),
    *("n_steps", "batch_size", "val_every", "n_pairs", "n_random_bases", "n_boot"),
    *("n_fit_pictures", "n_effect_steps", "n_headline_pairs", "n_rival_pairs", "n_lerp_pairs", "n_proxy_bases"),
    *("n_sketch_pairs", "n_diffusion_check", "n_latent_steps", "n_latent_scenes", "n_latent_pictures", "n_glo_steps"),
    *("n_prior_prompts", "n_candidates", "n_prior_samples"),
)
_SHARES = ("dependence", "alpha")
_POSITIVE = ("lr", "latent_clip")


def _check(profile: Profile) -> None:
    """Raise for a value that no run could use; the message names the field and what it may be."""

    def refuse(field: str, must: str) -> typing.NoReturn:
        value = getattr(profile, field)
        raise BadInputError(f"{field} of the profile {profile.name!r} must be {must}, and is {value!r}.")

    for field, choices in _CHOICES.items():
        if getattr(profile, field) not in choices:
            refuse(field, "one of " + ", ".join(choices))
    for field in _AT_LEAST_ONE:
        if (value := getattr(profile, field)) is not None and value < 1:
            refuse(field, "at least 1")
    for field in _SHARES:
        if not 0.0 <= getattr(profile, field) <= 1.0:
            refuse(field, "between 0 and 1")
    for field in _POSITIVE:
        if (value := getattr(profile, field)) is not None and not value > 0:
            refuse(field, "more than 0")
    if not profile.orthogonality_weight >= 0:
        refuse("orthogonality_weight", "0 or more")
    if profile.image_size < 16 or profile.image_size % 8:
        refuse("image_size", "a multiple of 8, at least 16 pixels")
    if not profile.train_seeds or len(set(profile.train_seeds)) < len(profile.train_seeds):
        refuse("train_seeds", "one or more different seeds")
    if profile.source == "scenes" and None in (profile.n_train, profile.n_val, profile.n_test):
        raise BadInputError(f"The profile {profile.name!r} draws scenes: n_train, n_val and n_test must be numbers.")
    if profile.source != "scenes" and not profile.dataset:
        refuse("dataset", f"the {'hub id' if profile.source == 'hub' else 'folder'} of the pictures (DATASET)")
