"""The two stages of training a codec (MiMo-Audio technical report, arXiv 2512.23808, section 2.1.2)."""

from __future__ import annotations

import copy
import math
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.mel_distance import PAPER_SCALES, multi_scale_mel_loss
from mimo_codec.codec.model import MimoCodec
from mimo_codec.codec.quantizer import QuantizerOutput
from mimo_codec.codec.transformer import length_mask
from mimo_codec.common.checks import check_number
from mimo_codec.common.errors import MimoError
from mimo_codec.common.processes import gather_from_processes
from mimo_codec.data.module import Batch
from mimo_codec.train.codec.discriminators import Discriminators
from mimo_codec.train.codec.losses import (
    adversarial_loss,
    commitment_loss,
    discriminator_loss,
    feature_matching_loss,
    multi_resolution_stft_loss,
    text_loss,
)
from mimo_codec.train.codec.text import TextModel, make_tokenizer, unigram_entropy
from mimo_codec.train.optimizer import make_optimizer
from mimo_codec.train.stage import CodecStage, warm_up_and_decay

FIT_VECTORS, FIT_VECTORS_PER_ENTRY = 20_000, 4
"""Most vectors that codebooks are started from: so many, or so many for each entry of the largest."""
TEXT_METRIC = "text_nats_per_token"
Scale = tuple[int, int, int]


