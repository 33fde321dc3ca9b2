"""`python -m sketchae.backbone_training [--only vae …] [--install]`: train what ships, then ship it."""

import argparse
from pathlib import Path

from sketchae.backbone_training.ship import NETWORKS, SKETCH_NETWORKS, install_backbones, train_backbones
from sketchae.profiles import find_root

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folder", type=Path, default=None, help="where trainings live (default: build/backbones)")
parser.add_argument("--only", nargs="+", default=list(NETWORKS), help=f"of {', '.join(NETWORKS + SKETCH_NETWORKS)}; default: the first four")
parser.add_argument("--clip-from", type=Path, default=None, help="carry on from this CLIP (e.g. sketchae/assets/clip): second stage only")
parser.add_argument("--seed", type=int, default=0, help="another start and order (use a --folder of its own)")
parser.add_argument("--install", action="store_true", help="copy the finished networks into the package")

if __name__ == "__main__":
    arguments = parser.parse_args()
    folder = arguments.folder or find_root() / "build" / "backbones"
    train_backbones(folder, only=tuple(arguments.only), clip_start=arguments.clip_from, seed=arguments.seed)
    if arguments.install:
        install_backbones(folder, only=tuple(arguments.only))
