"""The companion language model (arXiv 2512.23808, section 2.2): speech and text in, speech and text out.

    lm = MimoAudioLM.from_pretrained("path/to/model", codec="nano")
    print(lm.transcribe("speech.wav").text)
    waveform = lm.speak("Good morning.", voice="speech.wav").waveform

The files are the data flow: prompts -> layout -> model -> generate (sampling, cache) -> pipeline. Needs the extra `lm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimo_codec.common.lazy import lazy_names

if TYPE_CHECKING:
    from mimo_codec.lm.config import LMConfig
    from mimo_codec.lm.layout import Layout
    from mimo_codec.lm.output import Generation, Piece
    from mimo_codec.lm.pipeline import MimoAudioLM
    from mimo_codec.lm.prompts import TASKS, WORDINGS, Example, Turn, Wording
    from mimo_codec.lm.request import Sampling, Stop

_HOMES = {
    "Example": "prompts",
    "Generation": "output",
    "LMConfig": "config",
    "Layout": "layout",
    "MimoAudioLM": "pipeline",
    "Piece": "output",
    "Sampling": "request",
    "Stop": "request",
    "TASKS": "prompts",
    "Turn": "prompts",
    "WORDINGS": "prompts",
    "Wording": "prompts",
}
__all__ = [
    "Example",
    "Generation",
    "LMConfig",
    "Layout",
    "MimoAudioLM",
    "Piece",
    "Sampling",
    "Stop",
    "TASKS",
    "Turn",
    "WORDINGS",
    "Wording",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
