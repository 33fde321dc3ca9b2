"""`sketchae fit` from pictures on disk to a basis on disk."""

import json
import re

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from tiny import picture_array, tiny_vae

from sketchae import OrthogonalBasis, load_vae
from sketchae.backbones import fast_dtype
from sketchae.basis import augmentation_split, plane_angle
from sketchae.cli import main
from sketchae.data import read_picture
from sketchae.data.picture_folder import PictureFolder
from sketchae.errors import BadInputError, MissingFileError
from sketchae.figures import before_after
from sketchae.fit import PICTURE, RECORD, fit, fit_basis, summary
from sketchae.fit_proxies import measure_proxies, tell
from sketchae.images import to_pil
from sketchae.scenes import captions as scene_captions
from sketchae.scenes import render, split_scenes


def save_pictures(folder, n: int = 5, size: int = 32):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(picture_array(i, size, size + 8)).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory):
    """Six scenes at the size they are drawn in, one of them in a folder below, beside a corrupt and a small picture."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "more").mkdir()
    for i, image in enumerate(render(split_scenes("val", 6)).images):
        to_pil(image).save(folder / ("more" if i == 5 else ".") / f"scene_{i}.png")
    (folder / "broken.png").write_bytes((folder / "scene_0.png").read_bytes()[:300])
    Image.fromarray(picture_array(0, 40, 40)).save(folder / "small.jpg")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes((folder / "scene_0.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def fitted(scenes_folder, tmp_path_factory):
    return fit("embedded", scenes_folder, image_size=64, out=tmp_path_factory.mktemp("out") / "q", progress=False)


def test_the_basis_is_that_of_the_pictures_and_round_trips(fitted, scenes_folder):
    basis, vae = OrthogonalBasis.load(fitted.folder), load_vae("embedded")
    used = [*(f"scene_{i}.png" for i in range(5)), "more/scene_5.png"]
    images = torch.stack([read_picture(scenes_folder / name, 64) for name in sorted(used)])
    split = augmentation_split(load_vae("embedded", dtype=fast_dtype()), images)
    assert torch.allclose(basis.Q, split.basis().Q, atol=1e-4)
    assert basis.n_semantic == split.n_semantic == fitted.basis.n_semantic
    assert (basis.vae, basis.vae_id) == ("embedded", vae.id)
    basis.check_vae(vae)
    z = vae.encode(images)
    assert torch.allclose(basis.from_semantic_style(*basis.to_semantic_style(z)), z, atol=1e-5)
    card = (fitted.folder / "README.md").read_text()
    assert "colour_mix, inversion, offset" in card and "flip, shift" in card and "| n_pictures | 6 |" in card


def test_the_quickest_number_format_finds_the_same_plane(fitted, scenes_folder, monkeypatch):
    angles = {}
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr("sketchae.fit.fast_dtype", lambda dtype=dtype: dtype)
        found = fit("embedded", scenes_folder, image_size=64, out=fitted.folder.parent / str(dtype), progress=False)
        assert found.record["dtype"] == str(dtype).removeprefix("torch.") and found.basis.n_semantic == fitted.basis.n_semantic
        angles[dtype] = float(plane_angle(found.basis.Q, fitted.basis.Q, fitted.basis.n_semantic).max())
    assert max(angles.values()) < 3, angles  # degrees; bfloat16 has 8 bits, and there are six pictures


def test_the_record_says_how_it_was_made(fitted):
    record = json.loads((fitted.folder / RECORD).read_text())
    assert record == fitted.record
    assert record["pictures_used"] == ["more/scene_5.png", *(f"scene_{i}.png" for i in range(5))]
    assert set(record["pictures_skipped"]) == {"broken.png", "small.jpg"}
    assert "cannot be read" in record["pictures_skipped"]["broken.png"]
    assert "40 x 40" in record["pictures_skipped"]["small.jpg"]
    assert record["n_pictures"] == 6 and record["channels"] == 4 and record["method"] == "augmentation"
    assert np.isclose(sum(record["eigenvalues"]), 0, atol=1e-9) and np.isclose(np.trace(record["S"]), 1)
    shown = [name for pair in record["pictures_shown"] for name in pair]
    assert len(shown) == len(set(shown)) == 6
    with Image.open(fitted.folder / PICTURE) as picture:
        assert picture.format == "PNG" and picture.width > 1000
    assert not list(fitted.folder.parent.glob(".*"))  # nothing temporary is left


def test_proxies_stand_beside_those_of_random_splits(fitted, scenes_folder):
    proxies = fitted.record["proxies"]
    assert proxies["n_pairs"] == 3 and proxies["n_random"] == 3
    measured = {name: value for name, value in proxies.items() if isinstance(value, dict)}
    assert {*measured, *proxies["left_out"]} >= {"colour", "edges"} and not any(name.startswith("clip") for name in measured)
    assert all(low <= value["found"] <= high for value in measured.values() for low, high in [value["ci95"]])
    assert tell(proxies) in summary(fitted) and "proxies over 3 pairs" in (fitted.folder / "README.md").read_text()
    names = fitted.record["pictures_used"]
    pairs, read = [names[:2], names[2:4], names[4:]], lambda name: read_picture(scenes_folder / name, 64)
    again = measure_proxies(load_vae("embedded", dtype=fast_dtype()), fitted.basis, pairs, read)
    unlike = measure_proxies(load_vae("embedded", dtype=fast_dtype()), exchanged(fitted.basis), [pair[::-1] for pair in pairs], read)
    for name, value in again.items():  # a's semantic block with b's style block is the swap of the exchanged basis for (b, a)
        if isinstance(value, dict):
            assert unlike[name]["found"] == pytest.approx(-value["found"], abs=0.05)


def test_where_proxies_tell_nothing_it_is_said():
    basis = OrthogonalBasis.from_matrix(torch.eye(4), 2)
    flat = measure_proxies(load_vae("embedded"), basis, [["a", "b"]], lambda name: torch.full((3, 32, 32), 0.5))
    assert flat["left_out"] == ["colour", "edges"] and "cannot tell these pictures" in tell(flat)


def exchanged(basis: OrthogonalBasis) -> OrthogonalBasis:
    """The blocks in the other order."""
    return OrthogonalBasis.from_matrix(basis.Q.roll(-basis.n_semantic, 0), basis.channels - basis.n_semantic)


def test_the_printed_lines_run(fitted, tmp_path, monkeypatch):
    text = summary(fitted)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(text[text.index("from sketchae import") :], names)
    assert names["basis"].n_semantic == fitted.basis.n_semantic
    with Image.open("content_of_a_style_of_b.png") as picture:
        assert picture.size == (64, 64)


def test_from_the_command_line_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_vae("my_vae", channels=16)
    save_pictures(tmp_path / "pictures")
    arguments = ["fit", "--vae", "my_vae", "--images", "pictures", "--image-size", "32", "--limit", "4"]
    assert main([*arguments, "--n-semantic", "5"]) == 0
    printed = capsys.readouterr().out
    assert "16 channels, 5 of them semantic, from 4 pictures" in printed and "build/fit/my_vae" in printed
    assert OrthogonalBasis.load("build/fit/my_vae").n_semantic == 5
    (tmp_path / "build/fit/my_vae/mine.txt").write_text("kept")
    assert main([*arguments, "--n-semantic", "7"]) == 0
    assert OrthogonalBasis.load("build/fit/my_vae").n_semantic == 7
    assert json.loads((tmp_path / "build/fit/my_vae" / RECORD).read_text())["n_semantic"] == 7
    assert (tmp_path / "build/fit/my_vae/mine.txt").exists()


def test_32_channels_and_a_limit(tmp_path):
    folder = save_pictures(tmp_path / "pictures", 4)
    result = fit(tiny_vae(tmp_path / "vae", 32), folder, image_size=32, limit=3, out=tmp_path / "q", progress=False)
    assert result.record["pictures_used"] == ["00.png", "01.png", "02.png"]
    assert result.basis.channels == 32 and 1 <= result.basis.n_semantic < 32
    assert torch.equal(OrthogonalBasis.load(tmp_path / "q").Q, result.basis.Q)
    fit(tmp_path / "vae", folder, image_size=32, limit=3, out=tmp_path / "again", progress=False)
    for name in ("model.safetensors", PICTURE):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "q" / name).read_bytes()


def test_photographs(tmp_path):
    photographs = [skimage.data.astronaut(), *load_sample_images().images]
    for i, array in enumerate(photographs):
        Image.fromarray(array).save(tmp_path / f"{i}.jpg", quality=95)
    result = fit("embedded", tmp_path, image_size=128, out=tmp_path / "q", progress=False)
    assert result.record["n_pictures"] == 3 and len(result.record["pictures_shown"]) == 1
    assert np.ptp(result.record["eigenvalues"]) > 0.01


def test_a_fit_that_stops_leaves_no_fit(tmp_path, monkeypatch):
    folder, vae = save_pictures(tmp_path / "pictures"), tiny_vae(tmp_path / "vae")
    fit(vae, folder, image_size=32, out=tmp_path / "q", progress=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "q").iterdir()}
    monkeypatch.setattr("sketchae.fit.render_png", lambda figure: 1 / 0)
    for out in ("q", "new"):
        with pytest.raises(ZeroDivisionError):
            fit(vae, folder, image_size=32, out=tmp_path / out, n_semantic=1, progress=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "q").iterdir()} == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nowhere"], "There is no folder nowhere"),
        (["--images", "empty"], "empty holds no pictures"),
        (["--images", "one"], "Of the 1 pictures in one, 1 can be used, and 2 are needed: add more."),
        (["--images", "bad"], r"0 can be used, and 2 are needed: add more; the first left out: 0.png cannot be read"),
        (["--image-size", "64"], r"0 can be used.*lower --image-size \(the largest left out has 32\)"),
        (["--image-size", "30"], "30 pixels do not fit this VAE, which needs a multiple of 8: take --image-size 32"),
        (["--n-semantic", "4"], "n_semantic=4 leaves no room for two blocks in latents of 4 channels: choose 1 to 3"),
        (["--n-semantic", "0"], "n_semantic=0 leaves no room"),
        (["--limit", "1"], "A limit of 1 pictures is too low"),
        (["--vae", "./none"], "There is no folder ./none: give .embedded., an existing folder, or a hub id"),
        (["--out", "vae"], "vae exists and holds no fit.json of an earlier fit: choose another folder with --out"),
    ],
)
def test_one_sentence_says_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    tiny_vae("vae")
    save_pictures(tmp_path / "pictures")
    save_pictures(tmp_path / "one", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.png").write_bytes(b"not a picture")
    defaults = ["--vae", "vae", "--images", "pictures", "--image-size", "32", "--out", "q"]
    assert main(["fit", *defaults, *arguments]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error.splitlines()[-1]), error
    assert not (tmp_path / "q").exists()


def test_a_method_that_does_not_exist_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--vae", "embedded", "--images", str(tmp_path), "--method", "magic"])
    assert "invalid choice: 'magic'" in capsys.readouterr().err
    with pytest.raises(BadInputError, match="no method 'magic'"):
        fit_basis(load_vae("embedded"), [], method="magic")
    with pytest.raises(MissingFileError):
        PictureFolder(tmp_path / "none", 32)
    with pytest.raises(BadInputError, match="same number of pictures"):
        before_after([], [], [], [], [], [])


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Ten scenes with captions as strings and lists, one without, and the file that says so."""
    folder = tmp_path_factory.mktemp("captioned")
    scenes = split_scenes("val", 11)
    lines = []
    for i, (image, texts) in enumerate(zip(render(scenes).images, scene_captions(scenes, n=2), strict=True)):
        to_pil(image).save(folder / f"{i:02d}.png")
        lines.append({"file_name": f"{i:02d}.png", "captions": texts[0] if i % 2 else texts})
    lines[4]["captions"] = ["  ", ""]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    return folder


