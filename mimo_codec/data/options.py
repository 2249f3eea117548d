"""Options of the training data, in groups; on the command line and in recipes they are flat: `--data.batch_size 8`."""

from __future__ import annotations

from dataclasses import dataclass

from mimo_codec.audio.waveform import check_sample_rate
from mimo_codec.common.checks import check_number
from mimo_codec.common.fields import flag, integer, number
from mimo_codec.data.scan import Limits


@dataclass(frozen=True)
class CropOptions:
    """What crops are like, and how they are drawn.

    Args:
        batch_size: number of crops per batch and device.
        segment_seconds: length of a crop in seconds.
        sample_rate: sample rate of the codec in Hz.
        folder_weights: factor on the probability of files below a folder of this name, e.g. {"wakewords": 0.3}; there
            must be such files.
        seed: seed of the order of crops.
        distinct_batches: train on the first so many batches again and again, to see whether a model can learn them by
            heart; 0: all are different. trainer.overfit_batches sets it.
    """

    batch_size: int = integer(16, low=1)
    segment_seconds: float = number(1.5, low=0.01, high=3600)
    sample_rate: int = 24000
    folder_weights: dict[str, float] | None = None
    seed: int = integer(0, high=2**63)
    distinct_batches: int = integer(0)


@dataclass(frozen=True)
class SpokenOptions:
    """Transcribed utterances beside the crops.

    Args:
        text_batch_size: number of transcribed utterances per batch and device, beside the crops; 0: none.
        max_text_seconds: length in seconds of the longest transcribed utterance that is used.
        optional_text: whether to train without transcribed utterances if there are none, instead of stopping.
    """

    text_batch_size: int = integer(0)
    max_text_seconds: float = number(20.0, low=0, high=3600)
    optional_text: bool = flag(False)


@dataclass(frozen=True)
class LoadingOptions:
    """How batches are prepared, and what validation reads.

    Args:
        num_workers: number of processes that prepare crops, and as many for transcribed utterances; 0: the training
            process prepares them.
        cache_gb: memory in GB for decoded files (16 bit, 12 hours in 2 GB), for all workers of a device together; 0:
            none.
        num_validation_files: number of held-out files to use, spread evenly; 0: all.
    """

    num_workers: int = integer(0)
    cache_gb: float = number(2.0, low=0, high=1e6)
    num_validation_files: int = integer(0)


@dataclass(frozen=True)
class LimitOptions(Limits):
    """What a file must keep to be used.

    Args:
        min_seconds: shortest utterance that is used, in seconds.
        max_clipped: largest share of samples at full scale in an utterance that is used.
        max_silence: largest share of blocks of 20 ms below -60 dBFS in an utterance that is used.
        min_sample_rate: lowest sample rate of a file that is used, in Hz; 0: any.
    """


@dataclass(frozen=True)
class DataOptions(LimitOptions, LoadingOptions, SpokenOptions, CropOptions):
    """Options of `SpeechData`. MimoError names one whose value cannot be."""

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()  # which checks all fields
        check_sample_rate(self.sample_rate)
        for name, factor in (self.folder_weights or {}).items():
            check_number(f"folder_weights: {name}", factor, 0, 1e9)
