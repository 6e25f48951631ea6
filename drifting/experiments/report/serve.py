"""Writing a report, and serving it on this machine while what it shows goes on."""

import hashlib
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from drifting.errors import ArgumentError, DriftingError
from drifting.experiments.report.data import read_folder
from drifting.experiments.report.page import page
from drifting.runs.files import atomic_path

logger = logging.getLogger("drifting")

WATCHED_FILES = ("config.json", "metrics.jsonl", "eval-*.json", "sweep*.json", "error.txt", "samples/step_*.png")

SERVED_HOST = "127.0.0.1"


def write_report(workdir: Path, out: Path) -> None:
    """Writes the page about a run or a sweep, whole or not at all.

    Raises:
        ConfigError: there is neither in `workdir`.
    """
    text = page(read_folder(workdir))
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no text


def version(workdir: Path) -> str:
    """What changes whenever something that the page shows has changed."""
    digest = hashlib.sha256()
    for pattern in WATCHED_FILES:
        for path in sorted([*workdir.glob(pattern), *workdir.glob(f"*/{pattern}")]):
            found = path.stat()
            digest.update(f"{path} {found.st_mtime_ns} {found.st_size}".encode())
    return digest.hexdigest()[:16]


def server(workdir: Path, port: int) -> ThreadingHTTPServer:
    """A server of the page on this machine alone, not yet serving; the page is made anew when something has changed.

    Args:
        workdir: the folder of the run or sweep.
        port: where to listen. 0: any that is free.

    Raises:
        ConfigError: there is no run or sweep in `workdir`, or the port cannot be had.
    """
    one_at_a_time = threading.Lock()
    made = "", ""

    def current() -> str:
        nonlocal made
        with one_at_a_time:
            now = version(workdir)
            if made[0] != now:
                made = now, page(read_folder(workdir), now)
            return made[1]

    current()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that the library calls
            if self.path not in ("/", "/version"):
                return self.send_error(404)
            try:
                text = current() if self.path == "/" else version(workdir)
            except (DriftingError, OSError) as error:  # it was there, and has been damaged or moved
                return self._answer(str(error), "text/plain", 503)
            return self._answer(text, "text/html" if self.path == "/" else "text/plain")

        do_HEAD = do_GET

        def _answer(self, text: str, kind: str, status: int = 200) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are of no interest."""

    try:
        return ThreadingHTTPServer((SERVED_HOST, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError("port", port, f"{reason}; use another one, or 0 for any that is free") from error


def watch(workdir: Path, port: int) -> None:
    """Serves the page until Ctrl-C."""
    with server(workdir, port) as serving:
        logger.info("report: http://%s:%d, which follows %s; Ctrl-C ends it", SERVED_HOST, serving.server_port, workdir)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            logger.info("report: ended")
