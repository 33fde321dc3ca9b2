"""`python -m sketchae.latent_models [--only vqvae …] [--install]`: train the latent models that ship, then ship them."""

import argparse
from pathlib import Path

from sketchae.latent_models.ship import RECIPES, install_model, train_model
from sketchae.profiles import find_root

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folder", type=Path, default=None, help="where trainings live (default: build/latent_models)")
parser.add_argument("--only", nargs="+", default=list(RECIPES), choices=list(RECIPES), help="default: all, one after the other")
parser.add_argument("--steps", type=int, default=None, help="fewer steps than the recipe's, for a trial")
parser.add_argument("--install", action="store_true", help="copy the finished models into the package")

if __name__ == "__main__":
    arguments = parser.parse_args()
    folder = arguments.folder or find_root() / "build" / "latent_models"
    for name in arguments.only:
        train_model(name, folder, n_steps=arguments.steps)
        if arguments.install:
            install_model(name, folder)
