"""Where a recipe's data set comes from: a folder, or a repo of the Hub at one commit, fetched in parts."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from knowcap.dataset.folder import DatasetError
from knowcap.dataset.head import POOLS, TEMPLATES
from knowcap.facts import Knowledge
from knowcap.files import RECIPE_FILE


Result = TypeVar("Result")

KNOWLEDGE = "knowledge.json"
# What says which data set it is and how it is told: small, and looked at before any work.
HEAD = (KNOWLEDGE, RECIPE_FILE, TEMPLATES, f"{POOLS}/*.txt")
# What a run depends on, and all that a data set folder is made of.
DATA = (*HEAD, "*/*.parquet")
WHOLE = (*DATA, "README.md", "LICENSE*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MEND = "make it with `knowcap data`, or publish it with `knowcap push`"


@dataclass(frozen=True)
class Source:
    """A data set's place.

    Attributes:
        name: as the recipe has it.
        commit: of a repo on the Hub; None for a folder.
        folder: where files are once fetched, a snapshot in the cache of huggingface_hub for a repo.
        files: the paths of all files that it has.
    """

    name: str
    commit: str | None
    folder: Path
    files: tuple[str, ...]

    def fetch(self, *patterns: str, quiet: bool = False) -> Path:
        """The folder, with the files that match; those of a repo are downloaded unless they are there.

        Raises:
            DatasetError: the Hub fails.
        """
        if self.commit is None:
            return self.folder
        return _ask(self.name, self.commit, lambda: _download(self.name, self.commit, patterns, quiet))

    def paths(self, *patterns: str) -> list[str]:
        """The files that match, sorted."""
        return sorted({path for path in self.files if any(_matches(path, pattern) for pattern in patterns)})

    def knowledge(self) -> Knowledge:
        """Its knowledge.json. Raises DatasetError where it breaks the contract."""
        try:
            return Knowledge.load(self.folder / KNOWLEDGE)
        except (ValueError, TypeError, AttributeError) as error:
            raise DatasetError(f"dataset_name={self.name!r}: {KNOWLEDGE} can't be used: {error}; {_MEND}") from error


def find_source(name: str, revision: str | None = None) -> Source:
    """The data set of a recipe's `dataset_name` and `dataset_revision`, its head fetched.

    A name that is a folder here is that folder; any other is a Hub id, looked up once in a process.

    Raises:
        DatasetError: no such folder or repo, no such revision, no access, no answer, or no knowledge.json there.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith(("/", ".", "~")) or folder.exists():
            raise DatasetError(f"dataset_name={name!r}: no such folder; give a data set folder or a Hub id")
        import huggingface_hub.constants as settings

        return _on_hub(name, revision, settings.ENDPOINT)
    if revision is not None:
        raise DatasetError(
            f"dataset_revision={revision!r}, but dataset_name={name!r} is a folder; leave dataset_revision out, it is "
            "for Hub ids"
        )
    return _checked(Source(name, None, folder, _listing(folder)))


@lru_cache
def _on_hub(name: str, revision: str | None, endpoint: str) -> Source:
    """A repo at one commit, with its head in the cache. Offline, the cache alone is asked."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise DatasetError(f"dataset_name={name!r}: no such folder, nor a Hub id: {error}") from error
    if constants.HF_HUB_OFFLINE:
        folder = _ask(name, revision, lambda: _download(name, revision, HEAD, quiet=True))
        return _checked(Source(name, folder.name, folder, _listing(folder)))
    api = HfApi(endpoint=endpoint)
    # HasQuestions first, since a download by a branch's name would take the cache's commit where the Hub is silent.
    info: Any = _ask(name, revision, lambda: api.repo_info(name, repo_type="dataset", revision=revision))
    if KNOWLEDGE not in (files := _files_of(info)):
        raise _no_knowledge(name, files)
    folder = _ask(name, revision, lambda: _download(name, revision, HEAD, quiet=True))
    if folder.name != info.sha:  # the branch has moved in between
        info = _ask(name, folder.name, lambda: api.repo_info(name, repo_type="dataset", revision=folder.name))
    return _checked(Source(name, folder.name, folder, _files_of(info)))


def _files_of(info: Any) -> tuple[str, ...]:
    return tuple(sorted(sibling.rfilename for sibling in info.siblings or ()))


def _checked(source: Source) -> Source:
    if KNOWLEDGE not in source.files:
        raise _no_knowledge(source.name, source.files)
    source.knowledge()
    return source


def _no_knowledge(name: str, files: tuple[str, ...]) -> DatasetError:
    inside = sorted({path for path in files if path.endswith(f"/{KNOWLEDGE}")})
    hint = f"; did you mean {name.rstrip('/')}/{inside[0].rsplit('/', 1)[0]}?" if inside else f"; {_MEND}"
    there = ", ".join(sorted({path.split("/")[0] for path in files})[:8]) or "nothing"
    return DatasetError(f"dataset_name={name!r} has no {KNOWLEDGE}, it holds {there}{hint}")


def _listing(folder: Path) -> tuple[str, ...]:
    """The files of a folder by path within it, hidden ones left out."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(place).relative_to(folder)
        found += [(inside / name).as_posix() for name in files if not name.startswith(".")]
    return tuple(sorted(found))


def _matches(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)


def _download(name: str, revision: str | None, patterns: tuple[str, ...], quiet: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):
        """No bar for a few small files."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})

    bars = {"tqdm_class": Quiet} if quiet else {}
    return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=[*patterns], **bars))


def _ask(name: str, revision: str | None, call: Callable[[], Result]) -> Result:
    """`call()`, with what the Hub refuses or lacks as one message."""
    import httpx2
    from huggingface_hub import errors

    at = "" if revision is None else f" at {revision!r}"
    what = f"dataset_name={name!r}{at}"
    try:
        return call()
    except errors.GatedRepoError:
        why = "is gated; ask for access on its page, then `hf auth login` with a token that may read it"
    except errors.RepositoryNotFoundError:
        why = (
            "is no folder here and no data set on the Hub, or a private one; check the name, or `hf auth login` with "
            "a token that may read it"
        )
    except errors.RevisionNotFoundError:
        why = "has no such branch, tag or commit; check dataset_revision"
    except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError, errors.OfflineModeIsEnabled) as error:
        why = f"is not in the cache, and the Hub is not asked or silent ({_first_line(error)}); go online once"
    except (errors.HfHubHTTPError, httpx2.HTTPError) as error:
        why = f"can't be fetched: {_first_line(error)}; give the same command again later, it goes on from there"
    raise DatasetError(f"{what} {why}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
