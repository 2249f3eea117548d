"""The command `demo`; `demo_server.py` serves the page."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 for any free one.")] = 8000,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", "--graphs", metavar="MODEL", help="As for encode; a model is exported on first use."
        ),
    ] = "nano",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Try a codec in the browser.

    The page records or opens speech and shows what encoding and decoding make of it. It is served to this machine
    alone, and the codec runs inside it, without PyTorch.
    """
    from mimo_codec.cli.demo_server import serve

    serve(model, port, open_page)
