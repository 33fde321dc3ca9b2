"""A linear codec of any number of channels, on which what is claimed of many channels can be tried at no cost.

The embedded VAE has four channels, so its planes can nearly be listed. `PatchCodec` has as many as one likes and needs no training: the
principal components of 8x8 patches. Searches over Gr(16, 32), say, can be tried on it, and known answers checked, because what its
channels show is plain to see: luminance against colour, coarse against fine. It is no good autoencoder and does not stand in for one.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from sketchae.backbones.identity import backbone_id, pick_device
from sketchae.backbones.vae import _Codec, check_images
from sketchae.errors import BadInputError

PATCH = 8
N_NUMBERS = 3 * PATCH**2
_BATCH = 64


class PatchCodec(_Codec):
    """Patches of 8x8x3 = 192 numbers p, projected on C principal components u_i, as a `LatentCodec`; made by `fit`.

        z_i = u_i · (p - mean) / s_i        p = mean + sum_i s_i z_i u_i, clamped to [0, 1] as `DiffusersVAE` does

    Latents are not clipped: with all 192 channels decoding is exact.

    Args:
        mean: of the patches, (192,), in the order of `torch.nn.functional.pixel_unshuffle`.
        components: u, orthonormal rows (C, 192).
        deviations: s > 0, (C,).
        device: default: CUDA where there is one, else the CPU.
    """

    downsampling = PATCH
    dtype = torch.float32

    def __init__(
        self,
        mean: Float[Tensor, " 192"],
        components: Float[Tensor, "channels 192"],
        deviations: Float[Tensor, " channels"],
        *,
        device: torch.device | str | None = None,
    ):
        self._start_counting(latent_clip=None)
        self.device = pick_device(device)
        self.latent_channels = len(components)
        self.mean, self.components, self.deviations = (part.to(self.device, self.dtype) for part in (mean, components, deviations))
        self.id = backbone_id(self, [part.tolist() for part in (self.mean, self.components, self.deviations)])
        self.source = type(self).__name__

    @classmethod
    def fit(cls, images: Shaped[Tensor, "n _ _ _"], channels: int = 32, *, device: torch.device | str | None = None) -> "PatchCodec":
        """The `channels` leading principal components of all patches of pictures (n, 3, h, w) in [0, 1], largest variance first.

        Computed in float64. Each component's largest entry is positive, so that the result is unique.

        Raises:
            BadInputError: pictures that cannot be encoded (see `encode`), channels not in 1 to 192 or more than the directions in which
                the patches vary.
        """
        check_images(images, PATCH)
        if not 1 <= channels <= N_NUMBERS:
            raise BadInputError(f"A patch has {N_NUMBERS} numbers: ask for 1 to {N_NUMBERS} channels, not {channels}.")
        count, total, outer = 0, torch.zeros(N_NUMBERS).double(), torch.zeros(N_NUMBERS, N_NUMBERS).double()
        for batch in images.split(_BATCH) if len(images) else ():
            patches = functional.pixel_unshuffle(batch.cpu().double(), PATCH).movedim(1, 0).flatten(1)
            count, total, outer = count + patches.shape[1], total + patches.sum(1), outer + patches @ patches.T
        mean = total / max(count, 1)
        variances, vectors = torch.linalg.eigh(outer / max(count, 1) - torch.outer(mean, mean))
        variances, components = variances.flip(0), vectors.T.flip(0)
        rank = int((variances > 1e-10 * variances[0]).sum()) if count and variances[0] > 1e-10 else 0
        if channels > rank:
            raise BadInputError(
                f"The patches of these {len(images)} pictures vary in {rank} directions, too few for {channels} channels: "
                "give more pictures, or ask for fewer channels."
            )
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        return cls(mean, (components * largest.sign())[:channels], variances[:channels].sqrt(), device=device)

    @torch.no_grad()
    def encode(self, images: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, "batch latent_channels latent_height latent_width"]:
        """Pixels in [0, 1] to latents (batch, C, height / 8, width / 8) of about unit variance.

        Raises:
            BadInputError: not three channels, not in [0, 1], or a side that is no multiple of 8.
        """
        check_images(images, PATCH)
        patches = functional.pixel_unshuffle(images.to(self.device, self.dtype), PATCH) - self.mean[:, None, None]
        return self._clip(torch.einsum("cp,nphw->nchw", self.components / self.deviations[:, None], patches).contiguous())

    def decode(self, z: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Latents to images in [0, 1] (clamped); gradients pass to `z` where a pixel is not clamped.

        Raises:
            BadInputError: the number of channels is not this codec's.
        """
        self._check_latents(z)
        patches = torch.einsum("cp,nchw->nphw", self.components * self.deviations[:, None], z.to(self.device, self.dtype))
        return functional.pixel_shuffle(patches + self.mean[:, None, None], PATCH).clamp(0, 1)
