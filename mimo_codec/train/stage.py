"""The base of the stages of training: steps that survive bad batches, validation, and exact resuming.

Stages use Lightning's manual optimization, because stage 2 has two optimizers, which take turns, and because a step
whose loss or gradients are not finite must leave no trace.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from mimo_codec.codec.model import MimoCodec
from mimo_codec.codec.transformer import TransformerLayer, length_mask
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.data.batch import Batch
from mimo_codec.metrics import CORE_METRICS, available_metrics, speech_metrics
from mimo_codec.train.show import show_histogram, show_sound

SHOWN_FILES = 2
USAGE_WINDOW = 100
"""Batches over which the use of codebooks is counted."""
LOW_USAGE = 0.2
"""Share of the entries below which a warning is given."""
WARNING_INTERVAL = 500
"""Batches between two warnings about the use of codebooks."""
COUNTERS = ("batches_seen", "run_seed", "num_non_finite", "num_non_finite_in_a_row")
"""Attributes that a checkpoint holds beside tensors."""
METRICS = (*CORE_METRICS, "speaker_similarity")
"""Metrics that validation computes, as far as the packages for them are installed."""


class CodecStage(lightning.LightningModule):
    """Trains `codec`; subclasses define a step in `learn` and what is trained in `configure_optimizers`.

    Args:
        codec: the model that is trained.
        accumulate: batches per step of the optimizer.
        clip_norm: largest norm of the gradients of each optimizer; 0: no limit.
        max_non_finite: after so many batches in a row whose loss or gradients are not finite, training stops and the
            last of them is saved; those before are left out.
        compile: let torch.compile make the networks faster; the first step then takes minutes.
    """

    def __init__(self, codec: MimoCodec, accumulate: int, clip_norm: float, max_non_finite: int, compile: bool):
        """See the class for the arguments."""
        super().__init__()
        self.automatic_optimization = False
        self.codec = codec
        self.accumulate, self.clip_norm, self.max_non_finite = accumulate, clip_norm, max_non_finite
        self.compile_networks = compile
        self._sharded = False
        self.batches_seen = 0
        self.run_seed = 0
        self.num_non_finite = self.num_non_finite_in_a_row = 0
        self._skipped: str | None = None
        self._with_gradients: set[str] = set()
        self.last_chosen: Tensor
        shape = (codec.num_quantizers, max(codec.codebook_sizes))
        self.register_buffer("last_chosen", torch.full(shape, -USAGE_WINDOW))
        self.metrics = [name for name in METRICS if name in available_metrics()]
        self.scored = self.metrics
        self._scores: list[dict[str, float]] = []
        self._codes: list[Tensor] = []

    @property
    def validated_codec(self) -> MimoCodec:
        """The codec to validate and to export."""
        return self.codec

    def networks(self) -> Sequence[nn.Module]:
        """Return the networks that run in a step; with `compile` each is compiled."""
        raise NotImplementedError

    def sharded(self) -> Sequence[nn.Module]:
        """Return the networks that FSDP shards, each as a whole."""
        return self.networks()

    def save_beside(self, folder: Path) -> None:
        """Write what belongs beside the exported codec into its folder; all processes take part."""

    def learn(self, batch: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Train on one batch: losses, backward pass and steps of the optimizers. Return what to log, by name."""
        raise NotImplementedError

    # ---- a run ---------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Check precision and sample rate, choose the seed of the run, and compile the networks if asked to."""
        require(
            self.trainer.precision != "16-mixed",
            "trainer.precision = 16-mixed: losses of codecs overflow in float16; use bf16-mixed or 32",
        )
        expected = self.codec.sample_rate
        rate = getattr(self.trainer.datamodule, "sample_rate", expected)  # type: ignore[attr-defined]
        require(rate == expected, f"data.sample_rate is {rate} Hz, but the codec works at {expected} Hz: set it")
        if self.batches_seen == 0:
            self.run_seed = torch.initial_seed() % 2**62
        if self.compile_networks:
            for network in self.networks():
                network.compile()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the counters."""
        checkpoint["mimo_codec"] = {name: getattr(self, name) for name in COUNTERS}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counters."""
        for name, value in checkpoint["mimo_codec"].items():
            setattr(self, name, value)

    def training_step(self, batch: Mapping[str, Batch], batch_index: int) -> dict[str, Tensor]:
        """Train on one batch and log its losses."""
        # A resumed run must draw what it would have drawn, and all processes must draw the same.
        torch.manual_seed(self.run_seed + self.batches_seen)
        self._skipped = None
        logged = self.learn(batch)
        self.batches_seen += 1
        self._count_non_finite(batch)
        self.log_dict({f"train/{name}": value for name, value in logged.items()}, prog_bar=True)
        self.log("train/skipped", float(self.num_non_finite))
        return {"loss": logged["loss"]}

    @property
    def completes_step(self) -> bool:
        """Whether this batch is the last of those whose gradients are summed."""
        return (self.batches_seen + 1) % self.accumulate == 0

    def add_gradients(self, name: str, loss: Tensor) -> bool:
        """Add a batch to the gradients of one optimizer, unless its loss is not finite. Return whether it was added.

        name: of what the optimizer trains, for messages; loss: [].
        """
        with torch.autocast(self.device.type, enabled=False):
            if not self.all_finite(loss):
                self._skipped = f"{name}: the loss is {float(loss)}"
                return False
            self.manual_backward(loss / self.accumulate)
        self._with_gradients.add(name)
        return True

    def take_step(self, name: str, optimizer: Any, scheduler: Any) -> bool:
        """Step with the clipped gradients of `accumulate` batches, unless they are not finite.

        Returns whether the optimizer stepped; it never does before the last of these batches.
        """
        if not self.completes_step or name not in self._with_gradients:
            return False
        self._with_gradients.remove(name)
        # The list of the optimizer, because FSDP has other parameters in the modules between forward and backward.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        with torch.autocast(self.device.type, enabled=False):
            norm = clip_grad_norm_(parameters, self.clip_norm or math.inf)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            self.log(f"train/gradient_{name}", norm)
            is_finite = self.all_finite(norm)
            if is_finite:
                optimizer.step()
                scheduler.step()
            else:
                self._skipped = self._skipped or f"{name}: the norm of the gradients is {float(norm)}"
        optimizer.zero_grad()
        return is_finite

    def all_finite(self, value: Tensor) -> bool:
        """Whether a value is finite in every process."""
        finite = bool(value.detach().isfinite().all())
        return bool(self.trainer.strategy.reduce_boolean_decision(finite, all=True))

    def leave_out(self, reason: str) -> dict[str, Tensor]:
        """Skip a batch for this reason: what `learn` returns for it."""
        self._skipped = reason
        return {"loss": torch.tensor(math.nan)}

    def _count_non_finite(self, batch: Mapping[str, Batch]) -> None:
        if self._skipped is None:
            self.num_non_finite_in_a_row = 0
            return
        self.num_non_finite += 1
        self.num_non_finite_in_a_row += 1
        rank_zero_warn(f"batch {self.batches_seen} is left out: {self._skipped} ({self.num_non_finite} so far)")
        if self.num_non_finite_in_a_row >= self.max_non_finite:
            where = self._save_batch(batch, self._skipped)
            raise MimoError(
                f"{self.num_non_finite_in_a_row} batches in a row were not finite (the last one, {self._skipped}, is"
                f" saved as {where}): lower the learning rates or look at these files, and continue with --ckpt_path"
                " last"
            )

    def _save_batch(self, batch: Mapping[str, Batch], reason: str) -> Path:
        folder = Path(self.trainer.default_root_dir) / "non_finite"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"batch_{self.batches_seen}_rank_{self.global_rank}.safetensors"
        tensors = {
            f"{kind}.{name}": getattr(part, name).cpu().contiguous()
            for kind, part in batch.items()
            for name in ("waveform", "lengths")
        }
        save_file(tensors, path)
        about = {"reason": reason, "names": {kind: list(part.names) for kind, part in batch.items()}}
        path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return path

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
                    " quantizer_start may help"
                )

    # ---- validation ----------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, index: int) -> None:
        """Validate on one whole file: compute its scores, and log sound and picture of the first files."""
        codec, waveform = self.validated_codec, batch.waveform
        features = codec.encoder(codec.mel(waveform))
        if not features.isfinite().all():
            self._scores.append(dict.fromkeys(self.scored, math.nan))
            return
        if codec.quantizer.is_initialized:
            codes = codec.quantizer.encode(features, codec.check_num_quantizers(None))
            features = codec.quantizer.decode(codes).to(features.dtype)
            self._codes.append(codes[0].cpu())
        decoded = codec.require_decoder()(features)[:, : waveform.shape[1]].float()
        rate = codec.sample_rate
        with torch.autocast(self.device.type, enabled=False):
            self._scores.append(speech_metrics(waveform[0], rate, decoded[0], rate, self.metrics))
        if index < SHOWN_FILES:
            for name, sound in (("original", waveform), ("decoded", decoded)):
                show_sound(self.loggers, f"{name}/{index}", sound[0].float(), codec, self.global_step)

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
                self.log(f"{kind}/{name}", sums[0] / sums[1], prog_bar=name == self.scored[0])
        for index, row in enumerate(torch.cat(codes, dim=1) if codes else ()):
            used = len(row.unique()) / self.codec.codebook_sizes[index]
            self.log(f"codebook/val_usage_{index}", used, sync_dist=True)
            show_histogram(self.loggers, f"codes/{index}", row, self.global_step)

    # ---- several devices -----------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Shard the networks where the strategy asks for it (FSDP)."""
        mesh = self.device_mesh
        if mesh is None or self._sharded:
            return
        from torch.distributed.fsdp import fully_shard

        for network in self.sharded():
            for module in network.modules():
                if isinstance(module, TransformerLayer):
                    fully_shard(module, mesh=mesh["data_parallel"])
            fully_shard(network, mesh=mesh["data_parallel"])
        self._sharded = True
        rank_zero_info("the networks are sharded over the processes")

    def check_shardable(self, matrix_learning_rate: float) -> None:
        """Raise MimoError when Muon, which needs whole matrices, is to train what is sharded."""
        require(
            self.device_mesh is None or matrix_learning_rate <= 0,
            "strategy fsdp: Muon needs whole matrices; set model.init_args.matrix_learning_rate to 0",
        )


def warm_up_and_decay(step: int, num_steps: int, warmup_steps: int, decay_share: float) -> float:
    """Compute the factor on the learning rate: linear warm-up, plateau, linear decay over the last share of a run."""
    warm, cool = (step + 1) / max(warmup_steps, 1), (num_steps - step) / max(num_steps * decay_share, 1)
    return max(min(warm, cool, 1.0), 0.0)
