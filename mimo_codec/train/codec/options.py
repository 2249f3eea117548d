"""Options of the stages, in groups that both share; each stage takes those of its own class by name.

On the command line and in recipes they are flat: `--model.init_args.warmup_steps 500`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mimo_codec.codec.mel_distance import PAPER_SCALES
from mimo_codec.common.checks import check_integer, check_number, require
from mimo_codec.common.errors import MimoError
from mimo_codec.common.fields import check_fields, flag, integer, number
from mimo_codec.train.monitoring import ValidationOptions

Scale = tuple[int, int, int]
"""(bands, window, hop) of a mel spectrogram, in samples."""
ScaleInMs = tuple[int, float, float]
"""(bands, window, hop) of a mel spectrogram, window and hop in milliseconds."""
PAPER_SCALES_MS: tuple[ScaleInMs, ...] = tuple((bands, window / 24, hop / 24) for bands, window, hop in PAPER_SCALES)


@dataclass(frozen=True)
class LoopOptions:
    """How batches become steps.

    Args:
        accumulate: batches per step of the optimizer.
        clip_norm: largest norm of the gradients of each optimizer; 0: no limit.
        max_non_finite: after so many batches in a row whose loss or gradients are not finite, training stops and the
            last of them is saved; those before are left out.
        compile: let torch.compile make the networks faster; the first step then takes minutes.
    """

    accumulate: int = integer(1, low=1)
    clip_norm: float = number(1.0, low=0)
    max_non_finite: int = integer(10, low=1)
    compile: bool = flag(False)


@dataclass(frozen=True)
class ScheduleOptions:
    """Learning rates over a run.

    Args:
        matrix_learning_rate: peak of Muon (the Transformers' matrices); 0: AdamW for everything.
        warmup_steps: linear warm-up.
        decay_share: the rate falls linearly to zero over this last share of trainer.max_steps.
        weight_decay: of both optimizers, matrices only; discriminators have none.
    """

    matrix_learning_rate: float = number(0.0, low=0)
    warmup_steps: int = integer(200)
    decay_share: float = number(0.4, low=0, high=1)
    weight_decay: float = number(0.01, low=0)


@dataclass(frozen=True)
class ReconstructionOptions:
    """What is compared with the original, and how.

    Args:
        quantizer_dropout: share of batches that use a random number of codebooks instead of all.
        mel_scales_ms: (bands, window, hop) of each scale of the mel loss, window and hop in milliseconds; null: the
            paper's.
        mel_scales: the same in samples at the codec's rate, instead of `mel_scales_ms`.
        mel_power: mel magnitudes are raised to it before they are compared; 1: as in the paper; 0: their logarithms.
        stft_weight: of auraloss' multi-resolution STFT loss within the reconstruction; 0: off.
        reconstruction_weight: of the reconstruction in the loss.
    """

    quantizer_dropout: float = number(0.25, low=0, high=1)
    mel_scales_ms: Sequence[ScaleInMs] | None = None
    mel_scales: Sequence[Scale] | None = None
    mel_power: float = number(1.0, low=0, high=2)
    stft_weight: float = number(0.0, low=0)
    reconstruction_weight: float = number(1.0, low=0)

    def __post_init__(self) -> None:
        """Check the scales."""
        for name in ("mel_scales_ms", "mel_scales"):
            for scale in getattr(self, name) or ():
                require(len(scale) == 3, f"{name}: bands, window and hop are needed, not {scale!r}")
                check_integer(f"{name}: bands", scale[0], 1, 1024)
                check_number(f"{name}: window", scale[1], 1e-3, 2**20)
                check_number(f"{name}: hop", scale[2], 1e-3, scale[1])

    def scales(self, sample_rate: int) -> tuple[Scale, ...]:
        """Return the scales of the mel loss in samples.

        Raises MimoError when `mel_scales_ms` and `mel_scales` are given and differ (checkpoints made before there were
        milliseconds have the same scales in samples), and for a hop below one sample.
        """
        given = tuple((bands, window, hop) for bands, window, hop in self.mel_scales or ())
        if given and self.mel_scales_ms is None:
            return given
        in_ms = PAPER_SCALES_MS if self.mel_scales_ms is None else self.mel_scales_ms
        per_ms = sample_rate / 1000
        scales = tuple((bands, round(window * per_ms), round(hop * per_ms)) for bands, window, hop in in_ms)
        require(all(hop > 0 for _, _, hop in scales), f"mel_scales_ms: a hop is below one sample at {sample_rate} Hz")
        require(
            given in ((), scales),
            f"mel_scales_ms and mel_scales differ: {scales} and {given} in samples at {sample_rate} Hz; give one",
        )
        return scales


@dataclass(frozen=True)
class TextOptions:
    """The text model of audio-to-text.

    Args:
        text_weight: of audio-to-text in the loss.
        text_tokenizer: "bytes", or a Hugging Face tokenizer by name.
        text_dim: width of the text model.
        text_layers: layers of the text model.
        text_heads: attention heads of the text model.
    """

    text_weight: float = number(10.0, low=0)
    text_tokenizer: str = "bytes"
    text_dim: int = integer(256, low=1)
    text_layers: int = integer(4, low=1)
    text_heads: int = integer(4, low=1)


@dataclass(frozen=True)
class DiscriminatorOptions:
    """Sizes and weights of the adversarial part; `Discriminators` says more of them.

    Args:
        discriminator_learning_rate: peak of AdamW for the discriminators.
        adversarial_weight: of the adversarial loss in the generator's.
        feature_weight: of feature matching in the generator's loss.
        excerpt_seconds: length of the random excerpt that discriminators see of every crop; 0: all of it.
        periods: of the multi-period discriminators; none: no such discriminators.
        period_channels: of the layers of each.
        stft_sizes: n_fft of the multi-scale STFT discriminators; none: no such discriminators.
        stft_channels: of every layer of each.
        discriminator_gain: on the waveforms that they see.
    """

    discriminator_learning_rate: float = number(1e-4, low=0)
    adversarial_weight: float = number(1.0, low=0)
    feature_weight: float = number(2.0, low=0)
    excerpt_seconds: float = number(0.0, low=0)
    periods: Sequence[int] = (2, 3, 5, 7, 11)
    period_channels: Sequence[int] = (32, 128, 512, 1024, 1024)
    stft_sizes: Sequence[int] = (2048, 1024, 512, 256, 128)
    stft_channels: int = integer(32, low=1)
    discriminator_gain: float = number(30.0, low=0)


@dataclass(frozen=True)
class StageOptions(LoopOptions, ReconstructionOptions, ScheduleOptions, ValidationOptions):
    """What both stages have."""

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_fields(self)


@dataclass(frozen=True)
class UnifiedOptions(TextOptions, StageOptions):
    """Options of stage 1.

    Args:
        learning_rate: peak of AdamW (embeddings, norms, biases, convolutions, first and last layers).
        quantizer_start: steps before codebooks that are trained begin to quantize.
        commitment_weight: of the commitment in the loss.
    """

    learning_rate: float = number(1e-3, low=0)
    quantizer_start: int = integer(500)
    commitment_weight: float = number(1.0, low=0)


@dataclass(frozen=True)
class AdversarialOptions(DiscriminatorOptions, StageOptions):
    """Options of stage 2.

    Args:
        trained: "decoder" (with the vocoder) or "vocoder" alone.
        learning_rate: peak of AdamW for the generator.
        average_decay: of the moving average of the generator's weights, per step; 0: none.
    """

    trained: str = "decoder"
    learning_rate: float = number(1e-4, low=0)
    average_decay: float = number(0.999, low=0, high=1)

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.trained not in ("decoder", "vocoder"):
            raise MimoError(f"trained = {self.trained!r}: 'decoder' (with its vocoder) or 'vocoder' is needed")
