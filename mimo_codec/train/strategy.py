"""The strategy that `trainer.strategy: fsdp` stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy

from mimo_codec.train.checkpoints import read_checkpoint
from mimo_codec.train.resuming import check_same_networks


class ShardedStrategy(ModelParallelStrategy):
    """PyTorch's second FSDP over all processes of all machines; stages shard themselves in `configure_model`.

    Lightning's class splits layers among the devices of a machine by default, which stages do not.
    """

    def __init__(self) -> None:
        """Checkpoints are one file, not one of each process."""
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Put all processes of all machines into one group for the data."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load networks and optimizers from a checkpoint that is whole, and return the rest of it."""
        path = Path(self.broadcast(checkpoint_path))
        assert self.lightning_module is not None
        check_same_networks(self.lightning_module, read_checkpoint(path))
        return super().load_checkpoint(path, weights_only=True)
