"""`python -m sketchae.preprocess --profile scenes`, or the same after `accelerate launch --num_processes 2 -m`."""

import argparse
import ast
import sys
from collections.abc import Sequence

from accelerate import PartialState

from sketchae.errors import SketchaeError
from sketchae.preprocess.from_profile import preprocess_profile
from sketchae.profiles import load_profile


def main(arguments: Sequence[str] | None = None) -> int:
    """Preprocess one profile; returns the exit status (0 done, 1 refused with a sentence, 130 interrupted)."""
    parser = argparse.ArgumentParser(prog="python -m sketchae.preprocess", description=__doc__, allow_abbrev=False)
    parser.add_argument("--profile", default="scenes", help="a name, or a TOML file of your own (default: scenes)")
    parser.add_argument("--out", metavar="FOLDER", help="where to write (default: the profile's build/NAME/latents)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        *("-p", "--parameter"),
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a field of the profile, e.g. -p n_train 1000 (repeatable)",
    )
    parsed = parser.parse_args(arguments)
    try:
        profile = load_profile(parsed.profile, **{name.lower(): _value(text) for name, text in parsed.parameter})
        report = preprocess_profile(profile, out_dir=parsed.out, progress=not parsed.quiet)
    except SketchaeError as error:
        print(f"sketchae.preprocess: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sketchae.preprocess: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    if PartialState().is_main_process:
        print(report)
    PartialState().destroy_process_group()
    return 0


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    sys.exit(main())
