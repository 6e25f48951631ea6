"""A small stand-in for the hub on this machine: as much of it as downloads, uploads and their failures need."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

TOKEN = "hf_good"


class FakeHub:
    """Repositories in memory, behind an address.

    Attributes:
        repos: `{repository: {revision: {path: content}}}`; a repository that is made has the revision `main`.
        private: repositories that only the token opens.
        gated: repositories that want access to be granted, whatever the token.
        readers_only: owners that nobody may write to.
        cut: of how many answers to cut the rest off, after half of what remains.
        broken: the HTTP status of every answer, if one is given.
        files: what lies outside repositories, by address, such as an uploaded blob.
        requests: what was asked of what is here: method, path and the `Range` header.
        messages: of the commits.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.readers_only: set[str] = set()
        self.cut, self.broken = 0, 0
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.messages: list[str] = []
        self.url = ""

    def add(self, repo: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Puts files into a repository; returns the commit."""
        self.repos.setdefault(repo, {"main": {}}).setdefault(revision, {}).update(files)
        return self.commit(repo, revision)

    def commit(self, repo: str, revision: str) -> str:
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.repos[repo][revision].items())
        return hashlib.sha1(json.dumps([repo, content]).encode()).hexdigest()

    def revision(self, repo: str, name: str) -> str | None:
        """The branch that a branch's or a commit's name means."""
        found = [branch for branch in self.repos[repo] if name in (branch, self.commit(repo, branch))]
        return found[0] if found else None

    def add_folder(self, repo: str, folder: Path, prefix: str = "", revision: str = "main") -> str:
        files = {f"{prefix}{path.name}": path.read_bytes() for path in folder.iterdir()}
        return self.add(repo, files, revision)

    def downloads(self) -> list[str]:
        """The files whose content was sent."""
        return [path.rpartition("/")[2] for method, path, _ in self.requests if method == "GET"]


def is_large(path: str) -> bool:
    """Whether a file goes into large-file storage."""
    return path.endswith((".safetensors", ".msgpack", ".pth"))


def etag(path: str, data: bytes) -> str:
    """The checksum that the hub names a file by."""
    if is_large(path):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers of the hub."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Not on standard error."""

    def answer(self, status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.command == "GET" and self.hub.cut:
            self.hub.cut -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for method, pattern, handle in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                self.hub.requests.append((self.command, path, self.headers.get("Range")))
                return self.answer(self.hub.broken) if self.hub.broken else handle(self, *match.groups())
        self.answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = route

    def missing(self, what: str, status: int = 404) -> None:
        self.answer(status, X_Error_Code=what)

    def resolve(self, repo: str, revision: str, path: str) -> None:
        """A file of a repository, whole or from where `Range` says."""
        if repo in self.hub.gated:
            return self.missing("GatedRepo", 403)
        if repo not in self.hub.repos or (repo in self.hub.private and not self.is_known()):
            return self.missing("RepoNotFound", 401)
        branch = self.hub.revision(repo, revision)
        if branch is None:
            return self.missing("RevisionNotFound")
        commit = {"X_Repo_Commit": self.hub.commit(repo, branch)}
        if path not in self.hub.repos[repo][branch]:
            return self.answer(404, X_Error_Code="EntryNotFound", **commit)
        data = self.hub.repos[repo][branch][path]
        self.ranged(data, ETag=f'"{etag(path, data)}"', **commit)

    def ranged(self, data: bytes, **headers: str) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked is None:
            return self.answer(200, data, **headers)
        start = int(asked[1])
        if start >= len(data):
            return self.answer(416, Content_Range=f"bytes */{len(data)}")
        self.answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}", **headers)

    def web_file(self, path: str) -> None:
        return self.ranged(self.hub.files[path]) if path in self.hub.files else self.answer(404)

    def is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def may_write(self, owner: str) -> bool:
        if not self.is_known():
            self.answer(401, {"error": "Invalid username or password."})
        elif owner in self.hub.readers_only:
            self.answer(403, {"error": "You don't have the rights to do this."})
        else:
            return True
        return False

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        if self.may_write(asked["organization"]):
            if asked.get("visibility") == "private":
                self.hub.private.add(repo)
            status = 409 if repo in self.hub.repos else 200
            self.hub.add(repo, {})
            self.answer(status, {"url": f"{self.hub.url}/{repo}"})

    def branch(self, repo: str, name: str) -> None:
        if self.may_write(repo.split("/")[0]):
            branches = self.hub.repos[repo]
            status = 409 if name in branches else 200
            branches.setdefault(name, dict(branches["main"]))
            self.answer(status)

    def validate_yaml(self) -> None:
        bad = "license: [" in json.loads(self.body)["content"]
        self.answer(400 if bad else 200, {"errors": [{"message": "bad YAML"}], "warnings": []} if bad else {})

    def preupload(self, repo: str, revision: str) -> None:
        if self.hub.revision(repo, revision) is None:
            return self.missing("RevisionNotFound")
        files = [
            {"path": f["path"], "uploadMode": "lfs" if is_large(f["path"]) else "regular", "shouldIgnore": False}
            for f in json.loads(self.body)["files"]
        ]
        self.answer(200, {"files": files})

    def large_files(self, repo: str) -> None:
        wanted = json.loads(self.body)["objects"]
        actions = [{**f, "actions": {"upload": {"href": f"{self.hub.url}/files/{f['oid']}"}}} for f in wanted]
        self.answer(200, {"objects": actions, "transfer": "basic"})

    def upload(self, path: str) -> None:
        self.hub.files[path] = self.body
        self.answer(200)

    def add_commit(self, repo: str, revision: str) -> None:
        if not self.may_write(repo.split("/")[0]):
            return
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.messages.append(value["summary"])
            if entry["key"] == "file":
                self.hub.add(repo, {value["path"]: base64.b64decode(value["content"])}, revision)
            if entry["key"] == "lfsFile":
                self.hub.add(repo, {value["path"]: self.hub.files[value["oid"]]}, revision)
        commit = self.hub.commit(repo, revision)
        self.answer(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})


REPO = r"([\w.-]+/[\w.-]+)"

ROUTES = [
    ("HEAD", rf"/{REPO}/resolve/([^/]+)/(.+)", Handler.resolve),
    ("GET", rf"/{REPO}/resolve/([^/]+)/(.+)", Handler.resolve),
    ("GET", r"/files/(.+)", Handler.web_file),
    ("PUT", r"/files/(.+)", Handler.upload),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("POST", rf"/api/models/{REPO}/branch/(.+)", Handler.branch),
    ("POST", rf"/api/models/{REPO}/preupload/(.+)", Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.large_files),
    ("POST", rf"/api/models/{REPO}/commit/(.+)", Handler.add_commit),
]


@contextmanager
def serve() -> Iterator[FakeHub]:
    """A hub that listens on a free port of this machine."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(monkeypatch: pytest.MonkeyPatch, hub_url: str, home: Path) -> None:
    """Makes huggingface_hub of this process talk to the address and keep everything in `home`.

    It reads its environment variables when it is imported, so what they become is changed.
    """
    monkeypatch.setattr(constants, "ENDPOINT", hub_url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub_url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / "harnesses"), raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)  # between attempts
    close_session()
