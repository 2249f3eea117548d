"""Items -> batches [B, S], in an order that depends on how far training is and on nothing else."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from mimo_codec.data.dataset import Item
from mimo_codec.data.utterance import Fault


class Batch(NamedTuple):
    """Speech of B utterances, or pieces of them."""

    waveform: Tensor
    """[B, S] float32, zero-padded at the end."""
    lengths: Tensor
    """[B] int64: samples before the padding."""
    texts: tuple[str, ...]
    """Transcripts of the whole utterances; "" where there is none."""
    names: tuple[str, ...]
    """For messages: path, and start in it."""
    faults: tuple[Fault, ...] = ()
    """Utterances that could not be read; `SpeechData` takes them out before a batch reaches the model."""


def collate(items: Sequence[Item], num_samples: int = 0) -> Batch:
    """Pad items of any lengths with zeros -> a batch as long as the longest, or at least `num_samples`."""
    lengths = [len(item.waveform) for item in items]
    size = max(num_samples, *lengths)
    waveform = torch.stack([F.pad(item.waveform, (0, size - len(item.waveform))) for item in items])
    faults = tuple(fault for item in items for fault in item.faults)
    texts, names = tuple(item.text for item in items), tuple(item.name for item in items)
    return Batch(waveform, torch.tensor(lengths), texts, names, faults)


def expect_resuming() -> None:
    """Silence Lightning's warning that loaders do not resume: they do, by `RunSampler`, not in the way it knows."""
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")


class RunSampler(DistributedSampler[int]):
    """The numbers of a rank's items: batch k has `batch_size` numbers from (k * world_size + rank) * batch_size on.

    All ranks together therefore see what one process with a batch as large as all of theirs would see. Iteration
    starts at the batch that training has reached, and does not end, because steps may be skipped; the length is that
    of a run without skipped steps. With `distinct` the first batches come again and again. It is a DistributedSampler
    because Lightning does not replace those.
    """

    def __init__(
        self,
        batches_seen: Callable[[], int],
        num_batches: int,
        batch_size: int,
        rank: int,
        world_size: int,
        distinct: int = 0,
    ):
        """Make the sampler of one rank.

        Args:
            batches_seen: returns how many batches this rank has trained on.
            num_batches: of a rank in the whole run.
            batch_size: items of a batch.
            rank: number of this process.
            world_size: number of processes.
            distinct: number of different batches; 0: as many as there are.
        """
        numbers: Any = range(num_batches * batch_size * world_size)
        super().__init__(numbers, world_size, rank, shuffle=False)
        self.batches_seen, self.batch_size, self.distinct = batches_seen, batch_size, distinct

    def __iter__(self) -> Iterator[int]:
        """Iterate over the numbers from the next batch on, without end."""
        k = self.batches_seen()
        while True:
            number = k % self.distinct if self.distinct else k
            first = (number * self.num_replicas + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)
            k += 1


def leave_interrupts_to_training(worker: int) -> None:
    """Ctrl-C reaches workers too, but training still needs them to finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
