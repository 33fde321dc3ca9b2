"""What varies in a scene: the factors, their values, and how a seed and an index become a scene.

A scene is a point in a product of discrete *factors*. Semantic factors say what is where; style
factors say how it is painted. Everything else that varies, without a name, is *jitter*; content and style
have jitter seeds of their own, so that the content of one scene can be drawn in the style of another, exactly
(`counterfactual`).

Every draw is a hash of (seed, index, name): the same on every machine, whatever the batch and order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sketchae.errors import BadInputError

SCENES_VERSION = "1"
"""Changes whenever any seed and index would give another picture. Recorded with every result."""

IMAGE_SIZE = 128
"""Side of a picture in pixels."""


@dataclass(frozen=True)
class Factor:
    """A discrete generative factor: its `name`, `kind` ("semantic" or "style") and `values`."""

    name: str
    kind: str
    values: tuple[str, ...]


FACTORS: dict[str, Factor] = {
    f.name: f
    for f in (
        Factor("terrain", "semantic", ("plain", "hills", "mountains", "sea", "city")),
        Factor("object", "semantic", ("tree", "pine", "house", "mushroom", "cactus", "sailboat", "balloon", "windmill")),
        Factor("count", "semantic", ("one", "two", "three")),
        Factor("position", "semantic", ("left", "centre", "right")),
        Factor("size", "semantic", ("small", "large")),
        Factor("celestial", "semantic", ("nothing", "sun", "moon", "cloud")),
        Factor("horizon", "semantic", ("low", "high")),
        Factor("palette", "style", ("autumn", "ocean", "forest", "candy", "lavender", "lemon", "charcoal", "midnight")),
        Factor("medium", "style", ("flat", "watercolour", "hatching", "pointillism", "ink")),
        Factor("light", "style", ("even", "left", "right", "vignette")),
        Factor("tone", "style", ("bold", "pale")),
    )
}
SEMANTIC_FACTORS = tuple(n for n, f in FACTORS.items() if f.kind == "semantic")
STYLE_FACTORS = tuple(n for n, f in FACTORS.items() if f.kind == "style")

SPLITS: dict[str, range] = {
    "backbones": range(0, 1_000_000),  # VAE and CLIP learn here
    "judge_a": range(1_000_000, 2_000_000),
    "judge_b": range(2_000_000, 3_000_000),
    "train": range(3_000_000, 4_000_000),  # Q learns here
    "val": range(4_000_000, 4_100_000),  # choices are made here
    "test": range(4_100_000, 4_200_000),  # used once, for what is reported
}
"""Who may look at which scenes: disjoint ranges of the index, written down here only."""

DEPENDENT_PAIR = ("object", "palette")
"""The semantic and the style factor that `dependence` ties together."""

_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)


def _mix(x: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser (Steele, Lea & Flood 2014): a bijection of 64-bit integers."""
    with np.errstate(over="ignore"):
        x = (x + np.uint64(0x9E3779B97F4A7C15)) & _MASK
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def mix_int(x: int) -> int:
    """`_mix` for one Python integer, which is faster than an array of one."""
    mask = 0xFFFFFFFFFFFFFFFF
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def name_hash(name: str) -> np.uint64:
    """FNV-1a of the name, so that a draw depends on what it is for and not on the order of draws."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return np.uint64(h)


def hash_seeds(seeds: np.ndarray, name: str) -> np.ndarray:
    """One 64-bit hash for each of the uint64 `seeds`, for the draw called `name`."""
    return _mix(_mix(seeds.astype(np.uint64)) ^ name_hash(name))


def uniform(seeds: np.ndarray, name: str) -> np.ndarray:
    """One float64 in [0, 1) for each seed, for the draw called `name`."""
    return (hash_seeds(seeds, name) >> np.uint64(11)).astype(np.float64) / 2.0**53


@dataclass(frozen=True)
class Scenes:
    """`n` scenes: factor values and jitter seeds, from which pictures and captions follow.

    Attributes:
        factors: for each factor, int64 value indices of shape (n,).
        content_jitter_seed: uint64 (n,), decides the unnamed variation of what is where.
        style_jitter_seed: uint64 (n,), decides the unnamed variation of how it is painted.
    """

    factors: dict[str, np.ndarray]
    content_jitter_seed: np.ndarray
    style_jitter_seed: np.ndarray

    def __len__(self) -> int:
        return len(self.content_jitter_seed)

    def __getitem__(self, rows) -> "Scenes":
        """The scenes at `rows` (a slice, a mask or an array of positions), in that order."""
        if isinstance(rows, (int, np.integer)):
            rows = slice(int(rows), int(rows) + 1) if rows != -1 else slice(-1, None)
        return Scenes({n: v[rows] for n, v in self.factors.items()}, self.content_jitter_seed[rows], self.style_jitter_seed[rows])

    def value_names(self, factor: str) -> list[str]:
        """The factor's value of every scene, in words."""
        return [FACTORS[factor].values[i] for i in self.factors[factor]]

    def with_factor(self, factor: str, value: str | Sequence[str]) -> "Scenes":
        """The same scenes with one factor set to `value` (one for all, or one for each)."""
        values = [value] * len(self) if isinstance(value, str) else list(value)
        indices = np.array([FACTORS[factor].values.index(v) for v in values], dtype=np.int64)
        return replace(self, factors={**self.factors, factor: indices})


