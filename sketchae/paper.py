"""Numbers and figures of a Markdown text, held to what the notebooks recorded.

A number stands between two comments, which rendered Markdown does not show:
`<!--v:evaluate.swap_score:.2f-->0.12<!--/v-->`. The format after the second colon is Python's and may be missing; one
item of a list is `<!--v:evaluate.swap_score_ci95[0]-->`. A figure carries the hash of its pixels right behind it:
`![what it shows](figures/evaluate_lerp.png)<!--fig:evaluate_lerp sha256=0123456789abcdef-->`.
"""

import os
import re
from pathlib import Path
from typing import Any

from sketchae.atomic import atomic_write_text
from sketchae.errors import MissingFileError
from sketchae.record import MANIFEST, VALUES, figure_hashes, read_json

AnyPath = str | os.PathLike
NUMBER = re.compile(
    r"<!--v:(?P<key>[\w.\-]+)(?:\[(?P<item>\d+)\])?(?::(?P<format>[^>]*?))?-->(?P<text>[^<\n]*)<!--/v-->"
)
FIGURE = re.compile(
    r"!\[(?P<alt>[^\]]*)\]\((?P<path>[^)\s]+)\)(?:<!--fig:(?P<name>[\w.\-]+) sha256=(?P<hash>[0-9a-f]*)-->)?"
)
N_HEX = 16  # digits of a hash that are written


def check_paper(paper_path: AnyPath, results_dir: AnyPath, figures_dir: AnyPath) -> list[str]:
    """Every disagreement between the text, the results and the figures, one sentence each; empty if there is none."""
    return _walk(paper_path, results_dir, figures_dir)[1]


def refresh_paper(paper_path: AnyPath, results_dir: AnyPath, figures_dir: AnyPath) -> list[str]:
    """Write current values and hashes into the text; returns what it could not mend (as `check_paper` would)."""
    text, _ = _walk(paper_path, results_dir, figures_dir)
    if text != Path(paper_path).read_text("utf-8"):
        atomic_write_text(paper_path, text)
    return check_paper(paper_path, results_dir, figures_dir)


def _walk(paper_path: AnyPath, results_dir: AnyPath, figures_dir: AnyPath) -> tuple[str, list[str]]:
    """The refreshed text, and the problems of the text as it stands."""
    paper, results, figures = Path(paper_path), Path(results_dir), Path(figures_dir)
    if not paper.is_file():
        raise MissingFileError(f"{paper} does not exist: name the Markdown file to check.")
    text = paper.read_text("utf-8")
    values = read_json(results / VALUES)
    recorded = {
        name: entry for notebook in read_json(results / MANIFEST).get("notebooks", {}).values()
        for name, entry in notebook["figures"].items()
    }  # fmt: skip
    problems: list[str] = []

    def number(match: re.Match) -> str:
        key, item, form = match["key"], match["item"], match["format"]
        try:
            value = values[key] if item is None else values[key][int(item)]
            fresh = _written(value, form or "")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            reason = f"is not in {VALUES}" if key not in values else f"cannot be written as {match[0]!r} ({error})"
            problems.append(f"{paper.name}: value {key} {reason}.")
            return match[0]
        if fresh != match["text"]:
            problems.append(f"{paper.name}: {key} stands as {match['text']!r}, the results say {fresh!r}.")
        return match[0].removesuffix(f"{match['text']}<!--/v-->") + f"{fresh}<!--/v-->"

    def figure(match: re.Match) -> str:
        path = (paper.parent / match["path"]).resolve()
        if not match["alt"].strip():
            problems.append(f"{paper.name}: figure {match['path']} has no alternative text.")
        if re.match(r"https?:", match["path"]):
            return match[0]  # badges and the like
        if not path.is_file():
            problems.append(f"{paper.name}: figure {match['path']} does not exist.")
            return match[0]
        if match["name"] is None and path.parent != figures.resolve():
            return match[0]  # drawn by a person, or another file's business
        hashes, name = figure_hashes(path), path.stem
        fresh = hashes["pixels_sha256"][:N_HEX]
        if recorded.get(name, {}).get("pixels_sha256") != hashes["pixels_sha256"]:
            problems.append(f"{paper.name}: figure {name} is not the one in {MANIFEST}: run its notebook again.")
        if (match["name"], match["hash"]) != (name, fresh):
            problems.append(f"{paper.name}: figure {name} has changed since the text was refreshed, or bears no hash.")
        return f"![{match['alt']}]({match['path']})<!--fig:{name} sha256={fresh}-->"

    fresh_text = FIGURE.sub(figure, NUMBER.sub(number, text))
    for opening, pattern in (("<!--v:", NUMBER), ("<!--fig:", FIGURE)):
        whole = sum(opening in match[0] for match in pattern.finditer(text))
        if text.count(opening) != whole:
            problems.append(f"{paper.name}: {text.count(opening) - whole} marker(s) {opening}… are malformed.")
    return fresh_text, problems


def _written(value: Any, form: str) -> str:
    if isinstance(value, list):
        raise ValueError("a list: name one item, as in key[0]")
    return "–" if value is None else format(value, form)
