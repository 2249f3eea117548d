"""What a user would hear of a language model in training: at validations it transcribes and speaks held-out rows."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from mimo_codec.audio.files import load_audio
from mimo_codec.codec.model import MimoCodec
from mimo_codec.common.checks import check_choice, check_integer, require
from mimo_codec.common.errors import MimoError, MimoWarning
from mimo_codec.lm.config import FRAME_RATE
from mimo_codec.lm.pipeline import MimoAudioLM
from mimo_codec.metrics import METRICS, require_metric, speech_metrics
from mimo_codec.metrics.words import word_error_rate
from mimo_codec.train.lm.files import find_row_files, read_rows
from mimo_codec.train.show import show_sound, show_text

LONGER = 2.0
"""An answer ends after so many times the length of the recording."""
TOKENS_PER_SECOND, MIN_TOKENS = 25, 50
"""Most text tokens of a second of speech, letters if need be."""
SHOWN = 4


class Listen(lightning.Callback):
    """Logs word errors of transcripts, as listen/transcribe_wer, and metrics of speech, as listen/NAME; shows some.

    The model gets every recording to transcribe, and its text to speak. It needs a codec, and whole weights: with FSDP
    it does nothing.

    Args:
        rows: file or folder of held-out rows with "audio", a path, and "text".
        num_rows: the first so many are used.
        every: validations from one time to the next.
        metrics: of the spoken answers against the recordings, names of `mimo_codec.metrics.METRICS`, such as
            wer_moonshine (of a recognizer on what is spoken), speaker_similarity, dnsmos; none: nothing is spoken.
    """

    def __init__(self, rows: str, num_rows: int = 16, every: int = 1, metrics: Sequence[str] = ()):
        """See the class for the arguments; MimoError for metrics that cannot be computed here, and without rows."""
        self.num_rows, self.every = check_integer("num_rows", num_rows, 1), check_integer("every", every, 1)
        for name in metrics:
            check_choice("metrics", name, METRICS)
            require_metric(name)
        self.metrics = tuple(metrics)
        self.rows = _read(rows, self.num_rows)
        self.validations = 0

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """MimoError when there is no codec to listen with."""
        require(pl_module.find_codec() is not None, "Listen: model.init_args.codec is null; nothing can be heard")

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Listen, in one process, and log in all."""
        if trainer.sanity_checking:
            return
        self.validations += 1
        if (self.validations - 1) % self.every:
            return
        if pl_module.device_mesh is not None:
            rank_zero_warn("Listen: the weights are sharded, so nothing is transcribed or spoken", category=MimoWarning)
            return
        found = self._listen(trainer, pl_module) if trainer.is_global_zero else {}
        for name, value in trainer.strategy.broadcast(found).items():
            pl_module.log(f"listen/{name}", value, rank_zero_only=False)

    def state_dict(self) -> dict[str, Any]:
        """Return how many validations there were."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of validations."""
        self.validations = state_dict["validations"]

    @torch.no_grad()
    def _listen(self, trainer: lightning.Trainer, stage: Any) -> dict[str, float]:
        model, codec = stage.language_model, stage.find_codec()
        was_training = model.training
        lm = MimoAudioLM(model.eval(), stage.tokenizer, codec=codec, compile=False)
        scores: dict[str, list[float]] = {"transcribe_wer": [], **{name: [] for name in self.metrics}}
        for i, (path, text) in enumerate(self.rows):
            try:
                for name, value in self._score(trainer, lm, codec, i).items():
                    scores[name].append(value)
            except MimoError as error:  # training is worth more than one recording
                rank_zero_warn(f"Listen: {path} ({text}) is left out: {error}", category=MimoWarning)
        model.train(was_training)
        means = {name: np.array(values)[np.isfinite(values)] for name, values in scores.items()}
        return {name: float(values.mean()) for name, values in means.items() if len(values)}

    def _score(self, trainer: lightning.Trainer, lm: MimoAudioLM, codec: Any, number: int) -> dict[str, float]:
        """Transcribe and speak a row, and show it; MimoError for recordings that cannot be read or are too long."""
        path, text = self.rows[number]
        waveform, rate = load_audio(path)
        limit = math.ceil(LONGER * len(waveform) / rate * TOKENS_PER_SECOND) + MIN_TOKENS
        heard = lm.transcribe(path, max_new_patches=limit).text or ""
        if number < SHOWN:
            show_text(trainer.loggers, f"transcript/{number}", f"{text} -> {heard}", trainer.global_step)
        found = {"transcribe_wer": word_error_rate(text, heard)}
        if self.metrics:
            patches = math.ceil(LONGER * len(waveform) / rate * FRAME_RATE / lm.layout.group_size)
            spoken = lm.speak(text, max_new_patches=patches).waveform
            sound = torch.zeros(codec.sample_rate) if spoken is None else torch.as_tensor(np.asarray(spoken))
            found |= speech_metrics(waveform, rate, sound, codec.sample_rate, self.metrics, text)
            if number < SHOWN and isinstance(codec, MimoCodec):
                show_sound(trainer.loggers, f"spoken/{number}", sound, codec, trainer.global_step)
        return found


def _read(root: str, count: int) -> list[tuple[str, str]]:
    """Paths of recordings and their texts."""
    found: list[tuple[str, str]] = []
    for path in find_row_files(root):
        for entry in read_rows(path):
            row = entry.row if isinstance(entry.row, dict) else {}
            audio, text = row.get("audio"), row.get("text")
            if isinstance(audio, str) and isinstance(text, str) and text.strip() and len(found) < count:
                recording = path.parent / os.path.expanduser(audio)
                require(recording.is_file(), f"Listen: {entry.name}: there is no file {recording}")
                found.append((str(recording), text))
    require(found, f'Listen: {root} has no row with "audio", a path, and "text"')
    return found
