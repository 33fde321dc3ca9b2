"""Reading preprocessed latents back: exact rows, no copies, captions drawn evenly, clear words for half a dataset."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from preprocess_fakes import SETTINGS, FakeClip, FakeCodec, FakeSource

from sketchae.errors import BadInputError, MissingFileError
from sketchae.latents import LatentsTable, open_latents
from sketchae.preprocess import preprocess


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("latents")
    preprocess(FakeSource({"train": 60, "val": 5}, bad=[3]), FakeCodec(), FakeClip(), out_dir, **SETTINGS)
    return out_dir


@pytest.fixture
def table(folder) -> LatentsTable:
    return open_latents(folder, "train")


def test_rows_are_those_of_the_source(table):
    assert len(table) == 59 and table.latent_shape == (4, 2, 2) and table.embed_dim == 6
    rows = np.array([58, 0, 17, 17, 3])
    z, clip_img = table.gather(rows)
    pictures = torch.stack([FakeSource().entry("train", int(table.indices[row])).tensor for row in rows])
    assert z.dtype == clip_img.dtype == torch.float32
    torch.testing.assert_close(z, FakeCodec().encode(pictures), atol=2e-3, rtol=0)
    torch.testing.assert_close(clip_img, FakeClip().embed_images(pictures), atol=1e-3, rtol=0)
    assert table.image_id(3) == "train-4" and table.indices[3] == 4
    assert table.captions(-1) == FakeSource().entry("train", 59).captions[:3]
    assert table.configuration["vae"]["id"] == "fake-codec"
    assert repr(table) == "LatentsTable(train: 59 x (4, 2, 2), embed_dim=6)"


def test_they_are_read_without_the_datasets_library(folder, table):
    """It is slow to import, and it is what makes Arrow know the type of `z`."""
    script = f"""if True:
        import sys
        from sketchae.latents import open_latents
        table = open_latents({str(folder)!r}, "train")
        assert "datasets" not in sys.modules
        print(table.latent_shape, float(table.gather([17])[0].sum()), len(table.clip_txt))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == f"{table.latent_shape} {float(table.gather([17])[0].sum())} {len(table.clip_txt)}", done.stderr


def test_gather_takes_tensors_lists_and_nothing(table):
    rows = [5, 2]
    expected = table.gather(np.array(rows))[0]
    for same in (rows, torch.tensor(rows)):
        torch.testing.assert_close(table.gather(same)[0], expected)
    assert table.gather(np.array([], dtype=int))[0].shape == (0, 4, 2, 2)


def test_z_indexes_like_an_array(table):
    whole = np.asarray(table.z)
    assert whole.shape == table.z.shape == (59, 4, 2, 2) and table.z.dtype == np.float16
    for rows in (7, -1, slice(3, 50, 9), [40, 1], np.arange(59) % 2 == 0):
        np.testing.assert_array_equal(table.z[rows], whole[rows])
    with pytest.raises(IndexError, match="Row 59 asked for"):
        table.z[[0, 59]]


def test_the_arrays_are_views_of_the_mapped_files(table):
    for array in (*table.z.arrays, *table.clip_img.arrays, *table.clip_txt.arrays):
        assert not array.flags.owndata and not array.flags.writeable
    with open("/proc/self/maps") as maps:
        assert str(table.out_dir / "train") in maps.read()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_open_shards_hold_no_file_descriptors(folder):
    before = len(os.listdir("/proc/self/fd"))
    tables = [open_latents(folder, "train") for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) <= before + 1, "a thousand shards would exhaust the process's descriptors"
    assert tables


def test_captions_are_drawn_evenly_from_each_row(table):
    row = int(np.flatnonzero(table.n_captions == 3)[0])
    expected = FakeClip().embed_texts(table.captions(row))
    for generator in (torch.Generator().manual_seed(0), np.random.default_rng(0)):
        drawn = table.gather_captions(np.full(3000, row), generator)
        which = torch.cdist(drawn, expected).argmin(1)
        torch.testing.assert_close(drawn, expected[which], atol=1e-3, rtol=0)
        assert (torch.bincount(which, minlength=3) - 1000).abs().max() < 120  # five standard deviations


def test_the_draw_repeats_with_its_generator_and_never_leaves_the_row(table):
    rows = np.arange(len(table))
    first, second = (table.gather_captions(rows, torch.Generator().manual_seed(5)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    for row, embedding in zip(rows, first, strict=True):
        own = FakeClip().embed_texts(table.captions(int(row)))
        assert (own - embedding).norm(dim=1).min() < 1e-2


def test_a_caption_can_be_named(table):
    rows = np.flatnonzero(table.n_captions == 3)[:4]
    for which in (1, np.array([0, 2, 1, 0])):
        expected = [table.captions(int(row))[k] for row, k in zip(rows, np.broadcast_to(which, 4), strict=True)]
        torch.testing.assert_close(
            table.gather_captions(rows, which=which), FakeClip().embed_texts(expected), atol=1e-3, rtol=0
        )
    with pytest.raises(BadInputError, match="which=2 is out of range: the rows have 1 to 3"):
        table.gather_captions(np.arange(10), which=2)
    with pytest.raises(BadInputError, match="either generator"):
        table.gather_captions(rows)


def test_a_table_travels_to_a_worker_by_its_folder(table):
    assert len(pickle.dumps(table)) < 1000
    torch.testing.assert_close(pickle.loads(pickle.dumps(table)).gather([1])[0], table.gather([1])[0])


def test_missing_and_half_written_datasets(folder, tmp_path):
    with pytest.raises(MissingFileError, match=r"No preprocessed latents.*01_preprocess"):
        open_latents(tmp_path / "nothing", "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(MissingFileError, match=r"not finished.*continues where it stopped"):
        open_latents(tmp_path, "train")
    with pytest.raises(BadInputError, match="no split 'test', only train, val"):
        open_latents(folder, "test")


@pytest.mark.parametrize("damage", ["cut", "delete"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    preprocess(FakeSource({"train": 16}), FakeCodec(), FakeClip(), tmp_path, **SETTINGS)
    path = tmp_path / "train" / "shard-00001.arrow"
    path.unlink() if damage == "delete" else path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(MissingFileError, match=r"shard-00001.arrow is missing or damaged.*just that shard"):
        open_latents(tmp_path, "train")


def test_latents_spoilt_on_disk_are_refused_by_name(tmp_path):
    preprocess(FakeSource({"train": 8}), FakeCodec(), FakeClip(), tmp_path, **SETTINGS)
    path = tmp_path / "train" / "shard-00000.arrow"
    z = np.ascontiguousarray(open_latents(tmp_path, "train").z[5]).tobytes()
    content = path.read_bytes()
    assert content.count(z) == 1
    path.write_bytes(content.replace(z, np.full(16, np.nan, np.float16).tobytes()))
    table = open_latents(tmp_path, "train")
    table.gather([0, 1, 2, 3, 4, 6, 7])
    with pytest.raises(BadInputError, match=r"row 5 \(image train-5\).*not finite"):
        table.gather([4, 5])
