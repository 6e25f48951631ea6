"""Writing a report, and serving it on this machine while what it shows goes on."""

import hashlib
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from drifting.monitor import atomic_path
from drifting.report.data import read
from drifting.report.page import page

logger = logging.getLogger("drifting")

WATCHED = ("config.json", "metrics.jsonl", "eval-*.json", "error.txt", "samples/step_*.png")
HOST = "127.0.0.1"


def write_report(workdir: Path, out: Path) -> None:
    """Writes the page about a run or a sweep, whole or not at all.

    Raises:
        ConfigError: there is neither in `workdir`.
    """
    text = page(read(workdir))
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def version(workdir: Path) -> str:
    """What changes whenever something that the page shows has changed."""
    digest = hashlib.sha256()
    for pattern in WATCHED:
        for path in sorted([*workdir.glob(pattern), *workdir.glob(f"*/{pattern}")]):
            found = path.stat()
            digest.update(f"{path} {found.st_mtime_ns} {found.st_size}".encode())
    return digest.hexdigest()[:16]


def server(workdir: Path, port: int) -> ThreadingHTTPServer:
    """A server of the page on this machine alone, not yet serving; the page is made anew when something has changed.

    Args:
        port: 0: any that is free.

    Raises:
        ConfigError: there is no run or sweep in `workdir`.
        OSError: the port is taken.
    """
    made = {version(workdir): page(read(workdir), version(workdir))}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that the library calls
            now = version(workdir)
            if self.path == "/version":
                return self._answer(now, "text/plain")
            if self.path != "/":
                return self.send_error(404)
            if now not in made:
                made.clear()
                made[now] = page(read(workdir), now)
            return self._answer(made[now], "text/html")

        def _answer(self, text: str, kind: str) -> None:
            content = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are of no interest."""

    return ThreadingHTTPServer((HOST, port), Handler)


def watch(workdir: Path, port: int) -> None:
    """Serves the page until Ctrl-C."""
    with server(workdir, port) as serving:
        logger.info("report: http://%s:%d, which follows %s; Ctrl-C ends it", HOST, serving.server_port, workdir)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            logger.info("report: ended")
