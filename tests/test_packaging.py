"""What is published holds together: pins, addresses, the built wheel, the text files around it."""

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_pin_is_exact_and_portable():
    names = [canonical(pin.split("==")[0]) for pin in pins()]
    assert len(names) == len(set(names))
    for pin in pins():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", pin), f"{pin}: no local suffix, address or range here"


def test_every_requirement_is_pinned_within_its_range():
    from packaging.requirements import Requirement

    pinned = dict(pin.split("==") for pin in pins())
    pinned = {canonical(name): version for name, version in pinned.items()}
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {"lab", "test", "all"} and extras["all"] == ["sketchae[lab,test]"]
    for line in [*PROJECT["dependencies"], *extras["lab"], *extras["test"]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[canonical(requirement.name)]), line


def test_conda_installs_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == [*pins(), "--editable ."]
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    assert python.split("=")[1] >= PROJECT["requires-python"].removeprefix(">=")


def test_every_import_of_the_package_is_a_declared_dependency():
    """A pip-installed copy has what it imports: each third-party import is required, or in the extra that needs it."""
    import ast

    provided = {"PIL": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image", "yaml": "pyyaml"}
    provided |= {"IPython": "ipykernel", "jupyter_client": "papermill", "nbclient": "papermill"}
    extras = PROJECT["optional-dependencies"]
    declared = {canonical(re.split(r"[><=\[]", line)[0]) for line in [*PROJECT["dependencies"], *extras["lab"]]}
    missing = set()
    for path in sorted((ROOT / "sketchae").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.split(".")[0] for name in names} - {"sketchae", *sys.stdlib_module_names}:
                if canonical(provided.get(name, name)) not in declared:
                    missing.add(f"{path.relative_to(ROOT)}: {name}")
    assert not missing


def test_the_address_of_the_repository_is_the_same_everywhere():
    address = PROJECT["urls"]["Repository"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == address
    owner_and_name = address.removeprefix("https://github.com/")
    pattern = r"github\.com/([\w.-]+/sketchae)\b|githubusercontent\.com/([\w.-]+/sketchae)\b"
    pattern += r"|colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/"
    for path in [ROOT / "README.md", ROOT / "paper.md", *NOTEBOOKS, *(ROOT / "notebooks").glob("*.py")]:
        if path.is_file():
            for found in re.findall(pattern, path.read_text(encoding="utf-8")):
                assert "".join(found) == owner_and_name, path.name


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_opens_in_colab(notebook):
    from sketchae.executed import read_notebook

    owner_and_name = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{owner_and_name}/blob/main/notebooks/{notebook.name}"
    cells = read_notebook(notebook).cells
    assert f"]({link})" in cells[0].source or f'href="{link}"' in cells[0].source


def test_versions_agree():
    import sketchae

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == sketchae.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


def test_the_public_names_exist():
    import sketchae

    for name in sketchae.__all__:
        assert getattr(sketchae, name) is not None


@pytest.fixture(scope="session")
def installed_wheel(tmp_path_factory) -> Path:
    """The built wheel in an environment of its own; returns its Python.

    The libraries are those of the running environment (installing PyTorch again would take minutes), but sketchae is
    not: a `.pth` file puts that folder on the path, and the `.pth` files inside it, such as the one of an editable
    installation, do not count there.
    """
    folder = tmp_path_factory.mktemp("wheel")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True, env=environment, cwd=folder)
    (wheel,) = folder.glob("sketchae-*.whl")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
        env=environment,
        cwd=folder,
    )
    (site_packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    libraries = Path(yaml.__file__).resolve().parents[1]
    (site_packages / "libraries.pth").write_text(f"{libraries}\n")
    return python


def run_installed(python: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SKETCHAE"))}
    done = subprocess.run(
        [str(python), *arguments], cwd=python.parents[2], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_whole_package(installed_wheel):
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "sketchae"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    code = "import sketchae, pathlib; print(pathlib.Path(sketchae.__file__).parent)"
    package = Path(run_installed(installed_wheel, "-c", code).strip())
    assert ROOT not in package.parents
    missing = [name for name in tracked if (ROOT / name).is_file() and not (package.parent / name).is_file()]
    assert not missing
    sizes = {name: ((ROOT / name).stat().st_size, (package.parent / name).stat().st_size) for name in tracked}
    assert all(here == there for here, there in sizes.values())


def test_the_wheel_brings_its_profiles_and_weights(installed_wheel):
    code = """
import sketchae
print(*[sketchae.load_profile(name).image_size for name in ("coco", "scenes", "sketch", "smoke")])
from sketchae import backbones
vae, clip = backbones.load_vae("embedded"), backbones.load_clip("embedded")
print(vae.latent_channels, vae.downsampling, clip.embed_texts(["a boat on the sea"]).shape[0])
"""
    assert run_installed(installed_wheel, "-c", code).split() == ["256", "128", "128", "128", "4", "8", "1"]


def test_the_wheels_console_script_runs(installed_wheel):
    script = installed_wheel.with_name("sketchae")
    done = subprocess.run([str(script), "profiles"], cwd=script.parents[2], capture_output=True, text=True, check=True)
    assert "scenes" in done.stdout
