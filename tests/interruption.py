"""A process that is killed in the middle of its work, as far as a test can have it."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Interrupted(BaseException):
    """Like KeyboardInterrupt: nothing that catches errors may swallow it."""


@contextmanager
def interrupted_at(call: int, owner: Any, name: str) -> Iterator[None]:
    """What runs within it calls `owner.name` as ever, but the `call`-th time (from 1 on) is cut off there; the test fails if it never came so far."""
    real, calls = getattr(owner, name), itertools.count(1)

    def counted(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise Interrupted
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(owner, name, counted)
        yield
