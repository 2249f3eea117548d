"""Stages of training a language model (arXiv 2512.23808, sections 3.2 and 4.2): one class, told apart by recipes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from mimo_codec.common.checks import require
from mimo_codec.common.processes import num_processes, sum_over_processes
from mimo_codec.lm.adapters import add_adapter, fingerprint
from mimo_codec.lm.audio import SpeechCodec
from mimo_codec.lm.config import FRAME_RATE
from mimo_codec.lm.layout import Layout
from mimo_codec.lm.model import SpeechLanguageModel
from mimo_codec.loading import load_codec
from mimo_codec.train.lm.codes_cache import CachedReader
from mimo_codec.train.lm.losses import Terms, total_loss
from mimo_codec.train.lm.network import TrainedLanguageModel
from mimo_codec.train.lm.options import LanguageOptions
from mimo_codec.train.lm.pack import Pack
from mimo_codec.train.lm.parts import PATCH_DECODER, PATCH_ENCODER, part_of, train_only
from mimo_codec.train.lm.start import is_language_model, start_language_model
from mimo_codec.train.loop import Stage
from mimo_codec.train.monitoring import ValidationOptions
from mimo_codec.train.optimizer import make_optimizer
from mimo_codec.train.resuming import RunSchedule

COSINE_FLOOR = 0.1
"""Where a cosine schedule ends, as a share of the peak."""


class LanguageModelStage(Stage):
    """Trains a language model on packs of tokens and codes.

    Args:
        model: what to start from: folder or hub id of a language model, name of a preset (random weights), or folder of
            a text model of the Qwen2 family, which becomes the backbone.
        codec: whose codes the model reads: encodes the audio of the data; null where the data has codes alone.
        tokenizer: of a preset: folder with tokenizer.json, or "bytes".
        config: changes to the configuration of a preset or of a text model, keys as in config.json.
        options: see `LanguageOptions`.
    """

    def __init__(
        self,
        model: str,
        codec: str | None = None,
        tokenizer: str | None = None,
        config: dict[str, Any] | None = None,
        **options: Any,
    ):
        """See the class for the arguments; MimoError for values that are not supported."""
        h = LanguageOptions(**options)
        super().__init__(1, h.clip_norm, h.max_non_finite, False)
        self.save_hyperparameters()
        self.options = h
        self.validation = ValidationOptions(best_metric="loss", best_mode="min")
        whole = not h.lora_rank or is_language_model(model)
        require(whole, f"lora_rank: adapters are kept without their model, so {model} must be a language model")
        networks, self.tokenizer = start_language_model(model, tokenizer, config)
        networks.train()
        c = networks.config
        channels = len(h.channel_weights)
        require(channels == c.audio_channels, f"channel_weights: {channels} for {c.audio_channels} channels")
        train_only(networks, h.trained)
        self.base = fingerprint(networks)
        if h.lora_rank:
            add_adapter(networks, h.lora_rank, h.lora_alpha, h.lora_dropout, h.trained)
        self.network = TrainedLanguageModel(networks, h.empty_weight, h.chunk, sum(h.channel_weights) > 0)
        self.layout = Layout(
            c.group_size, c.speech_zeroemb_idx, c.delay_pattern, self.tokenizer.special.empty, c.vocab_size
        )
        self._codec: list[Any] = [codec]  # in a list, because it is no part of this module
        self.strict_loading = not h.lora_rank  # checkpoints have no weights that adapters are for
        self.layer_types = (type(networks.model.layers[0]),)
        if h.checkpoint_layers:
            self.network.checkpoint_layers()
        if h.attention_dropout:
            self.network.set_attention_dropout(h.attention_dropout)

    @property
    def language_model(self) -> SpeechLanguageModel:
        """The networks that are trained."""
        return self.network.model

    def find_codec(self) -> SpeechCodec | None:
        """Load the codec when it is first asked for: it is no part of what is trained or saved."""
        if isinstance(self._codec[0], str):
            self._codec[0] = load_codec(self._codec[0], device="cpu")
        found: SpeechCodec | None = self._codec[0]
        return found

    def make_reader(self, cache: Path | None) -> CachedReader:
        """Make a reader of audio; MimoError when the codec is not one whose codes the model reads."""
        config = self.language_model.config
        return CachedReader(config, self.layout, self.find_codec(), "--model.init_args.codec NAME", cache=cache)

    def exported_model(self) -> SpeechLanguageModel:
        """Return the networks with the name of the codec in their configuration, for whoever loads them."""
        codec = self.find_codec()
        if codec is None or self.language_model.config.codec is not None:
            return self.language_model
        view = copy.copy(self.language_model)
        config = view.config
        view.config = replace(config, extra={**config.extra, "codec": codec.model_id})
        return view

    def networks(self) -> Sequence[nn.Module]:
        """Return the model with its losses."""
        return (self.network,)

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return all weights, or only those of adapters where there are any."""
        state: dict[str, Any] = super().state_dict(*arguments, **options)
        if not self.options.lora_rank:
            return state
        trained = {f"network.model.{name}" for name, _ in self._trained_parameters()}
        return {name: value for name, value in state.items() if name in trained}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note which model adapters are for."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["base"] = self.base

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """MimoError when the checkpoint holds adapters for another model."""
        super().on_load_checkpoint(checkpoint)
        same = not self.options.lora_rank or checkpoint.get("base") == self.base
        require(same, f"model.init_args.model: {self.hparams['model']} is not the model that the run began with")

    def on_fit_start(self) -> None:
        """Refuse precisions in which small steps are lost."""
        super().on_fit_start()
        rounds = self.trainer.precision != "bf16-true" or self.options.lora_rank or self.options.optimizer_bits == 8
        require(
            rounds,
            "trainer.precision = bf16-true: weights of 8 significant bits lose most small steps; set"
            " model.init_args.optimizer_bits to 8, which rounds at random, or train adapters (lora_rank)",
        )

    # ---- one step ------------------------------------------------------------------------------------------------

    def learn(self, batch: Sequence[Pack]) -> dict[str, Tensor]:
        """Make a step of all packs of all processes: backward passes one by one, each a share of one loss."""
        # every process leaves out inputs of its own
        torch.manual_seed(self.run_seed + self.batches_seen + (self.global_rank << 40))
        weights = (self.options.text_weight, *self.options.channel_weights)
        counts = torch.stack([self.network.count(pack) for pack in batch]).sum(0)
        sum_over_processes(counts)
        passes = self._num_passes(len(batch))
        sums, finite = torch.zeros_like(counts), True
        for i in range(passes):
            # a process with fewer packs repeats its last one for nothing, or the others would wait for it
            counted = 1.0 if i < len(batch) else 0.0
            with self._alone(i < passes - 1):
                terms: Terms = self.network(batch[min(i, len(batch) - 1)])
                loss = total_loss(terms.sums, counts, weights) * counted * num_processes()
                finite = self.add_gradients("model", loss) and finite
            sums = sums + terms.sums.detach() * counted
        sum_over_processes(sums)
        optimizer: Any = self.optimizers()
        if finite:
            self.take_step("model", optimizer, self.lr_schedulers())
        else:
            optimizer.zero_grad()
            self._with_gradients.clear()
        self._log_channels("train", sums, counts)
        audio = sums[1:].sum() / counts[1:].sum().clamp(min=1)
        text = sums[0] / counts[0].clamp(min=1e-9)
        return {"loss": total_loss(sums, counts, weights), "text": text, "audio": audio}

    def _num_passes(self, own: int) -> int:
        """Return the largest number of packs that any process has."""
        most = torch.tensor(own, device=self.device)
        if num_processes() > 1:
            torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return int(most)

    def _alone(self, waits: bool) -> AbstractContextManager[Any]:
        """Keep gradients in this process, while more are to be added to them."""
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return block() if waits and block is not None else nullcontext()

    def _log_channels(self, kind: str, sums: Tensor, counts: Tensor) -> None:
        for channel, (total, count) in enumerate(zip(sums[1:], counts[1:], strict=True)):
            if count > 0:
                self.log(f"{kind}/channel_{channel}", total / count)

    def seconds_of(self, batch: Sequence[Pack]) -> float:
        """Return the seconds of audio in a batch."""
        patches = sum(int((pack.tokens == self.language_model.empty_id).sum()) for pack in batch)
        return patches * self.layout.group_size / FRAME_RATE

    def describe_batch(self, batch: Sequence[Pack]) -> tuple[dict[str, Tensor], Any]:
        """Return tokens, codes and what is trained of every pack, and the names and lengths of its items."""
        tensors = {
            f"{i}.{name}": getattr(pack, name)
            for i, pack in enumerate(batch)
            for name in ("tokens", "patches", "trained")
        }
        return tensors, [list(zip(pack.names, pack.lengths, strict=True)) for pack in batch]

    # ---- validation ----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._sums = torch.zeros(1 + len(self.options.channel_weights), device=self.device)
        self._counts = torch.zeros_like(self._sums)
        self._right = torch.zeros_like(self._sums)

    def validation_step(self, batch: Sequence[Pack], index: int) -> None:
        """Add up the losses of an item, and how often the likeliest is the true one."""
        for pack in batch:
            terms: Terms = self.network(pack)
            if not self.is_repeated(index):
                self._sums += terms.sums
                self._counts += terms.counts
                self._right += 0 if terms.right is None else terms.right

    def on_validation_epoch_end(self) -> None:
        """Log losses and accuracies of all processes."""
        for total in (self._sums, self._counts, self._right):
            sum_over_processes(total)
        if self._counts.sum() == 0:
            return
        weights = (self.options.text_weight, *self.options.channel_weights)
        self.log("val/loss", total_loss(self._sums, self._counts, weights), prog_bar=True)
        self.log("val/text", self._sums[0] / self._counts[0].clamp(min=1e-9))
        self._log_channels("val", self._sums, self._counts)
        for channel, (right, count) in enumerate(zip(self._right[1:], self._counts[1:], strict=True)):
            if count > 0:
                self.log(f"val/accuracy_{channel}", right / count)

    # ---- optimizer -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One optimizer for all parts, whose learning rates keep their proportions over the run."""
        h = self.options
        self.check_shardable(h.matrix_learning_rate)
        optimizer = make_optimizer(
            self._trained_parameters(),
            h.matrix_learning_rate,
            h.learning_rate,
            h.weight_decay,
            h.betas,
            self._factor,
            h.optimizer_bits,
        )
        steps = self.trainer.max_steps
        factor = partial(schedule_factor, num_steps=steps, options=h)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": RunSchedule(optimizer, factor), "interval": "step"},
        }

    def _trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.language_model.named_parameters() if p.requires_grad)

    def rates(self, name: str, optimizer: Any) -> dict[str, float]:
        """Return the learning rates by the part that they are of; those of Muon as PART_matrices."""
        names = {id(p): name for name, p in self._trained_parameters()}
        found: dict[str, float] = {}
        for group in (group for group in optimizer.param_groups if group["params"]):
            part = part_of(names[id(group["params"][0])])
            found[f"{part}_matrices" if "momentum" in group else part] = float(group["lr"])
        return found

    def _factor(self, name: str) -> float:
        """Return the learning rate of a parameter's part, as a multiple of the backbone's."""
        h = self.options
        rates = {PATCH_ENCODER: h.patch_encoder_learning_rate, PATCH_DECODER: h.patch_decoder_learning_rate}
        rate = rates.get(part_of(name))
        return 1.0 if rate is None else rate / h.learning_rate


def schedule_factor(step: int, num_steps: int, options: LanguageOptions) -> float:
    """Compute the factor on the learning rates: linear warm-up, then constant, cosine or linear."""
    warmup = options.warmup_share * num_steps
    if step < warmup:
        return min((step + 1) / max(warmup, 1.0), 1.0)
    if options.schedule == "cosine":
        share = (step - warmup) / max(num_steps - warmup, 1)
        return COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    if options.schedule == "linear":
        return max(min((num_steps - step) / max(num_steps * options.decay_share, 1), 1.0), 0.0)
    return 1.0
