"""Sketch-first diffusion: a text-conditioned latent diffusion model with a noise level for each block of the latents."""

from sketchae.diffusion.conditioning import Conditioning, embed_prompts, scene_prompts
from sketchae.diffusion.levels import preview, schedule
from sketchae.diffusion.network import SketchDiffusion, build_unet
from sketchae.diffusion.pipeline import SketchPipeline
from sketchae.diffusion.sampling import Trajectory, generate, sample, sample_noise
from sketchae.diffusion.storage import load_diffusion, save_diffusion
from sketchae.diffusion.training import DiffusionConfig, encode_pool, open_pool, train_diffusion

__all__ = [
    "Conditioning",
    "DiffusionConfig",
    "SketchDiffusion",
    "SketchPipeline",
    "Trajectory",
    "build_unet",
    "embed_prompts",
    "encode_pool",
    "generate",
    "load_diffusion",
    "open_pool",
    "preview",
    "sample",
    "sample_noise",
    "save_diffusion",
    "scene_prompts",
    "schedule",
    "train_diffusion",
]
