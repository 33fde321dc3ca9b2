"""`load_vae` and `load_clip`: the embedded pair, a folder, a hub id at a revision, or an object of the user's."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.utils import logging as diffusers_logging
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, CLIPProcessor
from transformers.utils import logging as transformers_logging

from sketchae.backbones.clip import ClipEmbedder
from sketchae.backbones.vae import LATENT_CLIP, DiffusersVAE, LatentCodec, UserCodec
from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.errors import BadInputError, MissingFileError
from sketchae.hub import Checkpoint, find_checkpoint

ASSETS = Path(__file__).resolve().parent.parent / "assets"
SKETCHES = ("sketch", "sketch_strict")  # VAEs of the package that bring a basis with them
_VAE_CLASSES = {"AutoencoderTiny": AutoencoderTiny, "AutoencoderKL": AutoencoderKL}


def load_vae(
    source: Any = "embedded",
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    latent_clip: float | None = LATENT_CLIP,
    subfolder: str | None = None,
    local_files_only: bool = False,
) -> LatentCodec:
    """A frozen VAE as a `LatentCodec`.

    Args:
        source: "embedded" (trained on Scenes, shipped with the package); "sketch" (the sketch autoencoder, likewise) or
            "sketch_strict" (the same, split more strictly); a folder written by `save_pretrained`; a hub id such as
            "madebyollin/taesdxl"; a diffusers `AutoencoderTiny` or `AutoencoderKL`; or any object with `encode(images) -> z`
            and `decode(z) -> images`, pixels in [0, 1], z of about unit variance.
        revision: branch, tag or commit on the hub; None: main at the first download, the same commit afterwards.
        device, dtype: default: CUDA where there is one; float32.
        latent_clip: bound on the scaled latents, or None.
        subfolder: of a folder or a hub id, as in a whole pipeline's "vae".
        local_files_only: never ask the hub.

    Raises:
        MissingFileError, BadInputError, NoNetworkError: one sentence with the remedy.
    """
    if not isinstance(source, str | os.PathLike):
        if isinstance(source, DiffusersVAE | UserCodec):
            return source
        kind = DiffusersVAE if isinstance(source, AutoencoderTiny | AutoencoderKL) else UserCodec
        codec = kind(
            source, device=device, latent_clip=latent_clip, **({"dtype": dtype} if kind is DiffusersVAE else {})
        )
        codec.source = type(source).__name__
        return codec
    checkpoint = find_checkpoint(
        _asset(source, "vae"),
        "diffusion_pytorch_model.safetensors",
        revision=revision,
        subfolder=subfolder,
        local_files_only=local_files_only,
    )
    class_name = _config(checkpoint).get("_class_name")
    if class_name not in _VAE_CLASSES:
        raise BadInputError(
            f"{checkpoint.folder / 'config.json'} describes {class_name or 'no diffusers model'}: an AutoencoderTiny or "
            "an AutoencoderKL is needed (for a whole pipeline, name its subfolder 'vae')."
        )
    model = _from_pretrained(_VAE_CLASSES[class_name], checkpoint, torch_dtype=torch.float32, low_cpu_mem_usage=False)
    codec = DiffusersVAE(model, device=device, dtype=dtype, latent_clip=latent_clip)
    codec.source, codec.revision = os.fspath(source), checkpoint.revision
    return codec


def load_clip(
    source: str | os.PathLike | CLIPModel = "embedded",
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    local_files_only: bool = False,
) -> ClipEmbedder:
    """A frozen CLIP as a `ClipEmbedder`.

    Args:
        source: "embedded" (trained on Scenes, shipped with the package); a folder that holds a `CLIPModel` and its
            `CLIPProcessor`; or a hub id such as "laion/CLIP-ViT-B-32-laion2B-s34B-b79K".
        revision, device, dtype, local_files_only: as in `load_vae`.

    Raises:
        MissingFileError, BadInputError, NoNetworkError: one sentence with the remedy.
    """
    checkpoint = find_checkpoint(
        _asset(source, "clip"),
        "model.safetensors",
        revision=revision,
        local_files_only=local_files_only,
        required=("config.json", "tokenizer_config.json"),
    )
    model_type = _config(checkpoint).get("model_type")
    if model_type != "clip":
        raise BadInputError(
            f"{checkpoint.folder / 'config.json'} describes a model of type {model_type}: a CLIPModel (type clip) is "
            "needed."
        )
    model = _from_pretrained(CLIPModel, checkpoint, dtype=torch.float32)
    try:
        # The PIL image processor by name: CLIPProcessor.from_pretrained would pick torchvision's where that is
        # installed, and embeddings would differ between machines.
        processor = CLIPProcessor(
            image_processor=CLIPImageProcessorPil.from_pretrained(checkpoint.folder, local_files_only=True),
            tokenizer=AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False),
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MissingFileError(
            f"The CLIP processor in {checkpoint.folder} cannot be read ({_first_line(error)}): save it there with "
            "CLIPProcessor.save_pretrained(folder)."
        ) from error
    embedder = ClipEmbedder(model, processor, device=device, dtype=dtype)
    embedder.source, embedder.revision = os.fspath(source), checkpoint.revision
    return embedder


def own_basis(source: Any) -> OrthogonalBasis | None:
    """The basis that a VAE brings with it, in a subfolder `basis` of its own folder; None where it brings none.

    Args:
        source: as in `load_vae`; hub ids and objects are not looked into.
    """
    if not isinstance(source, str | os.PathLike):
        return None
    folder = Path(ASSETS / source if source in SKETCHES else source) / "basis"
    return OrthogonalBasis.load(folder.resolve()) if (folder / "config.json").is_file() else None


def _asset(source: str | os.PathLike, name: str) -> str | os.PathLike:
    if name == "vae" and source in SKETCHES:
        return ASSETS / source
    if source != "embedded":
        return source
    folder = ASSETS / name
    if not (folder / "config.json").is_file():
        raise MissingFileError(
            f"The embedded {name} is missing from {folder}: reinstall the package, or train it in notebooks/00_backbones "
            "with RETRAIN = True."
        )
    return folder


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInputError(f"{path} is not valid JSON ({error}): download or save the checkpoint again.") from error
    return config if isinstance(config, dict) else {}


def _from_pretrained(kind: Any, checkpoint: Checkpoint, **options: Any) -> Any:
    """Load all weights or refuse: the libraries would fill a gap with random numbers and a warning."""
    remedy = "download or save the checkpoint again."
    # "Loading weights" bars and notes on unused settings would end up in every notebook; what matters is checked below.
    bar, verbosity = transformers_logging.is_progress_bar_enabled(), diffusers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    try:
        model, report = kind.from_pretrained(
            checkpoint.folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as error:  # each library has its own; a truncated safetensors file raises SafetensorError
        raise BadInputError(
            f"The weights in {checkpoint.folder} cannot be read ({_first_line(error)}): {remedy}"
        ) from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
    wrong = sorted(str(key) for key in [*report.get("missing_keys", ()), *report.get("mismatched_keys", ())])
    if wrong:
        raise BadInputError(
            f"The weights in {checkpoint.folder} do not fit its config.json ({len(wrong)} missing or of another shape, "
            f"{wrong[0]} first): {remedy}"
        )
    return model


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
