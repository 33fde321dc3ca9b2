"""The errors that sketchae raises on purpose: one sentence that says what is wrong and what to do about it.

Each class also derives from the built-in error that a caller would expect, so `except ValueError` keeps working.
"""


class SketchaeError(Exception):
    """Base class: everything that sketchae refuses with a remedy can be caught with this one name."""

    def __str__(self) -> str:
        # KeyError-like bases quote their argument; a sentence for people should not be quoted.
        return " ".join(str(argument) for argument in self.args)


class BadInputError(SketchaeError, ValueError):
    """A value, an array or a file's content is not what the function can use."""


class MissingFileError(SketchaeError, FileNotFoundError):
    """A file or a folder that is needed does not exist, or is only half written."""


class NoNetworkError(SketchaeError, ConnectionError):
    """Something must be downloaded, and the hub could not be reached."""


class NoSpaceError(SketchaeError, OSError):
    """The disk is full: what had been written before is intact."""
