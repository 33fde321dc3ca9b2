"""`python -m sketchae.preprocess --profile scenes`, or the same after `torchrun --nproc_per_node 2 -m`."""

import argparse
import sys
from collections.abc import Sequence

from sketchae.preprocess.from_profile import preprocess_profile
from sketchae.profile_arguments import profile_parser, run_step
from sketchae.profiles import Profile


def main(arguments: Sequence[str] | None = None) -> int:
    """Preprocess one profile; returns the exit status (0 done, 1 refused with a sentence, 130 interrupted)."""
    parser = profile_parser("preprocess", __doc__, out="build/NAME/latents", example="n_train")
    return run_step(parser, arguments, _preprocess, "continues where it stopped")


def _preprocess(profile: Profile, parsed: argparse.Namespace) -> str:
    return str(preprocess_profile(profile, out_dir=parsed.out, progress=not parsed.quiet))


if __name__ == "__main__":
    sys.exit(main())
