"""Any picture file as RGB, squared and as a tensor: what every source and every notebook does to a picture.

Orientation from EXIF is applied, transparency is laid on white, grey and CMYK become RGB, 16 bits become 8.
"""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image, ImageOps
from torch import Tensor

from sketchae.errors import BadInputError, MissingFileError

MIN_SIZE = 16  # pixels; below that there is nothing to see, and nothing to encode


def open_image(source: str | os.PathLike | bytes, name: str | None = None) -> Image.Image:
    """A picture file, or its bytes, as an RGB picture of at least 16 x 16 pixels.

    Args:
        source: a path or the content of a file.
        name: how to call it in an error; default: the path.

    Raises:
        MissingFileError: no such file; BadInputError: not a picture, truncated, or too small.
    """
    name = name or (f"a picture of {len(source)} bytes" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise MissingFileError(f"There is no picture {name}: check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about EXIF blocks that it can live with
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
                picture.load()
                picture = ImageOps.exif_transpose(picture)
                return to_rgb(picture, name)
    except BadInputError:
        raise
    except Image.DecompressionBombError as error:
        raise BadInputError(f"{name} is too large to open safely ({error}): make it smaller.") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:  # what Pillow's readers raise
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        if "cannot identify" in detail:
            detail = "not a picture in a format that Pillow knows"  # Pillow's own words hold a memory address
        raise BadInputError(f"{name} cannot be read ({detail}): replace it or leave it out.") from error


def to_rgb(picture: Image.Image, name: str = "the picture") -> Image.Image:
    """Three channels of 8 bits: transparency on white, grey, palette, CMYK and 16-bit pictures converted.

    Raises:
        BadInputError: a side is shorter than 16 pixels.
    """
    width, height = picture.size
    if min(width, height) < MIN_SIZE:
        raise BadInputError(
            f"{name} has {width} x {height} pixels: give a picture of at least {MIN_SIZE} x {MIN_SIZE}."
        )
    if picture.mode == "RGB":
        return picture.copy() if picture.readonly else picture
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(_to_bytes(np.asarray(picture))).convert("RGB")  # Pillow would cut off above 255
    if picture.mode in ("RGBA", "LA", "La", "RGBa", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def center_crop(picture: Image.Image, size: int) -> Image.Image:
    """Resize the short side to `size` pixels (bicubic, antialiased), then cut the square in the middle."""
    width, height = picture.size
    scale = size / min(width, height)
    new_width, new_height = max(size, round(width * scale)), max(size, round(height * scale))
    if (new_width, new_height) != (width, height):
        picture = picture.resize((new_width, new_height), Image.Resampling.BICUBIC)
    left, top = (new_width - size) // 2, (new_height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def to_tensor(picture: Image.Image) -> Float[Tensor, "3 height width"]:
    """A picture of any mode as float32 in [0, 1]."""
    array = np.array(to_rgb(picture))  # a copy: torch refuses read-only memory
    return torch.from_numpy(array).permute(2, 0, 1).contiguous().float().div_(255)


def to_pil(image: Shaped[Tensor, "..."]) -> Image.Image:
    """A float image (3, h, w) in [0, 1] as a picture; values outside are cut off.

    Raises:
        BadInputError: not one image of three channels.
    """
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise BadInputError(f"to_pil takes one float image (3, height, width), not {tuple(image.shape)} {image.dtype}.")
    array = image.detach().cpu().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(array.permute(1, 2, 0).contiguous().numpy())


def _to_bytes(array: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits to 0..255: whole numbers above 255 are taken as 16 bits, fractions as [0, 1]."""
    values = array.astype(np.float64)
    top = float(values.max())
    if array.dtype.kind == "f" and top <= 1.0:
        values = values * 255
    elif top > 255 or array.dtype.itemsize == 2:
        values = values / 257
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
