"""How latents come to be, one paper a file: GLO, autoencoders, VAE, VQ-VAE, dVAE and the DALL-E prior, small, on Scenes and on digits."""
