"""What a person might say of a scene: of its content only, of its style only, or of both.

Every caption is made from a scene's factors and a hash of its jitter seed, so that it is the same on every machine.
Content captions never name a style factor and style captions never name a semantic one.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from sketchae.errors import BadInputError
from sketchae.scenes.factors import FACTORS, SEMANTIC_FACTORS, STYLE_FACTORS, Scenes, hash_seeds, mix_int, name_hash

_PLURAL = {"cactus": "cacti"}
_COUNT = {"one": ("a", "one", "a single"), "two": ("two", "a pair of"), "three": ("three",)}
_SIZE = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_POSITION = {
    "left": ("on the left", "to the left", "at the left side"),
    "centre": ("in the middle", "in the centre", "at the centre"),
    "right": ("on the right", "to the right", "at the right side"),
}
_TERRAIN = {
    "plain": ("on a plain", "in a field", "in the fields"),
    "hills": ("in front of hills", "with rolling hills behind", "before the hills"),
    "mountains": ("in front of mountains", "with mountains behind", "before the mountains"),
    "sea": ("by the sea", "on the sea", "at sea"),
    "city": ("in front of a city", "with a city behind", "before a city skyline"),
}
_CELESTIAL = {
    "nothing": ("under an empty sky", "under a clear sky", "and nothing in the sky"),
    "sun": ("under the sun", "with the sun above", "and the sun is out"),
    "moon": ("under the moon", "with a crescent moon above", "and the moon is up"),
    "cloud": ("under a cloud", "with a cloud above", "and a cloud in the sky"),
}
_HORIZON = {
    "low": ("with a low horizon", "seen with the horizon low"),
    "high": ("with a high horizon", "seen with the horizon high"),
}
_MEDIUM = {
    "flat": ("a flat print", "a poster in flat colours", "a flat illustration"),
    "watercolour": ("a watercolour", "a watercolour painting", "a wet watercolour"),
    "hatching": ("a hatched drawing", "a drawing with hatching", "a hatched print"),
    "pointillism": ("a pointillist painting", "a painting made of dots", "a dotted picture"),
    "ink": ("an ink drawing", "a pen and ink drawing", "an ink outline drawing"),
}
_PALETTE = ("in {} colours", "in {} tones", "in a palette of {}")
_LIGHT = {
    "even": ("in even light", "evenly lit"),
    "left": ("lit from the left", "with light from the left"),
    "right": ("lit from the right", "with light from the right"),
    "vignette": ("with dark corners", "in a dark vignette"),
}
_TONE = {"bold": ("bold", "strong"), "pale": ("pale", "faded")}
_NO_MEDIUM = ("a picture", "a painting", "an artwork")

_PHRASES = {"position": _POSITION, "terrain": _TERRAIN, "celestial": _CELESTIAL, "horizon": _HORIZON, "light": _LIGHT}


@cache
def _name_hash_int(name: str) -> int:
    return int(name_hash(name))


class _Choice:
    """Named, repeatable choices for one caption: `factors.uniform` for a single seed, in plain integers for speed."""

    def __init__(self, seed: int | np.uint64):
        self.seed = mix_int(int(seed))

    def fraction(self, name: str) -> float:
        return (mix_int(self.seed ^ _name_hash_int(name)) >> 11) / 2.0**53

    def of(self, name: str, options: tuple[str, ...]) -> str:
        return options[int(self.fraction(name) * len(options))]


def captions(scenes: Scenes, kind: str = "content", n: int = 5, min_factors: int = 3) -> list[list[str]]:
    """`n` captions of every scene.

    Args:
        kind: "content" (names the object and some other semantic factors), "style" (some style factors) or "both".
        min_factors: how many factors of its kind a caption names at least (a caption of both names as many of each).

    Raises:
        BadInputError: for an unknown kind.
    """
    return [[c for c, _ in row] for row in captions_with_factors(scenes, kind, n, min_factors)]


def captions_with_factors(
    scenes: Scenes, kind: str = "content", n: int = 5, min_factors: int = 3
) -> list[list[tuple[str, tuple[str, ...]]]]:
    """As `captions`, each with the names of the factors that it mentions."""
    if kind not in _KINDS:
        raise BadInputError(f"There are no '{kind}' captions; choose one of {', '.join(_KINDS)}.")
    words = {name: scenes.value_names(name) for name in FACTORS}
    seeds = hash_seeds(scenes.content_jitter_seed ^ hash_seeds(scenes.style_jitter_seed, "captions"), kind)
    out = []
    for i, seed in enumerate(seeds):
        scene = {name: values[i] for name, values in words.items()}
        keys = hash_seeds(np.full(n, seed) ^ np.arange(n, dtype=np.uint64), "caption")
        out.append([_KINDS[kind](scene, _Choice(key), min_factors) for key in keys])
    return out


def naming_only(factor: str, scenes: Scenes, wording: int = 0) -> list[str]:
    """For every scene the bare phrase of one factor (position, terrain, celestial, horizon or light), in its wording number `wording` (cyclic)."""
    return [_PHRASES[factor][value][wording % len(_PHRASES[factor][value])] for value in scenes.value_names(factor)]


def fits(scenes: Scenes, caption_scene: Scenes, named: tuple[str, ...]) -> np.ndarray:
    """Which of `scenes` a caption fits that names the factors `named` of the single scene `caption_scene`; bool (n,)."""
    return np.all([scenes.factors[f] == caption_scene.factors[f][0] for f in named], axis=0)


def _chosen(choice: _Choice, names: tuple[str, ...], low: int) -> set[str]:
    """Between `low` and all of `names`, each set size equally often."""
    size = low + int(choice.fraction("size") * (len(names) - low + 1))
    ranked = sorted(names, key=lambda f: choice.fraction(f"order_{f}"))
    return set(ranked[:size])


def _content(scene: dict[str, str], choice: _Choice, min_factors: int) -> tuple[str, tuple[str, ...]]:
    others = tuple(f for f in SEMANTIC_FACTORS if f != "object")
    named = _chosen(choice, others, max(0, min_factors - 1)) | {"object"}
    noun = scene["object"]
    size = choice.of("size_word", _SIZE[scene["size"]]) + " " if "size" in named else ""
    if "count" in named:
        count = choice.of("count_word", _COUNT[scene["count"]])
        plural = scene["count"] != "one"
        text = f"{count} {size}{_PLURAL.get(noun, noun + 's') if plural else noun}"
    else:  # the plain plural of languages that count nothing: no hint of how many
        text = f"{size}{noun} scenery" if choice.fraction("bare") < 0.5 else f"a scene of {size}{_PLURAL.get(noun, noun + 's')}"
    places = [f for f in ("position", "terrain", "celestial", "horizon") if f in named]
    places.sort(key=lambda f: (f != "position", choice.fraction(f"place_{f}")))
    text = " ".join([text] + [choice.of(f"{f}_word", _PHRASES[f][scene[f]]) for f in places])
    return text, tuple(f for f in SEMANTIC_FACTORS if f in named)


def _style(scene: dict[str, str], choice: _Choice, min_factors: int) -> tuple[str, tuple[str, ...]]:
    named = _chosen(choice, STYLE_FACTORS, max(1, min_factors))
    text = choice.of("medium_word", _MEDIUM[scene["medium"]] if "medium" in named else _NO_MEDIUM)
    parts = []
    if "palette" in named:
        palette = choice.of("palette_word", _PALETTE).format(scene["palette"])
        if "tone" in named:
            palette = palette.replace(scene["palette"], f"{choice.of('tone_word', _TONE[scene['tone']])} {scene['palette']}")
        parts.append(palette)
    elif "tone" in named:
        parts.append(f"in {choice.of('tone_word', _TONE[scene['tone']])} colours")
    if "light" in named:
        parts.append(choice.of("light_word", _LIGHT[scene["light"]]))
    return " ".join([text, *parts]), tuple(f for f in STYLE_FACTORS if f in named)


def _both(scene: dict[str, str], choice: _Choice, min_factors: int) -> tuple[str, tuple[str, ...]]:
    content, semantic = _content(scene, choice, min_factors)
    style, styled = _style(scene, choice, min_factors)
    if choice.fraction("style_first") < 0.5:
        head, _, tail = style.partition(" in ") if " in " in style else (style, "", "")
        text = f"{head} of {content}" + (f", in {tail}" if tail else "")
    else:
        text = f"{content}, {style}"
    return text, semantic + styled


_KINDS: dict[str, Callable] = {"content": _content, "style": _style, "both": _both}
