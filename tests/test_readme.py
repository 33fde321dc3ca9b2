"""What the README promises."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_of(heading: str) -> str:
    """The one block of Python under a heading of the README."""
    section = README.split(f"{heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code


def test_the_ten_lines_run(monkeypatch):
    code = python_of("## Use a basis")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 10
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["swapped"].shape == names["mixed"].shape == (1, 3, 128, 128)
    assert names["swapped"].min() >= 0 and names["swapped"].max() <= 1
    assert (names["same"] - names["vae"].decode(names["a"])).abs().max() < 1e-4
    assert (names["swapped"] - names["same"]).abs().mean() > 0.01


def test_the_sketch_first_lines_run():
    names: dict = {}
    exec(compile(python_of("## Sketch first, then paint"), "README.md", "exec"), names)
    sketches, paintings = names["sketches"], names["paintings"]
    assert sketches.images.shape == paintings.shape == (4, 3, 128, 128) and paintings.min() >= 0 and paintings.max() <= 1
    again = names["model"].encode(names["vae"].encode(paintings))[:, :2]
    assert (again - sketches.x_semantic[2:3]).square().mean() < (again - sketches.x_semantic[1:2]).square().mean()


def test_the_glo_to_dall_e_lines_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(compile(python_of("## From GLO to DALL-E"), "README.md", "exec"), names)
    assert names["codes"].shape == (1, 32, 32) and names["codes"].min() >= 0 and names["codes"].max() < 512
    original = names["read_picture"]("figures/static/windmills.png", 128)[None]
    assert (names["picture"] - original).square().mean() < 0.002
    assert names["drawn"].shape == (4, 3, 128, 128) and names["drawn"].std(0).mean() > 0.01


@pytest.mark.parametrize("document", ["README.md", "paper.md", "sketchae/assets/MODEL_CARD.md", "sketchae/scenes/DATA_CARD.md"])
def test_every_link_to_a_file_leads_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{document}: {target}"


def test_make_knows_the_commands_that_the_readme_names():
    rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in re.findall(r"`?make ([a-z]+)", README):
        if command not in ("are",):
            assert command in rules


def test_every_notebook_is_in_the_table():
    for notebook in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        assert f"(notebooks/{notebook.name})" in README
