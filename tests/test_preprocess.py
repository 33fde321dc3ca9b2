"""Preprocessing: what is written, what is skipped, and that nothing (a kill, a rival, a full disk) can spoil it."""

import dataclasses
import errno
import io
import json
import multiprocessing
import os
import sys
import threading
import time
import weakref
from contextlib import nullcontext
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny
import torch
from preprocess_fakes import SETTINGS, FakeClip, FakeCodec, FakeSource, data_bytes, worker
from two_processes import run_in_two

from sketchae import shards
from sketchae.data import Example
from sketchae.errors import BadInputError, NoSpaceError
from sketchae.latents import open_latents
from sketchae.preprocess import __main__ as command
from sketchae.preprocess import preprocess, preprocess_profile
from sketchae.preprocess.__main__ import main
from sketchae.preprocess.encoding import BATCHES_AT_WORK
from sketchae.profiles import load_profile

HERE = Path(__file__).parent


def run(out_dir, source=None, codec=None, clip=FakeClip, **changes):
    return preprocess(
        source or FakeSource(bad=[4, 5]),
        codec or FakeCodec(),
        clip() if callable(clip) else clip,
        out_dir,
        **{**SETTINGS, **changes},
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    out_dir = tmp_path_factory.mktemp("uninterrupted")
    run(out_dir)
    return out_dir


def start(out_dir: Path, moment: str) -> multiprocessing.Process:
    # A fork has everything imported already; where forks are not safe, a fresh interpreter does the same more slowly.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    process = context.Process(target=worker, args=(out_dir, moment))
    process.start()
    return process


def wait_for(condition, processes, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert all(process.is_alive() for process in processes), "a worker failed: its traceback is in the output"
        assert time.monotonic() < end, "the worker did not get there"
        time.sleep(0.02)


def test_the_folder_is_a_dataset_with_the_right_numbers(uninterrupted):
    dataset = datasets.load_from_disk(str(uninterrupted))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 28, "val": 7, "test": 4}
    assert str(dataset["train"].cache_files[0]["filename"]).startswith(str(uninterrupted))  # read in place
    row = dataset["train"].with_format("numpy")[6]  # positions 4 and 5 are skipped
    expected = FakeSource().entry("train", 8)
    assert (row["image_id"], row["index"]) == ("train-8", 8)
    np.testing.assert_allclose(row["z"], FakeCodec().encode(expected.tensor[None])[0], atol=2e-3)
    np.testing.assert_allclose(row["clip_img"], FakeClip().embed_images(expected.tensor[None])[0], atol=1e-3)
    assert list(row["captions"]) == expected.captions[:3]
    np.testing.assert_allclose(row["clip_txt"], FakeClip().embed_texts(expected.captions[:3]), atol=1e-3)
    assert dataset["train"].features["z"].dtype == dataset["train"].features["clip_txt"].dtype == "float16"


def test_skipped_examples_and_the_clip_are_reported(uninterrupted):
    summary = json.loads((uninterrupted / "preprocess.json").read_text())
    assert [entry["id"] for entry in summary["skipped"]] == ["train-4", "train-5", "val-4", "val-5", "test-4"]
    assert {entry["reason"] for entry in summary["skipped"]} == {"it cannot be read"}
    z = np.concatenate(
        [rows.with_format("numpy")["z"][:].ravel() for rows in datasets.load_from_disk(str(uninterrupted)).values()]
    )
    assert summary["clipped_share"] == pytest.approx((np.abs(z) >= 3).mean(), abs=0.01)
    assert 0 < summary["clipped_share"] < 1
    assert summary["timings"]["n_images"] == 39 and summary["timings"]["vae_s"] > 0


def test_an_example_without_caption_or_of_another_size_is_skipped(tmp_path):
    class Odd(FakeSource):
        def entry(self, split, i):
            entry = super().entry(split, i)
            if i == 1:
                entry.captions = ["", "  "]
            if i == 2:
                entry.tensor = torch.zeros(3, 8, 16)
            return entry

    report = run(tmp_path, Odd({"train": 4}))
    assert [(entry["index"], entry["reason"][:14]) for entry in report.skipped] == [
        (1, "it has no capt"),
        (2, "its tensor has"),
    ]
    assert report.n_rows == {"train": 2}
    assert "skipped: train train-1: it has no caption" in str(report)


def test_a_second_run_finds_all_done(uninterrupted):
    before = data_bytes(uninterrupted), (uninterrupted / "preprocess.json").read_bytes()
    assert run(uninterrupted).n_computed == 0
    assert (data_bytes(uninterrupted), (uninterrupted / "preprocess.json").read_bytes()) == before


def test_killed_in_the_middle_the_next_run_continues_to_the_same_bytes(tmp_path, uninterrupted):
    moments = ["encode", "rename"]
    for moment in moments:
        (tmp_path / moment).mkdir()
    processes = [start(tmp_path / moment, moment) for moment in moments]
    wait_for(lambda: all((tmp_path / moment / f"stalled-{moment}").exists() for moment in moments), processes)
    for process in processes:
        process.kill()  # SIGKILL: nothing of it runs any more
        process.join()
    for moment in moments:
        (tmp_path / moment / f"stalled-{moment}").unlink()
        assert len(list((tmp_path / moment / "train").glob("shard-*.arrow"))) == 2
        assert not (tmp_path / moment / "preprocess.json").exists()
        assert run(tmp_path / moment).n_computed == 39 - 14  # the two finished shards held 8 - 2 and 8 images
        assert data_bytes(tmp_path / moment) == data_bytes(uninterrupted)
        assert not list((tmp_path / moment).rglob("*.tmp-*"))


def test_two_runs_at_once_share_the_work_and_give_the_same_bytes(tmp_path, uninterrupted):
    processes = [start(tmp_path, "race") for _ in range(2)]
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2, processes)
    (tmp_path / "go").touch()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    computed = [int(path.read_text()) for path in tmp_path.glob("computed-*")]
    assert sum(computed) == 39 and min(computed) > 0, "a shard was made twice, or one process did all"
    for path in [*tmp_path.glob("ready-*"), *tmp_path.glob("computed-*"), tmp_path / "go"]:
        path.unlink()
    assert data_bytes(tmp_path) == data_bytes(uninterrupted)


