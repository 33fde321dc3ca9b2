"""What the terminal commands for one step share: `--profile`, `-p NAME VALUE`, `--out`, `--quiet`, and how they end.

(`sketchae run-all` has the same `-p NAME VALUE`.)
"""

import argparse
import ast
import sys
from collections.abc import Callable, Sequence

from sketchae.errors import SketchaeError
from sketchae.profiles import Profile, load_profile


def profile_parser(step: str, description: str | None, *, out: str, example: str) -> argparse.ArgumentParser:
    """The parser of `python -m sketchae.<step>`; `out` names the default of `--out`, `example` a field to set."""
    parser = argparse.ArgumentParser(prog=f"python -m sketchae.{step}", description=description, allow_abbrev=False)
    parser.add_argument("--profile", default="scenes", help="a name, or a TOML file of your own (default: scenes)")
    parser.add_argument("--out", metavar="FOLDER", help=f"where to write (default: the profile's {out})")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_parameter(parser, f"set a field of the profile, e.g. -p {example} 1000 (repeatable)")
    return parser


def add_parameter(parser: argparse.ArgumentParser, help: str) -> None:
    """Declare `-p NAME VALUE`, any number of times: `parameter` becomes the list of [name, value], both as texts."""
    parser.add_argument(
        *("-p", "--parameter"), nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=help
    )


def run_step(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    step: Callable[[Profile, argparse.Namespace], str],
    if_interrupted: str,
) -> int:
    """Run `step` on the profile that the arguments describe and print the text that it returns, once.

    Returns the exit status: 0 done, 1 refused with a sentence, 130 interrupted (then `if_interrupted` is said).
    """
    from sketchae.processes import process_state  # here, because it loads torch

    parsed = parser.parse_args(arguments)
    name = parser.prog.removeprefix("python -m ")
    try:
        fields = {field.lower(): literal(text) for field, text in parsed.parameter}
        report = step(load_profile(parsed.profile, **fields), parsed)
    except SketchaeError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command {if_interrupted}", file=sys.stderr)
        return 130
    if process_state().is_main_process:
        print(report)
    process_state().destroy_process_group()
    return 0


def literal(text: str) -> object:
    """A Python literal where `text` is one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