def test_with_captions_and_clip_the_effect_objective_is_used(captioned, tmp_path):
    options = dict(image_size=64, progress=False, captions=captioned / "metadata.jsonl", clip="embedded", n_steps=2)
    found = fit("embedded", captioned, n_semantic=2, out=tmp_path / "q", **options)
    assert found.record["method"] == "effect" and found.record["clip"] == "embedded"
    assert "04.png" not in found.record["pictures_used"] and found.record["n_pictures"] == 10
    assert {"clip_caption", "clip_style"} <= {*found.record["proxies"], *found.record["proxies"]["left_out"]}
    start = fit("embedded", captioned, n_semantic=2, out=tmp_path / "start", image_size=64, progress=False, limit=4)
    assert start.record["method"] == "augmentation"
    loaded = OrthogonalBasis.load(tmp_path / "q")
    assert torch.equal(loaded.Q, found.basis.Q) and loaded.orthogonality_error < 1e-5
    assert np.isfinite([found.record["objective_before"], found.record["objective_after"]]).all()


def test_what_the_effect_objective_needs_is_told(captioned, tmp_path, capsys):
    command = ["fit", "--vae", "embedded", "--images", str(captioned), "--image-size", "64", "--out", str(tmp_path / "q")]
    captions = ["--captions", str(captioned / "metadata.jsonl"), "--clip", "embedded"]
    assert main([*command, "--method", "effect"]) == 1
    assert "both --captions and --clip" in capsys.readouterr().err
    assert main([*command, *captions, "--limit", "6"]) == 1
    assert "caption more" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text('{"file_name": "elsewhere.png", "captions": "a house"}\n')
    assert main([*command, "--captions", str(other), "--clip", "embedded"]) == 1
    assert "has captions" in capsys.readouterr().err
    other.write_text('{"file_name": "00.png"}\n')
    assert main([*command, "--captions", str(other), "--clip", "embedded"]) == 1
    assert "Line 1" in capsys.readouterr().err
    assert main([*command, "--captions", str(tmp_path / "none.jsonl"), "--clip", "embedded"]) == 1
    assert "no file" in capsys.readouterr().err
    assert not (tmp_path / "q").exists()
