"""A checkpoint's folder: on this machine, or fetched once from the hub at one commit and reused from then on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sketchae.errors import BadInputError, MissingFileError, NoNetworkError, NoSpaceError

# Settings and tokenizers are JSON or text; weights are safetensors. Nothing else is fetched, pickles least of all.
_TEXT_FILES = ("*.json", "merges.txt")


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a checkpoint; `revision` is the commit hash on the hub, None for a folder of the user's."""

    folder: Path
    revision: str | None


def find_checkpoint(
    source: str | os.PathLike,
    weights: str,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    local_files_only: bool = False,
    required: Sequence[str] = ("config.json",),
) -> Checkpoint:
    """The folder that holds `weights` and the `required` files: `source` itself, or a snapshot of that hub id.

    Without `revision` the hub's main branch is resolved at the first download; from then on the downloaded commit is
    used, so that a later run sees the same weights. Name a revision to move on.

    Raises:
        MissingFileError: a folder without the files; BadInputError: no such id or revision on the hub;
        NoNetworkError: not downloaded yet, and the hub cannot be reached; NoSpaceError: the disk is full.
    """
    needed = [*required, weights]
    if Path(source).is_dir():
        folder = Path(source) / (subfolder or "")
        missing = [name for name in needed if not (folder / name).is_file()]
        if missing:
            raise MissingFileError(
                f"{folder} is not a complete checkpoint: {', '.join(missing)} missing; save the model there with "
                "save_pretrained(folder, safe_serialization=True), or name another folder."
            )
        return Checkpoint(folder, None)
    repo_id = str(source)
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise MissingFileError(
            f"There is no folder {repo_id}: give 'embedded', an existing folder, or a hub id such as "
            "madebyollin/taesdxl (owner/name)."
        )
    cached = _snapshot(repo_id, revision, subfolder, needed, local_files_only=True)
    if cached is not None:
        return cached
    if local_files_only:
        raise MissingFileError(
            f"{repo_id} (revision {revision or 'main'}) has not been downloaded yet and local_files_only is set: run "
            "once with local_files_only=False, or give a folder that holds the files."
        )
    fetched = _snapshot(repo_id, revision, subfolder, needed, local_files_only=False)
    if fetched is None:
        raise MissingFileError(
            f"The hub repository {repo_id} has no complete checkpoint ({', '.join(needed)}): choose one that was saved "
            "as safetensors by save_pretrained, or name its subfolder."
        )
    return fetched


def _snapshot(
    repo_id: str, revision: str | None, subfolder: str | None, needed: Sequence[str], *, local_files_only: bool
) -> Checkpoint | None:
    """The snapshot with all `needed` files, or None where it lacks some (or, locally, where there is none)."""
    prefix = f"{subfolder}/" if subfolder else ""
    weights = needed[-1]
    try:
        snapshot = huggingface_hub.snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=[prefix + name for name in (*_TEXT_FILES, weights)],
            local_files_only=local_files_only,
        )
    except HFValidationError as error:
        raise BadInputError(f"{repo_id} is not a hub id: give owner/name, 'embedded' or an existing folder.") from error
    except LocalEntryNotFoundError as error:
        if local_files_only:
            return None
        raise unreachable(repo_id, error) from error
    except Exception as error:
        raise hub_error(repo_id, revision, error) from error
    folder = Path(snapshot) / prefix
    if not all((folder / name).is_file() for name in needed):
        return None
    return Checkpoint(folder, Path(snapshot).name)


def unreachable(repo_id: str, error: Exception) -> NoNetworkError:
    """What to say where the hub does not answer and nothing is stored."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0].removeprefix("Got: ").rstrip(".")
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        first_line = "HF_HUB_OFFLINE is set"
    return NoNetworkError(
        f"{repo_id} is not stored on this machine and the hub ({huggingface_hub.constants.ENDPOINT}) could not be "
        f"reached ({first_line}): connect to the network and run again, give a folder that holds the files, or use the "
        "profile 'scenes', which needs no download."
    )


def hub_error(repo_id: str, revision: str | None, error: Exception) -> Exception:
    """The hub's refusals in one sentence with the remedy; an error that is not the hub's is handed back unchanged."""
    if isinstance(error, RevisionNotFoundError):
        return BadInputError(f"{repo_id} has no revision {revision} on the hub: give a branch, a tag or a commit hash.")
    if isinstance(error, GatedRepoError):
        return BadInputError(f"{repo_id} is gated: accept its terms on the hub's page and log in with `hf auth login`.")
    if isinstance(error, RepositoryNotFoundError):
        return BadInputError(
            f"There is no public {repo_id} on the hub: check the spelling (owner/name); if it is private, log in with "
            "`hf auth login`."
        )
    if isinstance(error, OSError) and error.errno is not None and error.errno == 28:
        return NoSpaceError(f"No space left on the disk while downloading {repo_id}: free some, or move HF_HOME.")
    if isinstance(error, HfHubHTTPError | ConnectionError | TimeoutError) or "onnect" in type(error).__name__:
        return unreachable(repo_id, error)
    return error
