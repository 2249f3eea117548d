"""The strategy that `trainer.strategy: fsdp` stands for."""

from __future__ import annotations

from lightning.pytorch.strategies import ModelParallelStrategy


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
