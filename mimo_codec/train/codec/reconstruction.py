"""What both stages of training a codec do: encode crops, decode them, and compare the two."""

from __future__ import annotations

import random
import reprlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.codec.mel_distance import multi_scale_mel_loss
from mimo_codec.codec.model import MimoCodec
from mimo_codec.codec.transformer import length_mask
from mimo_codec.common.checks import require
from mimo_codec.data.batch import Batch
from mimo_codec.train.codec.losses import multi_resolution_stft_loss
from mimo_codec.train.codec.options import StageOptions
from mimo_codec.train.stage import CodecStage

TERMS = ("loss", "skipped", "commitment", "reconstruction", "text", "adversarial", "features", "discriminators")
"""What is logged of every step; losses of a user's own have other names."""


class ReconstructionStage(CodecStage):
    """A stage whose codec is to reconstruct its input.

    Args:
        codec: the model that is trained.
        options: of the stage.
        losses: losses of a user's own by name; see `own_losses`.
    """

    def __init__(self, codec: MimoCodec, options: StageOptions, losses: Mapping[str, nn.Module] | None):
        """See the class for the arguments; MimoError for scales or names of losses that cannot be."""
        super().__init__(codec, options.accumulate, options.clip_norm, options.max_non_finite, options.compile, options)
        self.options = options
        self.mel_scales = options.scales(codec.sample_rate)
        for name in losses or {}:
            ok = name.isidentifier() and name not in TERMS
            require(ok, f"losses: {name!r} cannot be a name: letters are needed, other than {', '.join(TERMS)}")
        self.losses = nn.ModuleDict(losses).requires_grad_(False)

    def reconstruction_loss(self, decoded: Tensor, crops: Batch) -> Tensor:
        """Multi-scale mel loss, and the multi-resolution STFT loss where it has a weight: decoded [B, S] -> []."""
        h, rate = self.options, self.codec.sample_rate
        loss = multi_scale_mel_loss(decoded, crops.waveform, rate, self.mel_scales, h.mel_power, crops.lengths)
        if h.stft_weight:
            loss = loss + h.stft_weight * multi_resolution_stft_loss(decoded, crops.waveform)
        return loss

    def waveform_terms(self, decoded: Tensor, crops: Batch) -> dict[str, Tensor]:
        """Compare decoded waveforms [B, S] with their originals -> scalars: the reconstruction, and own losses by name.

        All of it is computed in float32.
        """
        with torch.autocast(self.device.type, enabled=False):
            terms = {"reconstruction": self.options.reconstruction_weight * self.reconstruction_loss(decoded, crops)}
            for name, own in self.losses.items():
                value = own(decoded.float(), crops.waveform, crops.lengths, self.codec.sample_rate)
                is_scalar = isinstance(value, Tensor) and value.ndim == 0
                require(is_scalar, f"losses: {name} must return a tensor without dimensions, not {reprlib.repr(value)}")
                terms[name] = value
        return terms

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the run; scales that the checkpoint has in samples, and this run in milliseconds, are no change."""
        before = checkpoint.get("hyper_parameters", {})
        given = before.get("mel_scales")
        if given and StageOptions(mel_scales=given).scales(self.codec.sample_rate) == self.mel_scales:
            before["mel_scales"] = self.hparams.get("mel_scales")
        super().on_load_checkpoint(checkpoint)

    def random_prefix(self) -> int | None:
        """How many codebooks this batch uses; None: all. Drawn from the batch's number, so that resuming repeats it."""
        draw = random.Random(self.run_seed + self.batches_seen)
        if draw.random() >= self.options.quantizer_dropout or self.codec.num_quantizers == 1:
            return None
        return draw.randrange(1, self.codec.num_quantizers)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Waveforms [B, S] -> features [B, T, D] and how many of their frames are valid, [B]."""
        features: Tensor = self.codec.encoder(self._mel(batch), 1 + batch.lengths // self.codec.config.mel.hop_length)
        num_frames = [self.codec.config.num_frames(n) for n in batch.lengths.tolist()]
        return features, torch.tensor(num_frames, device=features.device)

    def _mel(self, batch: Batch) -> Tensor:
        """Log-mel [B, M, n_mels]; shorter waveforms are reflected at their own end, as they are alone."""
        mel, lengths = self.codec.mel, batch.lengths.tolist()
        if min(lengths) == batch.waveform.shape[1]:
            of_all: Tensor = mel(batch.waveform)
            return of_all
        items = [mel(row[None, :length])[0] for row, length in zip(batch.waveform, lengths, strict=True)]
        size = 1 + batch.waveform.shape[1] // self.codec.config.mel.hop_length
        return torch.stack([F.pad(item, (0, 0, 0, size - len(item))) for item in items])

    def decode(self, quantized: Tensor, num_frames: Tensor, crops: Batch) -> Tensor:
        """Quantized [B, T, D] -> waveforms [B, S], silent where the crops are padded."""
        decoded = self.codec.require_decoder()(quantized, num_frames)[:, : crops.waveform.shape[1]]
        masked: Tensor = decoded * length_mask(crops.lengths, decoded.shape[1])
        return masked
