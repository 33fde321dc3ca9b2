"""The frozen CLIP: pictures and captions to L2-normalised embeddings in one space."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from sketchae.backbones.identity import backbone_id, pick_device
from sketchae.backbones.vae import check_images
from sketchae.errors import BadInputError

_INTERPOLATION = {Image.Resampling.BICUBIC: "bicubic", Image.Resampling.BILINEAR: "bilinear"}


class ClipEmbedder:
    """transformers' `CLIPModel` with its processor; frozen, in eval mode.

    Args:
        model: the network. It is moved, cast and frozen in place.
        processor: its `CLIPProcessor` (image processor and tokenizer).
        device: default: CUDA where there is one, else the CPU.
        dtype: of the network's arithmetic; default float32. Embeddings are normalised and returned in float32.

    Attributes:
        embed_dim: D, the width of the joint space.
        image_size: the side in pixels at which the model looks.
        id: hash of weights, preprocessing and vocabulary.
        source, revision: where the weights came from; `revision` is the hub's commit hash, None for a folder.
    """

    source: str | None = None
    revision: str | None = None

    def __init__(
        self,
        model: CLIPModel,
        processor: CLIPProcessor,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        if not isinstance(model, CLIPModel):
            raise BadInputError(f"{type(model).__name__} is not a CLIPModel: give a checkpoint of that class.")
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.device = pick_device(device)
        self.dtype = dtype or torch.float32
        self.embed_dim = int(model.config.projection_dim)
        self.image_size = int(model.config.vision_config.image_size)
        self.max_tokens = int(model.config.text_config.max_position_embeddings)
        self._preprocessing = _preprocessing(processor.image_processor)
        if self._preprocessing["crop"] not in (None, (self.image_size, self.image_size)):
            raise BadInputError(
                f"The CLIP processor crops to {self._preprocessing['crop']}, but the model looks at {self.image_size} "
                "pixels: use the preprocessor_config.json that belongs to this model."
            )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        text, vision = model.config.text_config, model.config.vision_config
        self.id = backbone_id(
            model,
            extra=[
                self._preprocessing,
                sorted(self.tokenizer.get_vocab().items()),
                [text.hidden_act, text.eos_token_id, text.num_attention_heads, self.max_tokens],
                [vision.hidden_act, vision.patch_size, vision.num_attention_heads, self.image_size],
            ],
        )
        self.model = model.requires_grad_(False).eval().to(self.device, self.dtype)

    def embed_images(
        self, images: Shaped[Tensor, "batch channels height width"] | Sequence[Image.Image]
    ) -> Float[Tensor, "batch embed_dim"]:
        """Pictures to embeddings of length 1, each picture resized, cropped and normalised as the processor says.

        Args:
            images: floats in [0, 1], or PIL pictures of any size. Tensors are resized on the device, and gradients
                pass to them where they ask for it; the two ways differ by the rounding to bytes that PIL does.

        Raises:
            BadInputError: not three channels, or not in [0, 1].
        """
        if isinstance(images, Tensor):
            pixels = self.preprocess(images)
        else:
            if not images:
                return torch.zeros(0, self.embed_dim, device=self.device)
            pixels = self.processor.image_processor(
                [i.convert("RGB") for i in images], return_tensors="pt"
            ).pixel_values
        pixels = pixels.to(self.device, self.dtype, memory_format=torch.channels_last, non_blocking=True)
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output.float(), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch embed_dim"]:
        """Captions to embeddings of length 1; padded to the longest of this call, cut at the model's maximum.

        The text tower is causal and pools at the end-of-text token, so that padding changes nothing but the time.
        """
        if isinstance(texts, str):
            raise BadInputError("embed_texts takes a list of captions: put a single one into a list.")
        if not texts:
            return torch.zeros(0, self.embed_dim, device=self.device)
        tokens = self.tokenizer(
            list(texts),
            padding="longest",
            padding_side="right",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        features = self.model.get_text_features(
            input_ids=tokens["input_ids"].to(self.device), attention_mask=tokens["attention_mask"].to(self.device)
        )
        return F.normalize(features.pooler_output.float(), dim=-1)

    def preprocess(
        self, images: Shaped[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Resize (antialiased), crop to the centre and normalise float images in [0, 1], as the processor would.

        Gradients pass, so that a loss can look at decoded pictures through CLIP.

        Raises:
            BadInputError: not three channels, or not in [0, 1].
        """
        check_images(images)
        how = self._preprocessing
        pixels = images.to(self.device, torch.float32)
        height, width = pixels.shape[-2:]
        new_height, new_width = _resized(height, width, how["resize"])
        # Width first, then height, cutting off what bicubic interpolation overshoots after each, as PIL's bytes do.
        for size in ((height, new_width), (new_height, new_width)):
            if size != tuple(pixels.shape[-2:]):
                pixels = F.interpolate(pixels, size, mode=how["mode"], antialias=True).clamp(0, 1)
        if how["crop"] is not None:
            crop_height, crop_width = how["crop"]
            # A picture smaller than the crop is padded with black (negative padding crops).
            missing_h, missing_w = max(crop_height - new_height, 0), max(crop_width - new_width, 0)
            if missing_h or missing_w:
                top, left = (missing_h + 1) // 2, (missing_w + 1) // 2
                pixels = F.pad(pixels, (left, missing_w - left, top, missing_h - top))
            top, left = (pixels.shape[-2] - crop_height) // 2, (pixels.shape[-1] - crop_width) // 2
            pixels = pixels[..., top : top + crop_height, left : left + crop_width]
        mean, std = (torch.tensor(how[key], device=self.device).view(1, 3, 1, 1) for key in ("mean", "std"))
        return (pixels - mean) / std


def _preprocessing(processor: Any) -> dict[str, Any]:
    """What the image processor does to a picture, in plain values.

    Old configuration files write sizes as numbers, new ones as dictionaries; the processor's attributes are always
    of the second form.
    """
    resize, crop = processor.size, processor.crop_size
    mode = _INTERPOLATION.get(Image.Resampling(int(processor.resample)))
    if mode is None:
        raise BadInputError(
            f"The CLIP processor resizes with PIL's filter {processor.resample}: only bilinear (2) and bicubic (3) are "
            "supported; set 'resample' in preprocessor_config.json."
        )
    if not processor.do_resize:
        how = None
    else:
        how = int(resize["shortest_edge"]) if resize.get("shortest_edge") else _sides(resize)
    normalised = processor.do_normalize
    return {
        "resize": how,
        "mode": mode,
        "crop": _sides(crop) if processor.do_center_crop else None,
        "mean": [float(m) for m in processor.image_mean] if normalised else [0.0] * 3,
        "std": [float(s) for s in processor.image_std] if normalised else [1.0] * 3,
    }


def _sides(size: Any) -> tuple[int, int]:
    return int(size["height"]), int(size["width"])


def _resized(height: int, width: int, resize: int | Sequence[int] | None) -> tuple[int, int]:
    """Height and width after resizing: the short side to a number (the long one cut to whole pixels), or both sides."""
    if resize is None:
        return height, width
    if not isinstance(resize, int):
        return int(resize[0]), int(resize[1])
    short, long = min(height, width), max(height, width)
    new_long = int(resize * long / short)
    return (resize, new_long) if height <= width else (new_long, resize)
