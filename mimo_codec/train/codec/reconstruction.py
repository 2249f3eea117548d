"""What both stages of training have in common: a codec that is to reconstruct its input."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_codec.codec.mel_distance import multi_scale_mel_loss
from mimo_codec.codec.transformer import length_mask
from mimo_codec.data.batch import Batch
from mimo_codec.train.codec.losses import (
    multi_resolution_stft_loss,
)
from mimo_codec.train.codec.options import StageOptions
from mimo_codec.train.codec.stage import CodecStage


class ReconstructionStage(CodecStage):
    """A stage whose codec is to reconstruct its input."""

    options: StageOptions

    def reconstruction_loss(self, decoded: Tensor, crops: Batch) -> Tensor:
        """Multi-scale mel loss, and the multi-resolution STFT loss where it has a weight: decoded [B, S] -> []."""
        h, rate = self.options, self.codec.sample_rate
        loss = multi_scale_mel_loss(decoded, crops.waveform, rate, h.mel_scales, h.mel_power, crops.lengths)
        if h.stft_weight:
            loss = loss + h.stft_weight * multi_resolution_stft_loss(decoded, crops.waveform)
        return loss

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
