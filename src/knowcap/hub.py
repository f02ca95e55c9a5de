"""One artefact to one repo of the Hub: only what differs from what is there, in one commit, tried again where the Hub
or the way to it fails for a while.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import parse_ratelimit_headers, validate_repo_id

from knowcap.provenance import __version__


logger = logging.getLogger(__name__)
Result = TypeVar("Result")

ATTEMPTS = 6
LONGEST_WAIT = 300.0  # seconds; who is asked to wait longer is told so instead
_FOR_A_WHILE = (408, 412, 429, 500, 502, 503, 504)  # 412: somebody else committed meanwhile
# What the calls of huggingface_hub raise. A failed LFS upload is a RuntimeError caused by one of the others.
_ERRORS = (httpx2.HTTPError, OSError, RuntimeError, json.JSONDecodeError)
_TOKEN = re.compile(r"hf_\w{20,}")  # anybody's, should an answer repeat one


class HubError(ValueError):
    """Something cannot be published; the message says what the Hub answered and how to mend it, and shows no token."""


@dataclass(frozen=True)
class Artefact:
    """What one repo is to hold.

    `files` maps paths in the repo to local files or to bytes. A file of the repo that is not among them is deleted if
    its path matches one of `ours` (`*` does not match `/`), and stays otherwise. `repo_type` is model, dataset or
    space.
    """

    repo_id: str
    repo_type: str
    files: Mapping[str, Path | bytes]
    ours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pushed:
    """What became of an artefact: `commit` is None where the repo held it already."""

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
    """The problem of a repo id that the Hub would not take, if there is one; `option` is what it was given by."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
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
        """Makes the repos that are missing. Uploads nothing: whatever can refuse is asked before that.

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
        sdk = {"space_sdk": "gradio"} if artefact.repo_type == "space" else {}
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
            HubError: the Hub refuses it, or fails at every attempt; the next call sends only what is still missing.
        """
        pushed = self._tried(f"uploading to {artefact.repo_id}", lambda: self._commit(artefact))
        logger.info("%s", pushed)
        return pushed

    def _commit(self, artefact: Artefact) -> Pushed:
        """One attempt. It looks at the repo first: a commit whose answer was lost is not made twice."""
        repo: dict[str, Any] = {
            "repo_id": artefact.repo_id,
            "repo_type": artefact.repo_type,
            "revision": self.revision or "main",
        }
        head = self.api.repo_info(**repo).sha
        there = {e.path: e for e in self.api.list_repo_tree(**repo, recursive=True) if isinstance(e, RepoFile)}
        new = {path: c for path, c in artefact.files.items() if path not in there or _differs(c, there[path])}
        stale = [path for path in there if path not in artefact.files and _matches(path, artefact.ours)]
        url = f"{self.api.endpoint}/{_PREFIXES[artefact.repo_type]}{artefact.repo_id}"
        if not new and not stale:
            return Pushed(artefact, url, None, 0, 0)
        additions = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in new.items()]
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
        return Pushed(artefact, url, done.oid, len(new), len(stale))

    def _tried(self, what: str, call: Callable[[], Result]) -> Result:
        """`call()`, again after a while if the trouble may pass."""
        for attempt in itertools.count(1):
            try:
                return call()
            except _ERRORS as error:
                answer = next((e for e in _chain(error) if isinstance(e, HfHubHTTPError)), None)
                status = None if answer is None else answer.response.status_code
                if answer is None and not any(isinstance(e, _NO_ANSWER) for e in _chain(error)):
                    why = ": ".join(f"{e}" for e in _chain(error))
                    raise HubError(self._hidden(f"{what}: {why}")) from None
                seconds = _asked_to_wait(answer) or min(30.0, 2.0 ** (attempt - 1))
                if not _may_pass(status) or attempt == ATTEMPTS or seconds > LONGEST_WAIT:
                    raise HubError(self._hidden(self._told(what, error, answer, attempt, seconds))) from None
                reason = "the Hub cannot be reached" if status is None else f"the Hub answers {status}"
                logger.warning("%s: %s; trying again in %.0f s", what, reason, seconds)
                self._wait(seconds)

    def _told(self, what: str, error: Exception, answer: HfHubHTTPError | None, attempts: int, seconds: float) -> str:
        """The message of a failure that is not tried again."""
        go_on = "give the same command again later: it goes on from there"
        if answer is None:
            why = "its answers cannot be read" if isinstance(error, json.JSONDecodeError) else f"{error}"
            return f"{what}: {self.api.endpoint} failed {attempts} times ({why or type(error).__name__}); {go_on}"
        status, says = answer.response.status_code, (answer.server_message or "").replace("\n", " ").strip()
        says = f", {says}" if says else ""
        if status == 401:
            return f"{what}: {self.api.endpoint} refuses the token (401{says}); {self._log_in}"
        if status == 403:
            return f"{what}: the token may not write there (403{says}); check the owner's name, or {self._log_in}"
        if status == 429:
            return f"{what}: too many requests (429{says}); it asks to wait {seconds:.0f} s; {go_on}"
        if _may_pass(status):
            return f"{what}: {self.api.endpoint} answered {status}{says} {attempts} times; {go_on}"
        return f"{what}: {self.api.endpoint} answers {status}{says or f', {error}'}"

    def _hidden(self, message: str) -> str:
        """The message without the token, should an answer have repeated it."""
        return _TOKEN.sub("hf_…", message.replace(self._token, "hf_…"))


_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_NO_ANSWER = (httpx2.TransportError, json.JSONDecodeError)


def _may_pass(status: int | None) -> bool:
    """Whether the same request may succeed later; None is a request without an answer."""
    return status is None or status in _FOR_A_WHILE


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


def _asked_to_wait(answer: HfHubHTTPError | None) -> float | None:
    """Seconds that the Hub asks to wait, by Retry-After or its rate limit; None where it doesn't."""
    if answer is None:
        return None
    headers = answer.response.headers
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0
    after = headers.get("Retry-After", "")
    return float(after) if after.isdigit() else None


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(path.count("/") == p.count("/") and fnmatch.fnmatchcase(path, p) for p in patterns)


def _differs(content: Path | bytes, there: RepoFile) -> bool:
    """Whether a local file is another one than the repo's, by size and hash."""
    if there.size != (len(content) if isinstance(content, bytes) else content.stat().st_size):
        return True
    if there.lfs is not None:
        return _digest(content, hashlib.sha256()) != there.lfs.sha256
    return _digest(content, hashlib.sha1(b"blob %d\0" % there.size)) != there.blob_id  # git's own hash of a file


def _digest(content: Path | bytes, digest: Any) -> str:
    """The hex digest of a file's bytes, read in pieces."""
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
