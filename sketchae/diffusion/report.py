"""What `06_sketch_first_diffusion` says of the stored studies: every number computed from the readings of their pictures."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sketchae.diffusion.arms import (
    ARMS,
    HEADLINE,
    RAW_PAIRS,
    REDRAWS,
    SPEED,
    STRENGTHS,
    control_prompts,
    prompts_of_test_scenes,
)
from sketchae.diffusion.evaluation import (
    Agreement,
    Gain,
    diversity,
    obedience,
    obedience_gain,
    obeyed,
    preview_agreement,
)
from sketchae.diffusion.picture_sets import SketchChoice, choose_sketches
from sketchae.diffusion.readings import KINDS
from sketchae.diffusion.redraws import Control, control, matched
from sketchae.diffusion.studies import Studies
from sketchae.errors import BadInputError

NAMES = {
    "joint": "two levels, together",
    "ahead": "two levels, sketch 0.3 ahead",
    "sequential": "two levels, sketch first",
    "one level": "one level",
}
Row = dict[str, Any]


def guidance_table(studies: Studies) -> dict[str, dict[str, float]]:
    """κ by judge a over validation prompts: for each strength of guidance, of each model."""
    table: dict[str, dict[str, float]] = {}
    for arm, numbers in studies.numbers.items():
        if "obedience_a" in numbers:
            strength, levels = arm.removeprefix("guidance ").split(", ")
            table.setdefault(strength, {})[levels] = numbers["obedience_a"]
    return dict(sorted(table.items()))


# --- offsets ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def sample_row(studies: Studies, name: str, few: bool = False) -> Row:
    """Obedience, diversity and Fréchet distance of an arm; `few`: over the first `n_few` prompts only, as the other arms have them."""
    sizes, arm = studies.sizes, ARMS[name]
    n_prompts = sizes.n_few if few or arm.few else sizes.n_prompts
    prompts = prompts_of_test_scenes(n_prompts)
    readings = {factor: values[: n_prompts * sizes.n_samples] for factor, values in studies.read(name).items()}
    row = _obeyed(obedience(readings, prompts, name="diffusion"))
    other = {factor: values[: n_prompts * sizes.n_samples] for factor, values in studies.read(name, "a").items()}
    row["judge_a"] = obedience(other, prompts, n_boot=0).mean
    differs = diversity(readings, prompts, name="diffusion")
    for kind in ("semantic", "style"):
        row |= {f"diversity_{kind}": differs.ratio[kind], f"diversity_{kind}_ci95": differs.ratio_ci95[kind]}
    frechet = studies.numbers[name]["frechet"]
    if frechet is not None and frechet["n"] == n_prompts * sizes.n_samples:
        row |= {"frechet": frechet["distance"], "frechet_ci95": tuple(frechet["ci95"])}
    return row


def reference_row(studies: Studies) -> Row:
    """What the VAE makes of the prompts' own scenes: where a perfect model of its latents would be."""
    row = _obeyed(obedience(studies.read("reconstructed"), prompts_of_test_scenes(studies.sizes.n_prompts), name="diffusion"))
    frechet = studies.numbers["reconstructed"]["frechet"]
    return row | ({} if frechet is None else {"frechet": frechet["distance"], "frechet_ci95": tuple(frechet["ci95"])})


