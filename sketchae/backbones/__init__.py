"""The frozen VAE and CLIP behind one small interface: `load_vae`, `load_clip`."""

from sketchae.backbones.clip import ClipEmbedder
from sketchae.backbones.identity import backbone_id, fast_dtype, pick_device
from sketchae.backbones.loading import ASSETS, load_clip, load_vae, own_basis
from sketchae.backbones.vae import LATENT_CLIP, DiffusersVAE, LatentCodec, UserCodec, check_images

__all__ = [
    "ASSETS",
    "LATENT_CLIP",
    "ClipEmbedder",
    "DiffusersVAE",
    "LatentCodec",
    "UserCodec",
    "backbone_id",
    "check_images",
    "fast_dtype",
    "load_clip",
    "load_vae",
    "own_basis",
    "pick_device",
]
