"""`python -m sketchae.diffusion --levels two`: train the diffusion model on Scenes; the same command resumes."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from sketchae.atomic import atomic_write_text
from sketchae.backbones import load_clip, load_vae
from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.diffusion.conditioning import scene_prompts
from sketchae.diffusion.levels import LEVELS
from sketchae.diffusion.network import build_unet
from sketchae.diffusion.storage import save_diffusion
from sketchae.diffusion.training import DiffusionConfig, encode_pool, open_pool, train_diffusion
from sketchae.errors import SketchaeError
from sketchae.profiles import find_root
from sketchae.scenes import SCENES_VERSION


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sketchae.diffusion", description=__doc__)
    parser.add_argument("--levels", choices=LEVELS, default="two", help="noise levels: one for each block, or one for all channels")
    parser.add_argument("--folder", type=Path, help="where latents, trainings and models live (default: build/diffusion)")
    parser.add_argument("--name", help="of the model's folder in it (default: what --levels says)")
    parser.add_argument("--n-steps", type=int, default=8000)
    parser.add_argument("--n-scenes", type=int, default=24_000, help="the first so many scenes of the split 'backbones'")
    parser.add_argument("--pool", type=Path, help="folder of drawn scenes (default: build/backbones/pool)")
    parser.add_argument("--vae", default="embedded", help="'embedded', or a folder")
    parser.add_argument("--basis", default="embedded", help="'embedded', or a folder")
    parser.add_argument("--clip", default="embedded", help="'embedded', or a folder")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 64, 96], help="of the UNet, one a resolution")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--n-warmup", type=int, default=200)
    parser.add_argument("--ema-decay", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one model; returns the exit status (0 done, 1 refused with a sentence, 130 interrupted)."""
    parsed = _parser().parse_args(arguments)
    try:
        print(_train(parsed))
    except SketchaeError as error:
        print(f"sketchae.diffusion: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sketchae.diffusion: interrupted; the same command continues at the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _train(parsed: argparse.Namespace) -> str:
    root = find_root()
    folder = parsed.folder or root / "build" / "diffusion"
    name = parsed.name or parsed.levels
    config = DiffusionConfig(
        n_steps=parsed.n_steps,
        lr=parsed.lr,
        n_warmup=parsed.n_warmup,
        ema_decay=parsed.ema_decay,
        seed=parsed.seed,
        levels=parsed.levels,
        batch_size=parsed.batch_size,
    )
    codec, clip, basis = load_vae(parsed.vae), load_clip(parsed.clip), OrthogonalBasis.load(parsed.basis)
    basis.check_vae(codec)
    pool = open_pool(parsed.pool or root / "build" / "backbones" / "pool", parsed.n_scenes)
    z = encode_pool(codec, pool, parsed.n_scenes, folder)
    prompts = scene_prompts(pool.scenes[: parsed.n_scenes])
    torch.manual_seed(parsed.seed)
    unet = build_unet(
        z.shape[1],
        z.shape[2],
        text_dim=clip.model.config.text_config.hidden_size,
        pooled_dim=clip.embed_dim,
        block_out_channels=tuple(parsed.widths),
    )
    model, record = train_diffusion(z, prompts, clip, basis, folder / "training" / name, config, codec=codec, unet=unet)
    out = folder / name
    save_diffusion(model, out)
    n_parameters = sum(p.numel() for p in model.unet.parameters())
    about = {
        "network": f"diffusion, {parsed.levels} noise level{'s' if parsed.levels == 'two' else ''}",
        "made_by": f"python -m sketchae.diffusion --levels {parsed.levels} --n-steps {parsed.n_steps} --seed {parsed.seed}",
        "trained_on": f"the first {parsed.n_scenes:,} scenes of the split 'backbones'",
        "scenes_version": SCENES_VERSION,
        "vae_id": model.vae_id,
        "clip_id": model.clip_id,
        "n_parameters": n_parameters,
        "duration_s": round(record["duration_s"]),
        "n_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "loop": record["config"],
        "last_losses": record["log"][-1],
        "licence": "MIT",
    }
    atomic_write_text(out / "provenance.json", json.dumps(about, indent=1) + "\n")
    rows = record["log"][:: max(1, len(record["log"]) // 200)]
    atomic_write_text(out / "training_log.json", json.dumps(rows) + "\n")
    losses = ", ".join(f"{term} {record['log'][-1][term]:.4f}" for term in ("loss", "semantic", "style"))
    return f"{n_parameters:,} parameters, {parsed.n_steps} steps, {losses}, in {out}"


if __name__ == "__main__":
    sys.exit(main())
