"""Lightning modules, one per training stage."""

from __future__ import annotations

import random
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from mimo_codec.codec import MimoCodec
from mimo_codec.config import CodecConfig
from mimo_codec.metrics import speech_metrics
from mimo_codec.train.data import Batch
from mimo_codec.train.losses import PAPER_SCALES, multi_scale_mel_loss
from mimo_codec.train.optimizer import MuonAdamW

MAX_FIT_VECTORS = 20_000
SHOWN_FILES = 2


class ReconstructionStage(lightning.LightningModule):
    """Encoder, quantizer, decoder and vocoder trained together to reconstruct speech.

    Training starts without the quantizer; at `quantizer_start` the codebooks are fitted by k-means to the features of
    the steps before it, so that none starts dead, and then follow by moving averages.

    Args:
        preset: configuration to start from, a name of `mimo_codec.config.PRESETS`.
        config: changes to it, keys as in config.json.
        learning_rate: peak of AdamW (embeddings, norms, biases, convolutions, first and last layers).
        matrix_learning_rate: peak of Muon (the Transformers' matrices); 0: AdamW for everything.
        warmup_steps: linear warm-up.
        decay_share: the rate falls linearly to zero over this last share of trainer.max_steps.
        weight_decay: of both optimizers, matrices only.
        quantizer_start: step at which quantization begins.
        quantizer_dropout: share of steps that use a random number of codebooks instead of all.
        mel_scales: (bands, window, hop) of each scale of the mel loss.
        mel_weight: of the multi-scale log-mel L1 loss.
        stft_weight: of auraloss' multi-resolution STFT loss; 0: off.
        commitment_weight: of the commitment loss.
    """

    def __init__(
        self,
        preset: str = "nano",
        config: dict[str, Any] | None = None,
        learning_rate: float = 1e-3,
        matrix_learning_rate: float = 0.0,
        warmup_steps: int = 200,
        decay_share: float = 0.4,
        weight_decay: float = 0.01,
        quantizer_start: int = 500,
        quantizer_dropout: float = 0.25,
        mel_scales: list[tuple[int, int, int]] = list(PAPER_SCALES),  # noqa: B006
        mel_weight: float = 1.0,
        stft_weight: float = 0.0,
        commitment_weight: float = 1.0,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.codec = MimoCodec(CodecConfig.preset(preset).replace(**(config or {})))
        self.codec.quantizer.forget()
        self.features_seen: Tensor
        self.register_buffer("features_seen", torch.zeros(0, self.codec.config.d_model), persistent=False)
        self.stft_loss = self._make_stft_loss() if stft_weight else None

    @staticmethod
    def _make_stft_loss() -> nn.Module:
        from auraloss.freq import MultiResolutionSTFTLoss

        return MultiResolutionSTFTLoss(fft_sizes=[512, 1024, 2048], hop_sizes=[128, 256, 512],
                                       win_lengths=[512, 1024, 2048])  # fmt: skip

    @property
    def options(self) -> Any:
        """The arguments of __init__, as saved in checkpoints."""
        return self.hparams

    # ---- one step ------------------------------------------------------------------------------------------------

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """waveform [B, S] -> reconstruction [B, S], codes [B, Q, T] or None before quantization, commitment []."""
        features = self.codec.encoder(self.codec.mel(waveform))
        codes, commitment, quantized = None, features.new_zeros(()), features
        if self.codec.quantizer.fitted:
            quantized, codes, commitment = self.codec.quantizer(features, self._random_prefix())
        elif self.training:
            self._remember(features.detach())
        assert self.codec.decoder is not None
        decoded = self.codec.decoder(quantized.to(features.dtype))
        return decoded[:, : waveform.shape[1]], codes, commitment

    def _random_prefix(self) -> int | None:
        """How many codebooks this step uses; None: all. Drawn from the step's number, so that resuming repeats it."""
        draw = random.Random(self.global_step)
        if not self.training or draw.random() >= self.options.quantizer_dropout:
            return None
        return draw.randrange(1, self.codec.num_quantizers)

    def _remember(self, features: Tensor) -> None:
        vectors = features.float().flatten(0, 1)
        self.features_seen = torch.cat((self.features_seen, vectors))[-MAX_FIT_VECTORS:]

    def _fit_quantizer(self, num_per_step: int) -> None:
        """Start the codebooks, once enough features have been seen for the largest."""
        if len(self.features_seen) >= max(self.codec.codebook_sizes):
            self.codec.quantizer.fit(self.features_seen, num_per_step)
            self.features_seen = self.features_seen[:0]

    def losses(self, waveform: Tensor, decoded: Tensor, commitment: Tensor) -> dict[str, Tensor]:
        """waveform, decoded [B, S], commitment [] -> weighted terms of the loss [], by name; their sum is minimised."""
        h, rate = self.options, self.codec.sample_rate
        terms = {"mel": h.mel_weight * multi_scale_mel_loss(decoded, waveform, rate, h.mel_scales, log=True)}
        if self.stft_loss is not None:
            terms["stft"] = h.stft_weight * self.stft_loss(decoded[:, None].float(), waveform[:, None])
        return terms | {"commitment": h.commitment_weight * commitment}

    def on_fit_start(self) -> None:
        self.run_seed = torch.initial_seed()

    @property
    def batches_seen(self) -> int:
        """Batches that this rank has trained on, from where the data go on."""
        return self.global_step * self.trainer.accumulate_grad_batches

    def training_step(self, batch: dict[str, Batch], batch_index: int) -> Tensor:
        waveform = batch["crops"].waveform
        torch.manual_seed(self.run_seed + self.global_step)  # so that resuming repeats which dead entries become what
        if not self.codec.quantizer.fitted and self.global_step >= self.options.quantizer_start:
            self._fit_quantizer(num_per_step=len(waveform) * self.codec.config.num_frames(waveform.shape[1]))
        decoded, codes, commitment = self(waveform)
        with torch.autocast(self.device.type, enabled=False):
            terms = self.losses(waveform, decoded, commitment)
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, prog_bar=True)
        if codes is not None and codes.shape[1] == self.codec.num_quantizers:
            self._log_usage(codes)
        return torch.stack(list(terms.values())).sum()

    def _log_usage(self, codes: Tensor) -> None:
        """Share of each codebook that its moving averages keep alive, and the perplexity of this batch's codes."""
        for index, layer in enumerate(self.codec.quantizer.vq.layers):
            counts = torch.bincount(codes[:, index].flatten(), minlength=layer.codebook_size).float()
            share = counts / counts.sum()
            entropy = -(share * share.clamp(min=1e-9).log()).sum()
            alive = layer._codebook.cluster_size[0] > self.codec.config.quantizer.threshold_ema_dead_code
            self.log(f"codebook/perplexity_{index}", entropy.exp())
            self.log(f"codebook/usage_{index}", alive.float().mean())

    # ---- validation ----------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, index: int) -> None:
        waveform = batch.waveform
        decoded, _, _ = self(waveform)
        rate = self.codec.sample_rate
        scores = speech_metrics(waveform[0], rate, decoded[0], rate)
        self.log_dict({f"val/{name}": value for name, value in scores.items()}, batch_size=1, on_epoch=True)
        board = getattr(self.logger, "experiment", None)
        if index < SHOWN_FILES and hasattr(board, "add_audio"):
            for name, sound in (("original", waveform), ("decoded", decoded)):
                self._show(board, f"{name}/{index}", sound[0].float())

    def _show(self, board: Any, name: str, waveform: Tensor) -> None:
        """A sound and its log-mel picture on TensorBoard."""
        board.add_audio(name, waveform.clamp(-1, 1), self.global_step, self.codec.sample_rate)
        mel = self.codec.log_mel(waveform).T.flip(0)
        picture = (mel - mel.min()) / (mel.max() - mel.min()).clamp(min=1e-6)
        board.add_image(name, picture[None], self.global_step)

    # ---- optimizer -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        h = self.options
        named = [(name, p) for name, p in self.codec.named_parameters() if p.requires_grad]
        use_muon = h.matrix_learning_rate > 0
        matrices = {name: p for name, p in named if use_muon and p.ndim == 2 and ".layers." in name}
        others = [p for name, p in named if name not in matrices]
        optimizer = MuonAdamW(matrices.values(), others, h.matrix_learning_rate, h.learning_rate, h.weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Warm-up, plateau, linear decay to zero over the last `decay_share` of the run."""
        total, h = self.trainer.max_steps, self.options
        warm, cool = (step + 1) / max(h.warmup_steps, 1), (total - step) / max(total * h.decay_share, 1)
        return max(min(warm, cool, 1.0), 0.0)
