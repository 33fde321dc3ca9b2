"""`python -m sketchae.training --profile scenes`, or the same after `accelerate launch --num_processes 2 -m`."""

import argparse
import ast
import sys
from collections.abc import Sequence

from accelerate import PartialState

from sketchae.errors import SketchaeError
from sketchae.latents import open_latents
from sketchae.profiles import load_profile
from sketchae.training.config import TrainConfig
from sketchae.training.run import train_seeds


def main(arguments: Sequence[str] | None = None) -> int:
    """Train every seed of a profile; returns the exit status (0 done, 1 refused with a sentence, 130 interrupted)."""
    parser = argparse.ArgumentParser(prog="python -m sketchae.training", description=__doc__, allow_abbrev=False)
    parser.add_argument("--profile", default="scenes", help="a name, or a TOML file of your own (default: scenes)")
    parser.add_argument(
        "--latents", metavar="FOLDER", help="where they are (default: the profile's build/NAME/latents)"
    )
    parser.add_argument("--out", metavar="FOLDER", help="where to write (default: the profile's build/NAME/training)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        *("-p", "--parameter"),
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a field of the profile, e.g. -p n_steps 1000 (repeatable)",
    )
    parsed = parser.parse_args(arguments)
    try:
        profile = load_profile(parsed.profile, **{name.lower(): _value(text) for name, text in parsed.parameter})
        train, val = (open_latents(parsed.latents or profile.latents_dir, split) for split in ("train", "val"))
        results = train_seeds(
            train,
            val,
            TrainConfig.from_profile(profile),
            out_dir := parsed.out or profile.training_dir,
            profile.train_seeds,
            progress=not parsed.quiet,
        )
    except SketchaeError as error:
        print(f"sketchae.training: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sketchae.training: interrupted; the same command continues at the last checkpoint", file=sys.stderr)
        return 130
    if PartialState().is_main_process:
        for seed, result in results.items():
            last = result.history[-1]
            print(
                f"seed {seed}: {last['step']} steps, validation loss {last['val_loss']:.5f}, ||W^T W - I|| "
                f"{last['orthogonality_error']:.1e}, plane {last['angle_from_start_deg']:.1f} degrees from its start, "
                f"in {out_dir}/seed-{seed}"
            )
    PartialState().destroy_process_group()
    return 0


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    sys.exit(main())
