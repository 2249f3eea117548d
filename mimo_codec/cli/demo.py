"""`mimo-codec demo`: the page of examples/web and the graphs of a codec, served to this machine alone."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import webbrowser
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mimo_codec import __version__
from mimo_codec.cli.console import print_line
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import cache_folder
from mimo_codec.loading import is_export

HOST = "127.0.0.1"
GRAPHS = ("encoder.onnx", "decoder.onnx")
MIME_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}
"""Of everything that is served; what else lies in the folders is not."""
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",  # with the next: pages may use threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def serve(model: str = "nano", port: int = 8000, open_page: bool = False) -> None:
    """Serve until interrupted. model: as for `load_codec`; exported on first use unless it is. port: 0 for any.

    Raises MimoError for a model that cannot be found and for a port that cannot be had.
    """
    files = served_files(page_root(), find_graphs(model))
    with make_server(files, port) as server:
        url = f"http://{HOST}:{server.server_port}/"
        print(f"{url} (Ctrl-C ends it)", flush=True)
        if open_page:
            webbrowser.open(url)
        server.serve_forever()


def page_root() -> Path:
    """The folder of the page: inside an installed wheel, or in the repository."""
    installed = Path(__file__).parents[1] / "web"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "examples" / "web"


def find_graphs(model: str) -> Path:
    """The folder of a codec's graphs: its own if it is an exported one, else one in the user's cache, into which the
    codec is exported unless it is there."""
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
    """URL path -> file: everything that is ever served."""
    for name in GRAPHS:
        if not (graphs / name).is_file():
            raise MimoError(f"{graphs / name}: there is no such file; mimo-codec export codec writes it")
        if (graphs / f"{name}.data").exists():
            raise MimoError(f"{graphs / name}: keeps its weights in another file, which is too large for a browser")
    files = {f"/{p.relative_to(page).as_posix()}": p for p in page.rglob("*") if p.suffix in MIME_TYPES}
    return {**files, "/": page / "index.html", **{f"/graphs/{name}": graphs / name for name in GRAPHS}}


def make_server(files: Mapping[str, Path], port: int) -> ThreadingHTTPServer:
    """A server on loopback that gives `files` and nothing else; port 0: any that is free."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            with suppress(ConnectionError):  # the page was closed meanwhile
                self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = files.get(self.path.partition("?")[0])
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
            """Requests are not worth a line each."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise MimoError(f"port {port} is in use; choose another by --port, or 0 for any that is free") from None
        raise MimoError(f"port {port}: {error.strerror}") from None
