"""How fast preprocessing is, measure by measure, against the paper's own way of doing it (one image at a time).

    python -m benchmarks.preprocess [--images 16] [--device cuda] [--compile] [--only paper|embedded]

Everything is timed side by side in one run, in rounds, and the best round of each row counts, so that a machine that is
busy with something else disturbs all rows alike. Two settings: the paper's true architectures at the paper's sizes, with
random weights (TAESD at 256 pixels, CLIP ViT-B/32 at 224, five captions an image, which the baseline pads to 77
tokens), and the embedded pair where it is installed. Prints Markdown tables, writes `build/bench/preprocess.json`.
"""

import argparse
import copy
import io
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderTiny
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from sketchae.backbones import ASSETS, ClipEmbedder, DiffusersVAE, fast_dtype, load_clip, load_vae, pick_device
from sketchae.data import Example
from sketchae.images import open_image
from sketchae.preprocess import preprocess
from sketchae.preprocess.encoding import CAPTIONS_PER_CALL

N_CAPTIONS = 5
ROW_BY_ROW_IMAGES = 8  # a slow row is timed on fewer images: its time an image does not depend on how many
EMULATED_IMAGES = 2  # and where the machine has no bfloat16 of its own, on fewer still
HOPELESS = 0.05  # of float32's matrix rate: bfloat16 that is slower than this is not timed at all
PARTS = ("vae", "clip_image", "clip_text")


@dataclass(frozen=True)
class Setting:
    """A pair of networks (float32, on the CPU) with pictures and captions to encode."""

    name: str
    vae: AutoencoderTiny
    clip: CLIPModel
    processor: CLIPProcessor
    pictures: torch.Tensor  # (n, 3, size, size) in [0, 1]
    captions: list[list[str]]


@dataclass(frozen=True)
class Measure:
    """One row of the table: how the same work is done."""

    name: str
    dtype: torch.dtype
    batch_size: int = 1
    is_channels_last: bool = False
    is_trimmed: bool = False
    is_compiled: bool = False


def main(arguments: Sequence[str] | None = None) -> dict:
    """Run the benchmark and return what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, help="images a row (default: 16 on a CPU, 2048 on a GPU)")
    parser.add_argument("--batch-size", type=int, help="images a batch (default: 16 on a CPU, 256 on a GPU)")
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many counts (default: 2)")
    parser.add_argument("--device", help="default: CUDA where there is one")
    parser.add_argument("--compile", action="store_true", help="also torch.compile (some minutes to compile)")
    parser.add_argument("--only", choices=["paper", "embedded"])
    parser.add_argument("--out", default="build/bench/preprocess.json")
    options = parser.parse_args(arguments)
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    device = pick_device(options.device)
    on_gpu = device.type != "cpu"
    batch_size = options.batch_size or (256 if on_gpu else 16)
    n_images = max(options.images or (2048 if on_gpu else 16), batch_size) // batch_size * batch_size

    quick = fast_dtype(device)
    result = {
        "machine": _machine(device),
        "n_images": n_images,
        "batch_size": batch_size,
        "rounds": options.rounds,
        "matmul_gflops": {str(dtype): matmul_gflops(dtype, device) for dtype in {torch.float32, torch.bfloat16, quick}},
        "settings": {},
    }
    print(f"{result['machine']}\nmatmul GFLOP/s: { {k: round(v) for k, v in result['matmul_gflops'].items()} }\n")
    rates = result["matmul_gflops"]
    is_hopeless = rates[str(torch.bfloat16)] < HOPELESS * rates[str(torch.float32)]
    if is_hopeless:
        print("bfloat16 is emulated here, far slower than float32: its row is left out.\n", flush=True)
    for make in (paper_setting, embedded_setting):
        if options.only and not make.__name__.startswith(options.only):
            continue
        setting = make(n_images)
        if setting is None:
            print("The embedded networks are not installed: left out.\n")
            continue
        chosen = measures(quick, batch_size, options.compile)
        if is_hopeless:
            chosen = [measure for measure in chosen if measure.dtype != torch.bfloat16]
        rows = ladder(setting, chosen, device, options.rounds)
        for row in rows:
            peak = result["matmul_gflops"][row["dtype"]]
            row["share_of_matmul_peak"] = row["gflop_per_image"] / (row["seconds_per_image"] * peak)
        whole = end_to_end(setting, quick, device, batch_size, options.rounds)
        result["settings"][setting.name] = {"measures": rows, "end_to_end": whole}
        print(as_markdown(setting, rows, whole), flush=True)
    result["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if on_gpu:
        result["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {out}")
    return result


def measures(quick: torch.dtype, batch_size: int, with_compile: bool) -> list[Measure]:
    """The paper's recipe in both formats, then each measure on top of those before it."""
    chosen = [
        Measure("one image at a time, float32", torch.float32),
        Measure("one image at a time, bfloat16", torch.bfloat16),
        Measure("batches", torch.float32, batch_size),
        Measure(f"+ quickest format ({str(quick).removeprefix('torch.')})", quick, batch_size),
        Measure("+ channels_last", quick, batch_size, is_channels_last=True),
        Measure("+ captions trimmed and sorted", quick, batch_size, is_channels_last=True, is_trimmed=True),
    ]
    if with_compile:
        chosen.append(Measure("+ torch.compile", quick, batch_size, True, True, is_compiled=True))
    return chosen


