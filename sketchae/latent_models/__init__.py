"""How latents come to be, one paper a file: GLO, autoencoders, VAE, VQ-VAE, dVAE and the DALL-E prior, small, on Scenes and on digits."""

from sketchae.latent_models.prior import paint_prompts
from sketchae.latent_models.ship import open_model

__all__ = ["open_model", "paint_prompts"]