def sample_scenes(indices: Sequence[int] | np.ndarray | range, seed: int = 0, dependence: float | int = 0.0) -> Scenes:
    """Draw the scenes with the given indices; factors are independent and uniform by default.

    Args:
        indices: non-negative integers; see `SPLITS` for who may use which.
        seed: another seed gives other scenes for the same indices.
        dependence: in [0, 1], the probability that the palette is dictated by the object (`DEPENDENT_PAIR`).

    Raises:
        BadInputError: for a dependence outside [0, 1] or negative indices.
    """
    if not 0.0 <= dependence <= 1.0:
        raise BadInputError(f"dependence is {dependence}; give a probability between 0 and 1.")
    index = np.asarray(indices, dtype=np.int64)
    if index.size and index.min() < 0:
        raise BadInputError("Scene indices start at 0; a negative one was given.")
    base = _mix(_mix(np.full(index.shape, seed, dtype=np.int64).astype(np.uint64)) ^ index.astype(np.uint64))
    factors = {}
    for name, factor in FACTORS.items():
        factors[name] = (uniform(base, name) * len(factor.values)).astype(np.int64)
    cause, effect = DEPENDENT_PAIR
    tied = uniform(base, "dependence") < dependence
    factors[effect] = np.where(tied, factors[cause] % len(FACTORS[effect].values), factors[effect])
    return Scenes(factors, hash_seeds(base, "content_jitter"), hash_seeds(base, "style_jitter"))


def split_scenes(split: str, n: int, seed: int = 0, dependence: float | int = 0.0) -> Scenes:
    """The first `n` scenes of a split of `SPLITS`.

    Raises:
        BadInputError: for an unknown split or more scenes than the split has.
    """
    if split not in SPLITS:
        raise BadInputError(f"There is no split '{split}' of Scenes; choose one of {', '.join(SPLITS)}.")
    if not 0 <= n <= len(SPLITS[split]):
        raise BadInputError(f"Split '{split}' of Scenes has {len(SPLITS[split]):,} scenes; {n:,} were asked for.")
    return sample_scenes(SPLITS[split][:n], seed, dependence)


def counterfactual(content: Scenes, style: Scenes) -> Scenes:
    """What a perfect swap should show: content and content jitter of one, style and style jitter of the other.

    Both must hold the same number of scenes; they are paired row by row.
    """
    if len(content) != len(style):
        raise BadInputError(f"Counterfactuals pair scenes row by row; {len(content)} and {len(style)} were given.")
    factors = {n: (content if FACTORS[n].kind == "semantic" else style).factors[n] for n in FACTORS}
    return Scenes(factors, content.content_jitter_seed, style.style_jitter_seed)