@pytest.mark.parametrize("damage", ["cut", "garbage", "delete"])
def test_a_damaged_shard_is_made_anew(tmp_path, uninterrupted, damage):
    run(tmp_path)
    path = tmp_path / "train" / "shard-00001.arrow"
    content = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"not arrow at all")
    assert run(tmp_path).n_computed == 8
    assert data_bytes(tmp_path) == data_bytes(uninterrupted)


def test_a_process_makes_its_own_shards_first_then_those_of_one_that_never_came(tmp_path, uninterrupted):
    order = []

    class Watched(FakeSource):
        def load(self, split, start, stop):
            order.extend([start // 8] if split == "train" and start % 8 == 0 else [])
            return super().load(split, start, stop)

    assert run(tmp_path, Watched(bad=[4, 5]), process_index=1, n_processes=2).n_computed == 39
    assert order == [1, 3, 0, 2]
    assert run(tmp_path, process_index=0, n_processes=2).n_computed == 0
    assert data_bytes(tmp_path) == data_bytes(uninterrupted)


@pytest.mark.parametrize("n", [16, 30])
def test_a_split_of_unknown_length(tmp_path, n):
    run(tmp_path / "open", FakeSource({"train": n}, open_end=True), process_index=1, n_processes=3)
    run(tmp_path / "told", FakeSource({"train": n}))
    rows = [datasets.load_from_disk(str(tmp_path / kind))["train"][:] for kind in ("open", "told")]
    assert rows[0] == rows[1] and len(rows[0]["index"]) == n
    assert run(tmp_path / "open", FakeSource({"train": n}, open_end=True)).n_computed == 0


def test_another_configuration_is_refused(tmp_path):
    run(tmp_path, FakeSource({"train": 8}))
    with pytest.raises(BadInputError, match=r"source\.train\.n_examples was 8, now 9.*delete the folder"):
        run(tmp_path, FakeSource({"train": 9}))
    with pytest.raises(BadInputError, match="shard_size was 8, now 4"):
        run(tmp_path, FakeSource({"train": 8}), shard_size=4)
    other = FakeCodec()
    other.backbone_id = "another"
    with pytest.raises(BadInputError, match=r"vae\.id was fake-codec, now another"):
        run(tmp_path, FakeSource({"train": 8}), codec=other)


def test_embeddings_of_the_source_need_no_clip(tmp_path):
    source = FakeSource({"train": 9}, embeddings=True)
    run(tmp_path, source, clip=None)
    row = datasets.load_from_disk(str(tmp_path))["train"].with_format("numpy")[7]
    given = source.entry("train", 7)
    np.testing.assert_allclose(row["clip_img"], given.clip_img / np.linalg.norm(given.clip_img), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(row["clip_txt"], axis=1), 1, atol=2e-3)
    assert row["clip_txt"].shape == (3, 6)
    clip = FakeClip()
    run(tmp_path / "unused", source, clip=clip)
    assert clip.calls == []
    source.entry = lambda split, i, entry=source.entry: dataclasses.replace(
        entry(split, i), clip_img=np.ones(6 + i % 2)
    )
    with pytest.raises(BadInputError, match=r"Image train-1 .*7 numbers in clip_img where 6 are due"):
        run(tmp_path / "mixed", source, clip=None)
    with pytest.raises(BadInputError, match=r"No CLIP was given.*clip_img"):
        run(tmp_path / "without", FakeSource({"train": 9}), clip=None)


def test_captions_are_embedded_once_sorted_by_length(tmp_path):
    class Repeated(FakeSource):
        def entry(self, split, i):
            entry = super().entry(split, i)
            entry.captions = ["a b c d e", "a", "a b"][: 1 + i % 3]
            return entry

    clip = FakeClip()
    run(tmp_path, Repeated({"train": 8}), clip=clip)
    assert clip.calls == [["a", "a b", "a b c d e"]]


def test_only_a_few_batches_of_pictures_are_held(tmp_path):
    alive, peak = [0], [0]

    def died():
        alive[0] -= 1

    class Counting(FakeSource):
        def entry(self, split, i):
            entry = super().entry(split, i)
            entry.tensor = entry.tensor.clone()
            alive[0] += 1
            peak[0] = max(peak[0], alive[0])
            weakref.finalize(entry.tensor, died)
            return entry

    run(tmp_path, Counting({"train": 96}), shard_size=96, batch_size=4)
    # Those at work, the one read ahead, and one just being let go; 24 batches are read.
    assert peak[0] <= 4 * (BATCHES_AT_WORK + 2)


def test_reading_and_the_two_networks_overlap_each_in_a_thread_of_its_own(tmp_path):
    threads = {"read": set(), "vae": set(), "clip": set()}
    clip_was_there, read_on = threading.Event(), threading.Event()

    class Source(FakeSource):
        def load(self, split, start, stop):
            threads["read"].add(threading.get_ident())
            if start:
                read_on.set()
            return super().load(split, start, stop)

    class Codec(FakeCodec):
        def encode(self, images):  # cannot go on before the next batch is read and CLIP has seen this one
            threads["vae"].add(threading.get_ident())
            assert clip_was_there.wait(30) and read_on.wait(30)
            return super().encode(images)

    class Clip(FakeClip):
        def embed_images(self, images):
            threads["clip"].add(threading.get_ident())
            clip_was_there.set()
            return super().embed_images(images)

        def embed_texts(self, texts):
            threads["clip"].add(threading.get_ident())
            return super().embed_texts(texts)

    run(tmp_path, Source({"train": 8}), Codec(), Clip)
    assert [len(ids) for ids in threads.values()] == [1, 1, 1]
    assert len(set.union(*threads.values())) == 3


@pytest.mark.parametrize(("before", "inside"), [(1, 1), (2, 1), (4, 2)])
@pytest.mark.parametrize("fails", [False, True])
def test_each_network_takes_half_of_pytorchs_threads_and_the_setting_is_restored(tmp_path, before, inside, fails):
    seen = []

    class Codec(FakeCodec):
        def encode(self, images):
            seen.append(torch.get_num_threads())
            if fails:
                raise RuntimeError("broken network")
            return super().encode(images)

    threads = torch.get_num_threads()
    torch.set_num_threads(before)
    try:
        with pytest.raises(RuntimeError, match="broken network") if fails else nullcontext():
            run(tmp_path, FakeSource({"train": 8}), Codec())
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(threads)
    assert seen and set(seen) == {inside}


def test_full_disk_says_so_and_keeps_finished_shards(tmp_path, uninterrupted, monkeypatch):
    writes = []

    class FullDisk(io.FileIO):
        def write(self, data):
            writes.append(data)
            super().write(bytes(data)[: 100 if len(writes) == 3 else None])
            if len(writes) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards, "open", FullDisk, raising=False)
    with pytest.raises(NoSpaceError, match=r"No space left.*continues after the 2 shards that are finished"):
        run(tmp_path)
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["shard-00000.arrow", "shard-00001.arrow"]
    run(tmp_path)
    assert data_bytes(tmp_path) == data_bytes(uninterrupted)


class Marked(FakeSource):
    """The top left pixel of picture `marked` is exactly a quarter red."""

    def __init__(self, n, marked):
        super().__init__(n)
        self.marked = marked

    def entry(self, split, i):
        entry = super().entry(split, i)
        if i == self.marked:
            entry.tensor[0, 0, 0] = 0.25
        return entry


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_latents_that_are_not_finite_are_refused_by_name(tmp_path, value):
    class Poisoned(FakeCodec):
        def encode(self, images):
            z = super().encode(images)
            z[(images[:, 0, 0, 0] == 0.25)] = value
            return z

    with pytest.raises(BadInputError, match=r"Image train-10 \(index 10\) gives latents that are not finite"):
        run(tmp_path, Marked({"train": 16}, marked=10), Poisoned())
    assert (tmp_path / "train" / "shard-00000.arrow").exists()


def test_a_picture_that_the_codec_refuses_is_named(tmp_path):
    class Picky(FakeCodec):
        def encode(self, images):
            if (images[:, 0, 0, 0] == 0.25).any():
                raise BadInputError("too green.")
            return super().encode(images)

    with pytest.raises(BadInputError, match=r"Image train-2 \(index 2\) cannot be encoded: too green"):
        run(tmp_path, Marked({"train": 4}, marked=2), Picky())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 20}, "no multiple of the VAE's downsampling.*choose 16"),
        ({"shard_size": 0}, "must be at least 1"),
        ({"process_index": 2, "n_processes": 2}, "process_index=2 below n_processes"),
    ],
)
def test_settings_out_of_range(tmp_path, changes, message):
    with pytest.raises(BadInputError, match=message):
        run(tmp_path, **changes)


