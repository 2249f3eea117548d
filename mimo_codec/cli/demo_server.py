"""A web server for `mimo-codec demo`: the page of examples/web and the graphs of a codec, for this machine alone."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import threading
import webbrowser
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mimo_codec import __version__
from mimo_codec.cli.console import print_line
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import cache_folder
from mimo_codec.loading import is_export

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""Names of this machine by which pages may be asked for. Not those of the internet that were made to point here, whose
pages could read what is served (DNS rebinding)."""
SECONDS = 10.0
"""Most that a request may take to arrive, and every 64 KiB of the answer to leave."""
MAX_CONNECTIONS = 64
GRAPHS = ("encoder.onnx", "decoder.onnx")
MIME_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".wav": "audio/wav",
}
"""Suffix -> type of all files that are served; other files in the folders are not."""
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",  # with the next: pages may use threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def serve(model: str = "nano", port: int = 8000, open_page: bool = False) -> None:
    """Serve until interrupted.

    Args:
        model: as for `load_codec`; one that is not exported yet is exported on first use.
        port: of the page; 0: any that is free.
        open_page: open the page in the browser.

    Raises:
        MimoError: for a model that cannot be found and for a port that cannot be used.
    """
    files = served_files(page_root(), find_graphs(model))
    with make_server(files, port) as server:
        url = f"http://{HOST}:{server.server_port}/"
        print(f"{url} (Ctrl-C ends it)", flush=True)
        if open_page:
            webbrowser.open(url)
        server.serve_forever()


def page_root() -> Path:
    """Find the folder of the page: inside an installed wheel, or in the repository."""
    installed = Path(__file__).parents[1] / "web"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "examples" / "web"


def example_file() -> Path:
    """Find the speech that the page opens with: inside an installed wheel, or in the repository."""
    installed = Path(__file__).parents[1] / "onnx" / "speech.wav"
    return installed if installed.is_file() else Path(__file__).parents[2] / "examples" / "speech.wav"


def find_graphs(model: str) -> Path:
    """Find the folder of a codec's graphs: that of an exported codec, or one in the user's cache.

    A codec whose graphs are not in the cache is exported.
    """
    if is_export(model):
        return Path(model).expanduser()
    from mimo_codec.codec.checkpoint import find_checkpoint
    from mimo_codec.hub import weight_files

    folder, name = find_checkpoint(model)
    digest = hashlib.sha256()
    for path in weight_files(folder):
        digest.update(path.read_bytes())
    graphs = cache_folder() / f"{name}-{__version__}-{digest.hexdigest()[:8]}"
    if not all((graphs / name).is_file() for name in GRAPHS):
        print_line(f"exporting {model} to {graphs}; this takes a minute, once")
        _export(model, graphs)
    return graphs


def _export(model: str, folder: Path) -> None:
    from mimo_codec.codec.model import MimoCodec
    from mimo_codec.onnx.codec.export import export_codec

    export_codec(MimoCodec.from_pretrained(model, device="cpu"), folder, graphs=("encoder", "decoder"), overwrite=True)


def served_files(page: Path, graphs: Path) -> dict[str, Path]:
    """List all files that are served: URL path -> file. MimoError when a graph is missing or too large."""
    for graph in (graphs / name for name in GRAPHS):
        require(graph.is_file(), f"{graph}: there is no such file; mimo-codec export codec writes it")
        is_whole = not Path(f"{graph}.data").exists()
        require(is_whole, f"{graph}: keeps its weights in another file, which is too large for a browser")
    files = {f"/{p.relative_to(page).as_posix()}": p for p in page.rglob("*") if p.suffix in MIME_TYPES}
    example = {"/example.wav": example_file()}
    return {**files, **example, "/": page / "index.html", **{f"/graphs/{name}": graphs / name for name in GRAPHS}}


class _Server(ThreadingHTTPServer):
    """A thread for each connection, of which there are only so many."""

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]):
        super().__init__(address, handler)
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def process_request(self, request: Any, address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, address: Any) -> None:
        try:
            super().process_request_thread(request, address)
        finally:
            self._free.release()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request with a file, or ends the connection when it is slow."""

    files: Mapping[str, Path]
    timeout = SECONDS

    def setup(self) -> None:
        super().setup()
        self._deadline = threading.Timer(SECONDS, self._give_up)  # a timeout alone begins anew with every byte
        self._deadline.daemon = True
        self._deadline.start()

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        self._deadline.cancel()
        return parsed

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):  # the page was closed meanwhile, or reads too slowly
            super().handle()

    def finish(self) -> None:
        self._deadline.cancel()
        with suppress(OSError):
            super().finish()

    def _give_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if self.headers.get("Host", "").rpartition(":")[0] not in NAMES and self.headers.get("Host") not in NAMES:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, f"This page is at http://{HOST}, and nowhere else")
            return
        path = self.files.get(self.path.partition("?")[0])
        if path is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as file:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", MIME_TYPES[path.suffix])
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                shutil.copyfileobj(file, self.wfile)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: requests are not worth a line each."""


def make_server(files: Mapping[str, Path], port: int) -> ThreadingHTTPServer:
    """Make a server on the loopback interface that serves `files` and nothing else; port 0: any that is free."""
    try:
        return _Server((HOST, port), type("Handler", (_Handler,), {"files": files}))
    except OSError as error:
        in_use = "is in use; choose another by --port, or 0 for any that is free"
        reason = in_use if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise MimoError(f"port {port} {reason}") from None