def ladder(setting: Setting, chosen: list[Measure], device: torch.device, rounds: int) -> list[dict]:
    """Time every measure, round by round, and give the best of each with its ratios."""
    flops = Flops(setting)
    runners = [Runner(setting, measure, device, flops) for measure in chosen]
    best: list[dict[str, float]] = [{} for _ in chosen]
    for _ in range(rounds):
        for runner, record in zip(runners, best, strict=True):
            for part, seconds in runner.time().items():
                record[part] = min(record.get(part, np.inf), seconds)
    totals = [sum(record.values()) for record in best]
    rows = []
    for k, (runner, record) in enumerate(zip(runners, best, strict=True)):
        before = totals[0] if k < 3 else totals[k - 1]  # batches, in float32, follow the first row
        rows.append(
            {
                "measure": runner.measure.name,
                "dtype": str(runner.measure.dtype),
                "images_per_s": 1 / totals[k],
                "speedup": totals[0] / totals[k],
                "gain_of_this_measure": before / totals[k],
                "seconds_per_image": totals[k],
                "gflop_per_image": runner.gflop_per_image(),
                **{f"{part}_ms": 1000 * record[part] for part in PARTS},
            }
        )
    return rows


class Runner:
    """The three encodings done in one way; `time` gives seconds an image for each."""

    def __init__(self, setting: Setting, measure: Measure, device: torch.device, flops: "Flops"):
        self.measure, self.device, self.flops = measure, device, flops
        layout = torch.channels_last if measure.is_channels_last else torch.contiguous_format
        self.vae = copy.deepcopy(setting.vae).eval().to(device, measure.dtype, memory_format=layout)
        self.embedder = ClipEmbedder(copy.deepcopy(setting.clip), setting.processor, device, measure.dtype)
        self.embedder.model.to(memory_format=layout)
        if measure.is_compiled:
            self.vae.encoder = torch.compile(self.vae.encoder)
            self.embedder.model.vision_model = torch.compile(self.embedder.model.vision_model)
        self.layout = layout
        n = len(setting.pictures)
        if measure.batch_size == 1:
            is_emulated = measure.dtype == torch.bfloat16 and fast_dtype(device) == torch.float32
            n = min(n, EMULATED_IMAGES if is_emulated else ROW_BY_ROW_IMAGES)
        self.n, self.pictures = n, setting.pictures[:n].to(device)
        captions = setting.captions[:n]
        if measure.is_trimmed:  # as ShardEncoder does it: all texts of a shard, each once, by length
            texts = sorted({text for several in captions for text in several}, key=lambda text: (len(text), text))
            size = CAPTIONS_PER_CALL * measure.batch_size
            self.texts = [texts[at : at + size] for at in range(0, len(texts), size)]
        else:
            groups = range(0, n, measure.batch_size)
            self.texts = [[text for row in captions[at : at + measure.batch_size] for text in row] for at in groups]
        self._run(self.pictures[: measure.batch_size], self.texts[:1], None)  # warm-up, and compilation

    def time(self) -> dict[str, float]:
        seconds = dict.fromkeys(PARTS, 0.0)
        self._run(self.pictures, self.texts, seconds)
        return {part: value / self.n for part, value in seconds.items()}

    def gflop_per_image(self) -> float:
        """10⁹ operations an image, padding included, counted on shapes alone (nothing is computed)."""
        tokens = 0.0
        for chunk in self.texts:
            longest = max(len(ids) for ids in self.embedder.tokenizer(chunk, truncation=True)["input_ids"])
            length = longest if self.measure.is_trimmed else self.embedder.max_tokens
            tokens += len(chunk) * self.flops.text(length)
        return (self.flops.vae + self.flops.clip_image + tokens / self.n) / 1e9

    @torch.no_grad()
    def _run(self, pictures: torch.Tensor, texts: list[list[str]], seconds: dict[str, float] | None) -> None:
        for batch in pictures.split(self.measure.batch_size):
            self._part("vae", lambda batch=batch: self._encode(batch), seconds)
            self._part("clip_image", lambda batch=batch: self._embed_images(batch), seconds)
        for chunk in texts:
            self._part("clip_text", lambda chunk=chunk: self._embed_texts(chunk), seconds)

    def _part(self, name: str, work: Callable[[], torch.Tensor], seconds: dict[str, float] | None) -> None:
        begin = time.perf_counter()
        work().float().cpu()  # waits for a GPU, as writing the result does
        if seconds is not None:
            seconds[name] += time.perf_counter() - begin

    def _encode(self, batch: torch.Tensor) -> torch.Tensor:
        pixels = batch.to(self.measure.dtype, memory_format=self.layout) * 2 - 1
        return self.vae.encode(pixels).latents

    def _embed_images(self, batch: torch.Tensor) -> torch.Tensor:
        pixels = self.embedder.preprocess(batch).to(self.measure.dtype, memory_format=self.layout)
        return self.embedder.model.get_image_features(pixel_values=pixels).pooler_output

    def _embed_texts(self, texts: list[str]) -> torch.Tensor:
        if self.measure.is_trimmed:
            return self.embedder.embed_texts(texts)
        longest = self.embedder.max_tokens
        tokens = self.embedder.tokenizer(
            texts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
        return self.embedder.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output


class Flops:
    """Operations for one picture and for one caption of a given number of tokens, by PyTorch's own counter."""

    def __init__(self, setting: Setting):
        vae, self.clip = (copy.deepcopy(model).eval().to("meta") for model in (setting.vae, setting.clip))
        size, looked_at = setting.pictures.shape[-1], setting.clip.config.vision_config.image_size
        self.vae = self._count(lambda: vae.encode(torch.empty(1, 3, size, size, device="meta")))
        pixels = torch.empty(1, 3, looked_at, looked_at, device="meta")
        self.clip_image = self._count(lambda: self.clip.get_image_features(pixel_values=pixels))
        self.by_length: dict[int, float] = {}

    def text(self, n_tokens: int) -> float:
        if n_tokens not in self.by_length:
            ids = torch.empty(1, n_tokens, dtype=torch.long, device="meta")
            self.by_length[n_tokens] = self._count(lambda: self.clip.get_text_features(input_ids=ids))
        return self.by_length[n_tokens]

    @torch.no_grad()
    def _count(self, work: Callable[[], object]) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()


class MemorySource:
    """Examples from memory: as decoded tensors, or as JPEG files to be decoded."""

    has_embeddings, splits = False, ("train",)

    def __init__(self, setting: Setting, as_jpeg: bool):
        self.setting, self.jpegs = setting, None
        if as_jpeg:
            self.jpegs = [_jpeg(picture) for picture in setting.pictures]

    def n_examples(self, split: str) -> int:
        return len(self.setting.pictures)

    def fingerprint(self, split: str) -> str:
        return "benchmark"

    def load(self, split: str, start: int, stop: int) -> list[Example]:
        return [
            Example(
                image=open_image(self.jpegs[i]) if self.jpegs else None,
                captions=self.setting.captions[i],
                id=str(i),
                index=i,
                tensor=None if self.jpegs else self.setting.pictures[i],
            )
            for i in range(start, stop)
        ]


def end_to_end(setting: Setting, dtype: torch.dtype, device: torch.device, batch_size: int, rounds: int) -> dict:
    """`sketchae.preprocess` itself, to a dataset on disk: images a second, and where the time goes."""
    vae = DiffusersVAE(copy.deepcopy(setting.vae), device=device, dtype=dtype)
    clip = ClipEmbedder(copy.deepcopy(setting.clip), setting.processor, device, dtype)
    found = {}
    for name, as_jpeg in (("decoded tensors", False), ("JPEG files of 640 x 480", True)):
        source, reports = MemorySource(setting, as_jpeg), []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                size = setting.pictures.shape[-1]
                how = {"image_size": size, "batch_size": batch_size, "shard_size": 1024, "progress": False}
                reports.append(preprocess(source, vae, clip, folder, **how))
        best = min(reports, key=lambda report: report.wall_s)
        found[name] = {"images_per_s": best.n_computed / best.wall_s, "time_shares": best.time_shares}
    return found


def paper_setting(n: int) -> Setting:
    """The paper's networks by their configurations: TAESD at 256 pixels, ViT-B/32; captions as long as MS-COCO's."""
    torch.manual_seed(0)
    tokenizer = _word_tokenizer()
    rng = np.random.default_rng(0)
    # About ten and a half words a caption, as in MS-COCO; 8 at least, seldom more than 20.
    lengths = np.clip(np.rint(rng.gamma(8, 0.44, size=(n, N_CAPTIONS)) + 7), 8, 40).astype(int)
    captions = [[" ".join(f"w{k}" for k in rng.integers(0, 1000, length)) for length in row] for row in lengths]
    return Setting(
        name="the paper's architectures and sizes, random weights",
        vae=AutoencoderTiny(),
        clip=CLIPModel(CLIPConfig()),
        processor=CLIPProcessor(image_processor=CLIPImageProcessor(), tokenizer=tokenizer),
        pictures=_pictures(n, 256),
        captions=captions,
    )


def embedded_setting(n: int) -> Setting | None:
    """The networks that ship with the package, on Scenes."""
    if not (ASSETS / "vae").is_dir() or not (ASSETS / "clip").is_dir():
        return None
    from sketchae.data import ScenesSource

    examples = ScenesSource(n_train=n, n_val=0, n_test=0).load("train", 0, n)
    clip = load_clip("embedded", device="cpu")
    return Setting(
        name="the embedded networks on Scenes",
        vae=load_vae("embedded", device="cpu").vae,
        clip=clip.model,
        processor=clip.processor,
        pictures=torch.stack([example.tensor for example in examples]),
        captions=[example.captions for example in examples],
    )


def matmul_gflops(dtype: torch.dtype, device: torch.device, rounds: int = 5) -> float:
    """The machine's rate in 10⁹ operations a second: the best of a few products of large square matrices."""
    size = 8192 if device.type != "cpu" else 2048 if dtype == fast_dtype(device) else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = np.inf
    for _ in range(rounds):
        _wait(device)
        begin = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best / 1e9


def as_markdown(setting: Setting, rows: list[dict], whole: dict) -> str:
    lines = [
        f"### {setting.name}\n",
        "| measure | images/s | against row 1 | gain | VAE ms | CLIP image ms | CLIP texts ms | of matmul peak |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        peak = f"{row['share_of_matmul_peak']:.0%}"
        parts = " | ".join(f"{row[f'{part}_ms']:.2f}" for part in PARTS)
        lines.append(
            f"| {row['measure']} | {row['images_per_s']:.1f} | {row['speedup']:.2f}x | "
            f"{row['gain_of_this_measure']:.2f}x | {parts} | {peak} |"
        )
    lines += ["", "| the whole way to disk, from | images/s | where the time goes |", "|---|---:|---|"]
    for name, content in whole.items():
        shares = ", ".join(f"{label} {share:.0%}" for label, share in content["time_shares"].items())
        lines.append(f"| {name} | {content['images_per_s']:.1f} | {shares} |")
    return "\n".join(lines) + "\n"


def _machine(device: torch.device) -> dict:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "n_cpus": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "fast_dtype": str(fast_dtype(device)),
        "torch": torch.__version__,
    }


def _wait(device: torch.device) -> None:
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        if device.type == "cuda":
            torch.cuda.synchronize()


def _pictures(n: int, size: int) -> torch.Tensor:
    """Smooth colourful pictures: noise would make JPEG files larger and slower to decode than photographs."""
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)


def _jpeg(picture: torch.Tensor) -> bytes:
    array = (picture * 255).byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).resize((640, 480)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: random weights need no true vocabulary, only captions of the true length."""
    start, end = CLIPConfig().text_config.bos_token_id, CLIPConfig().text_config.eos_token_id
    vocabulary = {f"w{k}": k for k in range(1000)} | {"<unk>": 1000, "<start>": start, "<end>": end}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", start), ("<end>", end)]
    )
    special = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=77, **special)


if __name__ == "__main__":
    main()
