"""The sketch-first explorer: a prompt, a row of sketches, and paintings of the one that pleases. Thin, over `painting`."""

import html
import io
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sketchae.backbones import ClipEmbedder, LatentCodec
from sketchae.diffusion.network import SketchDiffusion
from sketchae.diffusion.painting import Sketches, draw_sketches, paint
from sketchae.diffusion.sampling import PerBlock
from sketchae.errors import BadInputError, SketchaeError
from sketchae.images import to_pil

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def sketch_explorer(
    model: SketchDiffusion,
    codec: LatentCodec,
    clip: ClipEmbedder,
    *,
    prompt: str = "a house on a hill",
    n_sketches: int = 6,
    n_paintings: int = 6,
    n_semantic_steps: int = 8,
    n_style_steps: int = 8,
    guidance: PerBlock = 3.0,
    seed: int = 0,
    width_px: int = 110,
) -> Any:
    """Sketches of a prompt, and paintings of the sketch that one chooses; the first sketches, and paintings of the first, are drawn at once.

    "Sketch" draws sketches of the prompt from the seeds `seed`, `seed` + 1, …; "Paint" holds a sketch's semantic block and draws its
    style from those seeds, for the sketch's own prompt with the style words behind it; each "More" draws its row again from the seeds
    that come next. A line of text says what is going on, and what went wrong after a click.

    Returns an ipywidgets box whose attributes are its parts: `prompt`, `sketch_button`, `more_sketches`, `sketches` (pictures) and
    `paint_buttons`, one under each, `style_words`, `more_paintings`, `paintings` (pictures) and `status`.

    Raises:
        BadInputError: fewer than one sketch, painting or step, or what `draw_sketches` refuses: another codec or CLIP than the model's,
            a model with one noise level.
    """
    if min(n_sketches, n_paintings, n_style_steps) < 1:
        raise BadInputError(
            f"{n_sketches} sketches and {n_paintings} paintings, in {n_style_steps} steps: the explorer draws at least one of each, in one or more."
        )
    import ipywidgets as widgets  # only here: the package works without a notebook

    wrap = {"flex_flow": "row wrap", "align_items": "center"}
    words = {"continuous_update": False, "style": {"description_width": "6em"}, "layout": widgets.Layout(width="320px", max_width="100%")}
    box = widgets.VBox()
    box.prompt = widgets.Text(value=prompt, description="prompt", **words)
    box.style_words = widgets.Text(description="style words", placeholder="for the next painting, such as: a watercolour", **words)
    box.sketch_button, box.more_sketches, box.more_paintings = (
        widgets.Button(description=label, tooltip=tip, layout=widgets.Layout(width="auto"))
        for label, tip in (("Sketch", "sketches of this prompt"), ("More", "other sketches"), ("More", "other paintings of the chosen sketch"))
    )
    box.sketches, box.paintings = ([widgets.Image(format="png", width=width_px) for _ in range(n)] for n in (n_sketches, n_paintings))
    box.paint_buttons = [
        widgets.Button(description="Paint", tooltip=f"paintings of sketch {i + 1}", layout=widgets.Layout(width=f"{width_px}px"))
        for i in range(n_sketches)
    ]
    box.status = widgets.HTML()  # unlike a Label, it breaks long lines
    columns = [widgets.VBox(pair) for pair in zip(box.sketches, box.paint_buttons, strict=True)]
    box.children = [
        widgets.HBox([box.prompt, box.sketch_button, box.more_sketches], layout=widgets.Layout(**wrap)),
        widgets.HBox(columns, layout=widgets.Layout(**wrap)),
        widgets.HBox([box.style_words, box.more_paintings], layout=widgets.Layout(**wrap)),
        widgets.HBox(box.paintings, layout=widgets.Layout(**wrap)),
        box.status,
    ]
    buttons = [box.sketch_button, box.more_sketches, box.more_paintings, *box.paint_buttons]
    sketches_in_words, paintings_in_words = _count(n_sketches, "sketch", "sketches"), _count(n_paintings, "painting", "paintings")
    drawn: Sketches
    drawn_prompt, sketch_seed, chosen, paint_seed = prompt, seed, 0, seed

    def say(text: str) -> None:
        box.status.value = html.escape(text)

    def sketch(first_seed: int, text: str) -> None:
        nonlocal drawn, drawn_prompt, sketch_seed, chosen, paint_seed
        say(f"drawing {sketches_in_words}…")
        seeds = range(first_seed, first_seed + n_sketches)
        drawn = draw_sketches(model, codec, clip, text, seeds=seeds, n_semantic_steps=n_semantic_steps, guidance=guidance)
        drawn_prompt, sketch_seed, chosen, paint_seed = text, first_seed, 0, seed
        _show(box.sketches, drawn.images)
        paintings(0, seed)

    def paintings(number: int, first_seed: int) -> None:
        nonlocal chosen, paint_seed
        say(f"drawing {paintings_in_words} of sketch {number + 1}…")
        style = box.style_words.value.strip()
        images = paint(
            model,
            codec,
            clip,
            f"{drawn_prompt}, {style}" if style else drawn_prompt,
            drawn.x_semantic[number : number + 1],
            seeds=range(first_seed, first_seed + n_paintings),
            n_steps=n_style_steps,
            guidance=guidance,
        )
        chosen, paint_seed = number, first_seed
        _show(box.paintings, images)
        for i, button in enumerate(box.paint_buttons):
            button.button_style = "info" if i == number else ""
        twice = "" if guidance in (1, (1, 1)) else ", each twice for guidance"
        say(f"{sketches_in_words} at {n_semantic_steps + 1} evaluations each; {paintings_in_words} at {n_style_steps}{twice}")

    def on_click(button: Any, act: Callable[[], None]) -> None:
        def clicked(_: Any) -> None:
            for other in buttons:
                other.disabled = True
            try:
                act()
            except Exception as error:  # a notebook would hide it in a log
                say(str(error) if isinstance(error, SketchaeError) else f"{type(error).__name__}: {error}")
            finally:
                for other in buttons:
                    other.disabled = False

        button.on_click(clicked)

    on_click(box.sketch_button, lambda: sketch(seed, box.prompt.value.strip()))
    on_click(box.more_sketches, lambda: sketch(sketch_seed + n_sketches, box.prompt.value.strip()))
    on_click(box.more_paintings, lambda: paintings(chosen, paint_seed + n_paintings))
    for i, button in enumerate(box.paint_buttons):
        on_click(button, lambda i=i: paintings(i, seed))
    sketch(seed, prompt)
    return box


def _count(n: int, one: str, many: str) -> str:
    """A number in words up to twelve, in digits beyond, and what is counted."""
    return f"{_NUMBERS[n] if n < len(_NUMBERS) else n} {one if n == 1 else many}"


def _show(widgets: Sequence[Any], images: Float[Tensor, "n 3 height width"]) -> None:
    for widget, image in zip(widgets, images, strict=True):
        buffer = io.BytesIO()
        to_pil(image).save(buffer, format="png")
        widget.value = buffer.getvalue()
