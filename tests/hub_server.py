"""A stand-in for the Hub on the loopback: repos in memory, the endpoints that real clients call, and faults to order.

A pass against it shows what the clients send and get back, not that the Hub itself would take it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


TOKEN = "hf_StandInForTheHub0123456789"
_LFS = (".parquet", ".safetensors", ".png", ".bin", ".arrow")
_DATE = "2026-01-01T00:00:00.000Z"
_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
_ID = r"(?P<id>[\w.-]+/[\w.-]+)"


@dataclass(frozen=True)
class Blob:
    """A file's bytes; `lfs` says how it is stored."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        """Hex digest of the content."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_oid(self) -> str:
        """Git's hash: of the content, or of an LFS file's pointer."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        data = pointer.encode() if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def oid(self) -> str:
        """What preupload and ETag call the content's hash."""
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    """A commit: its files are the whole tree."""

    oid: str
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repo: commits of each branch, oldest first."""

    private: bool
    sdk: str | None
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def add(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        """A new head of a branch."""
        commits = self.branches.setdefault(branch, [])
        named = sorted((path, blob.git_oid) for path, blob in files.items())
        oid = hashlib.sha1(repr((branch, len(commits), title, named)).encode()).hexdigest()
        commits.append(Commit(oid, title, files))
        return commits[-1]

    def at(self, revision: str) -> Commit | None:
        """A branch's head, or the commit of that oid."""
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for commits in self.branches.values() for c in commits if c.oid == revision), None)


@dataclass
class Fault:
    """`times` requests whose `METHOD path` matches `on` are answered `status`, or dropped half-way where it is None.

    With `after`, the request is carried out first and only its answer lost.
    """

    times: int
    on: re.Pattern[str]
    status: int | None
    headers: dict[str, str]
    after: bool = False


class HubServer:
    """The server, from `with HubServer() as hub`; `hub.url` is its endpoint.

    `log` has every request as `METHOD path`, `received` the oids of LFS files that came.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.log: list[str] = []
        self.received: list[str] = []
        self.faults: list[Fault] = []
        self.tokens = {TOKEN}
        self.role = "write"
        self.writable = True
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, status: int, times: int = 1, on: str = "", **headers: str) -> None:
        """Answers the next `times` matching requests with a status; header names have _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(times, re.compile(on), status, named))

    def drop(self, times: int = 1, on: str = "", after: bool = False) -> None:
        """Ends the connection of the next `times` matching requests in their middle, or before they are answered."""
        self.faults.append(Fault(times, re.compile(on), None, {}, after))

    def fault(self, request: str, after: bool = False) -> Fault | None:
        """The fault that a request meets, counted off."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.after == after and fault.on.search(request):
                    fault.times -= 1
                    return fault
        return None

    def commits(self, repo_id: str, repo_type: str = "model", branch: str = "main") -> list[Commit]:
        """The commits of a branch that clients made, oldest first."""
        return self.repos[repo_type, repo_id].branches[branch][1:]

    def files(self, repo_id: str, repo_type: str = "model", branch: str = "main") -> dict[str, bytes]:
        """The files at a branch's head."""
        return {path: blob.data for path, blob in self.repos[repo_type, repo_id].branches[branch][-1].files.items()}


