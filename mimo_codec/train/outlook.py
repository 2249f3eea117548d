"""What can be known of a run before its first step."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from mimo_codec.common.errors import MimoWarning
from mimo_codec.data.utterance import Utterance


def warn_of(problems: Sequence[str | None]) -> None:
    """Warn of the problems that there are, once for all processes."""
    for problem in problems:
        if problem is not None:
            rank_zero_warn(problem, category=MimoWarning)


def late_codebooks(stage: Any) -> str | None:
    """Say when codebooks start later than they are told to, or not at all, for lack of steps or of vectors.

    stage: one with `codec` and `options.quantizer_start`, in training.
    """
    trainer, data, config = stage.trainer, stage.trainer.datamodule, stage.codec.config
    if stage.codec.quantizer.is_initialized or not hasattr(data, "num_samples"):
        return None
    start, num_entries = stage.options.quantizer_start, max(stage.codec.codebook_sizes)
    per_step = data.batch_size * stage.accumulate * config.num_frames(data.num_samples)
    enough = math.ceil(num_entries / per_step)  # a codebook of so many entries starts from as many vectors
    vectors = f"{num_entries} vectors for the largest one, which take {enough} steps of {per_step}"
    if max(start, enough) >= trainer.max_steps:
        why = vectors if enough > start else f"model.init_args.quantizer_start = {start} steps"
        return (
            f"the codebooks will not start, and no codec will be written: they need {why}, and training has"
            f" {trainer.max_steps} (trainer.max_steps)"
        )
    if enough > start:
        return f"the codebooks will start after {enough} steps, not {start} (quantizer_start): they need {vectors}"
    return None


def no_validation(stage: Any) -> str | None:
    """Say when there are files for validation and the run is too short for one."""
    trainer = stage.trainer
    interval, num_batches = trainer.val_check_interval, trainer.max_steps * stage.accumulate
    if not trainer.num_val_batches or not isinstance(interval, int) or trainer.check_val_every_n_epoch is not None:
        return None
    if interval <= num_batches:
        return None
    return (
        f"there will be no validation, and no best codec: the first is after {interval} batches"
        f" (trainer.val_check_interval), and training has {num_batches}"
    )


def seen_validation(stage: Any) -> str | None:
    """Say when files of validation are also trained on."""
    utterances: dict[str, list[Utterance]] = getattr(stage.trainer.datamodule, "utterances", {})
    held_out = utterances.get("validation", [])
    names = {(u.path.name, u.member) for u in held_out}
    trained: dict[Any, list[Utterance]] = {}
    for utterance in utterances.get("train", []):
        if (utterance.path.name, utterance.member) in names:  # the others need not be looked up
            trained.setdefault(_place(utterance), []).append(utterance)
    seen = [u for u in held_out if any(_overlap(u, other) for other in trained.get(_place(u), []))]
    if not seen:
        return None
    return (
        f"{len(seen)} of {len(held_out)} files of validation are also trained on, so their scores will be too good; the"
        f" first is {seen[0].path}"
    )


def _place(utterance: Utterance) -> tuple[Any, ...]:
    path = os.path.realpath(utterance.path)
    return path, utterance.member, utterance.offset, utterance.row


def _overlap(one: Utterance, two: Utterance) -> bool:
    ends = [math.inf if u.end is None else u.end for u in (one, two)]
    return one.start < ends[1] and two.start < ends[0]
