"""Object stores on this machine, for tests."""

import hashlib
import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any

import pytest

from drifting.runs import store_path

BUCKET = "bucket"

LIBRARIES = {"gs": ("gcsfs", "gcp_storage_emulator"), "s3": ("s3fs", "moto", "flask_cors")}
"""What has to be installed for a store's tests: the client, and what stands for the store."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def store(scheme: str) -> Iterator[dict[str, str]]:
    """A store with an empty `BUCKET`; yields the environment in which the clients find it.

    Where what it takes is not installed, the test is skipped.
    """
    if missing := [name for name in LIBRARIES[scheme] if find_spec(name) is None]:
        pytest.skip(f"{scheme}://: {', '.join(missing)} not installed: make stores")
    with {"gs": _gcs, "s3": _s3}[scheme](free_port()) as environment:
        yield environment


@contextmanager
def served_store(scheme: str) -> Iterator[str]:
    """The scheme, whose store answers on this machine: the environment leads to it while the block runs."""
    with pytest.MonkeyPatch.context() as patch, store(scheme) as environment:
        for name, value in environment.items():
            patch.setenv(name, value)
        store_path._filesystem.cache_clear()
        yield scheme
        store_path._filesystem.cache_clear()


@contextmanager
def _s3(port: int) -> Iterator[dict[str, str]]:
    address = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        session = importlib.import_module("botocore.session").Session()
        client = session.create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=address,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket=BUCKET)
        yield environment
    finally:
        server.kill()
        server.wait()


@contextmanager
def _gcs(port: int) -> Iterator[dict[str, str]]:
    """A server of the emulator's requests, with the conditions on generations that TensorStore relies on."""
    emulator = importlib.import_module("gcp_storage_emulator.server")
    storage = importlib.import_module("gcp_storage_emulator.storage").Storage(use_memory_fs=True)
    storage.create_bucket(BUCKET, {"name": BUCKET, "kind": "storage#bucket"})
    lock = threading.Lock()

    class Handler(emulator.RequestHandler):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any) -> None:
            super().__init__(storage, *args)

    def conditional(handle: Callable[..., None]) -> Callable[..., None]:
        def handled(request: Any, response: Any, *rest: Any) -> None:
            with lock:
                bucket = request.params["bucket_name"]
                name = request.params.get("object_id") or request.query.get("name", [None])[0]
                now = _generation(storage, bucket, name)
                wanted, unwanted = (
                    request.query.get(key, [None])[0] for key in ("ifGenerationMatch", "ifGenerationNotMatch")
                )
                if wanted is not None and int(wanted) != now:
                    response.status = HTTPStatus.PRECONDITION_FAILED
                elif unwanted is not None and int(unwanted) == now:
                    response.status = HTTPStatus.NOT_MODIFIED
                else:
                    handle(request, response, *rest)
                    response["x-goog-generation"] = str(_generation(storage, bucket, name))

        return handled

    routes = emulator.HANDLERS
    emulator.HANDLERS = tuple(
        (path, {method: conditional(handle) if "/o" in path else handle for method, handle in methods.items()})
        for path, methods in routes
    )
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{port}"
    try:
        yield {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test",
        }
    finally:
        server.shutdown()
        server.server_close()
        emulator.HANDLERS = routes


def _generation(storage: Any, bucket: str, name: str | None) -> int:
    if name is None:
        return 0
    try:
        return int(storage.get_file_obj(bucket, name)["generation"])
    except Exception as error:
        if type(error).__name__ != "NotFound":
            raise
        return 0


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on port {port} after 10 s")


def clean_environment() -> dict[str, str]:
    """The environment of this process without what leads to real stores."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "GOOGLE_"))}


class Memory(importlib.import_module("fsspec.implementations.memory").MemoryFileSystem):  # type: ignore[misc]
    """A store in this process, with checksums as S3 has them. `away`: what any request raises. `accepted`: how many
    more objects it takes from a file; None: all.

    Its library keeps one set of files for all instances: they begin empty.
    """

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.store, self.pseudo_dirs = {}, [""]
        self.away: Exception | None = None
        self.accepted: int | None = None

    def _ask(self) -> None:
        if self.away is not None:
            raise self.away

    def call_s3(self, name: str, **_: Any) -> None:
        self._ask()

    def _etag(self, found: dict[str, Any]) -> dict[str, Any]:
        found = found | {"name": found["name"].lstrip("/")}
        if found["type"] == "file":
            found["ETag"] = hashlib.md5(super().cat_file(found["name"]), usedforsecurity=False).hexdigest()
        return found

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        self._ask()
        return self._etag(super().info(path))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        self._ask()
        found = [self._etag(one) for one in super().ls(path, detail=True)]
        return found if detail else [one["name"] for one in found]

    def find(self, path: str, **_: Any) -> dict[str, Any]:
        self._ask()
        names = [name for name in self.store if name.startswith(f"/{path}/")]
        return {name.lstrip("/"): self.info(name) for name in names}

    def cat_file(self, path: str, *rest: Any, **options: Any) -> bytes:
        self._ask()
        content: bytes = super().cat_file(path, *rest, **options)
        return content

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._ask()
        return super().open(path, mode, **options)

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        self._ask()
        with super().open(path, "wb") as file:
            file.write(value)

    def put_file(self, source: str, target: str, **_: Any) -> None:
        if self.accepted is not None:
            self.accepted -= 1
            if self.accepted < 0:
                raise ConnectionResetError("cut")
        with open(source, "rb") as file:
            self.pipe_file(target, file.read())

    def get_file(self, source: str, target: str, **_: Any) -> None:
        with open(target, "wb") as file:
            file.write(self.cat_file(source))

    def cp_file(self, source: str, target: str, **_: Any) -> None:
        self.pipe_file(target, self.cat_file(source))

    def rm_file(self, path: str) -> None:
        self._ask()
        if f"/{path}" not in self.store:
            raise FileNotFoundError(path)
        del self.store[f"/{path}"]
