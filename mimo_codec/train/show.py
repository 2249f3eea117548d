"""Sounds, pictures and histograms for the loggers of a run: TensorBoard, and others that take audio and images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from mimo_codec.codec.model import MimoCodec


def show_sound(loggers: Iterable[Any], name: str, waveform: Tensor, codec: MimoCodec, step: int) -> None:
    """Log a waveform [S] as audio and its log-mel spectrogram as an image, low frequencies at the bottom."""
    waveform = waveform.clamp(-1, 1)
    mel = codec.mel(waveform[None].to(codec.device))[0].T.flip(0)
    picture = (mel - mel.min()) / (mel.max() - mel.min()).clamp(min=1e-6)
    for logger in loggers:
        board = logger.experiment
        if hasattr(board, "add_audio"):
            board.add_audio(name, waveform, step, codec.sample_rate)
            board.add_image(name, picture[None], step)
        elif hasattr(logger, "log_audio"):
            logger.log_audio(name, [waveform.cpu().numpy()], step=step, sample_rate=[codec.sample_rate])
            logger.log_image(f"{name}/mel", [picture.cpu().numpy()], step=step)


def show_histogram(loggers: Iterable[Any], name: str, values: Tensor, step: int) -> None:
    """Log how often each value occurs."""
    for logger in loggers:
        if hasattr(logger.experiment, "add_histogram"):
            logger.experiment.add_histogram(name, values, step)


def show_text(loggers: Iterable[Any], name: str, text: str, step: int) -> None:
    """Log a text."""
    for logger in loggers:
        if hasattr(logger.experiment, "add_text"):
            logger.experiment.add_text(name, text, step)
