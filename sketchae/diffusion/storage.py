"""A trained model on disk: `unet/` and `basis/` in their libraries' own formats, and a `config.json` written last."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging

from sketchae.atomic import TEMPORARY_MARK, atomic_write_text
from sketchae.backbones import ASSETS, pick_device
from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.diffusion.network import SketchDiffusion
from sketchae.errors import BadInputError, MissingFileError

EMBEDDED = {"embedded": "diffusion_two", "embedded-one": "diffusion_one"}
_KEYS = ("levels", "mean", "std", "vae_id", "clip_id")


def save_diffusion(model: SketchDiffusion, folder: str | os.PathLike) -> Path:
    """Write the model to `folder`, where `load_diffusion` finds it; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)  # absent while the parts are exchanged
    model.basis.save(folder / "basis")
    (folder / "unet").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".unet{TEMPORARY_MARK}") as temporary:
        model.unet.save_pretrained(temporary, safe_serialization=True)
        architecture = json.loads((Path(temporary) / "config.json").read_text(encoding="utf-8"))
        architecture.pop("_name_or_path", None)  # where it was once loaded from: a path of this machine
        (Path(temporary) / "config.json").write_text(json.dumps(architecture, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for file in Path(temporary).iterdir():
            os.replace(file, folder / "unet" / file.name)
    values = (model.levels, model.mean.tolist(), model.std.tolist(), model.vae_id, model.clip_id)
    atomic_write_text(folder / "config.json", json.dumps(dict(zip(_KEYS, values, strict=True)), indent=1) + "\n")
    return folder


def load_diffusion(
    source: str | os.PathLike = "embedded",
    *,
    codec: Any = None,
    clip: Any = None,
    device: torch.device | str | None = None,
) -> SketchDiffusion:
    """A trained model, in eval mode, its weights frozen.

    Args:
        source: a folder; "embedded" (two noise levels) or "embedded-one" (its baseline with one), which ship with the package.
        codec, clip: what it is to be used with; refused where they are not those of its training.
        device: default: CUDA where there is one, else the CPU.

    Raises:
        MissingFileError: no model there, or only half of one. BadInputError: files that cannot be read, or another VAE or CLIP.
    """
    folder = ASSETS / EMBEDDED[source] if isinstance(source, str) and source in EMBEDDED else Path(source)
    if not (folder / "config.json").is_file():
        raise MissingFileError(f"{folder} holds no diffusion model: train one with `python -m sketchae.diffusion`, or name another folder.")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        levels, mean, std, vae_id, clip_id = (config[key] for key in _KEYS)
        mean, std = torch.tensor(mean), torch.tensor(std)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{folder / 'config.json'} is damaged ({error}): save the model again.") from error
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        unet, report = UNet2DConditionModel.from_pretrained(
            folder / "unet", local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:  # each library has its own
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInputError(f"The weights in {folder / 'unet'} cannot be read ({first}): save the model again.") from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
    if report["missing_keys"] or report["mismatched_keys"]:
        raise BadInputError(f"The weights in {folder / 'unet'} do not fit its config.json: save the model again.")
    basis = OrthogonalBasis.load(folder / "basis")
    model = SketchDiffusion(unet, basis, mean, std, levels=levels, vae_id=vae_id, clip_id=clip_id)
    model.check(codec, clip)
    return model.requires_grad_(False).eval().to(pick_device(device))
