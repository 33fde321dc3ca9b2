"""Train the diffusion models that ship, and put them where the package finds them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from sketchae.backbone_training.provenance import install_finished, write_provenance
from sketchae.backbones import load_clip, load_vae, own_basis
from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.diffusion.conditioning import scene_prompts
from sketchae.diffusion.levels import LEVELS
from sketchae.diffusion.network import build_unet
from sketchae.diffusion.storage import EMBEDDED, save_diffusion
from sketchae.diffusion.training import DiffusionConfig, encode_pool, open_pool, train_diffusion
from sketchae.processes import new_accelerator
from sketchae.profiles import find_root
from sketchae.scenes.judges import ASSETS


@dataclass(frozen=True)
class DiffusionBudget:
    """How long and on what; the defaults are what ships.

    Attributes:
        n_scenes: the first so many scenes of the split "backbones".
        widths: of the UNet, one a resolution.
        vae, clip: "sketch" and "embedded", or folders. basis: a folder; where not given the VAE's own, or the embedded one.
    """

    n_steps: int = 5400
    n_scenes: int = 24_000
    batch_size: int = 32
    lr: float = 1e-3
    n_warmup: int = 200
    ema_decay: float = 0.999
    seed: int = 0
    widths: tuple[int, ...] = (64, 64, 96)
    vae: str = "sketch"
    clip: str = "embedded"
    basis: str | None = None


def train_network(levels: str, folder: Path, budget: DiffusionBudget = DiffusionBudget(), name: str | None = None, pool: Path | None = None) -> Path:
    """Train one model, "two" or "one" by its noise levels, into `folder`/`name`; interrupted or finished, it resumes.

    Processes that were launched together share every batch, and the first one writes the model. Latents are computed once for both models and kept in
    `folder`. `pool` is the folder of drawn scenes, by default that of the backbones.
    """
    folder = Path(folder)
    out = folder / (name or levels)
    config = DiffusionConfig(
        n_steps=budget.n_steps,
        lr=budget.lr,
        n_warmup=budget.n_warmup,
        ema_decay=budget.ema_decay,
        seed=budget.seed,
        levels=levels,
        batch_size=budget.batch_size,
    )
    codec, clip = load_vae(budget.vae), load_clip(budget.clip)
    basis = OrthogonalBasis.load(budget.basis) if budget.basis else own_basis(budget.vae) or OrthogonalBasis.load("embedded")
    basis.check_vae(codec)
    scenes = open_pool(pool or find_root() / "build" / "backbones" / "pool", budget.n_scenes)
    z = encode_pool(codec, scenes, budget.n_scenes, folder)
    prompts = scene_prompts(scenes.scenes[: budget.n_scenes])
    torch.manual_seed(budget.seed)
    sizes = {"text_dim": clip.model.config.text_config.hidden_size, "pooled_dim": clip.embed_dim, "block_out_channels": budget.widths}
    unet = build_unet(z.shape[1], z.shape[2], **sizes)
    accelerator = new_accelerator()
    options = {"codec": codec, "unet": unet, "accelerator": accelerator}
    model, record = train_diffusion(z, prompts, clip, basis, folder / "training" / out.name, config, **options)
    if accelerator.is_main_process:
        save_diffusion(model, out)
        about = {
            "network": f"diffusion, {levels} noise level{'s' if levels == 'two' else ''}",
            "made_by": f"python -m sketchae.diffusion --levels {levels} --n-steps {budget.n_steps} --seed {budget.seed}",
            "trained_on": f"the first {budget.n_scenes:,} scenes of the split 'backbones'",
            "vae_id": model.vae_id,
            "clip_id": model.clip_id,
        }
        write_provenance(out, about, record, sum(p.numel() for p in model.unet.parameters()))
    accelerator.wait_for_everyone()
    return out


def install_diffusion(folder: Path, assets: Path = ASSETS) -> None:
    """Copy both finished models from `folder` into the package's assets.

    Raises:
        MissingFileError: where one is not finished.
    """
    folders = {Path(folder) / levels: assets / source for levels, source in zip(LEVELS, EMBEDDED.values(), strict=True)}
    install_finished(folders, {source: f"python -m sketchae.diffusion --levels {source.name}" for source in folders})
