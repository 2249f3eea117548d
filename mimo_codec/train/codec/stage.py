"""The base of the stages that train codecs: the use of codebooks, and validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mimo_codec.codec.model import MimoCodec
from mimo_codec.codec.transformer import TransformerLayer, length_mask
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoWarning
from mimo_codec.data.batch import Batch
from mimo_codec.metrics import CORE_METRICS, available_metrics, speech_metrics
from mimo_codec.train.loop import Stage
from mimo_codec.train.monitoring import ValidationOptions, find_metric, monitored
from mimo_codec.train.outlook import no_validation, seen_validation, warn_of
from mimo_codec.train.show import show_histogram, show_sound

SHOWN_FILES = 2
USAGE_WINDOW = 100
"""Batches over which the use of codebooks is counted."""
LOW_USAGE = 0.2
"""Share of the entries below which a warning is given."""
WARNING_INTERVAL = 500
"""Batches between two warnings about the use of codebooks."""
METRICS = (*CORE_METRICS, "speaker_similarity")
"""Metrics that validation computes, as far as the packages for them are installed."""


class CodecStage(Stage):
    """Trains `codec`; subclasses define a step in `learn` and what is trained in `configure_optimizers`.

    Args:
        codec: the model that is trained.
        accumulate, clip_norm, max_non_finite, compile: see `Stage`.
        validation: what validation computes, and which score is for the best.
    """

    layer_types = (TransformerLayer,)

    def __init__(
        self,
        codec: MimoCodec,
        accumulate: int,
        clip_norm: float,
        max_non_finite: int,
        compile: bool,
        validation: ValidationOptions = ValidationOptions(),  # noqa: B008
    ):
        """See the class for the arguments."""
        super().__init__(accumulate, clip_norm, max_non_finite, compile)
        self.codec = codec
        self.last_chosen: Tensor
        shape = (codec.num_quantizers, max(codec.codebook_sizes))
        self.register_buffer("last_chosen", torch.full(shape, -USAGE_WINDOW))
        self.validation = validation
        chosen = validation.validation_metrics
        self.metrics = [name for name in METRICS if name in available_metrics()] if chosen is None else list(chosen)
        self.scored = self.metrics
        self._scores: list[dict[str, float]] = []
        self._codes: list[Tensor] = []

    @property
    def validated_codec(self) -> MimoCodec:
        """The codec to validate and to export."""
        return self.codec

    def setup(self, stage: str) -> None:
        """Choose the metrics of validation: those that were asked for, and what callbacks watch."""
        super().setup(stage)
        if "validation" in getattr(self.trainer.datamodule, "sources", ["validation"]):  # type: ignore[attr-defined]
            own = self.own_scores()
            wanted = [*self.metrics, *monitored(self.trainer.callbacks)]  # type: ignore[attr-defined]
            self.metrics = [name for name in dict.fromkeys(wanted) if name not in own and find_metric(name)]
            self.scored = [*self.metrics, *own]

    def own_scores(self) -> list[str]:
        """List the scores of a file that `score` computes beside metrics."""
        return []

    def save_beside(self, folder: Path) -> None:
        """Write what belongs beside the exported codec into its folder; all processes take part."""

    def on_fit_start(self) -> None:
        """Check the sample rate of the data, and what every stage checks."""
        expected = self.codec.sample_rate
        rate = getattr(self.trainer.datamodule, "sample_rate", expected)  # type: ignore[attr-defined]
        require(rate == expected, f"data.sample_rate is {rate} Hz, but the codec works at {expected} Hz: set it")
        super().on_fit_start()

    def on_train_start(self) -> None:
        """Warn of what can be known of validation."""
        warn_of([no_validation(self), seen_validation(self)])

    def seconds_of(self, batch: Mapping[str, Batch]) -> float:
        """Return the duration of the audio in a batch in seconds, without padding."""
        return sum(float(part.lengths.sum()) for part in batch.values()) / self.codec.sample_rate

    def describe_batch(self, batch: Mapping[str, Batch]) -> tuple[dict[str, Tensor], Any]:
        """Return waveforms and lengths, and the names of the files."""
        tensors = {
            f"{kind}.{name}": getattr(part, name) for kind, part in batch.items() for name in ("waveform", "lengths")
        }
        return tensors, {kind: list(part.names) for kind, part in batch.items()}

    # ---- the use of codebooks ------------------------------------------------------------------------------------

    def log_usage(self, codes: Tensor, num_frames: Tensor) -> None:
        """Count and log which entries of the codebooks a batch uses, in all processes.

        codes: [B, Q, T] of the first Q codebooks; num_frames: [B], how many frames of each item are valid.
        """
        mask = length_mask(num_frames, codes.shape[2])
        for index, row in enumerate(codes.unbind(1)):
            size = self.codec.codebook_sizes[index]
            counts = torch.bincount(row[mask], minlength=size).float()
            counts = self.trainer.strategy.reduce(counts, reduce_op="sum")
            self.last_chosen[index, :size][counts > 0] = self.batches_seen
            share = counts / counts.sum()
            self.log(f"codebook/perplexity_{index}", (-(share * share.clamp(min=1e-9).log()).sum()).exp())
        usages = []
        for index, size in enumerate(self.codec.codebook_sizes):
            recent = self.last_chosen[index, :size] > self.batches_seen - USAGE_WINDOW
            usages.append(recent.float().mean())
            self.log(f"codebook/usage_{index}", usages[-1])
        if self.batches_seen % WARNING_INTERVAL == WARNING_INTERVAL - 1:
            low = [f"{index} ({100 * float(u):.0f} %)" for index, u in enumerate(usages) if u < LOW_USAGE]
            if low:
                rank_zero_warn(
                    f"less than {100 * LOW_USAGE:.0f} % of the entries were used in the last {USAGE_WINDOW}"
                    f" batches in codebook {', '.join(low)}; more audio per batch or a later"
                    " quantizer_start may help",
                    category=MimoWarning,
                )

    # ---- validation ----------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, index: int) -> None:
        """Validate on one whole file: compute its scores, and log sound and picture of the first files.

        Where processes share the files, some validate one again, so that all do the same number; that is not counted.
        """
        scores, codes = self.score(batch, index)
        if not self.is_repeated(index):
            self._scores.append(scores)
            self._codes += codes

    def score(self, batch: Batch, index: int) -> tuple[dict[str, float], list[Tensor]]:
        """Compute the scores of one whole file, and its codes [Q, T] if there are any."""
        codec, waveform = self.validated_codec, batch.waveform
        codes: list[Tensor] = []
        features = codec.encoder(codec.mel(waveform))
        if not features.isfinite().all():
            return dict.fromkeys(self.scored, math.nan), codes
        if codec.quantizer.is_initialized:
            found = codec.quantizer.encode(features, codec.check_num_quantizers(None))
            features = codec.quantizer.decode(found).to(features.dtype)
            codes.append(found[0])
        decoded = codec.require_decoder()(features)[:, : waveform.shape[1]].float()
        rate = codec.sample_rate
        with torch.autocast(self.device.type, enabled=False):
            scores = speech_metrics(waveform[0], rate, decoded[0], rate, self.metrics, batch.texts[0] or None)
        if index < SHOWN_FILES:
            for name, sound in (("original", waveform), ("decoded", decoded)):
                show_sound(self.loggers, f"{name}/{index}", sound[0].float(), codec, self.global_step)
        return scores, codes

    def on_validation_epoch_end(self) -> None:
        """Log means over the files of all processes; files without a score (nan) are left out."""
        scores, self._scores = self._scores, []
        codes, self._codes = self._codes, []
        # Before quantization starts scores are better than soon after, so they must not decide what is the best.
        kind = "val" if self.codec.quantizer.is_initialized else "unquantized"
        for name in self.scored:
            values = torch.tensor([s[name] for s in scores], dtype=torch.float32, device=self.device)
            sums = torch.stack((values.nansum(), values.isfinite().sum().float()))
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
            if sums[1] > 0:
                self.log(f"{kind}/{name}", sums[0] / sums[1], prog_bar=name == self.validation.best_metric)
        if self.codec.quantizer.is_initialized:
            self._log_used_entries(codes)

    def _log_used_entries(self, codes: list[Tensor]) -> None:
        """Log the share of the entries that the codes [Q, T] of all files of all processes use."""
        count = self.codec.check_num_quantizers(None)
        used = torch.zeros(count, max(self.codec.codebook_sizes), device=self.device)
        for row in codes:
            used.scatter_(1, row.long(), 1.0)
        used = self.trainer.strategy.reduce(used, reduce_op="sum")
        for index, size in enumerate(self.codec.codebook_sizes[:count]):
            self.log(f"codebook/val_usage_{index}", (used[index] > 0).sum() / size)
        for index, row in enumerate(torch.cat(codes, dim=1) if codes else ()):
            show_histogram(self.loggers, f"codes/{index}", row.cpu(), self.global_step)
