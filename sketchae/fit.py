"""Q for a VAE and pictures of one's own: `sketchae fit`.

The folder that it writes is a saved `OrthogonalBasis` (model.safetensors, config.json, README.md) with
`before_after.png`, which shows what it does, and `fit.json`, which says how it was made. fit.json is written last: a
folder without it is not finished.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sketchae import __version__, edits
from sketchae.atomic import TEMPORARY_MARK
from sketchae.backbones import LatentCodec, fast_dtype, load_clip, load_vae
from sketchae.basis import OrthogonalBasis, random_basis
from sketchae.basis.augmentation import DEFAULT_CONTENT, DEFAULT_STYLE, augmentation_split
from sketchae.basis.planes import check_n_semantic
from sketchae.data.picture_folder import BATCH_SIZE, PictureFolder, read_captions
from sketchae.errors import BadInputError
from sketchae.figures.before_after import before_after
from sketchae.figures.style import render_png
from sketchae.fit_proxies import N_PAIRS as N_PROXY_PAIRS
from sketchae.fit_proxies import measure_proxies, tell
from sketchae.training.effect import EffectObjective, fit_effect

RECORD, PICTURE = "fit.json", "before_after.png"
N_PAIRS = 4  # rows of before_after.png
MIN_CAPTIONED = 8


@dataclass(frozen=True)
class Fit:
    """What `fit` found and wrote.

    Attributes:
        folder: where it was written, loadable with `OrthogonalBasis.load(folder)`.
        basis: the same.
        record: the content of fit.json.
        duration_s: seconds of wall-clock.
    """

    folder: Path
    basis: OrthogonalBasis
    record: dict[str, Any]
    duration_s: float


# A method: (codec, batches of pictures, n_semantic, **its own options) -> (basis, what fit.json says about it).
Method = Callable[..., tuple[OrthogonalBasis, dict[str, Any]]]


def by_augmentation(
    codec: LatentCodec,
    images: Iterable[Tensor],
    n_semantic: int | None = None,
    *,
    style: Sequence[str] = DEFAULT_STYLE,
    content: Sequence[str] = DEFAULT_CONTENT,
    n_repeats: int = 1,
    name: str = "augmentation",
) -> tuple[OrthogonalBasis, dict[str, Any]]:
    """The lowest eigenvectors of S - C (`sketchae.basis.augmentation`); needs pictures only."""
    split = augmentation_split(
        codec, images, style=style, content=content, n_repeats=n_repeats, name=name, batch_size=BATCH_SIZE
    )
    basis = split.basis(n_semantic)
    return basis, {
        "style_changes": list(style),
        "content_changes": list(content),
        "n_repeats": n_repeats,
        "seed_name": name,
        "n_semantic_chosen_by": "number of negative eigenvalues" if n_semantic is None else "the caller",
        "eigenvalues": split.eigenvalues.tolist(),
        "S": split.S.tolist(),
        "C": split.C.tolist(),
    }


def by_effect(
    codec: LatentCodec,
    images: Iterable[Tensor],
    n_semantic: int | None = None,
    *,
    clip: Any,
    captions: Callable[[], Sequence[Sequence[str]]],
    n_steps: int = 50,
    name: str = "effect",
) -> tuple[OrthogonalBasis, dict[str, Any]]:
    """The effect objective (`sketchae.training.effect`), from the eigenproblem's plane; needs CLIP and captions.

    `captions()` gives the captions of the pictures that `images` yielded, in their order, once these are read.

    Raises:
        BadInputError: fewer than `MIN_CAPTIONED` pictures.
    """
    pictures = torch.cat(list(images))
    texts = captions()
    if len(pictures) < MIN_CAPTIONED:
        raise BadInputError(
            f"{len(pictures)} pictures have captions, and the effect objective needs {MIN_CAPTIONED}: caption more, "
            "or use --method augmentation, which needs none."
        )
    start, found = by_augmentation(codec, pictures.split(BATCH_SIZE), n_semantic)
    with torch.no_grad():
        z = torch.cat([codec.encode(part).cpu() for part in pictures.split(BATCH_SIZE)])
        clip_img = torch.cat([clip.embed_images(part).cpu() for part in pictures.split(BATCH_SIZE)])
        single = [clip.embed_texts(list(of_picture)).cpu() for of_picture in texts]
    clip_txt = torch.stack([embeds.mean(0) for embeds in single])
    objective = EffectObjective(codec, clip, z, clip_img, clip_txt, torch.cat(single))
    batch_size = max(1, min(16, len(z) * 3 // 8))  # a quarter of the pictures is kept for the choice, and a pair takes two
    ascent = fit_effect(objective, [start], n_steps=n_steps, batch_size=batch_size, name=name)
    return ascent.basis, {
        **found,
        "n_steps": n_steps,
        "effect_name": name,
        "objective_before": ascent.before[0],
        "objective_after": ascent.objective[0],
        "n_content_directions": objective.targets.n_content,
    }


METHODS: dict[str, Method] = {"augmentation": by_augmentation, "effect": by_effect}


def fit_basis(
    codec: LatentCodec,
    images: Iterable[Tensor],
    *,
    method: str = "augmentation",
    n_semantic: int | None = None,
    **options: Any,
) -> tuple[OrthogonalBasis, dict[str, Any]]:
    """A basis for the codec's latents of these pictures, and how it was found.

    Args:
        codec: see `sketchae.backbones.load_vae`.
        images: batches of pictures in [0, 1], read once.
        method: a key of `METHODS`; `options` are its own.
        n_semantic: k; None lets the method choose.

    Raises:
        BadInputError: an unknown method, k out of range, or what the method refuses.
    """
    if method not in METHODS:
        raise BadInputError(f"There is no method {method!r}: choose from {', '.join(METHODS)}.")
    if n_semantic is not None:
        check_n_semantic(n_semantic, codec.latent_channels)
    return METHODS[method](codec, images, n_semantic, **options)


def fit(
    vae: Any,
    images: str | os.PathLike,
    *,
    vae_revision: str | None = None,
    n_semantic: int | None = None,
    image_size: int = 256,
    limit: int = 100,
    out: str | os.PathLike | None = None,
    method: str | None = None,
    captions: str | os.PathLike | None = None,
    clip: Any | None = None,
    clip_revision: str | None = None,
    progress: bool = True,
    **options: Any,
) -> Fit:
    """Find Q for a VAE from a folder of pictures, and write it with a figure and a record.

    Args:
        vae: what `load_vae` takes ("embedded", a folder, a hub id, a codec); `vae_revision` for a hub id.
        images: a folder of pictures, read with the folders in it.
        n_semantic: k; None: the method's choice.
        image_size: pictures are cut to their middle square and scaled down to so many pixels.
        limit: so many pictures at most, the first in the order of their paths.
        out: folder to write; None: build/fit/<name of the VAE>. An earlier fit there is replaced.
        method, options: as in `fit_basis`; None: "effect" where there are captions and a CLIP, else "augmentation".
        captions: a metadata.jsonl with `file_name`, relative to `images`, and `captions` (a string or a list).
        clip: what `load_clip` takes ("embedded", a folder, a hub id); `clip_revision` for a hub id.

    Raises:
        MissingFileError, BadInputError, NoNetworkError: one sentence with the remedy; nothing is written then.
    """
    start = time.perf_counter()
    method = method or ("augmentation" if captions is None or clip is None else "effect")
    if method == "effect" and (captions is None or clip is None):
        raise BadInputError("The effect objective needs both --captions and --clip; --method augmentation needs neither.")
    texts = read_captions(captions) if method == "effect" else None
    # The eigenproblem averages over pictures and wants no gradients: the quickest number format will do.
    codec = load_vae(vae, vae_revision, dtype=fast_dtype() if method == "augmentation" else None)
    source = str(codec.source or type(vae).__name__)
    folder = Path(out) if out is not None else Path("build", "fit", _folder_name(source))
    _check_folder(folder)
    _check_size(image_size, codec.downsampling)
    pictures = PictureFolder(Path(images), image_size, limit, only=texts)
    if texts is not None:
        embedder = load_clip(clip, clip_revision)
        options |= {"clip": embedder, "captions": lambda: [texts[name] for name in pictures.used]}
    basis, found = fit_basis(codec, pictures.batches(progress), method=method, n_semantic=n_semantic, **options)
    pairs = _pairs(pictures.used, N_PAIRS)
    of_clip = {"clip": embedder, "captions": texts} if texts else {}
    proxies = measure_proxies(codec, basis, _pairs(pictures.used, N_PROXY_PAIRS), pictures.read, **of_clip)
    record = {
        "method": method,
        "vae": source,
        "vae_revision": codec.revision,
        "vae_id": codec.id,
        "dtype": str(getattr(codec, "dtype", "its own")).removeprefix("torch."),
        **({"clip": str(embedder.source), "clip_revision": embedder.revision, "captions": str(captions)} if texts else {}),
        "channels": basis.channels,
        "n_semantic": basis.n_semantic,
        "images": str(images),
        "image_size": image_size,
        "limit": limit,
        "n_pictures": len(pictures.used),
        **found,
        "proxies": proxies,
        "pictures_shown": pairs,
        "pictures_used": list(pictures.used),
        "pictures_skipped": dict(pictures.skipped),
        "sketchae": __version__,
    }
    basis = OrthogonalBasis.from_matrix(
        basis.Q, basis.n_semantic, vae=source, vae_id=codec.id, facts=_facts(record, codec.latent_clip)
    )
    png = render_png(_show(codec, basis, pictures, pairs))
    _write(folder, basis, png, record)
    return Fit(folder, basis, record, time.perf_counter() - start)


def summary(result: Fit) -> str:
    """What was found, where it is, and how to use it in Python: for the terminal."""
    record, folder = result.record, str(result.folder)
    vae = f'"{record["vae"]}"' + (f', "{record["vae_revision"]}"' if record["vae_revision"] else "")
    shown = record["pictures_shown"][0]
    lines = [
        f"{record['channels']} channels, {record['n_semantic']} of them semantic, from {record['n_pictures']} pictures in "
        f"{result.duration_s:.0f} s ({record['method']})",
        *([f"eigenvalues of S - C: {_short(record['eigenvalues'])}"] if "eigenvalues" in record else []),
        f"proxies over {record['proxies']['n_pairs']} pairs (1: like the right picture, -1: like the other one): {tell(record['proxies'])}",
        *(f"left out: {reason}" for reason in record["pictures_skipped"].values()),
        f"written: {folder} (look at {Path(folder, PICTURE)})",
        "",
        "from sketchae import OrthogonalBasis, edits, load_vae",
        "from sketchae.data import read_picture",
        "from sketchae.images import to_pil",
        "",
        f"vae = load_vae({vae})",
        f'basis = OrthogonalBasis.load("{folder}")',
        f'a, b = (vae.encode(read_picture(f"{record["images"]}/{{name}}", {record["image_size"]})[None])',
        f'        for name in ("{shown[0]}", "{shown[1]}"))',
        "z_semantic, z_style = basis.to_semantic_style(a)",
        'to_pil(vae.decode(edits.swap(basis, a, b))[0]).save("content_of_a_style_of_b.png")',
    ]
    return "\n".join(lines)


def _check_size(image_size: int, downsampling: int) -> None:
    if image_size < 2 * downsampling or image_size % downsampling:
        nearest = max(2, round(image_size / downsampling)) * downsampling
        raise BadInputError(
            f"Pictures of {image_size} pixels do not fit this VAE, which needs a multiple of {downsampling}: "
            f"take --image-size {nearest}."
        )


def _check_folder(folder: Path) -> None:
    """Only a new or empty folder, or one with an earlier fit, may be written: another's files could be overwritten."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / RECORD).is_file())):
        raise BadInputError(
            f"{folder} exists and holds no {RECORD} of an earlier fit: choose another folder with --out."
        )