class _Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, error: str, code: str | None = None) -> None:
        super().__init__(error)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": error} if code else {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """Any method: finds the endpoint and answers."""
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        request = f"{self.command} {path}"
        with self.hub.lock:
            self.hub.log.append(request)
        fault = self.hub.fault(request)
        if fault is not None and fault.status is None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self.close_connection = True
            return
        self.body = b"".join(self._body())
        if fault is not None:
            return self._send(fault.status, {"error": f"ordered to answer {fault.status}"}, fault.headers)
        try:
            answer = self._answer(request)
        except _Refused as refused:
            return self._send(refused.status, {"error": str(refused)}, refused.headers)
        if self.hub.fault(request, after=True):
            self.close_connection = True
            return
        if answer is not None:
            self._send(200, answer)

    do_POST = do_PUT = do_HEAD = do_GET

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, request: str) -> Any:
        for pattern, endpoint in _ENDPOINTS:
            if found := pattern.fullmatch(request):
                with self.hub.lock:
                    return endpoint(self, **found.groupdict())
        raise _Refused(404, f"no such endpoint: {request}")

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        sent = {"Content-Length": str(len(data)), "Content-Type": "application/json"} | (headers or {})
        self.send_response(status)
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # What the endpoints share.

    def _authorized(self, write: bool = False) -> None:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if (given or write) and given not in self.hub.tokens:
            raise _Refused(401, "Invalid credentials in Authorization header")
        if write and not self.hub.writable:
            raise _Refused(403, "You don't have the rights to write there")

    def _repo(self, kind: str | None, repo_id: str, write: bool = False) -> Repo:
        self._authorized(write)
        repo = self.hub.repos.get((_TYPES[kind or "models"], repo_id))
        if repo is None or (repo.private and not self.headers.get("Authorization")):
            raise _Refused(404 if self.headers.get("Authorization") else 401, "Repository not found", "RepoNotFound")
        return repo

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.at(revision)
        if commit is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    @property
    def _json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    # Endpoints.

    def _whoami(self) -> Any:
        self._authorized()
        if not self.headers.get("Authorization"):
            raise _Refused(401, "Invalid username or password.")
        return {
            "type": "user",
            "name": "me",
            "fullname": "Me",
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": {"displayName": "tests", "role": self.hub.role}},
        }

    def _create(self) -> Any:
        self._authorized(write=True)
        wanted = self._json
        kind = wanted.get("type") or "model"
        repo_id = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
        if (kind, repo_id) in self.hub.repos:
            return self._send(409, {"error": "You already created this repo", "url": url})
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        repo = self.hub.repos[kind, repo_id] = Repo(private, wanted.get("sdk"))
        repo.add("main", "initial commit", {".gitattributes": Blob(b"*.parquet filter=lfs\n", lfs=False)})
        return {"url": url, "id": repo_id, "name": repo_id}

    def _branch(self, kind: str, id: str, branch: str) -> Any:
        repo = self._repo(kind, id, write=True)
        if branch in repo.branches:
            raise _Refused(409, "Reference already exists")
        repo.branches[branch] = list(repo.branches["main"])
        return {}

    def _validate_yaml(self) -> Any:
        content = self._json["content"]
        if not re.match(r"---\n.+?\n---\n", content, re.DOTALL):
            return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]}
        return {"errors": [], "warnings": []}

    def _info(self, kind: str, id: str, revision: str | None = None) -> Any:
        repo = self._repo(kind, id)
        commit = self._commit(repo, revision or "main")
        return {
            "_id": "0" * 24,
            "id": id,
            "modelId": id,
            "author": id.split("/")[0],
            "sha": commit.oid,
            "lastModified": _DATE,
            "createdAt": _DATE,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "sdk": repo.sdk,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }

    def _entry(self, path: str, blob: Blob) -> dict[str, Any]:
        entry = {"type": "file", "oid": blob.git_oid, "size": len(blob.data), "path": path}
        return entry | ({"lfs": {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 130}} if blob.lfs else {})

    def _folders(self, files: dict[str, Blob]) -> list[str]:
        return sorted({p.rsplit("/", n)[0] for p in files for n in range(1, p.count("/") + 1)})

    def _tree(self, kind: str, id: str, revision: str, path: str | None = None) -> Any:
        commit = self._commit(self._repo(kind, id), revision)
        prefix = f"{path}/" if path else ""
        entries = [self._entry(p, blob) for p, blob in sorted(commit.files.items())]
        entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in self._folders(commit.files)]
        inside = [e for e in entries if e["path"].startswith(prefix)]
        if path and not inside:
            raise _Refused(404, f"{path} does not exist on {revision}", "EntryNotFound")
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        return [e for e in inside if deep or "/" not in e["path"].removeprefix(prefix)]

    def _paths_info(self, kind: str, id: str, revision: str) -> Any:
        commit = self._commit(self._repo(kind, id), revision)
        if "json" in (self.headers.get("Content-Type") or ""):
            paths = self._json["paths"]
        else:
            paths = parse_qs(self.body.decode()).get("paths", [])
        found = [self._entry(p, commit.files[p]) for p in paths if p in commit.files]
        folders = self._folders(commit.files)
        return found + [{"type": "directory", "oid": "0" * 40, "path": p} for p in paths if p in folders]

    def _refs(self, kind: str, id: str) -> Any:
        repo = self._repo(kind, id)
        heads = [(name, commits[-1].oid) for name, commits in repo.branches.items()]
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in heads]
        return {"branches": branches, "converts": [], "tags": []}

    def _commits(self, kind: str, id: str, revision: str) -> Any:
        self._commit(repo := self._repo(kind, id), revision)
        return [
            {"id": c.oid, "title": c.title, "message": "", "authors": [{"user": "me"}], "date": _DATE}
            for c in reversed(repo.branches[revision])
        ]

    def _preupload(self, kind: str, id: str, revision: str) -> Any:
        commit = self._commit(self._repo(kind, id, write=True), revision)
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(_LFS) else "regular",
                    "shouldIgnore": False,
                    "oid": commit.files[file["path"]].oid if file["path"] in commit.files else None,
                }
                for file in self._json["files"]
            ]
        }

    def _new_commit(self, kind: str, id: str, revision: str) -> Any:
        repo = self._repo(kind, id, write=True)
        parent = self._commit(repo, revision)
        files, title = dict(parent.files), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, parent.oid):
                    raise _Refused(412, "A commit has happened since. Please refresh and try again.")
            elif item["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    raise _Refused(400, f"LFS pointer of {value['path']} points to a file that does not exist")
                files[value["path"]] = Blob(self.hub.lfs[value["oid"]], lfs=True)
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise _Refused(400, f"unknown operation {item['key']}")
        commit = repo.add(revision, title, files)
        return {"success": True, "commitOid": commit.oid, "commitUrl": f"{self.hub.url}/{id}/commit/{commit.oid}"}

    def _lfs_batch(self, kind: str | None, id: str) -> Any:
        self._repo(kind, id, write=True)
        objects = []
        for wanted in self._json["objects"]:
            known = wanted["oid"] in self.hub.lfs
            upload = {"upload": {"href": f"{self.hub.url}/storage/{wanted['oid']}"}}
            objects.append({**wanted, "authenticated": True} | ({} if known else {"actions": upload}))
        return {"transfer": "basic", "objects": objects}

    def _store(self, oid: str) -> Any:
        if self.headers.get("Authorization"):
            raise _Refused(400, "storage is not the Hub: no token belongs here")
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "the content is not what was announced")
        self.hub.lfs[oid] = self.body
        self.hub.received.append(oid)
        return {}

    def _resolve(self, kind: str | None, id: str, revision: str, path: str) -> None:
        commit = self._commit(self._repo(kind, id), revision)
        if path not in commit.files:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        blob = commit.files[path]
        data, status, headers = blob.data, 200, {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.oid}"'}
        headers |= {"Accept-Ranges": "bytes", "Last-Modified": formatdate(0, usegmt=True)}
        headers["Content-Type"] = "application/octet-stream"
        if blob.lfs:
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{blob.oid}"'}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self._send(status, data, headers)


_API = rf"/api/(?P<kind>models|datasets|spaces)/{_ID}"
_WEB = rf"/(?:(?P<kind>datasets|spaces)/)?{_ID}"
_REV = r"(?P<revision>refs/\w+/[^/]+|[^/]+)"
_ENDPOINTS = [
    (re.compile(pattern), endpoint)
    for pattern, endpoint in (
        (r"GET /api/whoami-v2", _Handler._whoami),
        (r"POST /api/repos/create", _Handler._create),
        (r"POST /api/validate-yaml", _Handler._validate_yaml),
        (rf"GET {_API}", _Handler._info),
        (rf"GET {_API}/revision/{_REV}", _Handler._info),
        (rf"GET {_API}/refs", _Handler._refs),
        (rf"GET {_API}/commits/{_REV}", _Handler._commits),
        (rf"GET {_API}/tree/{_REV}(?:/(?P<path>.*))?", _Handler._tree),
        (rf"POST {_API}/branch/(?P<branch>.+)", _Handler._branch),
        (rf"POST {_API}/paths-info/{_REV}", _Handler._paths_info),
        (rf"POST {_API}/preupload/{_REV}", _Handler._preupload),
        (rf"POST {_API}/commit/{_REV}", _Handler._new_commit),
        (rf"POST {_WEB}\.git/info/lfs/objects/batch", _Handler._lfs_batch),
        (r"PUT /storage/(?P<oid>[0-9a-f]{64})", _Handler._store),
        (rf"(?:GET|HEAD) {_WEB}/resolve/{_REV}/(?P<path>.+)", _Handler._resolve),
    )
]
