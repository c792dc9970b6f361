"""Which rows a process sees at which micro-batch: a function of (seed, epoch, step), never of timing or resuming.

Step `s` of an epoch takes rows `order[s * G : (s + 1) * G]`, `G = processes x rows per device x accumulation`, dealt
out micro-batch by micro-batch. Every row occurs exactly once per epoch: the last step is smaller, and a process left
without rows there gets an empty micro-batch.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
from torch.utils.data import DataLoader, Sampler

from promptcot_mamba.records import derive_seed


class StepSampler(Sampler[list[int]]):
    """Yields this process's micro-batches of an epoch, as lists of row numbers."""

    def __init__(
        self,
        rows: int,
        rows_per_device: int,
        *,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 0,
        shuffle: bool = True,
    ):
        self.rows, self.rows_per_device = rows, rows_per_device
        self.world_size, self.rank = world_size, rank
        self.seed, self.shuffle = seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """The epoch's rows, in the order in which all processes together consume them."""
        if not self.shuffle:
            return np.arange(self.rows)
        return np.random.default_rng(derive_seed(self.seed, "rows", self.epoch)).permutation(self.rows)

    def __len__(self) -> int:
        return -(-self.rows // (self.world_size * self.rows_per_device))

    def __iter__(self) -> Iterator[list[int]]:
        order, width = self.order(), self.rows_per_device
        for micro_batch in range(len(self)):
            start = (micro_batch * self.world_size + self.rank) * width
            yield order[start : start + width].tolist()


class StepLoader(DataLoader):
    """A DataLoader over a StepSampler that hands the epoch's number on to it, as the Trainer expects."""

    def set_epoch(self, epoch: int) -> None:
        cast(StepSampler, self.batch_sampler).set_epoch(epoch)
