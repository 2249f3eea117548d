"""The two stages of training a codec (MiMo-Audio technical report, arXiv 2512.23808, section 2.1.2)."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.model import MimoCodec
from mimo_codec.codec.quantizer import QuantizerOutput
from mimo_codec.codec.transformer import length_mask
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.common.processes import gather_from_processes
from mimo_codec.data.batch import Batch
from mimo_codec.train.codec.changes import with_changes
from mimo_codec.train.codec.discriminator_files import load_discriminators, save_discriminators
from mimo_codec.train.codec.discriminators import Discriminators
from mimo_codec.train.codec.losses import (
    adversarial_loss,
    commitment_loss,
    discriminator_loss,
    feature_matching_loss,
    text_loss,
)
from mimo_codec.train.codec.options import AdversarialOptions, UnifiedOptions
from mimo_codec.train.codec.reconstruction import ReconstructionStage
from mimo_codec.train.codec.text import TextModel, make_tokenizer, unigram_entropy
from mimo_codec.train.optimizer import make_optimizer, with_schedule
from mimo_codec.train.outlook import late_codebooks, warn_of
from mimo_codec.train.resuming import NEEDS_SAME, check_same_start

KEPT_VECTORS, KEPT_VECTORS_PER_ENTRY = 20_000, 4
"""Most features that codebooks are initialized from: so many, or so many for each entry of the largest."""
TEXT_METRIC = "text_nats_per_token"
FIXED = ("codec.encoder.", "codec.quantizer.")
"""Beginnings of the names of what stage 2 leaves as it is."""


class UnifiedStage(ReconstructionStage):
    """Stage 1: encoder, quantizer, decoder, vocoder and a causal text model, all from scratch.

    Every step reconstructs crops; where the data has transcripts, the text model also reads the quantized frames of
    whole utterances and predicts their text (A2T). Loss: text_weight A2T + reconstruction + commitment.

    Codebooks that are trained do not quantize at first: at `quantizer_start` they are initialized by k-means from the
    features of the steps before it, so that no entry starts unused, and then follow by moving averages. Fixed codebooks
    quantize from the first step.

    Args:
        preset: configuration to start from, a name of `mimo_codec.codec.presets.PRESETS`.
        config: changes to it, keys as in config.json.
        codec: a trained model to go on with (shipped name, folder or hub id) instead of a preset; `config` may change
            what its weights do not depend on, such as the lengths of windows.
        losses: losses of your own by name, which are added to the loss: modules, called with decoded and original
            waveforms [B, S], lengths [B] in samples and the sample rate, that return a scalar.
        options: see `UnifiedOptions`.
    """

    options: UnifiedOptions
    optimizer_names = ("codec",)

    def __init__(
        self,
        preset: str = "nano",
        config: dict[str, Any] | None = None,
        codec: str | None = None,
        losses: dict[str, nn.Module] | None = None,
        **options: Any,
    ):
        """See the class for the arguments; MimoError for values that are not supported."""
        h = UnifiedOptions(**options)
        if codec is None:
            model = MimoCodec(CodecConfig.preset(preset).replace(**(config or {})))
            model.quantizer.reset()
        else:
            model = with_changes(MimoCodec.from_pretrained(codec, device="cpu"), config or {}, codec).train()
        super().__init__(model, h, losses)
        self.save_hyperparameters(ignore=["losses"])  # checkpoints hold plain values only
        self.tokenizer = make_tokenizer(h.text_tokenizer)
        self.text_model = TextModel(
            model.config.d_model, self.tokenizer.vocab_size, h.text_dim, h.text_layers, h.text_heads
        )
        self.features_seen = torch.zeros(0, model.config.d_model)
        self.entropy = math.nan
        self.recent_text_losses: dict[str, deque[float]] = {name: deque(maxlen=50) for name in ("own", "other")}

    def networks(self) -> Sequence[nn.Module]:
        """Encoder, decoder with vocoder, and text model."""
        return self.codec.encoder, self.codec.require_decoder(), self.text_model

    def sharded(self) -> Sequence[nn.Module]:
        """The networks, and the quantizer where it has weights of its own."""
        has_weights = next(self.codec.quantizer.parameters(), None) is not None
        return (*self.networks(), self.codec.quantizer) if has_weights else self.networks()

    def configure_model(self) -> None:
        """Shard what the strategy asks for; a quantizer is also used outside of its `forward`."""
        super().configure_model()
        if self.device_mesh is not None:
            from torch.distributed.fsdp import register_fsdp_forward_method

            for method in ("encode", "decode"):
                register_fsdp_forward_method(self.codec.quantizer, method)

    def setup(self, stage: str) -> None:
        """Train and score the text model only where the data has text."""
        super().setup(stage)
        self.text_model.requires_grad_(self._reads_text)

    def own_scores(self) -> list[str]:
        """How well the text model reads, where the data has text."""
        return [TEXT_METRIC] if self._reads_text else []

    def on_train_start(self) -> None:
        """Print what the transcripts are like, for comparison with the text model, and warn of late codebooks."""
        super().on_train_start()
        warn_of([late_codebooks(self)])
        if self._reads_text:
            texts = self.trainer.datamodule.texts()  # type: ignore[attr-defined]
            self.entropy = unigram_entropy(texts, self.tokenizer)
            rank_zero_info(f"{len(texts)} transcripts with an entropy of {self.entropy:.3f} nats per token (unigram)")

    def on_train_end(self) -> None:
        """Print how well the text model reads."""
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
        """One batch: losses, backward, and a step of the networks and the codebooks."""
        h, crops, quantizer = self.options, batch["crops"], self.codec.quantizer
        if not quantizer.is_initialized and self.batches_seen >= h.quantizer_start * self.accumulate:
            self._initialize_quantizer(len(crops.waveform) * self.codec.config.num_frames(crops.waveform.shape[1]))
        features, num_frames = self.encode(crops)
        quantized, terms, output = features, {}, None
        if quantizer.is_initialized:
            output = quantizer(features, self.random_prefix())
            terms["commitment"] = h.commitment_weight * commitment_loss(output.latents, output.partial, num_frames)
            quantized = output.quantized.to(features.dtype)
            self.log_usage(output.codes, num_frames)
        decoded = self.decode(quantized, num_frames, crops)
        terms |= self.waveform_terms(decoded, crops)
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
        features, counts, texts = self._encode_utterances(spoken)
        loss = text_loss(*self.text_model(features, counts, texts, self.tokenizer.end))
        self._log_text("own", loss)
        if self.batches_seen % self.trainer.log_every_n_steps == 0 and len(texts) > 1:  # type: ignore[attr-defined]
            with torch.no_grad():  # what the text model knows without the speech
                wrong = self.text_model(features.roll(1, 0), counts[-1:] + counts[:-1], texts, self.tokenizer.end)
                self._log_text("other", text_loss(*wrong))
        return loss

    def _encode_utterances(self, spoken: Batch) -> tuple[Tensor, list[int], list[list[int]]]:
        """Whole utterances -> quantized frames [B, T, D], how many of each are valid, and token ids.

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
        """Give a batch to the codebooks, or, before they are initialized (no output), keep its features for that."""
        mask = length_mask(num_frames, features.shape[1])
        if output is not None:
            self.codec.quantizer.collect(features, output, mask)
            return
        vectors = features.detach().float()[mask]
        most = max(KEPT_VECTORS, KEPT_VECTORS_PER_ENTRY * max(self.codec.codebook_sizes))
        self.features_seen = torch.cat((self.features_seen.to(vectors.device), vectors))[-most:]

    def _initialize_quantizer(self, num_per_step: int) -> None:
        """Initialize the codebooks, once enough features have been seen for the largest."""
        enough = len(self.features_seen) >= max(self.codec.codebook_sizes)
        if self.trainer.strategy.reduce_boolean_decision(enough, all=True):
            num_batches = self.accumulate * self.trainer.world_size
            self.codec.quantizer.initialize(self.features_seen.to(self.device), num_per_step * num_batches)
            self.features_seen = self.features_seen[:0]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the features from which the codebooks will be initialized, those of all processes."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["features_seen"] = gather_from_processes(self.features_seen.to(self.device)).cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the features of this process; MimoError when the run began with another codec."""
        super().on_load_checkpoint(checkpoint)
        check_same_start(self, checkpoint, "codec")
        of_all = checkpoint["features_seen"]
        self.features_seen = of_all[self.trainer.global_rank % len(of_all)]

    def score(self, batch: Batch, index: int) -> tuple[dict[str, float], list[Tensor]]:
        """One whole file: what `CodecStage` scores, and how well the text model reads it."""
        scores, codes = super().score(batch, index)
        if self._reads_text:  # for files without text too: shards of the networks are put together in all processes
            loss = text_loss(*self.text_model(*self._encode_utterances(batch), self.tokenizer.end))
            scores[TEXT_METRIC] = float(loss) if batch.texts[0] else math.nan
        return scores, codes

    # ---- optimizer -----------------------------------------------------------------------------------------------

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for network in (*self.networks(), self.codec.quantizer):
            yield from ((name, p) for name, p in network.named_parameters() if p.requires_grad)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One optimizer for everything that is trained by gradients."""
        h = self.options
        self.check_shardable(h.matrix_learning_rate)
        optimizer = make_optimizer(self._named(), h.matrix_learning_rate, h.learning_rate, h.weight_decay)
        return with_schedule(optimizer, self.trainer.max_steps, h.warmup_steps, h.decay_share)


class AdversarialStage(ReconstructionStage):
    """Stage 2: decoder and vocoder of a trained codec against discriminators.

    Encoder and quantizer stay as they are, so that codes keep their meaning. Generator loss: reconstruction +
    adversarial + feature matching, weighted 1, 1, 2 by default. What is validated and exported has the moving average
    of the generator's weights.

    Args:
        codec: the codec of stage 1: its folder `export`, or any model's name, folder or hub id.
        discriminators: discriminators of your own in place of those that the options describe: a module that makes a
            `Judgement` of waveforms [B, S].
        discriminators_from: folder `export` of an earlier stage 2, whose discriminators are trained further; null: they
            start with random weights.
        losses: losses of your own, as in `UnifiedStage`.
        options: see `AdversarialOptions`.
    """

    options: AdversarialOptions
    optimizer_names = ("generator", "discriminators")

    def __init__(
        self,
        codec: str,
        discriminators: nn.Module | None = None,
        discriminators_from: str | None = None,
        losses: dict[str, nn.Module] | None = None,
        **options: Any,
    ):
        """See the class for the arguments.

        Raises MimoError for a codec that has not been through stage 1, and for discriminators that do not fit.
        """
        h = AdversarialOptions(**options)
        model = MimoCodec.from_pretrained(codec, device="cpu")
        model.require_decoder()
        if not model.quantizer.is_initialized:
            raise MimoError(f"{codec}: its codebooks have not been trained: stage 1 ended before quantizer_start")
        super().__init__(model, h, losses)
        self.save_hyperparameters(ignore=["losses", "discriminators"])  # checkpoints hold plain values only
        self.codec.requires_grad_(False)
        self.generator.requires_grad_(True)
        if discriminators is None:
            discriminators = Discriminators(
                h.periods, h.period_channels, h.stft_sizes, h.stft_channels, h.discriminator_gain
            )
        self.discriminators = discriminators
        if discriminators_from is not None:
            load_discriminators(discriminators_from, self.discriminators)
        self.discriminators.eval()  # see `train`
        decoder = self.codec.require_decoder()
        self.average: AveragedModel | None = None
        if h.average_decay:
            self.average = AveragedModel(decoder, multi_avg_fn=get_ema_multi_avg_fn(h.average_decay))
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
        """Encoder, decoder with vocoder, and every discriminator."""
        discriminators = self.discriminators
        parts = discriminators if isinstance(discriminators, Discriminators) else [discriminators]
        return self.codec.encoder, self.codec.require_decoder(), *parts

    def save_beside(self, folder: Path) -> None:
        """Write the discriminators beside the exported codec, so that a later stage 2 can go on with them."""
        save_discriminators(folder, self.discriminators, write=self.trainer.is_global_zero)

    def setup(self, stage: str) -> None:
        """Let DDP know that not every backward reaches all parameters."""
        super().setup(stage)
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy):  # the two players take turns, so each backward leaves out some parameters
            strategy._ddp_kwargs["find_unused_parameters"] = True

    def sharded(self) -> Sequence[nn.Module]:
        """The networks and the averaged decoder."""
        return self.networks() if self.average is None else (*self.networks(), self.average.module)

    def train(self, mode: bool = True) -> AdversarialStage:
        """Set the mode of the generator; what stays fixed, and the discriminators, are in evaluation mode."""
        super().train(mode)
        self.codec.encoder.eval()
        self.codec.quantizer.eval()
        self.discriminators.eval()  # what trains them does so by itself; see `learn`
        return self

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """MimoError when the run trained the decoder of another codec, or began with other discriminators."""
        super().on_load_checkpoint(checkpoint)
        check_same_start(self, checkpoint, "discriminators_from")
        saved = checkpoint.get("state_dict", {})  # sharded networks have been loaded before
        for name, own in self.state_dict().items():
            require(
                name not in saved or not name.startswith(FIXED) or torch.equal(saved[name].to(own.device), own),
                f"model.init_args.codec ({self.hparams.get('codec')}) has another encoder or other codebooks than the"
                f" run that is to go on: {NEEDS_SAME}",
            )

    # ---- one step ------------------------------------------------------------------------------------------------

    def learn(self, batch: Mapping[str, Batch]) -> dict[str, Tensor]:
        """One batch: a step of the discriminators, then one of the generator against them."""
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
            **self.waveform_terms(decoded, crops),
        }
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

    def configure_optimizers(self) -> Sequence[OptimizerLRSchedulerConfig]:
        """The optimizers of the generator and of the discriminators."""
        h = self.options
        self.check_shardable(h.matrix_learning_rate)
        steps = self.trainer.max_steps, h.warmup_steps, h.decay_share
        generator = make_optimizer(
            self.generator.named_parameters(), h.matrix_learning_rate, h.learning_rate, h.weight_decay
        )
        discriminator = torch.optim.AdamW(
            self.discriminators.parameters(), h.discriminator_learning_rate, betas=(0.8, 0.99), weight_decay=0.0
        )
        return [with_schedule(generator, *steps), with_schedule(discriminator, *steps)]
