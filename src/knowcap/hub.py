"""The Hub: what is read from it, with its errors as messages, and one artefact published to one repo in one commit.

Commits are made by `HfApi.create_commit`, which leaves out files that have not changed and sends no file that the Hub
has already. It is what `HfApi.upload_folder` calls, but for folders of more than 250 files, which that publishes in
several commits, without a check of the card's metadata. Neither repeats every request that fails for a while.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors, get_token
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from knowcap.provenance import __version__


logger = logging.getLogger(__name__)
Result = TypeVar("Result")

ATTEMPTS = 6
LONGEST_WAIT = 300.0  # seconds; a longer one that the Hub asks for is reported instead
TEMPORARY = (408, 412, 429, 500, 502, 503, 504)  # statuses; 412: another commit came in between


def _network_errors() -> tuple[Any, Any]:
    """All errors of the network, and those without an answer: of httpx2, or what huggingface_hub used before it."""
    for name in ("httpx2", "httpx"):
        if find_spec(name) is not None:
            return import_module(name).HTTPError, import_module(name).TransportError
    requests = import_module("requests")
    return requests.RequestException, requests.ConnectionError


_HTTP_ERROR, _TRANSPORT_ERROR = _network_errors()
_INCOMPLETE = getattr(errors, "IncompleteSnapshotError", errors.LocalEntryNotFoundError)  # new in huggingface_hub 1
# What the calls of huggingface_hub raise. A failed LFS upload is a RuntimeError caused by one of the others.
_ERRORS = (_HTTP_ERROR, OSError, RuntimeError, json.JSONDecodeError)
_TOKEN = re.compile(r"hf_\w{20,}")  # of any account, should an answer repeat one
_READ = "`hf auth login` with a token that can read it"
_AGAIN = "run the same command again later: it continues from there"


class HubError(ValueError):
    """Something cannot be read or published; the message has the Hub's answer and what to do, and shows no token."""


