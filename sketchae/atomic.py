"""Files that are either complete or absent: write under a temporary name in the same folder, then rename.

A reader, or a second process, never sees half a file, and a run that is killed leaves the old content untouched.
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from sketchae.errors import NoSpaceError

TEMPORARY_MARK = ".tmp-"  # part of every temporary name, so that leftovers of killed runs can be recognised


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on error.

    The block may create a file or a folder there. The suffix of `path` is kept, because many writers choose their
    format by it. A folder replaces an existing folder only if that one is empty (as `os.replace` does).

    Raises:
        NoSpaceError: the disk is full; whatever stood at `path` before is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}{TEMPORARY_MARK}{os.getpid()}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(
                f"No space left on the disk while writing {path}: free some space there and run the same command "
                "again; what was written before is intact."
            ) from error
        raise


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> Path:
    """Write `data` to `path` so that it is never seen half-written; returns the path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def atomic_write_text(path: str | os.PathLike, text: str) -> Path:
    """Write `text` (UTF-8, line ends as they are) to `path` so that it is never seen half-written; returns the path."""
    return atomic_write_bytes(path, text.encode("utf-8"))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
