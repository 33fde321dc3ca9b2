"""Does the order of the blocks matter where the split is another one? The model with two noise levels, trained on other splits.

    python -m sketchae.diffusion.other_splits    # trains what is missing (twenty minutes each on one core), then draws; interrupted, it continues

The same network, pictures and prompts, for `N_STEPS` steps, fewer than what ships had: on the latents of the stock VAE, split by the paper's Q and
by a random basis. Each then draws pictures of `SIZES.n_prompts` prompts, both blocks together, with the semantic block 0.3 ahead, and one block
after the other. As in `studies`, what is kept are the judges' readings, in `assets/sweeps/diffusion_split_<name>.safetensors`.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sketchae.backbones import LatentCodec, backbone_id, load_clip, load_vae
from sketchae.basis import random_basis
from sketchae.diffusion.arms import HEADLINE, Sizes, draw_arm, scene_features
from sketchae.diffusion.desk import Desk, write_stored
from sketchae.diffusion.ship import DiffusionBudget, train_network
from sketchae.diffusion.storage import load_diffusion
from sketchae.diffusion.studies import Studies, load_studies
from sketchae.diffusion.studio import Studio
from sketchae.errors import BadInputError
from sketchae.profiles import find_root
from sketchae.scenes import SCENES_VERSION, split_scenes
from sketchae.scenes.judges import ASSETS

N_STEPS, GUIDANCE = 1200, 5.0  # guidance as it was chosen for the models that ship
SIZES = Sizes(n_prompts=100)
ORDERS = {name: arm for name, arm in HEADLINE.items() if arm.levels == "two"}
STORED = ASSETS / "sweeps"
MADE_BY = "python -m sketchae.diffusion.other_splits"
_RANDOM_SEED = 0


@dataclass(frozen=True)
class Split:
    """A VAE, "embedded" or "sketch", and its basis: "embedded" or "random"."""

    vae: str
    basis: str


SPLITS = {"plain_q": Split("embedded", "embedded"), "random": Split("embedded", "random")}


def study_split(name: str, folder: Path, out: Path = STORED, sizes: Sizes = SIZES, progress: bool = True, **budget: Any) -> Studies:
    """Train the model of one split in `folder`, where it is not finished, draw its pictures and keep their readings in `out`.

    Args:
        budget: fields of `DiffusionBudget` other than the recipe's, and `pool`.

    Raises:
        BadInputError: no split of that name.
    """
    if name not in SPLITS:
        raise BadInputError(f"There is no split '{name}'; choose from {', '.join(SPLITS)}.")
    split, pool = SPLITS[name], budget.pop("pool", None)
    basis = split.basis
    if basis == "random":
        basis = str(Path(folder) / "random_basis")
        random_basis(4, 2, _RANDOM_SEED).save(basis)
    trained = train_network("two", folder, DiffusionBudget(**{"n_steps": N_STEPS, "vae": split.vae, "basis": basis, **budget}), name, pool)
    codec, clip = load_vae(split.vae), load_clip()
    studio = Studio({"two": load_diffusion(trained, codec=codec, clip=clip)}, codec, clip, GUIDANCE)
    about = about_split(name, codec, sizes) | {"n_train_steps": budget.get("n_steps", N_STEPS)}
    about |= {"diffusion_id": backbone_id(studio.models["two"].unet)}
    desk = Desk(Path(folder) / f"{name}_arms", about, progress)
    scenes = split_scenes("test", sizes.n_prompts + sizes.n_real)[sizes.n_prompts :]
    real = desk.all({"real": scenes}, lambda real: ({"features": torch.from_numpy(scene_features(real))}, {}))["real"][0]["features"].numpy()
    found = desk.all(ORDERS, lambda arm: draw_arm(studio, arm, sizes, real))
    tensors = {f"{arm}/{key}": table for arm, (tables, _) in found.items() for key, table in tables.items()}
    numbers = {arm: values for arm, (_, values) in found.items()}
    write_stored(_file(name, out), tensors, {"about": about, "numbers": numbers, "made_by": MADE_BY})
    return load_studies(_file(name, out))


def about_split(name: str, codec: LatentCodec, sizes: Sizes = SIZES) -> dict[str, Any]:
    """What a stored study must have been made from."""
    return {"split": name, "vae_id": codec.id, "scenes_version": SCENES_VERSION, "guidance": GUIDANCE, **asdict(sizes)}


def find_splits(folder: Path = STORED, sizes: Sizes = SIZES) -> dict[str, Studies]:
    """The stored studies that were made from the VAEs of the package, by name."""
    found = {}
    for name, split in SPLITS.items():
        if _file(name, folder).is_file():
            stored = load_studies(_file(name, folder))
            if stored.about.items() >= about_split(name, load_vae(split.vae), sizes).items():
                found[name] = stored
    return found


def _file(name: str, folder: Path) -> Path:
    return Path(folder) / f"diffusion_split_{name}.safetensors"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", action="append", choices=list(SPLITS), help="default: all")
    parser.add_argument("--folder", type=Path, default=find_root() / "build" / "diffusion_splits")
    arguments = parser.parse_args()
    for chosen in arguments.split or [name for name in SPLITS if name not in find_splits()]:
        study_split(chosen, arguments.folder)