def test_a_split_with_nothing_usable(tmp_path):
    with pytest.raises(BadInputError, match=r"'train' has no usable image.*train-0, it cannot be read"):
        run(tmp_path, FakeSource({"train": 2}, bad=[0, 1]))


def test_a_source_that_ends_early(tmp_path):
    source = FakeSource({"train": 8})
    source.n_examples = lambda split: 12
    with pytest.raises(BadInputError, match="announced 12 examples for the split 'train' but ended at 8"):
        run(tmp_path, source)


def test_a_wrong_latent_shape_is_refused(tmp_path):
    codec = FakeCodec()
    codec.latent_channels = 3
    with pytest.raises(BadInputError, match=r"latents of shape \(4, 2, 2\) where \(3, 2, 2\)"):
        run(tmp_path, FakeSource({"train": 2}), codec)


def test_the_same_networks_from_another_folder_are_the_same(tmp_path):
    first, second = FakeCodec(), FakeCodec()
    first.source, second.source = "here", "there"
    run(tmp_path, FakeSource({"train": 8}), codec=first)
    assert run(tmp_path, FakeSource({"train": 8}), codec=second).n_computed == 0
    assert json.loads((tmp_path / "preprocess.json").read_text())["vae"]["source"] == "here"


def test_pil_pictures_are_cropped_for_the_vae_and_left_whole_for_clip(tmp_path):
    from PIL import Image

    seen = []

    class Pictures(FakeSource):
        def entry(self, split, i):
            return Example(Image.new("RGB", (40, 20), (255, 0, 0)), ["red"], f"{i}", i)

    class Clip(FakeClip):
        def embed_images(self, images):
            seen.extend(image.size for image in images)
            return torch.nn.functional.normalize(torch.ones(len(images), 6), dim=1)

    run(tmp_path, Pictures({"train": 3}), clip=Clip)
    assert seen == [(40, 20)] * 3


