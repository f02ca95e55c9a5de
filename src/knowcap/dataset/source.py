"""The source of a recipe's data set: a folder, or a repo of the Hub at one commit, fetched in parts."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from knowcap.dataset.folder import DatasetError
from knowcap.dataset.head import POOLS, TEMPLATES
from knowcap.dataset.untrusted import check_parquet, check_text_size, files_within
from knowcap.facts import Knowledge
from knowcap.files import CARD_FILE, KNOWLEDGE_FILE, RECIPE_FILE


Result = TypeVar("Result")

# The small files that describe the data set, read before any work.
HEAD = (KNOWLEDGE_FILE, RECIPE_FILE, TEMPLATES, f"{POOLS}/*.txt")
# The files that a run depends on, and all files of a data set folder.
DATA = (*HEAD, "*/*.parquet")
WHOLE = (*DATA, CARD_FILE, "LICENSE*")
_FIX = "make it with `knowcap data`, or publish it with `knowcap push`"


@dataclass(frozen=True)
class Source:
    """Where a data set is.

    Attributes:
        name: the recipe's dataset_name.
        commit: of a repo on the Hub; None for a folder.
        folder: of the fetched files; for a repo a snapshot in huggingface_hub's cache.
        files: the paths of all its files.
    """

    name: str
    commit: str | None
    folder: Path
    files: tuple[str, ...]

    def fetch(self, *patterns: str, quiet: bool = False) -> Path:
        """The folder, with the files that match; those of a repo are downloaded unless they are in the cache.

        Raises:
            HubError: the Hub fails.
            DatasetError: a file is no Parquet file, or would take more memory than it may.
        """
        folder = self.folder
        if self.commit is not None:
            folder = _call_hub(self.name, self.commit, lambda: _download(self.name, self.commit, patterns, quiet))
        for path in self.paths(*patterns):
            if path.endswith(".parquet") and (folder / path).is_file():
                check_parquet(folder / path)
        return folder

    def paths(self, *patterns: str) -> list[str]:
        """The files that match, sorted."""
        return sorted({path for path in self.files if any(_matches(path, pattern) for pattern in patterns)})

    def knowledge(self) -> Knowledge:
        """Its knowledge.json. Raises DatasetError if it breaks the contract."""
        try:
            return Knowledge.load(self.folder / KNOWLEDGE_FILE)
        except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise DatasetError(f"dataset_name={self.name!r}: {KNOWLEDGE_FILE} is invalid: {error}; {_FIX}") from error


def find_source(name: str, revision: str | None = None) -> Source:
    """The data set of a recipe's `dataset_name` and `dataset_revision`, its head fetched.

    A name that is a local folder is that folder; any other is a Hub id, looked up once per process.

    Raises:
        DatasetError, HubError: no such folder, repo or revision, no access, no answer, or no knowledge.json there; or
            a folder with links that leave it.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith(("/", ".", "~")) or folder.exists():
            raise DatasetError(f"dataset_name={name!r}: no such folder; give a data set folder or a Hub id")
        import huggingface_hub.constants as settings

        return _on_hub(name, revision, settings.ENDPOINT)
    if revision is not None:
        raise DatasetError(
            f"dataset_revision={revision!r}, but dataset_name={name!r} is a folder; leave dataset_revision out, which "
            "is for Hub ids"
        )
    return _checked(Source(name, None, folder, files_within(folder)))


@lru_cache
def _on_hub(name: str, revision: str | None, endpoint: str) -> Source:
    """A repo at one commit, with its head in the cache. Offline, only the cache is used."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise DatasetError(f"dataset_name={name!r}: it is neither a folder nor a Hub id: {error}") from error
    if constants.HF_HUB_OFFLINE:
        folder = _call_hub(name, revision, lambda: _download(name, revision, HEAD, quiet=True))
        return _checked(Source(name, folder.name, folder, files_within(folder)))
    api = HfApi(endpoint=endpoint)
    # HasQuestions first, since a download by a branch's name would take the cache's commit where the Hub is silent.
    info: Any = _call_hub(name, revision, lambda: api.repo_info(name, repo_type="dataset", revision=revision))
    if KNOWLEDGE_FILE not in (files := _files_of(info)):
        raise _no_knowledge(name, files)
    folder = _call_hub(name, revision, lambda: _download(name, revision, HEAD, quiet=True))
    if folder.name != info.sha:  # the branch has moved in between
        info = _call_hub(name, folder.name, lambda: api.repo_info(name, repo_type="dataset", revision=folder.name))
    return _checked(Source(name, folder.name, folder, _files_of(info)))


def _files_of(info: Any) -> tuple[str, ...]:
    return tuple(sorted(sibling.rfilename for sibling in info.siblings or ()))


def _checked(source: Source) -> Source:
    if KNOWLEDGE_FILE not in source.files:
        raise _no_knowledge(source.name, source.files)
    for path in source.paths(*HEAD):
        if (source.folder / path).is_file():
            check_text_size(source.folder / path)
    source.knowledge()
    return source


def _no_knowledge(name: str, files: tuple[str, ...]) -> DatasetError:
    inside = sorted({path for path in files if path.endswith(f"/{KNOWLEDGE_FILE}")})
    hint = f"; did you mean {name.rstrip('/')}/{inside[0].rsplit('/', 1)[0]}?" if inside else f"; {_FIX}"
    found = ", ".join(sorted({path.split("/")[0] for path in files})[:8]) or "nothing"
    table = "to measure a model on a table of prompts, name its columns: --columns prompt=… answer=… candidates=…"
    return DatasetError(f"dataset_name={name!r} has no {KNOWLEDGE_FILE}; it has {found}{hint}; {table}")


def _matches(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)


def _download(name: str, revision: str | None, patterns: tuple[str, ...], quiet: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):
        """No bar for a few small files."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})

    bars = Quiet if quiet else None
    return Path(
        snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=[*patterns], tqdm_class=bars)
    )


def _call_hub(name: str, revision: str | None, call: Callable[[], Result]) -> Result:
    """`call()`, which reads a data set from the Hub; raises HubError."""
    from knowcap.hub import fetch

    return fetch(f"dataset_name={name!r}{'' if revision is None else f' at {revision!r}'}", "data set", call)
