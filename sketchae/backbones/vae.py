"""The frozen autoencoder behind one small interface: pixels in [0, 1] to scaled latents and back.

The paper's z is what comes out of `encode`: the VAE's own latents, scaled to about unit variance, then clipped to
[-3, 3]. Scaling is `z = (z_raw - shift_factor) * scaling_factor` (diffusers' convention) and is undone by `unscale`.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sketchae.backbones.identity import backbone_id, pick_device
from sketchae.backbones.upsampling import fused_upsampling
from sketchae.errors import BadInputError

LATENT_CLIP = 3.0  # the paper's bound, in units of the scaled latents
PIXELS_PER_CALL = 8 * 128**2  # on a CPU: of 1, 4, 8 and 32 pictures of 128 pixels a call, 8 took the least time each


@runtime_checkable
class LatentCodec(Protocol):
    """What the rest of the package asks of a VAE.

    `encode` maps float images (b, 3, h, w) in [0, 1] to scaled latents (b, c, h / downsampling, w / downsampling),
    about unit variance; `decode` maps them back to images in [0, 1].
    """

    latent_channels: int
    downsampling: int

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...


class _Codec:
    """What both kinds of codec share: input checks, the clip and its bookkeeping.

    Attributes:
        latent_channels, downsampling: the shape of the latents.
        latent_clip: bound on the scaled latents, or None for no bound.
        id: hash of weights and scaling: latents of codecs with different ids must not be mixed.
        source, revision: where the weights came from; `revision` is the hub's commit hash, None for a folder.
    """

    latent_channels: int
    downsampling: int
    latent_clip: float | None
    source: str | None = None
    revision: str | None = None

    def _start_counting(self, latent_clip: float | None) -> None:
        if latent_clip is not None and not latent_clip > 0:
            raise BadInputError(f"latent_clip is {latent_clip}: give a positive bound, or None for no clipping.")
        self.latent_clip = latent_clip
        self._n_clipped: Tensor | int = 0  # stays on the device, so that counting does not stall a GPU
        self.n_entries = 0

    @property
    def n_clipped(self) -> int:
        """Latent entries beyond the clip so far."""
        return int(self._n_clipped)

    @property
    def clipped_share(self) -> float:
        """Share of all latent entries encoded so far that lay beyond `latent_clip`, in [0, 1]."""
        return self.n_clipped / self.n_entries if self.n_entries else 0.0

    def _clip(self, z: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        if not bool(torch.isfinite(z).all()):  # before the clip, which would hide an infinity
            raise BadInputError(
                "The VAE produced NaN or infinite latents: load it with dtype=torch.float32 (half precision overflows "
                "in some VAEs), and check that its weights are complete."
            )
        if self.latent_clip is None:
            return z
        self._n_clipped = self._n_clipped + (z.abs() > self.latent_clip).sum()
        self.n_entries += z.numel()
        return z.clamp(-self.latent_clip, self.latent_clip)

    def _check_latents(self, z: Tensor) -> None:
        if z.ndim != 4 or z.shape[1] != self.latent_channels:
            raise BadInputError(
                f"Latents of shape {tuple(z.shape)} do not fit this VAE, which has {self.latent_channels} channels: "
                f"give (batch, {self.latent_channels}, height, width), made by the same VAE."
            )


class DiffusersVAE(_Codec):
    """A diffusers `AutoencoderTiny` or `AutoencoderKL` (posterior mean) as a `LatentCodec`; frozen, in eval mode.

    Args:
        vae: the model. It is moved, cast and frozen in place; weights that it is given later may not reach `decode`.
        device: default: CUDA where there is one, else the CPU.
        dtype: of the network's arithmetic; default float32. `fast_dtype(device)` names the quickest safe one.
        latent_clip: bound on the scaled latents (the paper's 3), or None.
    """

    def __init__(
        self,
        vae: AutoencoderTiny | AutoencoderKL,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        latent_clip: float | None = LATENT_CLIP,
    ):
        if not isinstance(vae, AutoencoderTiny | AutoencoderKL):
            raise BadInputError(
                f"{type(vae).__name__} is neither an AutoencoderTiny nor an AutoencoderKL: give one of those, or an "
                "object with encode(images) and decode(z) to load_vae."
            )
        config = vae.config
        if config.in_channels != 3 or config.out_channels != 3:
            raise BadInputError(
                f"This VAE has {config.in_channels} input and {config.out_channels} output channels: use one for RGB "
                "pictures (3 and 3)."
            )
        self._start_counting(latent_clip)
        self.id = backbone_id(vae)
        self.device = pick_device(device)
        self.dtype = dtype or torch.float32
        if self.dtype == torch.float16 and getattr(config, "force_upcast", False):
            self.dtype = torch.float32  # such checkpoints (SDXL's) overflow in float16
        self.latent_channels = int(config.latent_channels)
        # Both classes halve the resolution between consecutive blocks.
        blocks = config.encoder_block_out_channels if isinstance(vae, AutoencoderTiny) else config.block_out_channels
        self.downsampling = 2 ** (len(blocks) - 1)
        self.scaling_factor = float(config.scaling_factor)
        self.shift_factor = float(getattr(config, "shift_factor", None) or 0.0)
        # nn.Module's own `to`: diffusers' warns about float32 modules even where a model has none.
        nn.Module.to(vae, self.device, self.dtype, memory_format=torch.channels_last)
        self.vae = vae.requires_grad_(False).eval()
        on_cpu = self.device.type == "cpu" and isinstance(vae, AutoencoderTiny)
        self._decoding = fused_upsampling(vae) if on_cpu else vae

    def scale(self, z_raw: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """z = (z_raw - shift_factor) * scaling_factor: from the VAE's own latents to about unit variance."""
        return (z_raw - self.shift_factor) * self.scaling_factor

    def unscale(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """z_raw = z / scaling_factor + shift_factor: the inverse of `scale`."""
        return z / self.scaling_factor + self.shift_factor

    @torch.no_grad()
    def encode(
        self, images: Shaped[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch latent_channels latent_height latent_width"]:
        """Pixels in [0, 1] to scaled, clipped latents (float32); the posterior mean where the VAE has a posterior.

        Raises:
            BadInputError: not three channels, not in [0, 1], a side that is no multiple of `downsampling`, or
                latents that are not finite.
        """
        check_images(images, self.downsampling)
        pixels = images.to(self.device, self.dtype, memory_format=torch.channels_last, non_blocking=True) * 2 - 1
        z_raw = _in_pieces(self._encode, pixels, images.shape[-2] * images.shape[-1])
        return self._clip(self.scale(z_raw.float()).contiguous())

    def _encode(self, pixels: Tensor) -> Tensor:
        encoded = self.vae.encode(pixels)
        return encoded.latents if isinstance(self.vae, AutoencoderTiny) else encoded.latent_dist.mode()

    def decode(
        self, z: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Scaled latents to float32 images in [0, 1] (clamped). Gradients pass to `z` unless the caller forbids it.

        Raises:
            BadInputError: the number of channels is not this VAE's.
        """
        self._check_latents(z)
        z_raw = self.unscale(z.to(self.device)).to(self.dtype, memory_format=torch.channels_last)
        n_pixels = z.shape[-2] * z.shape[-1] * self.downsampling**2
        decoded = _in_pieces(lambda piece: self._decoding.decode(piece).sample, z_raw, n_pixels)
        return ((decoded.float() + 1) / 2).clamp(0, 1).contiguous()


class UserCodec(_Codec):
    """A user's own object with `encode(images) -> z` and `decode(z) -> images`, checked once on a grey picture.

    The object answers for its own scaling: it takes and gives pixels in [0, 1] and latents of about unit variance.

    Raises:
        BadInputError: a method is missing, or shapes do not come back as they went in.
    """

    _PROBE_SIZE = 64  # divisible by every usual downsampling

    def __init__(
        self, codec: Any, *, device: torch.device | str | None = None, latent_clip: float | None = LATENT_CLIP
    ):
        if not callable(getattr(codec, "encode", None)) or not callable(getattr(codec, "decode", None)):
            raise BadInputError(
                f"{type(codec).__name__} has no encode and decode methods: give 'embedded', a folder, a hub id, or an "
                "object with encode(images) -> z and decode(z) -> images."
            )
        self.codec = codec
        self.device = pick_device(device or getattr(codec, "device", None))
        self.dtype = torch.float32
        self._start_counting(latent_clip)
        self.id = backbone_id(codec)
        size = self._PROBE_SIZE
        with torch.no_grad():
            z = codec.encode(torch.full((1, 3, size, size), 0.5, device=self.device))
            back = codec.decode(z) if isinstance(z, Tensor) else None
        name = type(codec).__name__
        if not isinstance(z, Tensor) or z.ndim != 4 or z.shape[0] != 1 or size % z.shape[2] or z.shape[2] != z.shape[3]:
            raise BadInputError(
                f"{name}.encode must return a tensor of latents (batch, channels, height / s, width / s); for an image "
                f"of {size} pixels it returned {tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__}."
            )
        if not isinstance(back, Tensor) or tuple(back.shape) != (1, 3, size, size):
            raise BadInputError(
                f"{name}.decode must return images (batch, 3, height, width) for the latents of encode."
            )
        self.latent_channels = int(z.shape[1])
        self.downsampling = size // int(z.shape[2])

    @torch.no_grad()
    def encode(
        self, images: Shaped[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch latent_channels latent_height latent_width"]:
        """Pixels in [0, 1] to the object's latents (float32), clipped to `latent_clip`."""
        check_images(images, self.downsampling)
        return self._clip(self.codec.encode(images.to(self.device)).float())

    def decode(
        self, z: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Latents to float32 images, clamped to [0, 1]."""
        self._check_latents(z)
        return self.codec.decode(z.to(self.device)).float().clamp(0, 1)


def _in_pieces(network: Callable[[Tensor], Tensor], batch: Tensor, n_pixels: int) -> Tensor:
    """`network(batch)`; on a CPU in pieces so small that its caches hold the feature maps. `n_pixels`: of one picture.

    The pieces are about equal and hold two pictures or more: one alone would go another way through the kernels, and its
    last bits would depend on how large the batch was. What needs a gradient goes whole.
    """
    n_pieces = min(-(-len(batch) * n_pixels // PIXELS_PER_CALL), len(batch) // 2)
    if batch.device.type != "cpu" or n_pieces < 2 or (torch.is_grad_enabled() and batch.requires_grad):
        return network(batch)
    return torch.cat([network(piece) for piece in batch.tensor_split(n_pieces)])


def check_images(images: Tensor, multiple: int = 1) -> None:
    """Refuse what is not a batch of RGB pictures in [0, 1] whose sides are multiples of `multiple`.

    Raises:
        BadInputError: with what was given and what to do.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise BadInputError(
            f"Images have shape {tuple(images.shape)}: give (batch, 3, height, width); sketchae.images.to_tensor turns "
            "any picture, grey or transparent ones too, into three channels."
        )
    if not images.is_floating_point():
        raise BadInputError(f"Images are {images.dtype}: give floats in [0, 1] (divide bytes by 255).")
    height, width = images.shape[-2:]
    if min(height, width) < multiple or height % multiple or width % multiple:
        raise BadInputError(
            f"Images of {height} x {width} pixels cannot be encoded: both sides must be multiples of {multiple}; "
            "crop them with sketchae.images.center_crop."
        )
    if images.numel():
        low, high = (float(bound) for bound in torch.aminmax(images.detach()))
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN fails too
            raise BadInputError(f"Pixels lie in [{low:.4g}, {high:.4g}]: they must lie in [0, 1] and be finite.")
