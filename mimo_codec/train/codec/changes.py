"""A trained codec with another configuration."""

from __future__ import annotations

from typing import Any

from mimo_codec.codec.model import MimoCodec
from mimo_codec.common.checks import require


def with_changes(model: MimoCodec, changes: dict[str, Any], name: str) -> MimoCodec:
    """Return a model with the same weights and a changed configuration; MimoError when they do not fit it."""
    if not changes:
        return model
    changed, weights = MimoCodec(model.config.replace(**changes)), model.state_dict()
    shapes = [{key: value.shape for key, value in state.items()} for state in (weights, changed.state_dict())]
    other = sorted(key for key in {*shapes[0], *shapes[1]} if shapes[0].get(key) != shapes[1].get(key))
    require(
        not other,
        f"model.init_args.config: {', '.join(changes)}: the weights of {name} do not fit this change"
        f" ({(other or [''])[0]}); leave it out, or train from a preset",
    )
    changed.load_state_dict(weights)
    return changed
