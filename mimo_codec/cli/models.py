"""The command `models`: names of models that can be used and of presets that can be trained."""

from __future__ import annotations

from mimo_codec.cli.console import printable


def models() -> None:
    """List shipped and cached models, and presets to train."""
    from mimo_codec.codec.checkpoint import cached_models, shipped_models
    from mimo_codec.codec.presets import PRESETS

    rows = [("shipped", name, str(folder)) for name, folder in shipped_models().items()]
    rows += [("cached", name, str(folder)) for name, folder in cached_models().items()]
    rows += [("preset", name, "a configuration without weights") for name in PRESETS]
    width = max(len(name) for _, name, _ in rows)
    for kind, name, place in rows:
        print(f"{kind:8} {printable(name):{width}}  {printable(place)}")