class _Reconstruction(CodecStage):
    """A stage whose codec is to give back what it hears."""

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
        """Waveforms [B, S] -> features [B, T, D] and how many of their frames are sound, [B]."""
        features = self.codec.encoder(self._mel(batch), 1 + batch.lengths // self.codec.config.mel.hop_length)
        num_frames = [self.codec.config.num_frames(n) for n in batch.lengths.tolist()]
        return features, torch.tensor(num_frames, device=features.device)

    def _mel(self, batch: Batch) -> Tensor:
        """Log-mel [B, M, n_mels]; shorter waveforms are reflected at their own end, as they are alone."""
        mel, lengths = self.codec.mel, batch.lengths.tolist()
        if min(lengths) == batch.waveform.shape[1]:
            return mel(batch.waveform)
        items = [mel(row[None, :length])[0] for row, length in zip(batch.waveform, lengths, strict=True)]
        size = 1 + batch.waveform.shape[1] // self.codec.config.mel.hop_length
        return torch.stack([F.pad(item, (0, 0, 0, size - len(item))) for item in items])

    def decode(self, quantized: Tensor, num_frames: Tensor, crops: Batch) -> Tensor:
        """quantized [B, T, D] -> waveforms [B, S], silent where the crops are padded."""
        decoded = self.codec.require_decoder()(quantized, num_frames)[:, : crops.waveform.shape[1]]
        return decoded * length_mask(crops.lengths, decoded.shape[1])


class UnifiedStage(_Reconstruction):
    """Stage 1: encoder, quantizer, decoder, vocoder and a causal text model, all from scratch.

    Every step reconstructs crops; where the data has transcripts, the text model also reads the quantized frames of
    whole utterances and predicts their text (A2T). Loss: text_weight A2T + reconstruction + commitment.

    Training starts without the quantizer; at `quantizer_start` the codebooks are fitted by k-means to the features of
    the steps before it, so that none starts dead, and then follow by moving averages.

    Args:
        preset: configuration to start from, a name of `mimo_codec.codec.config.PRESETS`.
        config: changes to it, keys as in config.json.
        codec: a trained model to go on with (shipped name, folder or hub id) instead of a preset.
        learning_rate: peak of AdamW (embeddings, norms, biases, convolutions, first and last layers).
        matrix_learning_rate: peak of Muon (the Transformers' matrices); 0: AdamW for everything.
        warmup_steps: linear warm-up.
        decay_share: the rate falls linearly to zero over this last share of trainer.max_steps.
        weight_decay: of both optimizers, matrices only.
        quantizer_start: steps before quantization begins.
        quantizer_dropout: share of batches that use a random number of codebooks instead of all.
        mel_scales: (bands, window, hop) in samples of each scale of the mel loss.
        mel_power: mel magnitudes are raised to it before they are compared; 1: as in the paper; 0: their logarithms.
        reconstruction_weight, commitment_weight, text_weight: of the terms of the loss.
        stft_weight: of auraloss' multi-resolution STFT loss within the reconstruction; 0: off.
        text_tokenizer: "bytes", or a Hugging Face tokenizer by name.
        text_dim, text_layers, text_heads: size of the text model.
        accumulate, clip_norm, max_non_finite, compile: see `CodecStage`.
    """

    def __init__(
        self,
        preset: str = "nano",
        config: dict[str, Any] | None = None,
        codec: str | None = None,
        learning_rate: float = 1e-3,
        matrix_learning_rate: float = 0.0,
        warmup_steps: int = 200,
        decay_share: float = 0.4,
        weight_decay: float = 0.01,
        quantizer_start: int = 500,
        quantizer_dropout: float = 0.25,
        mel_scales: Sequence[Scale] = PAPER_SCALES,
        mel_power: float = 1.0,
        reconstruction_weight: float = 1.0,
        commitment_weight: float = 1.0,
        text_weight: float = 10.0,
        stft_weight: float = 0.0,
        text_tokenizer: str = "bytes",
        text_dim: int = 256,
        text_layers: int = 4,
        text_heads: int = 4,
        accumulate: int = 1,
        clip_norm: float = 1.0,
        max_non_finite: int = 10,
        compile: bool = False,
    ):
        if codec is None:
            model = MimoCodec(CodecConfig.preset(preset).replace(**(config or {})))
            model.quantizer.reset()
        else:
            model = MimoCodec.from_pretrained(codec, device="cpu").train()
        check_number("mel_power", mel_power, 0, 2)
        super().__init__(model, accumulate, clip_norm, max_non_finite, compile)
        self.save_hyperparameters()
        self.tokenizer = make_tokenizer(text_tokenizer)
        self.text_model = TextModel(model.config.d_model, self.tokenizer.vocab_size, text_dim, text_layers, text_heads)
        self.features_seen = torch.zeros(0, model.config.d_model)
        self.entropy = math.nan
        self.recent_text_losses: dict[str, deque[float]] = {name: deque(maxlen=50) for name in ("own", "other")}

    def networks(self) -> Sequence[nn.Module]:
        return self.codec.encoder, self.codec.require_decoder(), self.text_model

    def setup(self, stage: str) -> None:
        self.text_model.requires_grad_(self._reads_text)
        if self._reads_text:
            self.scored = [*self.metrics, TEXT_METRIC]

    def on_train_start(self) -> None:
        if self._reads_text:
            texts = self.trainer.datamodule.texts()  # type: ignore[attr-defined]
            self.entropy = unigram_entropy(texts, self.tokenizer)
            rank_zero_info(f"{len(texts)} transcripts with an entropy of {self.entropy:.3f} nats per token (unigram)")

    def on_train_end(self) -> None:
        if self._reads_text:
            means = {name: f"{sum(x) / len(x):.3f}" if x else "unknown" for name, x in self.recent_text_losses.items()}
            rank_zero_info(
                f"audio to text: {means['own']} nats per token on the last batches, {means['other']} when given the"
                f" speech of another utterance; unigram entropy of the transcripts {self.entropy:.3f}"
            )

    @property
    def _reads_text(self) -> bool:
        return getattr(self.trainer.datamodule, "text_batch_size", 0) > 0  # type: ignore[attr-defined]

    # ---- one step ------------------------------------------------------------------------------------------------

    def learn(self, batch: Mapping[str, Batch]) -> dict[str, Tensor]:
        h, crops, quantizer = self.options, batch["crops"], self.codec.quantizer
        if not quantizer.is_initialized and self.batches_seen >= h.quantizer_start * self.accumulate:
            self._fit_quantizer(len(crops.waveform) * self.codec.config.num_frames(crops.waveform.shape[1]))
        features, num_frames = self.encode(crops)
        quantized, terms, output = features, {}, None
        if quantizer.is_initialized:
            output = quantizer(features, self.random_prefix())
            terms["commitment"] = h.commitment_weight * commitment_loss(output.latents, output.partial, num_frames)
            quantized = output.quantized.to(features.dtype)
            self.log_usage(output.codes, num_frames)
        decoded = self.decode(quantized, num_frames, crops)
        with torch.autocast(self.device.type, enabled=False):
            terms["reconstruction"] = h.reconstruction_weight * self.reconstruction_loss(decoded, crops)
        if "spoken" in batch:
            terms["text"] = h.text_weight * self._text_loss(batch["spoken"])
        loss = torch.stack(list(terms.values())).sum()
        if self.add_gradients("codec", loss):
            self._collect(features, num_frames, output)
        if self.take_step("codec", self.optimizers(), self.lr_schedulers()):
            quantizer.update()
        elif self.completes_step:
            quantizer.discard()
        return {"loss": loss.detach(), **{name: value.detach() for name, value in terms.items()}}

    def _text_loss(self, spoken: Batch) -> Tensor:
        """A2T of whole utterances -> []."""
        features, counts, texts = self._heard(spoken)
        loss = text_loss(*self.text_model(features, counts, texts, self.tokenizer.end))
        self._log_text("own", loss)
        if self.batches_seen % self.trainer.log_every_n_steps == 0 and len(texts) > 1:  # type: ignore[attr-defined]
            with torch.no_grad():  # what the text model knows without the speech
                wrong = self.text_model(features.roll(1, 0), counts[-1:] + counts[:-1], texts, self.tokenizer.end)
                self._log_text("other", text_loss(*wrong))
        return loss

    def _heard(self, spoken: Batch) -> tuple[Tensor, list[int], list[list[int]]]:
        """Whole utterances -> quantized frames [B, T, D], how many of each are sound, and token ids.

        The codebooks do not follow them: they see every utterance in crops.
        """
        features, num_frames = self.encode(spoken)
        if self.codec.quantizer.is_initialized:
            features = self.codec.quantizer(features).quantized.to(features.dtype)
        return features, num_frames.tolist(), [self.tokenizer.encode(text) for text in spoken.texts]

    def _log_text(self, speech: str, loss: Tensor) -> None:
        self.log(f"text/nats_per_token_{speech}_speech", loss)
        self.recent_text_losses[speech].append(float(loss.detach()))

    def _collect(self, features: Tensor, num_frames: Tensor, output: QuantizerOutput | None) -> None:
        """Keep what the codebooks learn from a batch, or, before they start (no output), will be fitted to."""
        mask = length_mask(num_frames, features.shape[1])
        if output is not None:
            self.codec.quantizer.collect(features, output, mask)
            return
        vectors = features.detach().float()[mask]
        most = max(FIT_VECTORS, FIT_VECTORS_PER_ENTRY * max(self.codec.codebook_sizes))
        self.features_seen = torch.cat((self.features_seen.to(vectors.device), vectors))[-most:]

    def _fit_quantizer(self, num_per_step: int) -> None:
        """Start the codebooks, once enough features have been seen for the largest."""
        enough = len(self.features_seen) >= max(self.codec.codebook_sizes)
        if self.trainer.strategy.reduce_boolean_decision(enough, all=True):
            num_batches = self.accumulate * self.trainer.world_size
            self.codec.quantizer.initialize(self.features_seen.to(self.device), num_per_step * num_batches)
            self.features_seen = self.features_seen[:0]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["features_seen"] = gather_from_processes(self.features_seen.to(self.device)).cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        of_all = checkpoint["features_seen"]
        self.features_seen = of_all[self.trainer.global_rank % len(of_all)]

    def validation_step(self, batch: Batch, index: int) -> None:
        super().validation_step(batch, index)
        if self._reads_text:  # for files without text too: shards of the networks are put together in all processes
            loss = text_loss(*self.text_model(*self._heard(batch), self.tokenizer.end))
            self._scores[-1][TEXT_METRIC] = float(loss) if batch.texts[0] else math.nan

    # ---- optimizer -----------------------------------------------------------------------------------------------

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for network in self.networks():
            yield from ((name, p) for name, p in network.named_parameters() if p.requires_grad)

    def configure_optimizers(self) -> Any:
        h = self.options
        self.check_shardable(h.matrix_learning_rate)
        optimizer = make_optimizer(self._named(), h.matrix_learning_rate, h.learning_rate, h.weight_decay)
        return _with_schedule(optimizer, self.trainer.max_steps, h.warmup_steps, h.decay_share)


class AdversarialStage(_Reconstruction):
    """Stage 2: the decoder and the vocoder of a trained codec against discriminators; encoder and quantizer stay fixed,
    so that codes mean what they meant.

    Generator loss: reconstruction + adversarial + feature matching, weighted 1, 1, 2 by default. What is validated and
    exported has the moving average of the generator's weights.

    Args:
        codec: the codec of stage 1: its folder `export`, or any model's name, folder or hub id.
        trained: "decoder" (with the vocoder) or "vocoder" alone.
        learning_rate: peak of AdamW for the generator.
        matrix_learning_rate: peak of Muon for the generator's Transformers; 0: AdamW for everything.
        discriminator_learning_rate: peak of AdamW for the discriminators, which have no weight decay.
        warmup_steps, decay_share, weight_decay, quantizer_dropout, mel_scales, mel_power, stft_weight: see stage 1.
        reconstruction_weight, adversarial_weight, feature_weight: of the terms of the generator's loss.
        average_decay: of the moving average of the generator's weights, per step; 0: none.
        excerpt_seconds: length of the random excerpt that discriminators see of every crop; 0: all of it.
        periods, period_channels, stft_sizes, stft_channels, discriminator_gain: see `Discriminators`.
        accumulate, clip_norm, max_non_finite, compile: see `CodecStage`.
    """

    def __init__(
        self,
        codec: str,
        trained: str = "decoder",
        learning_rate: float = 1e-4,
        matrix_learning_rate: float = 0.0,
        discriminator_learning_rate: float = 1e-4,
        warmup_steps: int = 200,
        decay_share: float = 0.4,
        weight_decay: float = 0.01,
        quantizer_dropout: float = 0.25,
        mel_scales: Sequence[Scale] = PAPER_SCALES,
        mel_power: float = 1.0,
        stft_weight: float = 0.0,
        reconstruction_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        feature_weight: float = 2.0,
        average_decay: float = 0.999,
        excerpt_seconds: float = 0.0,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        period_channels: Sequence[int] = (32, 128, 512, 1024, 1024),
        stft_sizes: Sequence[int] = (2048, 1024, 512, 256, 128),
        stft_channels: int = 32,
        discriminator_gain: float = 30.0,
        accumulate: int = 1,
        clip_norm: float = 1.0,
        max_non_finite: int = 10,
        compile: bool = False,
    ):
        if trained not in ("decoder", "vocoder"):
            raise MimoError(f"trained = {trained!r}: 'decoder' (with its vocoder) or 'vocoder' is needed")
        model = MimoCodec.from_pretrained(codec, device="cpu")
        model.require_decoder()
        if not model.quantizer.is_initialized:
            raise MimoError(f"{codec}: its codebooks have not been trained: stage 1 ended before quantizer_start")
        check_number("mel_power", mel_power, 0, 2)
        super().__init__(model, accumulate, clip_norm, max_non_finite, compile)
        self.save_hyperparameters()
        self.codec.requires_grad_(False)
        self.generator.requires_grad_(True)
        self.discriminators = Discriminators(periods, period_channels, stft_sizes, stft_channels, discriminator_gain)
        self.discriminators.eval()  # see `train`
        decoder = self.codec.require_decoder()
        self.average: AveragedModel | None = None
        if average_decay:
            self.average = AveragedModel(decoder, multi_avg_fn=get_ema_multi_avg_fn(average_decay))
            self.average.requires_grad_(False)

    @property
    def generator(self) -> nn.Module:
        """What is trained: the decoder, or its vocoder alone."""
        decoder = self.codec.require_decoder()
        return decoder if self.options.trained == "decoder" else decoder.vocoder

    @property
    def validated_codec(self) -> MimoCodec:
        """The codec with the averaged decoder; it shares encoder and quantizer with `codec`."""
        if self.average is None:
            return self.codec
        view = copy.copy(self.codec)
        view._modules = {**self.codec._modules, "decoder": self.average.module}
        return view

    def networks(self) -> Sequence[nn.Module]:
        return self.codec.encoder, self.codec.require_decoder(), *self.discriminators

    def setup(self, stage: str) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy):  # the two players take turns, so each backward leaves out some parameters
            strategy._ddp_kwargs["find_unused_parameters"] = True

    def sharded(self) -> Sequence[nn.Module]:
        return self.networks() if self.average is None else (*self.networks(), self.average.module)

    def train(self, mode: bool = True) -> AdversarialStage:
        super().train(mode)
        self.codec.encoder.eval()
        self.codec.quantizer.eval()
        self.discriminators.eval()  # what trains them does so by itself; see `learn`
        return self

    # ---- one step ------------------------------------------------------------------------------------------------

    def learn(self, batch: Mapping[str, Batch]) -> dict[str, Tensor]:
        h, crops = self.options, batch["crops"]
        with torch.no_grad():
            features, num_frames = self.encode(crops)
            if not self.all_finite(features):
                return self.leave_out("encoder: its features are not finite")
            codes = self.codec.quantizer.encode(features, self.random_prefix() or self.codec.num_quantizers)
            quantized = self.codec.quantizer.decode(codes).to(features.dtype)
        self.log_usage(codes, num_frames)
        decoded = self.decode(quantized, num_frames, crops)
        real, fake = self._excerpt(crops.waveform, decoded)
        # Lightning counts the steps of its own wrappers, so the discriminators' is not one of them
        optimizers: Any = self.optimizers()[0], self.optimizers(use_pl_optimizer=False)[1]  # type: ignore[index]
        schedulers: Any = self.lr_schedulers()

        judged = discriminator_loss(self.discriminators(real).scores, self.discriminators(fake.detach()).scores)
        self.add_gradients("discriminators", judged)
        stepped = self.take_step("discriminators", optimizers[1], schedulers[1])

        self.discriminators.requires_grad_(False)
        self.discriminators.train(stepped)  # the estimates of spectral norms follow the weights, once after each step
        with torch.no_grad():
            wanted = self.discriminators(real)
        self.discriminators.eval()
        got = self.discriminators(fake)
        terms = {
            "adversarial": h.adversarial_weight * adversarial_loss(got.scores),
            "features": h.feature_weight * feature_matching_loss(wanted.layers, got.layers),
        }
        with torch.autocast(self.device.type, enabled=False):
            terms["reconstruction"] = h.reconstruction_weight * self.reconstruction_loss(decoded, crops)
        loss = torch.stack(list(terms.values())).sum()
        self.add_gradients("generator", loss)
        stepped = self.take_step("generator", optimizers[0], schedulers[0])
        self.discriminators.requires_grad_(True)
        if stepped and self.average is not None:
            self.average.update_parameters(self.codec.require_decoder())
        return {
            "loss": loss.detach(),
            "discriminators": judged.detach(),
            **{name: value.detach() for name, value in terms.items()},
        }

    def _excerpt(self, *waveforms: Tensor) -> list[Tensor]:
        """The same random excerpt of waveforms [B, S]."""
        size = round(self.options.excerpt_seconds * self.codec.sample_rate) or waveforms[0].shape[1]
        start = int(torch.randint(max(waveforms[0].shape[1] - size, 0) + 1, ()))
        return [waveform[:, start : start + size] for waveform in waveforms]

    # ---- optimizers ----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        h = self.options
        self.check_shardable(h.matrix_learning_rate)
        steps = self.trainer.max_steps, h.warmup_steps, h.decay_share
        generator = make_optimizer(
            self.generator.named_parameters(), h.matrix_learning_rate, h.learning_rate, h.weight_decay
        )
        discriminator = torch.optim.AdamW(
            self.discriminators.parameters(), h.discriminator_learning_rate, betas=(0.8, 0.99), weight_decay=0.0
        )
        return [_with_schedule(generator, *steps), _with_schedule(discriminator, *steps)]


def _with_schedule(
    optimizer: torch.optim.Optimizer, num_steps: int, warmup_steps: int, decay_share: float
) -> dict[str, Any]:
    def rate(step: int) -> float:
        return warm_up_and_decay(step, num_steps, warmup_steps, decay_share)

    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, rate)}