def _folder_name(source: str) -> str:
    """A hub id with its slash replaced; the last part of a path."""
    path = Path(source)
    return path.resolve().name if path.is_dir() or source.count("/") != 1 else source.replace("/", "--")


def _pairs(names: Sequence[str], n_pairs: int) -> list[list[str]]:
    """Up to `n_pairs` pairs, evenly spread over the pictures: each picture of the first half with one of the second half."""
    half = len(names) // 2
    n = min(n_pairs, half)
    return [[names[i * half // n], names[half + i * half // n]] for i in range(n)]


@torch.no_grad()
def _show(codec: LatentCodec, basis: OrthogonalBasis, pictures: PictureFolder, pairs: list[list[str]]) -> Any:
    """before_after.png: the swaps of the pairs by this basis, and by a random one of the same k."""
    columns: list[list[Tensor]] = [[] for _ in range(6)]
    null = random_basis(basis.channels, basis.n_semantic)
    for names in pairs:
        a, b = (pictures.read(name)[None] for name in names)
        z_a, z_b = codec.encode(a), codec.encode(b)
        swaps = [edits.swap(q, *pair) for q in (basis, null) for pair in ((z_a, z_b), (z_b, z_a))]
        for column, image in zip(columns, [a, b, *(codec.decode(z) for z in swaps)], strict=True):
            column.append(image[0].cpu())
    return before_after(*columns)


def _facts(record: dict[str, Any], latent_clip: float | None) -> dict[str, Any]:
    """What the model card tells, in one line each."""
    facts = {
        key: record[key] for key in ("method", "n_pictures", "image_size", "n_semantic", "vae_revision") if record[key]
    }
    facts |= {key: ", ".join(record[key]) for key in ("style_changes", "content_changes") if key in record}
    if "eigenvalues" in record:
        facts["eigenvalues of S - C"] = _short(record["eigenvalues"])
        facts["n_semantic_chosen_by"] = record["n_semantic_chosen_by"]
    facts[f"proxies over {record['proxies']['n_pairs']} pairs"] = tell(record["proxies"])
    return facts | {"latent_clip": "none" if latent_clip is None else latent_clip}


def _short(values: Sequence[float]) -> str:
    return " ".join(f"{value:+.3f}" for value in values)


def _write(folder: Path, basis: OrthogonalBasis, png: bytes, record: dict[str, Any]) -> None:
    """Everything elsewhere first, then file by file, fit.json last; an earlier fit's fit.json goes first."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}{TEMPORARY_MARK}") as temporary:
        basis.save(temporary)
        Path(temporary, PICTURE).write_bytes(png)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        Path(temporary, RECORD).write_text(text, encoding="utf-8")
        (folder / RECORD).unlink(missing_ok=True)
        for file in sorted(Path(temporary).iterdir(), key=lambda file: file.name == RECORD):
            os.replace(file, folder / file.name)