def gain(studies: Studies, arm: str, other: str) -> Gain:
    """κ of one arm less that of another, over the prompts that both have."""
    sizes = studies.sizes
    n = min(len(next(iter(studies.read(name).values()))) for name in (arm, other))
    first, second = ({factor: values[:n] for factor, values in studies.read(name).items()} for name in (arm, other))
    return obedience_gain(first, second, prompts_of_test_scenes(n // sizes.n_samples), name="diffusion")


def _obeyed(found: Agreement) -> Row:
    row: Row = {}
    for half in ("semantic", "style", "mean"):
        row |= {half: getattr(found, half), f"{half}_ci95": getattr(found, f"{half}_ci95")}
    return row | {"per_factor": {factor: about.kappa for factor, about in found.per_factor.items()}}


# --- control ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RedrawResult:
    """Of pictures drawn again: factors kept and changed, and κ between the new words and what is seen of them (`obeyed`: of the redrawn kind)."""

    control: Control
    obeyed: float
    obeyed_ci95: tuple[float, float]


@functools.lru_cache(maxsize=64)
def redraw_result(studies: Studies, name: str) -> RedrawResult:
    """Against the originals of the same model, by judge b."""
    redraw, prompts = REDRAWS[name], control_prompts(studies.sizes.n_control)
    after = studies.read(name)
    found = control(studies.read(f"original, {redraw.levels}"), after, name="diffusion control")
    half = "style" if redraw.redrawn == "style" else "semantic"
    words = obedience(after, getattr(prompts, redraw.redrawn), name="diffusion control")
    return RedrawResult(found, getattr(words, half), getattr(words, f"{half}_ci95"))


def redraw_label(name: str) -> str:
    """An arm of `REDRAWS` in words."""
    redraw = REDRAWS[name]
    held = "sketch" if redraw.redrawn == "style" else "style"
    whose = {"two": "two levels", "one": "one level"}[redraw.levels]
    if redraw.how == "hold":
        return f"{held} held, {whose}"
    if redraw.how == "words":
        return f"other words only, {whose}"
    if redraw.how == "sdedit":
        return f"SDEdit {redraw.strength:g}"
    if redraw.how == "raw":
        return "channels " + " and ".join(map(str, redraw.channels)) + " held"
    return "drawn anew"


def kept_and_obeyed(studies: Studies, redrawn: str) -> dict[str, Row]:
    """For each way of redrawing the style (or the content): x, how far the new words are obeyed; y, the share of the other factors kept."""
    rows = {}
    kept = "semantic" if redrawn == "style" else "style"
    for name, redraw in REDRAWS.items():
        if redraw.redrawn == redrawn:
            found = redraw_result(studies, name)
            kept_kind = {"y": found.control.kept[kept], "y_ci95": found.control.kept_ci95[kept]}
            rows[name] = {"x": found.obeyed, "x_ci95": found.obeyed_ci95, **kept_kind}
    return rows


def control_chart(studies: Studies, redrawn: str) -> tuple[dict[str, Row], dict[str, list[Row]]]:
    """Points and curves for `figures.change_plane`: SDEdit's strengths are a curve, and of the raw pairs only the best is shown."""
    rows = kept_and_obeyed(studies, redrawn)
    raw = best_raw_pair(studies)
    points = {redraw_label(name): row for name, row in rows.items() if REDRAWS[name].how in ("hold", "words") or name == raw}
    curve = [rows[f"sdedit {s:g}, {redrawn}"] | {"text": f"{s:g}"} for s in STRENGTHS] + [rows[f"anew, {redrawn}"] | {"text": "1"}]
    return points, {"SDEdit, one level, by strength": curve}


def matched_sdedit(studies: Studies, redrawn: str, levels: str) -> Row | None:
    """SDEdit where it changes as much as holding the other block does, by the model with `levels`: its strength, and what both keep.

    None where it never changes as much.
    """
    hold = redraw_result(studies, f"hold, {levels}, {redrawn}").control
    curve = {s: redraw_result(studies, f"sdedit {s:g}, {redrawn}").control for s in STRENGTHS}
    curve[1.0] = redraw_result(studies, f"anew, {redrawn}").control
    by, other = ("style", "semantic") if redrawn == "style" else ("semantic", "style")
    try:
        found = matched(curve, hold.changed[by], by)
    except BadInputError:  # its curve does not reach that change
        return None
    return {"strength": found.strength, "kept": 1 - found.changed[other], "hold_kept": hold.kept[other]}


def best_raw_pair(studies: Studies) -> str:
    """The raw channel pair that does best by κ of the new words plus the share kept: chosen on the same pictures, in its favour."""
    rows = kept_and_obeyed(studies, "style")
    return max((f"raw {i}-{j}, style" for i, j in RAW_PAIRS), key=lambda name: rows[name]["x"] + rows[name]["y"])


# --- feedback ---------------------------------------------------------------------------------------------------------


def sketched_arms(studies: Studies) -> dict[str, tuple[int, int]]:
    """Arms that draw the sketch first: their steps, and how many of them are the sketch's."""
    found = {}
    for name, arm in {**HEADLINE, **SPEED}.items():
        if arm.offset == 1:
            n_steps = arm.n_steps or studies.sizes.n_steps
            found[name] = (n_steps, arm.n_semantic_steps or (n_steps + 1) // 2)
    return found


def preview_row(studies: Studies, name: str) -> Row:
    """How well the preview foretells the picture (κ), and at which share of its evaluations."""
    n_steps, n_semantic = sketched_arms(studies)[name]
    found = preview_agreement(studies.read(name, "b preview"), studies.read(name), n_samples=studies.sizes.n_samples, name="preview")
    return _obeyed(found) | {"share_of_cost": (n_semantic + 1) / n_steps}


def choice(studies: Studies, name: str, by: str = "clip") -> SketchChoice:
    """Choosing among sketches by CLIP (or judge a) against finished pictures at equal cost; judge b counts the semantic factors obeyed."""
    sizes = studies.sizes
    n_steps, n_semantic = sketched_arms(studies)[name]
    semantic = {factor: kind for factor, kind in KINDS.items() if kind == "semantic"}
    readings = studies.readings[name]
    n_prompts = len(readings["b"]) // sizes.n_samples
    prompts = prompts_of_test_scenes(n_prompts)
    finished = obeyed(studies.read(name), prompts, semantic)

    def chosen(suffix: str) -> np.ndarray:
        if by == "clip":
            return readings["clip" + suffix].reshape(n_prompts, -1).astype(np.float64)
        return obeyed(studies.read(name, "a" + suffix), prompts, semantic)

    named = np.isfinite(finished).all(1)
    options = {"n_steps": n_steps, "n_semantic_steps": n_semantic, "name": "best of n"}
    return choose_sketches(chosen(" preview")[named], finished[named], sizes.n_samples, chosen_by=chosen("")[named], **options)


# --- speed ------------------------------------------------------------------------------------------------------------


def speed_lines(studies: Studies, metric: str = "mean") -> dict[str, list[Row]]:
    """Quality against evaluations of the network a picture, over the same `n_few` prompts: a line for each way to draw."""
    ways: dict[str, dict[int, Row]] = {}
    for name, arm in {**HEADLINE, **SPEED}.items():
        n_steps = arm.n_steps or studies.sizes.n_steps
        if arm.offset == 1 and (arm.n_semantic_steps or n_steps // 2) != n_steps // 2:
            continue
        row = sample_row(studies, name, few=True)
        if metric in row:
            label = NAMES[name.split(", ")[0]]
            ways.setdefault(label, {})[n_steps] = {"x": n_steps, "y": row[metric], "y_ci95": row[f"{metric}_ci95"]}
    return {label: [points[n] for n in sorted(points)] for label, points in ways.items()}


def short_sketches(studies: Studies) -> dict[str, Row]:
    """Sequential arms of `n_steps` evaluations by how many of them the sketch gets."""
    rows = {}
    for name, (n_steps, n_semantic) in sorted(sketched_arms(studies).items(), key=lambda item: item[1]):
        rows[f"{n_semantic} of {n_steps}"] = sample_row(studies, name, few=True)
    return rows


# --- numbers ----------------------------------------------------------------------------------------------------------


def text(found: Any, names: str | Sequence[str] = ("semantic", "style"), form: str = ".2f") -> str:
    """Values with their intervals: "semantic 0.52 [0.49, 0.55]   style …"; `found` is a row or has attributes of these names."""
    get = found.get if isinstance(found, Mapping) else lambda name: getattr(found, name)
    parts = []
    for name in [names] if isinstance(names, str) else names:
        low, high = get(f"{name}_ci95")
        parts.append(f"{name} {get(name):{form}} [{low:{form}}, {high:{form}}]")
    return "   ".join(parts)


def key(name: str) -> str:
    """A name for `Recorder.value`: "hold, two, style" becomes "hold_two_style"."""
    return "_".join(re.findall(r"[\w.]+", name))