def fetch(what: str, kind: str, call: Callable[[], Result]) -> Result:
    """`call()`, which reads from the Hub.

    Args:
        what: names the repo in messages, such as `model 'me/tiny'`.
        kind: `model` or `data set`.
        call: uses huggingface_hub.

    Raises:
        HubError: the repo or its revision does not exist, may not be read, or the Hub cannot be reached.
    """
    try:
        return call()
    except errors.GatedRepoError:
        why = f"is gated; request access on its page, then run {_READ}"
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        why = f"is not a folder and not a public {kind} on the Hub; check the name, or run {_READ}"
    except errors.RevisionNotFoundError:
        why = "has no such revision; expected a branch, tag or commit"
    except (errors.LocalEntryNotFoundError, _INCOMPLETE, errors.OfflineModeIsEnabled) as error:
        why = f"is not in the cache, and the Hub is not reached ({_first_line(error)}); download it once while online"
    except (errors.HfHubHTTPError, _HTTP_ERROR) as error:
        why = f"cannot be downloaded: {_first_line(error)}; {_AGAIN}"
    raise HubError(without_tokens(f"{what} {why}")) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def without_tokens(text: str, token: str | None = None) -> str:
    """A message without `token` and without anything that looks like a token of the Hub."""
    return _TOKEN.sub("hf_…", text.replace(token, "hf_…") if token else text)


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait, by its rate limit or Retry-After; None where it does not."""
    from huggingface_hub.utils import parse_ratelimit_headers  # new in huggingface_hub 1

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0
    after = headers.get("Retry-After", "")
    return float(after) if re.fullmatch(r"\d+(\.\d+)?", after) else None


@dataclass(frozen=True)
class Artefact:
    """The content of one repo.

    Attributes:
        repo_id: owner/name.
        repo_type: model, dataset or space.
        files: local files or bytes by their paths in the repo.
        ours: patterns of paths (`*` does not match `/`): matching files of the repo that are not in `files` are
            deleted; others stay.
    """

    repo_id: str
    repo_type: str
    files: Mapping[str, Path | bytes]
    ours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pushed:
    """A published artefact; `commit` is None where the repo was up to date."""

    artefact: Artefact
    url: str
    commit: str | None
    uploaded: int
    deleted: int

    def __str__(self) -> str:
        if self.commit is None:
            return f"{self.url}: unchanged, nothing to upload"
        deleted = f", {self.deleted} deleted" if self.deleted else ""
        return f"{self.url}: {self.uploaded} of {len(self.artefact.files)} files uploaded{deleted} ({self.commit[:8]})"


def check_repo_id(repo_id: str, option: str) -> list[str]:
    """The problem of a repo id that the Hub does not allow, if any; `option` names it in the message."""
    try:
        validate_repo_id(repo_id)
    except errors.HFValidationError as error:
        return [f"{option}: {error}"]
    return [] if "/" in repo_id else [f"{option}: got {repo_id!r}, expected owner/name, such as you/{repo_id}"]


class Uploader:
    """Publishes artefacts by one account's token: HF_TOKEN, or the one that `hf auth login` stored.

    Args:
        api: the client; by default one for HF_ENDPOINT, the Hub itself where that is not set.
        private: make new repos private, and refuse to publish into a public one.
        revision: the branch to commit to, made from main if it is not there; main by default.
        wait: called with seconds to wait before another attempt.

    Raises:
        HubError: there is no token.
    """

    def __init__(
        self,
        api: HfApi | None = None,
        *,
        private: bool = False,
        revision: str | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.api = api or HfApi(library_name="knowcap", library_version=__version__)
        self.private, self.revision, self._wait = private, revision, wait
        token = self.api.token if isinstance(self.api.token, str) else get_token()
        if not token:
            raise HubError(f"no token; {self._log_in}")
        self._token = token

    @property
    def _log_in(self) -> str:
        return f"make one that may write at {self.api.endpoint}/settings/tokens, then `hf auth login` or set HF_TOKEN"

    def prepare(self, artefacts: list[Artefact]) -> None:
        """Makes the repos that do not exist, so that a missing permission shows before anything is uploaded.

        Raises:
            HubError: the token is refused or may not write there, or a repo is public where private was asked for.
        """
        account = self._tried("asking whose token this is", self.api.whoami)
        role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise HubError(f"the token of {account.get('name')} may only read; {self._log_in}")
        for artefact in artefacts:
            self._tried(f"making {artefact.repo_id}", lambda artefact=artefact: self._make(artefact))

    def _make(self, artefact: Artefact) -> None:
        repo: dict[str, Any] = {"repo_id": artefact.repo_id, "repo_type": artefact.repo_type}
        sdk: dict[str, Any] = {"space_sdk": "gradio"} if artefact.repo_type == "space" else {}
        self.api.create_repo(**repo, **sdk, private=self.private or None, exist_ok=True)
        if self.private and not self.api.repo_info(**repo).private:
            raise HubError(
                f"{artefact.repo_id} is there and public, but --private was asked for; make it private in its "
                "settings, or leave --private out"
            )
        if self.revision not in (None, "main"):
            self.api.create_branch(**repo, branch=self.revision, exist_ok=True)

    def publish(self, artefact: Artefact) -> Pushed:
        """Commits what differs from the repo, which `prepare` has made; no commit where nothing does.

        Raises:
            HubError: the Hub refuses it, or fails at every attempt; the next call sends only the missing files.
        """
        pushed = self._tried(f"uploading to {artefact.repo_id}", lambda: self._commit(artefact))
        logger.info("%s", pushed)
        return pushed

    def _commit(self, artefact: Artefact) -> Pushed:
        """One attempt. create_commit compares with the repo: a commit whose answer was lost is not made twice."""
        repo: dict[str, Any] = {
            "repo_id": artefact.repo_id,
            "repo_type": artefact.repo_type,
            "revision": self.revision or "main",
        }
        head, before = self.api.repo_info(**repo).sha, self._blobs(repo)
        stale = [path for path in before if path not in artefact.files and _matches(path, artefact.ours)]
        url = f"{self.api.endpoint}/{_PREFIXES[artefact.repo_type]}{artefact.repo_id}"
        additions = [CommitOperationAdd(path_in_repo=p, path_or_fileobj=c) for p, c in artefact.files.items()]
        deletions = [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in stale]
        with warnings.catch_warnings():
            # nll.parquet is data that belongs to the model.
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            done = self.api.create_commit(
                **repo,
                operations=[*deletions, *additions],
                commit_message=f"Publish by knowcap {__version__}",
                parent_commit=head,
            )
        if done.oid == head:
            return Pushed(artefact, url, None, 0, 0)
        after = self._blobs(repo | {"revision": done.oid})
        changed = sum(blob != before.get(path) for path, blob in after.items())
        return Pushed(artefact, url, done.oid, changed, len(stale))

    def _blobs(self, repo: dict[str, Any]) -> dict[str, str]:
        """The git hash of every file of a repo."""
        tree = self.api.list_repo_tree(**repo, recursive=True)
        return {entry.path: entry.blob_id for entry in tree if isinstance(entry, RepoFile)}

    def _tried(self, what: str, call: Callable[[], Result]) -> Result:  # pyright: ignore[reportReturnType]
        """`call()`, repeated after a while where the failure is temporary."""
        for attempt in itertools.count(1):
            try:
                return call()
            except _ERRORS as error:
                answer = next((e for e in _chain(error) if isinstance(e, errors.HfHubHTTPError)), None)
                status = None if answer is None else answer.response.status_code
                if answer is None and not any(isinstance(e, _NO_ANSWER) for e in _chain(error)):
                    why = ": ".join(f"{e}" for e in _chain(error))
                    raise HubError(without_tokens(f"{what}: {why}", self._token)) from None
                seconds = (answer and asked_to_wait(answer.response.headers)) or min(30.0, 2.0 ** (attempt - 1))
                if not _may_pass(status) or attempt == ATTEMPTS or seconds > LONGEST_WAIT:
                    message = self._message(what, error, answer, attempt, seconds)
                    raise HubError(without_tokens(message, self._token)) from None
                reason = "the Hub cannot be reached" if status is None else f"the Hub answers {status}"
                logger.warning("%s: %s; trying again in %.0f s", what, reason, seconds)
                self._wait(seconds)

    def _message(
        self, what: str, error: Exception, answer: errors.HfHubHTTPError | None, attempts: int, seconds: float
    ) -> str:
        """The message of a failure that is not repeated."""
        if answer is None:
            why = "its answers cannot be read" if isinstance(error, json.JSONDecodeError) else f"{error}"
            return f"{what}: {self.api.endpoint} failed {attempts} times ({why or type(error).__name__}); {_AGAIN}"
        status, reason = answer.response.status_code, (answer.server_message or "").replace("\n", " ").strip()
        reason = f", {reason}" if reason else ""
        if status == 401:
            return f"{what}: {self.api.endpoint} refuses the token (401{reason}); {self._log_in}"
        if status == 403:
            return f"{what}: the token may not write there (403{reason}); check the owner's name, or {self._log_in}"
        if status == 429:
            return f"{what}: too many requests (429{reason}); the Hub asks to wait {seconds:.0f} s; {_AGAIN}"
        if _may_pass(status):
            return f"{what}: {self.api.endpoint} answered {status}{reason} {attempts} times; {_AGAIN}"
        return f"{what}: {self.api.endpoint} answers {status}{reason or f', {error}'}"


_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_NO_ANSWER = (_TRANSPORT_ERROR, json.JSONDecodeError)


def _may_pass(status: int | None) -> bool:
    """Whether the same request may succeed later; None is a request without an answer."""
    return status is None or status in TEMPORARY


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(path.count("/") == p.count("/") and fnmatch.fnmatchcase(path, p) for p in patterns)
