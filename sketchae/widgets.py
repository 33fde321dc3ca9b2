"""The explorer: two sliders and two pictures. Thin: what it shows is computed by `edits.mix_blocks`."""

import io
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from sketchae import edits
from sketchae.errors import BadInputError


def explorer(
    vae: Any,
    basis: edits.Split,
    images: Sequence[Tensor] | Tensor,
    image_b: Tensor | None = None,
    *,
    names: Sequence[str] | None = None,
    width_px: int = 320,
) -> Any:
    """Sliders for the semantic and the style mix of two pictures, chosen from a list; redrawn at every move.

    `images` are (3, height, width) pictures in [0, 1] of one size (or, as `explorer(vae, basis, a, b)`, two of them).
    Returns an ipywidgets box whose attributes `semantic`, `style`, `original`, `target` and `picture` are its parts.

    Raises:
        BadInputError: fewer than two pictures, or pictures of different sizes.
    """
    import ipywidgets as widgets  # only here: the package works without a notebook

    pictures = [images, image_b] if image_b is not None else list(images)
    if len(pictures) < 2:
        raise BadInputError("The explorer mixes two pictures: give it at least two.")
    if len({tuple(picture.shape) for picture in pictures}) > 1:
        raise BadInputError("The explorer needs pictures of one size: crop or resize them first.")
    names = list(names or (f"picture {i}" for i in range(len(pictures))))
    if len(names) != len(pictures):
        raise BadInputError(f"{len(names)} names for {len(pictures)} pictures: give one for each.")
    with torch.no_grad():
        z = vae.encode(torch.stack(pictures))

    choices = list(zip(names, range(len(names)), strict=True))
    original = widgets.Dropdown(options=choices, value=0, description="original")
    target = widgets.Dropdown(options=choices, value=1, description="target")
    semantic = widgets.FloatSlider(value=0, min=0, max=1, step=0.05, description="semantic")
    style = widgets.FloatSlider(value=0.9, min=0, max=1, step=0.05, description="style")
    picture = widgets.Image(format="png", width=width_px)

    def redraw(_: Any = None) -> None:
        i, j = original.value, target.value
        picture.value = png_bytes(mixed_picture(vae, basis, z[i : i + 1], z[j : j + 1], semantic.value, style.value))

    for control in (original, target, semantic, style):
        control.observe(redraw, names="value")
    redraw()
    # In a narrow window the picture goes below the controls, which would else be cut off.
    controls = widgets.VBox([original, target, semantic, style], layout=widgets.Layout(flex="0 0 auto"))
    box = widgets.HBox([controls, picture], layout=widgets.Layout(flex_flow="row wrap"))
    box.original, box.target, box.semantic, box.style, box.picture = original, target, semantic, style, picture
    return box


@torch.no_grad()
def mixed_picture(
    vae: Any, basis: edits.Split, z_original: edits.Latents, z_target: edits.Latents, semantic: float, style: float
) -> UInt8[Tensor, "h w 3"]:
    """Decode one mix of one pair (batch of 1) to bytes."""
    z = edits.mix_blocks(basis, z_original, z_target, [semantic], [style])[0]
    return (vae.decode(z)[0].float().clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu()


def png_bytes(pixels: UInt8[Tensor, "h w 3"]) -> bytes:
    """A picture as a PNG file in memory."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, format="png")
    return buffer.getvalue()
