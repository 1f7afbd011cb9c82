"""Which sample comes when: the same order for the same seed, on any number of processes, before and after a resume."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

Key = tuple[int, int]
"""(epoch, index): augmentation is drawn from both, so that it can be drawn again."""


class TrainBatchSampler(Sampler[list[Key]]):
    """Shuffled batches, of which each process takes its share; the last incomplete one is left out.

    Batch norm after global pooling cannot train on a batch of one.

    Args:
        size: number of samples.
        batch_size: samples per batch and process.
        seed: of the order.
        rank: this process.
        world_size: number of processes.
        start: batches of the first epoch that were trained before a resume; a whole epoch of them counts as none.

    Attributes:
        sampler: the object itself; Lightning calls ``set_epoch`` on an attribute of this name.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self._start = 0, start
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[Key]]:
        start, self._start = self._start, 0
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        for step in range(start % max(1, len(self)), len(self)):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield [(self.epoch, index) for index in order[first : first + self.batch_size]]


class EvalSampler(Sampler[Key]):
    """Every sample once over all processes: the sampler that Lightning would put in repeats some to even the shares.

    Args:
        size: number of samples.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, size: int, rank: int = 0, world_size: int = 1) -> None:
        self._indices = range(rank, size, world_size)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Key]:
        return ((0, index) for index in self._indices)