def test_accelerate_shares_the_shards_among_processes(tmp_path):
    """The terminal's way with real (tiny) networks: two processes give what one gives, to the last byte."""
    tiny.tiny_vae(tmp_path / "vae"), tiny.tiny_clip(tmp_path / "clip")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    lines = []
    for i in range(24):
        (pictures / f"{i}.jpg").write_bytes(tiny.jpeg(tiny.picture_array(i, 40, 48))[: 200 if i == 7 else None])
        lines.append({"file_name": f"{i}.jpg", "captions": list(tiny.CAPTIONS[i % 3 : i % 3 + 2])})
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    fields = {"source": "folder", "dataset": pictures, "vae": tmp_path / "vae", "clip": tmp_path / "clip"}
    numbers = "image_size = 32\nshard_size = 4\npreprocess_batch_size = 2\nn_steps = 1\n"
    (tmp_path / "own.toml").write_text(numbers + "".join(f'{key} = "{value}"\n' for key, value in fields.items()))

    ran = run_in_two("-m", "sketchae.preprocess", "--profile", tmp_path / "own.toml", timeout_s=900, SKETCHAE_ROOT=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("skipped: train 7.jpg") == 1, ran.stdout + ran.stderr  # one process reports

    profile = load_profile(str(tmp_path / "own.toml"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the two processes: another number would round differently
    report = preprocess_profile(profile, out_dir=tmp_path / "alone", progress=False)
    torch.set_num_threads(threads)
    assert report.n_computed == 23
    together = tmp_path / "build" / "own" / "latents"
    assert data_bytes(together) == data_bytes(tmp_path / "alone")
    made = sum(path.read_text().count("\n") for path in (together / ".timings").glob("*.jsonl"))
    assert made == len(list(together.rglob("shard-*.arrow"))), "a shard was made twice"
    assert len(list((together / ".timings").glob("*.jsonl"))) == 2, "there were not two processes at work"


@pytest.mark.parametrize("name", ["smoke", "coco"])
def test_a_profile_is_preprocessed_with_its_own_source_and_networks(tmp_path, name):
    """Scenes with tiny networks; the hub's schema with small networks that have the paper's files and settings."""
    if name == "smoke":
        fields = {"vae": tiny.tiny_vae(tmp_path / "vae"), "clip": tiny.tiny_clip(tmp_path / "clip")}
        fields |= {"n_train": 6, "n_val": 2, "n_test": 2}
    else:
        fields = {"vae": tiny.paper_vae(tmp_path / "vae"), "clip": tiny.paper_clip(tmp_path / "clip")}
        fields |= {"dataset": tiny.coco_dataset(tmp_path / "coco"), "image_size": 64, "n_train": 8}
    report = preprocess_profile(load_profile(name, **fields), out_dir=tmp_path / "latents", progress=False)
    if name == "smoke":
        assert report.n_rows == {"train": 6, "val": 2, "test": 2} and report.skipped == []
        assert open_latents(tmp_path / "latents", "val").latent_shape == (4, 16, 16)
    else:
        assert report.n_rows == {"train": 6, "val": 4, "test": 4}  # one of eight is corrupt, one has no caption
        assert [entry["index"] for entry in report.skipped] == [1, 2]
        assert set(open_latents(tmp_path / "latents", "train").n_captions) == {5}


def test_the_command_refuses_in_one_sentence(capsys):
    assert main(["--profile", "nothing"]) == 1
    assert "There is no profile 'nothing'" in capsys.readouterr().err


def test_the_command_sets_fields_of_the_profile_and_prints_the_report(tmp_path, capsys, monkeypatch):
    def stand_in(profile, *, out_dir, progress):
        return f"{profile.n_train} {profile.vae} {out_dir} {progress}"

    monkeypatch.setattr(command, "preprocess_profile", stand_in)
    assert main(["--profile", "smoke", "-p", "N_TRAIN", "7", "-p", "vae", "some/vae", "--out", "there", "--quiet"]) == 0
    assert capsys.readouterr().out == "7 some/vae there False\n"


def test_the_command_says_how_an_interrupted_run_continues(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "preprocess_profile", interrupted)
    assert main(["--profile", "smoke"]) == 130
    assert capsys.readouterr().err == "sketchae.preprocess: interrupted; the same command continues where it stopped\n"
