"""Proxies of the swap score where no factor is known (real photographs): does content follow a, does style follow b?

For a pair (a, b) the swap is the decoded picture with a's semantic and b's style block. With e its CLIP image
embedding, t the mean of a picture's caption embeddings (scaled to length 1) and r = clip_img − t its style residue:

    clip_caption          content   cos(e, t_a) − cos(e, t_b)
    clip_style            style     cos(e, r_b) − cos(e, r_a)
    clip_style_projected  style     the same with r = clip_img − (clip_img · t) t
    colour                style     (d(swap, a) − d(swap, b)) / d(a, b), d the Fréchet distance of CIELAB Gaussians
    edges                 content   ρ(swap, a) − ρ(swap, b), ρ the correlation of luminance's gradient magnitudes

Each is one number a pair, larger for the better split, and changes its sign where a and b exchange their roles. A
picture that is a unchanged does well on the content side and badly on the style side, b unchanged the other way
round. Colour and edges compare with the codec's own reconstructions of a and b, so that what the codec loses counts
for neither; colour then is −1 for a unchanged and 1 for b unchanged.

The *combined* proxy puts all on one scale: with v the mean over pairs and v_a, v_b the means for a and for b unchanged,
(2v − v_a − v_b) / (v_a − v_b) for the content side (1 is like a, −1 like b), its negative for the style side; the
proxies of a side are averaged, then the two sides. Both trivial answers give 0, as they do for the swap score. A proxy
that cannot tell a from b unchanged (95 % interval of v_a − v_b not above 0; style: v_b − v_a) takes no part.

The ends of the scale are not its limits: `clip_style` can pass 1, because r_b = clip_img_b − t_b points away from b's
own content, so that a picture in b's style *without* b's content lies nearer to it than b itself. None of this sees
whether the swap is a good picture, and a proxy is worth what `sketchae.metrics.agreement` finds for it on scenes whose factors
are known.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sketchae import edits
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import interval, resample_counts
from sketchae.metrics.evaluation import Codec, PairBench, SwapFunction
from sketchae.metrics.picture_measures import PerPair, Pictures, colour_distance, colour_gaussians, edge_maps

SIDES = {
    "clip_caption": "content",
    "clip_style": "style",
    "clip_style_projected": "style",
    "colour": "style",
    "edges": "content",
}
COMBINED = ("clip_caption", "edges", "clip_style", "colour")  # the projected variant would count CLIP's style twice

Captions = Sequence[str] | Sequence[Sequence[str]]
# One mean embedding a picture, or one for each of its captions.
TextEmbeds = Float[Tensor, "_ _"] | Float[Tensor, "_ _ _"]
OtherPictures = Float[Tensor, "_ _ _ _"]


@runtime_checkable
class Embedder(Protocol):
    """Pictures in [0, 1] and captions to embeddings of length 1 (`sketchae.load_clip`)."""

    def embed_images(self, images: Tensor) -> Tensor: ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor: ...


class ProxyBench(PairBench):
    """Scores any number of splits on one set of pairs (a, b) without known factors.

    Encoding, text embeddings, colour statistics and edge maps of a and b are computed once, at construction;
    `score(basis)` then costs one decoding and one CLIP embedding of every pair. Edge maps are kept as 16-bit numbers
    (0.13 MB a picture at 256 pixels).

    Attributes:
        n_pairs: number of pairs.
        names: the proxies that this bench has, in the order of `SIDES`; those of CLIP only with a CLIP and captions.
        usable: those among them that tell a from b, unchanged; only these are rescaled and combined.
        references: {"a": …, "b": …}: one array (pairs,) a proxy, for a and for b unchanged.
    """

    def __init__(
        self,
        codec: Codec,
        clip: Embedder | None = None,
        images_a: OtherPictures | None = None,
        images_b: OtherPictures | None = None,
        captions_a: Captions | TextEmbeds | None = None,
        captions_b: Captions | TextEmbeds | None = None,
        *,
        z_a: edits.OtherLatents | None = None,
        z_b: edits.OtherLatents | None = None,
        image_embeds_a: Float[Tensor, "_ _"] | None = None,
        image_embeds_b: Float[Tensor, "_ _"] | None = None,
        batch_size: int = 64,
        n_boot: int = 1000,
        name: str = "proxies",
        device: str | torch.device = "cpu",
    ) -> None:
        """Prepare the pairs (a[i], b[i]).

        `images_*` are pictures (pairs, 3, height, width) in [0, 1]; they may be left out where `z_*` (scaled latents)
        and, for the CLIP proxies, `image_embeds_*` (pairs, D) are given. `captions_*`: one or several captions a
        picture, or their embeddings (pairs, D) or (pairs, n_captions, D). `name` seeds the bootstraps, so that every
        split is resampled alike.

        Raises:
            BadInputError: no pairs, numbers that do not agree, captions for one of a and b only, a picture without a
                caption, or neither pictures nor what takes their place.
        """
        self.codec, self.clip = codec, clip
        self.batch_size, self.n_boot, self.name, self.device = batch_size, n_boot, name, torch.device(device)
        if (captions_a is None) != (captions_b is None):
            raise BadInputError("Captions are given for one of a and b only: give them for both, or for neither.")
        with_clip = clip is not None and captions_a is not None
        pictures, texts, embeds = (images_a, images_b), (captions_a, captions_b), (image_embeds_a, image_embeds_b)
        given = [item for item in (*pictures, *texts, *embeds, z_a, z_b) if item is not None]
        counts = {len(item) for item in given}
        if counts in (set(), {0}):
            raise BadInputError(
                "A ProxyBench needs at least one pair of pictures or of latents; the selection is empty."
            )
        if len(counts) > 1:
            raise BadInputError(f"The parts of one bench have {sorted(counts)} items: pass one for each pair.")
        self.n_pairs = counts.pop()
        self.z_a, self.z_b = self._latents(z_a, images_a), self._latents(z_b, images_b)
        self.names = tuple(name for name in SIDES if with_clip or not name.startswith("clip"))
        self._fixed = [
            self._of_reconstructions(z) | (self._of_clip(*of_clip) if with_clip else {})
            for z, *of_clip in zip((self.z_a, self.z_b), pictures, texts, embeds)
        ]
        self.references = {"a": self.per_pair(lambda a, b: a), "b": self.per_pair(lambda a, b: b)}
        self.usable = self._usable()

    def score(self, basis: edits.Split | SwapFunction, *, n_pairs: int | None = None) -> dict[str, Any]:
        """Score a basis, or a function (z_a, z_b) -> latents; optionally on the first `n_pairs` pairs only.

        Returns plain numbers. For every proxy of `names`: `<proxy>` (mean over pairs), `<proxy>_a` and `<proxy>_b` (the
        same for a and b unchanged); for the usable ones `<proxy>_rescaled`. Where both sides have a usable proxy:
        `combined`, `combined_content`, `combined_style`. All but the references have a 95 % bootstrap interval over
        pairs, `<key>_ci95`. Also `n_pairs` and `combined_of`, the proxies that are combined. A rescaled value is NaN if
        the first `n_pairs` pairs alone cannot tell a from b.

        Raises:
            BadInputError: more pairs than there are, or pictures that are not finite.
        """
        return self._summary(self.per_pair(basis, n_pairs=n_pairs))

    def score_pictures(self, images: Pictures) -> dict[str, Any]:
        """Score pictures in [0, 1] made by any other method, one for each of the first len(images) pairs."""
        rows = self._batches(self._count(len(images)))
        return self._summary(self._per_pair(images[part].to(self.device, torch.float32) for part in rows))

    def per_pair(self, basis: edits.Split | SwapFunction, *, n_pairs: int | None = None) -> dict[str, PerPair]:
        """Every proxy, one number a pair, before averaging and rescaling."""
        swap = (lambda a, b: edits.swap(basis, a, b)) if isinstance(basis, edits.Split) else basis
        rows = self._batches(self._count(n_pairs))
        return self._per_pair(self._decode(swap(self._z(self.z_a, part), self._z(self.z_b, part))) for part in rows)

    @torch.inference_mode()
    def _per_pair(self, pictures: Iterable[Tensor]) -> dict[str, PerPair]:
        parts: list[dict[str, PerPair]] = []
        done = 0
        for batch in pictures:
            if not torch.isfinite(batch).all():
                raise BadInputError(
                    "A swap gave pictures that are not finite: check the basis for NaN or huge entries."
                )
            parts.append(self._measure(batch, slice(done, done + len(batch))))
            done += len(batch)
        return {name: np.concatenate([part[name] for part in parts]) for name in self.names}

    def _measure(self, images: Tensor, rows: slice) -> dict[str, PerPair]:
        a, b = ({key: values[rows] for key, values in fixed.items()} for fixed in self._fixed)
        swap = colour_gaussians(images)
        colours_a, colours_b = (a["mean"], a["covariance"]), (b["mean"], b["covariance"])
        to_a, to_b = colour_distance(swap, colours_a), colour_distance(swap, colours_b)
        apart = colour_distance(colours_a, colours_b)
        edges = edge_maps(images)
        found = {
            # Both distances are equal where a and b are: no preference.
            "colour": np.divide(to_a - to_b, apart, out=np.zeros_like(apart), where=apart > 0),
            "edges": _products(edges, a["edges"]) - _products(edges, b["edges"]),
        }
        if self.clip is not None and "clip_style" in self.names:
            e = F.normalize(self.clip.embed_images(images).to(self.device).float(), dim=-1)
            found["clip_caption"] = _products(e, a["text"]) - _products(e, b["text"])
            for name in ("clip_style", "clip_style_projected"):
                found[name] = _products(e, b[name]) - _products(e, a[name])
        return {name: found[name] for name in self.names}

    def _summary(self, values: Mapping[str, PerPair]) -> dict[str, Any]:
        n = len(next(iter(values.values())))
        weights = self._weights(n)
        result: dict[str, Any] = {}
        sides: dict[str, list[np.ndarray]] = {"content": [], "style": []}
        for name in self.names:
            columns = np.stack([values[name], self.references["a"][name][:n], self.references["b"][name][:n]], axis=1)
            mean, mean_a, mean_b = (weights @ columns / n).T
            result |= _with_interval(name, mean) | {f"{name}_a": float(mean_a[0]), f"{name}_b": float(mean_b[0])}
            if name not in self.usable:
                continue
            best, worst = (mean_a, mean_b) if SIDES[name] == "content" else (mean_b, mean_a)
            rescaled = (2 * mean - best - worst) / np.where(best > worst, best - worst, np.nan)
            result |= _with_interval(f"{name}_rescaled", rescaled)
            if name in COMBINED:
                sides[SIDES[name]].append(rescaled)
        if all(sides.values()):
            halves = {side: np.mean(members, axis=0) for side, members in sides.items()}
            result |= _with_interval("combined", (halves["content"] + halves["style"]) / 2)
            for side, half in halves.items():
                result |= _with_interval(f"combined_{side}", half)
            result["combined_of"] = [name for name in COMBINED if name in self.usable]
        return result | {"n_pairs": n}

    def _usable(self) -> tuple[str, ...]:
        weights, usable = self._weights(self.n_pairs), []
        for name in self.names:
            towards = 1 if SIDES[name] == "content" else -1
            room = towards * (weights @ (self.references["a"][name] - self.references["b"][name])) / self.n_pairs
            if min(room[0], interval(room[1:])[0]) > 0:
                usable.append(name)
        left_out = [name for name in self.names if name not in usable]
        if left_out:
            warnings.warn(
                f"{', '.join(left_out)} cannot tell unswapped a from unswapped b on these {self.n_pairs} pairs "
                "(the 95 % interval of the difference is not above 0): left out of the combined proxy.",
                stacklevel=3,
            )
        return tuple(usable)

    def _weights(self, n: int) -> Float[np.ndarray, "replicates n"]:
        """Row 0 is the sample itself, then the bootstrap's resamples."""
        return np.concatenate([np.ones((1, n)), resample_counts(n, self.n_boot, self.name)])

    @torch.inference_mode()
    def _of_reconstructions(self, z: Tensor) -> dict[str, Any]:
        parts = [self._decode(self._z(z, rows)) for rows in self._batches(self.n_pairs)]
        colours = [colour_gaussians(part) for part in parts]
        return {
            "mean": np.concatenate([mean for mean, _ in colours]),
            "covariance": np.concatenate([covariance for _, covariance in colours]),
            "edges": torch.cat([edge_maps(part).half() for part in parts]),
        }

    @torch.inference_mode()
    def _of_clip(self, images: Tensor | None, texts: Any, embeds: Tensor | None) -> dict[str, Tensor]:
        text = F.normalize(self._text_means(texts), dim=-1)
        if embeds is None:
            if images is None:
                raise BadInputError(
                    "The CLIP proxies need the pictures or their CLIP embeddings: pass images or image_embeds."
                )
            parts = [self.clip.embed_images(images[rows].to(self.device)) for rows in self._batches(self.n_pairs)]
            embeds = torch.cat(parts)
        image = F.normalize(embeds.to(self.device).float(), dim=-1)
        if image.shape != text.shape:
            raise BadInputError(
                f"Image and text embeddings have shapes {tuple(image.shape)} and {tuple(text.shape)}: "
                "use one CLIP for both."
            )
        along = (image * text).sum(-1, keepdim=True)
        return {
            "text": text,
            "clip_style": F.normalize(image - text, dim=-1),
            "clip_style_projected": F.normalize(image - along * text, dim=-1),
        }

    def _text_means(self, texts: Any) -> Float[Tensor, "pairs embed_dim"]:
        if isinstance(texts, Tensor):
            return (texts.mean(1) if texts.ndim == 3 else texts).to(self.device).float()
        groups = [[captions] if isinstance(captions, str) else list(captions) for captions in texts]
        empty = [row for row, captions in enumerate(groups) if not captions]
        if empty:
            raise BadInputError(f"Picture {empty[0]} has no caption: leave its pair out, or leave all captions out.")
        flat = [caption for captions in groups for caption in captions]
        parts = [
            self.clip.embed_texts(flat[start : start + self.batch_size])
            for start in range(0, len(flat), self.batch_size)
        ]
        embeds = torch.cat(parts).to(self.device).float().split([len(captions) for captions in groups])
        return torch.stack([part.mean(0) for part in embeds])

    @torch.inference_mode()
    def _latents(self, z: Tensor | None, images: Tensor | None) -> Tensor:
        if z is not None:
            return z.float()
        if images is None:
            raise BadInputError(
                "A ProxyBench needs pictures or latents of both a and b: pass images_a and images_b, or z_a and z_b."
            )
        return torch.cat(
            [self.codec.encode(images[rows].to(self.device)).float() for rows in self._batches(self.n_pairs)]
        )


def _products(x: Tensor, y: Tensor) -> PerPair:
    """Inner products row by row, as float64."""
    return torch.einsum("np,np->n", x.float(), y.float()).double().cpu().numpy()


def _with_interval(key: str, replicates: Float[np.ndarray, " replicates"]) -> dict[str, Any]:
    return {key: float(replicates[0]), f"{key}_ci95": list(interval(replicates[1:]))}
