"""Shapes and types are checked while the tests run, and the tests leave the working tree as they found it."""

import os
import subprocess
from pathlib import Path

# Before anything imports sketchae: every jaxtyping annotation of the package becomes an assertion.
from jaxtyping import install_import_hook

install_import_hook("sketchae", "beartype.beartype")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile("untimed", deadline=None)  # how long an example takes depends on what else runs
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]

# Tests of the library must not depend on how the caller's shell steers it.
for variable in ("SKETCHAE_ROOT", "SKETCHAE_OUTPUT", "MPLBACKEND"):
    os.environ.pop(variable, None)
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds pyproject.toml."""
    return ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cheap tests first, whole notebooks last, whatever the files are called."""
    items.sort(key=lambda item: item.get_closest_marker("notebooks") is not None)


def _tree_state() -> str | None:
    """What git sees, contents included; None outside a clone."""
    commands = (["status", "--porcelain=v1", "--untracked-files=all"], ["diff", "HEAD"])
    try:
        runs = [subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True) for words in commands]
    except (OSError, subprocess.CalledProcessError):
        return None
    return b"".join(run.stdout for run in runs).decode(errors="replace")


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("SKETCHAE_CHECK_TREE") and not hasattr(config, "workerinput"):
        config.stash[_BEFORE] = _tree_state()


_BEFORE: pytest.StashKey[str | None] = pytest.StashKey()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With SKETCHAE_CHECK_TREE (as `make test` sets it): fail if the tests changed anything that git sees."""
    before = session.config.stash.get(_BEFORE, None)
    after = None if before is None else _tree_state()
    if before != after:
        session.config.stash[_AFTER] = after
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_AFTER: pytest.StashKey[str | None] = pytest.StashKey()


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    after = config.stash.get(_AFTER, None)
    if after is not None:
        terminalreporter.section("the tests changed the working tree", red=True)
        terminalreporter.line(after[:3000])
