"""Sources of data: any picture becomes RGB, positions are stable, and what cannot be used is listed with its reason."""

import io
import json
import os
import struct
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import CAPTIONS, coco_dataset, jpeg, picture_array

from sketchae.atomic import atomic_path, atomic_write_text
from sketchae.data import Example, FolderSource, HubSource, ScenesSource, Skipped, Source, open_source
from sketchae.errors import BadInputError, MissingFileError, NoSpaceError
from sketchae.images import center_crop, open_image, to_pil, to_tensor


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ---- pictures


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr", "1", "P", "RGBA", "LA", "I;16"])
def test_every_kind_of_picture_becomes_rgb(mode):
    grey = np.full((40, 50), 128, dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(np.full((40, 50), 128 * 257, dtype=np.uint16))
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    opened = open_image(_encoded(image, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"))
    assert opened.mode == "RGB" and opened.size == (50, 40)
    if mode not in ("1", "P"):  # those two are dithered
        assert np.abs(np.asarray(opened).astype(int) - 128).max() <= 8  # CMYK and JPEG round


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    half = Image.new("RGBA", (20, 20), (0, 0, 0, 128))
    assert np.asarray(open_image(_encoded(clear, "PNG"))).min() == 255
    assert abs(int(np.asarray(open_image(_encoded(half, "PNG")))[0, 0, 0]) - 127) <= 1
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([200, 0, 0] + [0] * 765)
    assert np.asarray(open_image(_encoded(palette, "PNG", transparency=0))).min() == 255


def test_the_orientation_that_a_camera_noted_is_applied():
    array = np.zeros((30, 60, 3), dtype=np.uint8)
    array[:, :30] = 255  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = np.asarray(open_image(_encoded(Image.fromarray(array), "PNG", exif=exif)))
    assert turned.shape == (60, 30, 3) and turned[0].min() == 255 and turned[-1].max() == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture at all", "not a picture in a format that Pillow knows"),
        (jpeg(picture_array(0))[:400], "cannot be read"),
        (_encoded(Image.fromarray(picture_array(0)), "PNG")[:900], "cannot be read"),
        (_encoded(Image.new("RGB", (15, 400)), "PNG"), "15 x 400 pixels: give a picture of at least 16 x 16"),
        (b"", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", 40000, 40000), "read|large"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused_by_name(content, message):
    with pytest.raises(BadInputError, match=message) as refusal:
        open_image(content, name="broken.png")
    assert "broken.png" in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_missing_picture_is_refused_by_name(tmp_path):
    with pytest.raises(MissingFileError, match=r"There is no picture .*gone\.jpg"):
        open_image(tmp_path / "gone.jpg")


@settings(max_examples=40, deadline=None)
@given(width=st.integers(16, 300), height=st.integers(16, 300), size=st.integers(16, 96))
def test_a_centre_crop_is_square_and_central(width, height, size):
    # A picture with a bright cross through its middle: the crop's middle must be bright.
    array = np.zeros((height, width, 3), dtype=np.uint8)
    array[(height - 1) // 2 : height // 2 + 1] = 255
    array[:, (width - 1) // 2 : width // 2 + 1] = 255
    crop = center_crop(Image.fromarray(array), size)
    assert crop.size == (size, size)
    middle = np.asarray(crop)[(size - 1) // 2 : size // 2 + 1, (size - 1) // 2 : size // 2 + 1]
    assert middle.max() == np.asarray(crop).max()


def test_tensors_and_pictures_are_inverse():
    picture = Image.fromarray(picture_array(2))
    tensor = to_tensor(picture)
    assert tensor.shape == (3, 64, 80) and tensor.dtype == torch.float32 and tensor.max() <= 1
    assert np.array_equal(np.asarray(to_pil(tensor)), np.asarray(picture))
    with pytest.raises(BadInputError, match="one float image"):
        to_pil(tensor[None])


# ---- scenes


def test_scenes_do_not_depend_on_how_they_are_cut_into_shards():
    source = ScenesSource(n_train=8, n_val=4, n_test=4)
    assert isinstance(source, Source) and source.splits == ["train", "val", "test"] and not source.has_embeddings
    whole = source.load("train", 0, 8)
    parts = source.load("train", 0, 3) + source.load("train", 3, 10)
    assert [e.id for e in parts] == [e.id for e in whole] and len({e.index for e in whole}) == 8
    for a, b in zip(whole, parts, strict=True):
        assert a.captions == b.captions and 1 <= len(a.captions) <= 5
        torch.testing.assert_close(a.tensor, b.tensor, atol=1 / 255, rtol=0)
    assert whole[0].tensor.shape == (3, 128, 128) and whole[0].image is None


def test_scenes_have_a_seed_of_their_own_for_the_test():
    base, fresh = (ScenesSource(4, 4, 4, test_seed=seed) for seed in (0, 1))
    assert base.fingerprint("test") != fresh.fingerprint("test")
    assert base.fingerprint("train") == fresh.fingerprint("train")
    assert not torch.equal(base.load("test", 0, 1)[0].tensor, fresh.load("test", 0, 1)[0].tensor)
    with pytest.raises(BadInputError, match="choose at most that"):
        ScenesSource(10**12, 4, 4)
    with pytest.raises(BadInputError, match="no split 'validation'"):
        base.load("validation", 0, 1)


# ---- datasets in the schema of the hub


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return coco_dataset(tmp_path_factory.mktemp("coco"))


def test_parquet_rows_are_read_by_position_and_unusable_ones_are_listed(coco):
    source = HubSource(coco)
    assert source.splits == ["train", "val", "test"] and source.revision is None
    assert [source.n_examples(split) for split in source.splits] == [12, 4, 4]
    rows = source.load("train", 0, 12)
    assert [type(row) for row in rows[:4]] == [Example, Skipped, Skipped, Example]
    assert "cannot be read" in rows[1].reason and rows[2].reason == "it has no caption"
    assert rows[1].id == "COCO_train2014_000000000001.jpg" and rows[1].index == 1
    assert rows[3].image.mode == "RGB" and rows[3].image.size == (80, 64)
    assert all(len(row.captions) == 5 for row in rows if isinstance(row, Example))
    # Any order of reading, across files (after 6) and row groups (of 3), gives the same rows.
    for start, stop in ((5, 8), (11, 30), (0, 1), (2, 9), (12, 15)):
        again = source.load("train", start, stop)
        assert [row.id for row in again] == [row.id for row in rows[start:stop]]
        assert [row.index for row in again] == list(range(start, min(stop, 12)))


def test_limits_cut_a_split_and_enter_its_fingerprint(coco):
    all_of_it, limited = HubSource(coco), HubSource(coco, limits={"train": 5, "val": None}, n_captions=2)
    assert limited.n_examples("train") == 5 and limited.n_examples("val") == 4
    assert len(limited.load("train", 3, 9)) == 2 and len(limited.load("train", 3, 9)[0].captions) == 2
    assert limited.fingerprint("train") != all_of_it.fingerprint("train")
    assert HubSource(coco).fingerprint("train") == all_of_it.fingerprint("train")
    with pytest.raises(BadInputError, match=r"no split 'dev': this source has train, val, test"):
        limited.load("dev", 0, 1)
    with pytest.raises(BadInputError, match="no range"):
        limited.load("train", 3, 2)


def test_other_formats_are_streamed(tmp_path):
    data = tmp_path / "data"
    for split in ("train", "validation", "test"):
        (data / split).mkdir(parents=True)
        lines = []
        for i in range(5):
            (data / split / f"{i}.jpg").write_bytes(jpeg(picture_array(i)) if i != 3 else b"broken")
            lines.append(json.dumps({"file_name": f"{i}.jpg", "text": CAPTIONS[i]}))
        (data / split / "metadata.jsonl").write_text("\n".join(lines))
    source = HubSource(data, limits={"val": 4})
    assert source.splits == ["train", "val", "test"]
    rows = source.load("val", 0, 2) + source.load("val", 2, 9)
    assert len(rows) == 4 and isinstance(rows[3], Skipped)
    assert [row.captions for row in rows[:3]] == [[caption] for caption in CAPTIONS[:3]]
    assert [row.captions for row in source.load("val", 1, 3)] == [[CAPTIONS[1]], [CAPTIONS[2]]]


def test_a_dataset_without_the_columns_or_the_splits_is_refused(tmp_path):
    (tmp_path / "columns").mkdir()
    pq.write_table(pa.table({"picture": [b"x"], "en": ["a"]}), tmp_path / "columns" / "train-0.parquet")
    with pytest.raises(BadInputError, match="has the columns picture, en: 'image' and captions"):
        HubSource(tmp_path / "columns")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="holds no data files"):
        HubSource(tmp_path / "empty")
    half = coco_dataset(tmp_path / "half", bad=False) / "data" / "train-00001-of-00002.parquet"
    half.write_bytes(half.read_bytes()[:500])
    with pytest.raises(BadInputError, match=r"train-00001-of-00002\.parquet is not a complete parquet file"):
        HubSource(tmp_path / "half").n_examples("train")


def test_embeddings_of_the_users_own_come_with_a_dataset(tmp_path):
    rows = [
        {
            "image": {"bytes": jpeg(picture_array(i)), "path": None},
            "en": ["a", " ", "c"],
            "clip_img": [1.0, 0.0],
            "clip_txt": [[0.0, 1.0], [9.0, 9.0], [1.0, 0.0]],
        }
        for i in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-0.parquet")
    source = HubSource(tmp_path)
    assert source.has_embeddings
    example = source.load("train", 0, 1)[0]
    assert example.captions == ["a", "c"] and example.id == "train-0"
    assert example.clip_img.dtype == np.float32 and example.clip_img.tolist() == [1, 0]
    assert example.clip_txt.tolist() == [[0, 1], [1, 0]]  # the row of the empty caption left with it


# ---- folders


def _folder(path, rows, pictures=()):
    path.mkdir(exist_ok=True)
    for number, name in enumerate(pictures):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(jpeg(picture_array(number)))
    (path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("column", ["en", "captions", "text", "caption"])
@pytest.mark.parametrize("as_list", [True, False])
def test_a_folder_with_captions_as_texts_or_lists(tmp_path, column, as_list):
    names = [f"pictures/{i}.jpg" for i in range(10)]
    rows = [{"file_name": n, column: [f"caption of {n}", ""] if as_list else f"caption of {n}"} for n in names]
    source = FolderSource(_folder(tmp_path / "own", rows, names))
    assert [source.n_examples(split) for split in source.splits] == [8, 1, 1]
    seen = [example for split in source.splits for example in source.load(split, 0, 100)]
    assert sorted(example.id for example in seen) == names
    assert all(example.captions == [f"caption of {example.id}"] for example in seen)
    again = FolderSource(tmp_path / "own")
    assert [e.id for e in again.load("train", 0, 9)] == [e.id for e in source.load("train", 0, 9)]
    assert again.fingerprint("train") == source.fingerprint("train") != source.fingerprint("val")


def test_a_folder_with_named_splits_and_pictures_that_cannot_be_used(tmp_path):
    rows = [
        {"file_name": "a.jpg", "captions": ["a"], "split": "train"},
        {"file_name": "gone.jpg", "captions": ["b"], "split": "train"},
        {"file_name": "c.jpg", "captions": ["", "  "], "split": "train"},
        {"file_name": "d.jpg", "captions": ["d"], "split": "validation"},
        {"file_name": "e.jpg", "captions": [1], "split": "test"},
    ]
    folder = _folder(tmp_path, rows, ["a.jpg", "c.jpg", "d.jpg", "e.jpg"])
    source = FolderSource(folder, limits={"train": None, "test": 1})
    train = source.load("train", 0, 3)
    assert train[0].captions == ["a"] and "There is no picture gone.jpg" in train[1].reason
    assert train[2].reason == "it has no caption" and source.load("val", 0, 1)[0].id == "d.jpg"
    assert "neither a text nor a list of texts" in source.load("test", 0, 1)[0].reason


def test_a_folder_with_one_folder_a_split(tmp_path):
    for split in ("train", "validation", "test"):
        _folder(tmp_path / split, [{"file_name": f"{split}.jpg", "text": split}], [f"{split}.jpg"])
    source = FolderSource(tmp_path)
    assert source.splits == ["train", "val", "test"]
    assert source.load("val", 0, 1)[0].id == "validation/validation.jpg"


def test_a_folder_with_embeddings(tmp_path):
    rows = [{"file_name": "a.jpg", "clip_img": [1, 0], "clip_txt": [[1, 0], [0, 1]], "split": "train"}]
    source = FolderSource(_folder(tmp_path, rows, ["a.jpg"]))
    example = source.load("train", 0, 1)[0]
    assert source.has_embeddings and example.captions == [] and example.clip_txt.shape == (2, 2)
    rows[0] |= {"text": "one caption"}
    assert "1 captions but 2 rows" in FolderSource(_folder(tmp_path, rows)).load("train", 0, 1)[0].reason
    rows[0] |= {"text": "x", "clip_txt": [float("nan"), 1.0]}
    assert "NaN" in FolderSource(_folder(tmp_path, rows)).load("train", 0, 1)[0].reason


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ['{"file_name": "a.jpg", "text": "a"}', '{"file_name": "b.jpg", "text": ["b"]}'],
            r"mixes .* \(lines 1 and 2\)",
        ),
        (['{"file_name": "a.jpg", "text": "a"}', "{"], "line 2 is not JSON"),
        (['{"text": "a"}'], "line 1 has no file_name"),
        (['{"file_name": "../a.jpg", "text": "a"}'], "lies outside the folder"),
        (['{"file_name": "a.jpg", "text": "a", "split": "dev2"}'], "use train, val or test"),
        (['{"file_name": "a.jpg"}'], "has no captions: add a column"),
        (['{"file_name": "a.jpg", "text": "a", "split": "val"}', '{"file_name": "b.jpg", "text": "b"}'], "1 of its 2"),
        ([], "is empty"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused_with_its_line(tmp_path, lines, message):
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(BadInputError, match=message):
        FolderSource(tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="There is no folder"):
        FolderSource(tmp_path / "gone")
    with pytest.raises(MissingFileError, match=r"has no metadata\.jsonl: write one"):
        FolderSource(tmp_path)


def test_real_photographs(tmp_path):
    data = pytest.importorskip("skimage.data")
    pictures = {"astronaut.png": data.astronaut(), "coffee.png": data.coffee(), "camera.png": data.camera()}
    for name, array in pictures.items():
        Image.fromarray(array).save(tmp_path / name)
    _folder(tmp_path, [{"file_name": name, "text": name[:-4]} for name in pictures])
    source = FolderSource(tmp_path)
    examples = [source.load(split, 0, 1)[0] for split in source.splits]
    assert sorted(example.captions[0] for example in examples) == ["astronaut", "camera", "coffee"]
    assert all(to_tensor(center_crop(example.image, 64)).shape == (3, 64, 64) for example in examples)


# ---- profiles and files


def test_a_profile_opens_its_source(coco, tmp_path):
    profile = SimpleNamespace(
        source="scenes", dataset=None, dataset_revision=None, n_train=4, n_val=2, n_test=2, n_captions=3, test_seed=7,
        dependence=0.5,
    )  # fmt: skip
    scenes = open_source(profile)
    assert isinstance(scenes, ScenesSource) and "seed=7" in scenes.fingerprint("test")
    assert "dependence=0.5/captions=3" in scenes.fingerprint("train")
    hub = open_source(SimpleNamespace(**vars(profile) | {"source": "hub", "dataset": str(coco)}))
    assert isinstance(hub, HubSource) and hub.n_examples("train") == 4
    with pytest.raises(BadInputError, match="needs a dataset"):
        open_source(SimpleNamespace(**vars(profile) | {"source": "folder"}))
    with pytest.raises(BadInputError, match="choose scenes, hub or folder"):
        open_source(SimpleNamespace(**vars(profile) | {"source": "web"}))


def test_files_are_complete_or_absent(tmp_path):
    path = tmp_path / "deep" / "values.json"
    atomic_write_text(path, "one\n")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    with pytest.raises(NoSpaceError, match="No space left"), atomic_path(path):
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"one\n" and os.listdir(path.parent) == ["values.json"]
    with atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("x")
    assert (tmp_path / "folder" / "file").read_text() == "x"
