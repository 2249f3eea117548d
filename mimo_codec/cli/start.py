"""The console script: the command line, with Ctrl-C while it is still being imported as one line."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line, then exit."""
    try:
        from mimo_codec.cli.main import main as run

        run()
    except KeyboardInterrupt:
        if sys.stderr is not None:  # it is closed, and print would take stdout instead
            print("mimo-codec: error: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
