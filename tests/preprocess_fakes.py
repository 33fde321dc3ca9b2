"""A source, a codec and a CLIP that cost nothing, and a preprocessing that can be killed at a chosen moment."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import torch

from sketchae.data import Example, Skipped
from sketchae.preprocess import preprocess

SETTINGS = {"image_size": 16, "shard_size": 8, "batch_size": 3, "n_captions": 3, "progress": False}


class FakeSource:
    """`n` noise pictures a split, one to four captions each; those in `bad` are unreadable. `open_end`: no length."""

    has_embeddings = False

    def __init__(self, n: dict[str, int] | None = None, bad=(), open_end: bool = False, embeddings: bool = False):
        self.n = n or {"train": 30, "val": 9, "test": 5}
        self.bad, self.open_end, self.has_embeddings = set(bad), open_end, embeddings

    @property
    def splits(self):
        return list(self.n)

    def n_examples(self, split):
        return None if self.open_end else self.n[split]

    def fingerprint(self, split):
        return f"fake/{split}/{self.n[split]}"

    def load(self, split, start, stop):
        return [self.entry(split, i) for i in range(start, min(stop, self.n[split]))]

    def entry(self, split, i):
        if i in self.bad:
            return Skipped(f"{split}-{i}", i, "it cannot be read")
        rng = np.random.default_rng([i, len(split)])
        n = 1 + i % 4
        return Example(
            image=None,
            tensor=torch.from_numpy(rng.random((3, 16, 16), dtype=np.float32)),
            captions=[f"{split} picture {i} {'very ' * j}" for j in range(n)],
            id=f"{split}-{i}",
            index=i,
            clip_img=rng.normal(size=6).astype(np.float32) if self.has_embeddings else None,
            clip_txt=rng.normal(size=(n, 6)).astype(np.float32) if self.has_embeddings else None,
        )


class FakeCodec:
    """Average pooling by 8 to four channels, clipped to [-3, 3]."""

    backbone_id, latent_channels, downsampling, latent_clip = "fake-codec", 4, 8, 3.0

    def encode(self, images):
        z = torch.nn.functional.avg_pool2d(images, 8)
        return (torch.cat([z, z.mean(1, keepdim=True)], 1) * 40 - 18).clamp(-3, 3)

    def decode(self, z):
        return z


class FakeClip:
    """Embeddings from the mean colour and from a hash of the text; `calls` keeps what was asked."""

    backbone_id, embed_dim = "fake-clip", 6

    def __init__(self):
        self.calls: list[list[str]] = []

    def embed_images(self, images):
        colours = images.flatten(2).mean(2)
        return torch.nn.functional.normalize(torch.cat([colours, colours**2], 1), dim=1)

    def embed_texts(self, texts):
        self.calls.append(list(texts))
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in texts]
        rows = [np.random.default_rng(seed).normal(size=6) for seed in seeds]
        return torch.nn.functional.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=1)


def data_bytes(out_dir: Path) -> dict[str, bytes]:
    """Every file that holds data, by name: all but the times."""
    files = [path for path in sorted(out_dir.rglob("*")) if path.is_file() and ".timings" not in path.parts]
    files = [path for path in files if path.name != "preprocess.json" and ".locks" not in path.parts]
    return {str(path.relative_to(out_dir)): path.read_bytes() for path in files}


def worker(out_dir: Path, moment: str) -> None:
    """A process's work. "encode" and "rename" stop for ever in the third shard; "race" waits for a starting shot."""
    torch.set_num_threads(1)
    codec = FakeCodec()
    counted = {"encode": 0, "rename": 0}

    def stall(name, limit):
        counted[name] += 1
        if counted[name] == limit:
            Path(out_dir, f"stalled-{name}").touch()
            time.sleep(600)

    if moment == "encode":
        encode = codec.encode
        codec.encode = lambda images: (stall("encode", 8), encode(images))[1]
    elif moment == "rename":
        replace = os.replace
        os.replace = lambda a, b: (stall("rename", 3) if str(b).endswith(".arrow") else None, replace(a, b))[1]
    elif moment == "race":
        encode = codec.encode
        codec.encode = lambda images: (time.sleep(0.03), encode(images))[1]
        Path(out_dir, f"ready-{os.getpid()}").touch()
        while not Path(out_dir, "go").exists():
            time.sleep(0.01)
    report = preprocess(FakeSource(bad=[4, 5]), codec, FakeClip(), out_dir, **SETTINGS)
    Path(out_dir, f"computed-{os.getpid()}").write_text(str(report.n_computed))
