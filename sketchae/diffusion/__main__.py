"""`python -m sketchae.diffusion --levels two`: train the diffusion model on Scenes; the same command resumes."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sketchae.diffusion.levels import LEVELS
from sketchae.diffusion.ship import DiffusionBudget, install_diffusion, train_network
from sketchae.errors import SketchaeError
from sketchae.processes import process_state
from sketchae.profiles import find_root


def _parser() -> argparse.ArgumentParser:
    ours = DiffusionBudget()
    parser = argparse.ArgumentParser(prog="python -m sketchae.diffusion", description=__doc__)
    parser.add_argument("--levels", choices=LEVELS, default="two", help="noise levels: one for each block, or one for all channels")
    parser.add_argument("--folder", type=Path, help="where latents, trainings and models live (default: build/diffusion)")
    parser.add_argument("--name", help="of the model's folder in it (default: what --levels says)")
    parser.add_argument("--install", action="store_true", help="train nothing; copy the finished models to the package's assets")
    parser.add_argument("--pool", type=Path, help="folder of drawn scenes (default: build/backbones/pool)")
    parser.add_argument("--n-steps", type=int, default=ours.n_steps)
    parser.add_argument("--n-scenes", type=int, default=ours.n_scenes, help="the first so many scenes of the split 'backbones'")
    parser.add_argument("--vae", default=ours.vae, help="'sketch', 'embedded', or a folder")
    parser.add_argument("--basis", default=ours.basis, help="a folder, or 'embedded' (default: the VAE's own)")
    parser.add_argument("--clip", default=ours.clip, help="'embedded', or a folder")
    parser.add_argument("--widths", type=int, nargs="+", default=ours.widths, help="of the UNet, one a resolution")
    parser.add_argument("--batch-size", type=int, default=ours.batch_size)
    parser.add_argument("--lr", type=float, default=ours.lr)
    parser.add_argument("--n-warmup", type=int, default=ours.n_warmup)
    parser.add_argument("--ema-decay", type=float, default=ours.ema_decay)
    parser.add_argument("--seed", type=int, default=ours.seed)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one model; returns the exit status (0 done, 1 refused with a sentence, 130 interrupted)."""
    chosen = vars(_parser().parse_args(arguments))
    folder = chosen.pop("folder") or find_root() / "build" / "diffusion"
    levels, name, pool, install = (chosen.pop(key) for key in ("levels", "name", "pool", "install"))
    try:
        if install:
            install_diffusion(folder)
            return 0
        out = train_network(levels, folder, DiffusionBudget(**chosen | {"widths": tuple(chosen["widths"])}), name, pool)
        if not process_state().is_main_process:
            return 0
        about = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
        losses = ", ".join(f"{term} {about['last_losses'][term]:.4f}" for term in ("loss", "semantic", "style"))
        print(f"{about['n_parameters']:,} parameters, {about['loop']['n_steps']} steps, {losses}, in {out}")
    except SketchaeError as error:
        print(f"sketchae.diffusion: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sketchae.diffusion: interrupted; the same command continues at the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
