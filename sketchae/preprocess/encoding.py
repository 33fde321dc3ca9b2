"""One shard's worth of examples through the frozen networks: pictures to `z` and `clip_img`, captions to `clip_txt`.

What makes it quick: three threads work side by side, one that reads (or draws) the next batch, one for the VAE, one for
CLIP; no object is ever used by two of them. The captions of the whole shard are embedded at once, each different text
once, sorted by length so that hardly any padding is computed. On a CPU each network's operations take half of PyTorch's
threads, since two networks run at a time: many threads in one small operation mostly wait for each other.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from sketchae.backbones import LatentCodec
from sketchae.data import Example, Skipped, Source
from sketchae.errors import BadInputError, SketchaeError
from sketchae.images import center_crop, to_tensor
from sketchae.shards import ShardArrays, ShardInfo

CAPTIONS_PER_CALL = 4  # times the batch size: a GPU wants many; the fewer, the less padding within a call
BATCHES_AT_WORK = 3  # pictures of so many batches wait for a network: what the VAE still has while CLIP does the captions


@runtime_checkable
class Embedder(Protocol):
    """What is asked of a CLIP: L2-normalised embeddings of pictures and of texts, as `ClipEmbedder` gives them."""

    def embed_images(self, images: torch.Tensor | list[Image.Image]) -> torch.Tensor: ...

    def embed_texts(self, texts: list[str]) -> torch.Tensor: ...


@dataclass(frozen=True)
class PreparedBatch:
    """A batch as read: pixels for the VAE, the same pictures as CLIP wants them, and what was left out."""

    pixels: torch.Tensor | None  # (b, 3, image_size, image_size) in [0, 1]; None where nothing was usable
    pictures: torch.Tensor | list[Image.Image] | None  # PIL pictures keep CLIP's own preprocessing
    examples: list[Example]
    skipped: list[Skipped]
    n_positions: int


class ShardEncoder:
    """Encodes ranges of a source; see `encode`. `seconds` accumulates the time of each part, which overlap.

    Args:
        clip: may be None where the source brings its own `clip_img` and `clip_txt`.
        image_size: side of the square that the VAE sees, in pixels.
    """

    def __init__(
        self,
        source: Source,
        vae: LatentCodec,
        clip: Embedder | None,
        *,
        image_size: int,
        batch_size: int,
        n_captions: int,
    ):
        self.source, self.vae, self.clip = source, vae, clip
        self.embed_dim: int | None = getattr(clip, "embed_dim", None)  # else what the first example brings
        self.image_size, self.batch_size, self.n_captions = image_size, batch_size, n_captions
        self.text_batch = CAPTIONS_PER_CALL * batch_size
        self.seconds: dict[str, float] = defaultdict(float)

    def encode(
        self, split: str, number: int, start: int, stop: int, on_batch: Callable[[int], None] = lambda n: None
    ) -> tuple[ShardArrays | None, ShardInfo]:
        """The rows for positions start..stop of `split` (None where all were skipped) and what they cover.

        The result depends on nothing but the source, the networks and the batch size: batches begin at `start`.

        Raises:
            BadInputError: latents or embeddings that are not finite (naming the image), or of the wrong shape.
        """
        z, clip_img, examples, skipped = [], [], [], []
        n_positions = n_clipped = n_latents = 0
        at_work: deque[_Encoding] = deque()

        def collect() -> None:
            nonlocal n_clipped, n_latents
            done = at_work.popleft()
            (latents, clipped), embeddings = done.latents.result(), done.embeddings.result()
            z.append(latents)
            clip_img.append(embeddings)
            n_latents, n_clipped = n_latents + latents.size, n_clipped + clipped
            for example in done.batch.examples:  # a shard keeps its captions to its end, but few batches of pictures
                example.image = example.tensor = None
            on_batch(done.batch.n_positions)

        with _workers(3) as (reader, vae_worker, clip_worker):
            for batch in self._batches(reader, split, start, stop):
                n_positions += batch.n_positions
                skipped += [
                    {"split": split, "index": int(s.index), "id": str(s.id), "reason": str(s.reason)}
                    for s in batch.skipped
                ]
                if not batch.examples:
                    on_batch(batch.n_positions)
                    continue
                latents = vae_worker.submit(self._timed, "vae_s", self._latents, batch)
                embeddings = clip_worker.submit(self._timed, "clip_image_s", self._image_embeddings, batch)
                at_work.append(_Encoding(batch, latents, embeddings))
                examples += batch.examples
                del batch
                if len(at_work) == BATCHES_AT_WORK:
                    collect()
            texts = clip_worker.submit(self._timed, "clip_text_s", self._text_embeddings, examples)
            while at_work:
                collect()
            clip_txt, starts = texts.result()
        info = ShardInfo(number, n_positions, len(examples), len(clip_txt), n_latents, n_clipped, skipped)
        if not examples:
            return None, info
        arrays = ShardArrays(
            z=np.concatenate(z),
            clip_img=np.concatenate(clip_img),
            clip_txt=clip_txt,
            starts=starts,
            captions=[self._captions(example) for example in examples],
            image_ids=[str(example.id) for example in examples],
            indices=np.array([example.index for example in examples], dtype=np.int64),
        )
        return arrays, info

    def _batches(self, reader: ThreadPoolExecutor, split: str, start: int, stop: int) -> Iterator[PreparedBatch]:
        """The batches in order; while one is used, `reader` reads the next. Ends early where the split does."""
        ranges = [(at, min(at + self.batch_size, stop)) for at in range(start, stop, self.batch_size)]
        coming = reader.submit(self._timed, "reading_s", self._prepare, split, *ranges[0])
        for k, (begin, end) in enumerate(ranges):
            batch = coming.result()
            at_end = batch.n_positions < end - begin
            if k + 1 < len(ranges) and not at_end:
                coming = reader.submit(self._timed, "reading_s", self._prepare, split, *ranges[k + 1])
            yield batch
            if at_end:
                return
            del batch

    def _prepare(self, split: str, start: int, stop: int) -> PreparedBatch:
        entries = self.source.load(split, start, stop)
        examples, skipped, pixels = [], [], []
        for entry in entries:
            if isinstance(entry, Skipped):
                skipped.append(entry)
                continue
            if self._count(entry) == 0:
                skipped.append(Skipped(id=entry.id, index=entry.index, reason="it has no caption"))
                continue
            try:
                pixels.append(self._pixels(entry))
                examples.append(entry)
            except (SketchaeError, OSError, SyntaxError) as error:  # PIL raises SyntaxError for some broken PNGs
                skipped.append(Skipped(id=entry.id, index=entry.index, reason=str(error)))
        stacked = torch.stack(pixels) if pixels else None
        whole = [example.image for example in examples]
        as_tensors = all(example.tensor is not None for example in examples) or any(image is None for image in whole)
        return PreparedBatch(stacked, stacked if as_tensors else whole, examples, skipped, len(entries))

    def _pixels(self, example: Example) -> torch.Tensor:
        size = self.image_size
        if example.tensor is None:
            return to_tensor(center_crop(example.image, size))
        if tuple(example.tensor.shape) != (3, size, size):
            raise BadInputError(f"its tensor has shape {tuple(example.tensor.shape)}, not (3, {size}, {size})")
        return example.tensor

    def _latents(self, batch: PreparedBatch) -> tuple[np.ndarray, int]:
        try:
            z = self._encoded(batch.pixels)
        except BadInputError as error:
            # The codec refuses a batch as a whole: find the picture, so that the sentence can name it.
            for example, picture in zip(batch.examples, batch.pixels, strict=True):
                try:
                    self._encoded(picture[None])
                except BadInputError as reason:
                    raise BadInputError(f"{_name(example)} cannot be encoded: {reason}") from error
            raise
        bound = getattr(self.vae, "latent_clip", None)
        n_clipped = 0 if bound is None else int((z.abs() >= bound).sum())
        half = z.to(torch.float16).cpu().numpy()
        self._check_finite("latents", half, batch.examples)
        return half, n_clipped

    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            z = self.vae.encode(pixels).detach()
        side = self.image_size // self.vae.downsampling
        if tuple(z.shape) != (len(pixels), self.vae.latent_channels, side, side):
            raise BadInputError(
                f"The VAE made latents of shape {tuple(z.shape[1:])} where ({self.vae.latent_channels}, {side}, {side}) "
                "was due: correct its latent_channels and downsampling."
            )
        return z

    def _image_embeddings(self, batch: PreparedBatch) -> np.ndarray:
        if all(example.clip_img is not None for example in batch.examples):
            embeddings = np.stack([self._given(example, "clip_img") for example in batch.examples])
        else:
            with torch.no_grad():
                embeddings = self._clip("clip_img").embed_images(batch.pictures).float().cpu().numpy()
        half = embeddings.astype(np.float16)
        self._check_finite("clip_img", half, batch.examples)
        return half

    def _text_embeddings(self, examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
        """All captions' embeddings one after the other, and where those of each example start (n + 1 numbers)."""
        counts = [self._count(example) for example in examples]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        texts = sorted(
            {caption for e in examples if e.clip_txt is None for caption in self._captions(e)},
            key=lambda text: (len(text), text),
        )
        embedded: dict[str, np.ndarray] = {}
        for at in range(0, len(texts), self.text_batch):
            chunk = texts[at : at + self.text_batch]
            with torch.no_grad():
                embedded.update(
                    zip(chunk, self._clip("clip_txt").embed_texts(chunk).float().cpu().numpy(), strict=True)
                )
        rows = []
        for example, count in zip(examples, counts, strict=True):
            if example.clip_txt is None:
                row = np.stack([embedded[caption] for caption in self._captions(example)])
            else:
                row = self._given(example, "clip_txt")[: self.n_captions]
                if self._captions(example) and len(self._captions(example)) != count:
                    raise BadInputError(
                        f"{_name(example)} has {len(self._captions(example))} captions but {count} rows in clip_txt: "
                        "give one embedding for each caption."
                    )
            self._check_finite("clip_txt", row[None], [example])
            rows.append(row)
        return (np.concatenate(rows) if rows else np.zeros((0, 0))).astype(np.float16), starts

    def _given(self, example: Example, column: str) -> np.ndarray:
        """The source's own embedding as float32, normalised; a row of zeros becomes NaN, which is refused by name."""
        embedding = np.asarray(getattr(example, column), dtype=np.float32)
        self.embed_dim = self.embed_dim or embedding.shape[-1]
        if embedding.shape[-1] != self.embed_dim:
            raise BadInputError(
                f"{_name(example)} has {embedding.shape[-1]} numbers in {column} where {self.embed_dim} are due: all "
                "embeddings must come from one CLIP; correct that row."
            )
        with np.errstate(invalid="ignore", divide="ignore"):
            return embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)

    def _captions(self, example: Example) -> list[str]:
        return [caption for caption in example.captions if caption.strip()][: self.n_captions]

    def _count(self, example: Example) -> int:
        """Rows that the example will have in `clip_txt`: given embeddings do not need their captions' texts."""
        return len(self._captions(example)) if example.clip_txt is None else len(example.clip_txt[: self.n_captions])

    def _clip(self, column: str):
        if self.clip is None:
            raise BadInputError(
                f"No CLIP was given, and the source has no column {column}: pass clip=load_clip(...), or add the "
                "columns clip_img and clip_txt."
            )
        return self.clip

    def _check_finite(self, what: str, array: np.ndarray, examples: list[Example]) -> None:
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise BadInputError(
                f"{_name(examples[int(np.argmin(finite))])} gives {what} that are not finite in float16: leave this "
                "image out, or check the network's weights and its dtype."
            )

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - begin

    def _timed(self, part: str, work: Callable, *arguments: object) -> Any:
        with self.timed(part):
            return work(*arguments)


@dataclass(frozen=True)
class _Encoding:
    """A batch at work in both networks."""

    batch: PreparedBatch
    latents: Future  # of _latents
    embeddings: Future  # of _image_embeddings


@contextmanager
def _workers(n: int) -> Iterator[list[ThreadPoolExecutor]]:
    """`n` threads with a queue each; on leaving, what they have not begun is dropped.

    PyTorch keeps its number of threads for each thread that calls it, some libraries under it for all: so the workers get
    theirs in turn, and the caller's is set again at the end.
    """
    n_threads = torch.get_num_threads()
    workers = [ThreadPoolExecutor(1) for _ in range(n)]
    try:
        for worker in workers:
            worker.submit(torch.set_num_threads, max(1, n_threads // 2)).result()
        yield workers
    finally:
        for worker in workers:
            worker.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)


def _name(example: Example) -> str:
    return f"Image {example.id} (index {example.index})"
