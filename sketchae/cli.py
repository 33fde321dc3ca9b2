"""The console script `sketchae`: run the notebooks, fit Q to a VAE and pictures, list profiles, check or refresh paper.md."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import sketchae
from sketchae.errors import MissingFileError, SketchaeError
from sketchae.profile_arguments import add_parameter, literal
from sketchae.profiles import TRACKED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 something stopped with a message, 130 interrupted)."""
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.command(parsed)
    except SketchaeError as error:
        print(f"sketchae: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sketchae: interrupted; the same command continues where finished work allows", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sketchae", description=sketchae.__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"sketchae {sketchae.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run-all", help="execute the notebooks in order", allow_abbrev=False)
    run.add_argument("--profile", default="scenes", help="a name, or a TOML file of your own (default: scenes)")
    run.add_argument("--skip-finished", action="store_true", help="leave out notebooks whose last run still holds")
    add_parameter(run, "set a notebook parameter, e.g. -p TEST_SEED 7 (repeatable); such a run works in build/overrides/")
    run.add_argument("--notebooks", nargs="+", default=[], metavar="NN", help="only these, e.g. --notebooks 02 03")
    run.set_defaults(command=_run_all)

    fit = commands.add_parser("fit", help="find Q for a VAE and pictures of your own", allow_abbrev=False)
    fit.add_argument("--vae", required=True, metavar="FOLDER_OR_ID", help="a folder, a hub id, or embedded")
    fit.add_argument("--vae-revision", metavar="R", help="branch, tag or commit of a hub id")
    fit.add_argument("--images", required=True, metavar="FOLDER", help="pictures, read with the folders in it")
    fit.add_argument("--n-semantic", type=int, metavar="K", help="semantic channels (default: the method's choice)")
    fit.add_argument("--image-size", type=int, default=256, metavar="PIXELS", help="side of the square (default: 256)")
    fit.add_argument("--limit", type=int, default=100, metavar="N", help="at most N pictures (default: 100)")
    fit.add_argument("--out", metavar="FOLDER", help="where to write (default: build/fit/<name of the VAE>)")
    fit.add_argument("--captions", metavar="FILE", help="metadata.jsonl with file_name and captions of the pictures")
    fit.add_argument("--clip", metavar="FOLDER_OR_ID", help="a CLIP to look at the edits with (needs --captions)")
    fit.add_argument("--clip-revision", metavar="R", help="branch, tag or commit of a hub id")
    methods = ["augmentation", "effect"]
    fit.add_argument("--method", choices=methods, help="default: effect where captions and CLIP are given, else augmentation")
    fit.set_defaults(command=_fit)

    profiles = commands.add_parser("profiles", help="list the profiles")
    profiles.set_defaults(command=_profiles)

    paper = commands.add_parser("paper", help="hold paper.md and README.md to results/ and figures/")
    action = paper.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="fail if a number, a figure or a result disagrees")
    action.add_argument("--refresh", action="store_true", help="put the current results into the text")
    paper.set_defaults(command=_paper)
    return parser


def _run_all(parsed: argparse.Namespace) -> int:
    try:
        import papermill  # noqa: F401 (asked for here, so that its absence is told before anything runs)

        from sketchae.run_all import run_all
    except ImportError as error:
        raise MissingFileError(
            f"Executing notebooks needs {error.name}: install the `lab` extra (pip install 'sketchae[lab]')."
        ) from error
    profile = str(Path(parsed.profile).resolve()) if parsed.profile.endswith(".toml") else parsed.profile
    parameters = {name: parse_value(value) for name, value in parsed.parameter}
    for path in run_all(profile, parameters, only=parsed.notebooks, skip_finished=parsed.skip_finished):
        print(f"written: {path}")
    return 0


def parse_value(text: str) -> object:
    """A Python literal where `text` is one, else the text itself; an existing relative path becomes absolute.

    (The notebooks run in their own folder, where a path relative to the caller's would point elsewhere.)
    """
    value = literal(text)
    return str(Path(value).resolve()) if value == text and "/" in text and Path(text).exists() else value


def _fit(parsed: argparse.Namespace) -> int:
    from sketchae.fit import fit, summary

    options = {name: value for name, value in vars(parsed).items() if name != "command"}
    print(summary(fit(options.pop("vae"), options.pop("images"), **options)))
    return 0


def _profiles(parsed: argparse.Namespace) -> int:
    from sketchae.profiles import load_profile, profile_names

    for name in profile_names():
        print(f"{name:8} {load_profile(name).description}")
    return 0


def _paper(parsed: argparse.Namespace) -> int:
    from sketchae.paper import check_paper, refresh_paper
    from sketchae.profiles import load_profile

    shown = load_profile(TRACKED)
    texts = [path for path in (shown.root / "paper.md", shown.root / "README.md") if path.is_file()]
    if not texts:
        raise MissingFileError(
            f"Neither paper.md nor README.md is in {shown.root}: run this in a clone of the project."
        )
    act = refresh_paper if parsed.refresh else check_paper
    problems = [problem for text in texts for problem in act(text, shown.results_dir, shown.figures_dir)]
    print("\n".join(problems) or f"{' and '.join(text.name for text in texts)} agree with the results and the figures.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
