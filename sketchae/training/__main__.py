"""`python -m sketchae.training --profile scenes`, or the same after `torchrun --nproc_per_node 2 -m`."""

import argparse
import sys
from collections.abc import Sequence

from sketchae.latents import open_latents
from sketchae.profile_arguments import profile_parser, run_step
from sketchae.profiles import Profile
from sketchae.training.config import TrainConfig
from sketchae.training.run import train_seeds


def main(arguments: Sequence[str] | None = None) -> int:
    """Train every seed of a profile; returns the exit status (0 done, 1 refused with a sentence, 130 interrupted)."""
    parser = profile_parser("training", __doc__, out="build/NAME/training", example="n_steps")
    parser.add_argument(
        "--latents", metavar="FOLDER", help="where they are (default: the profile's build/NAME/latents)"
    )
    return run_step(parser, arguments, _train, "continues at the last checkpoint")


def _train(profile: Profile, parsed: argparse.Namespace) -> str:
    train, val = (open_latents(parsed.latents or profile.latents_dir, split) for split in ("train", "val"))
    out_dir, seeds = parsed.out or profile.training_dir, profile.train_seeds
    config = TrainConfig.from_profile(profile)
    results = train_seeds(train, val, config, out_dir, seeds, progress=not parsed.quiet)
    lines = []
    for seed, result in results.items():
        last = result.history[-1]
        lines.append(
            f"seed {seed}: {last['step']} steps, validation loss {last['val_loss']:.5f}, ||W^T W - I|| "
            f"{last['orthogonality_error']:.1e}, plane {last['angle_from_start_deg']:.1f} degrees from its start, "
            f"in {out_dir}/seed-{seed}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
