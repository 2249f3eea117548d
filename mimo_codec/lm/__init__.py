"""The companion language model (arXiv 2512.23808, section 2.2): speech and text in, speech and text out.

    lm = MimoAudioLM.from_pretrained("path/to/model", codec="nano")
    print(lm.transcribe("speech.wav").text)
    waveform = lm.speak("Good morning.", voice="speech.wav").waveform

The files are the data flow: audio -> tasks -> prompts -> layout -> generate (backend: model, cache, sampling) ->
output; `base` and `pipeline` put them together. Needs the extra `lm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimo_codec.common.lazy import lazy_names

if TYPE_CHECKING:
    from mimo_codec.lm.config import LMConfig
    from mimo_codec.lm.instructions import INSTRUCTIONS, Instructions
    from mimo_codec.lm.layout import Layout
    from mimo_codec.lm.output import Generation, Piece
    from mimo_codec.lm.pipeline import MimoAudioLM
    from mimo_codec.lm.prompts import Example, Turn
    from mimo_codec.lm.request import PRESETS, Sampling, Stop
    from mimo_codec.lm.tasks import TASKS

_HOMES = {
    "Example": "prompts",
    "Generation": "output",
    "INSTRUCTIONS": "instructions",
    "Instructions": "instructions",
    "LMConfig": "config",
    "Layout": "layout",
    "MimoAudioLM": "pipeline",
    "PRESETS": "request",
    "Piece": "output",
    "Sampling": "request",
    "Stop": "request",
    "TASKS": "tasks",
    "Turn": "prompts",
    "WORDINGS": "instructions",  # name of INSTRUCTIONS in version 0.1
    "Wording": "instructions",
}
__all__ = [
    "INSTRUCTIONS",
    "PRESETS",
    "TASKS",
    "Example",
    "Generation",
    "Instructions",
    "LMConfig",
    "Layout",
    "MimoAudioLM",
    "Piece",
    "Sampling",
    "Stop",
    "Turn",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
