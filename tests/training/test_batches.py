"""Row order: every row once an epoch, the same rows in a step whatever the number of processes, exact after a skip."""

from __future__ import annotations

import pytest
from accelerate import skip_first_batches

from promptcot_mamba.training.batches import StepLoader, StepSampler


def step_rows(rows: int, world_size: int, rows_per_device: int, accumulation: int, epoch: int = 0) -> list[set[int]]:
    """The rows of each optimizer step, over all processes."""
    micro = []
    for rank in range(world_size):
        sampler = StepSampler(rows, rows_per_device, world_size=world_size, rank=rank, seed=5)
        sampler.set_epoch(epoch)
        micro.append(list(sampler))
    assert len({len(batches) for batches in micro}) == 1, "every process needs as many micro-batches"
    return [
        {row for batches in micro for batch in batches[start : start + accumulation] for row in batch}
        for start in range(0, len(micro[0]), accumulation)
    ]


@pytest.mark.parametrize("rows", [1, 7, 8, 24, 29])
def test_steps_do_not_depend_on_processes(rows: int):
    whole = step_rows(rows, 1, 1, 8)
    assert sorted(row for step in whole for row in step) == list(range(rows))
    for world_size, rows_per_device, accumulation in ((2, 1, 4), (4, 2, 1), (8, 1, 1), (1, 4, 2)):
        assert step_rows(rows, world_size, rows_per_device, accumulation) == whole


def test_epochs_differ():
    assert step_rows(24, 1, 1, 8, epoch=0) != step_rows(24, 1, 1, 8, epoch=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_and_workers_keep_the_order(workers: int):
    def loader() -> StepLoader:
        sampler = StepSampler(20, 2, seed=3)
        return StepLoader(range(20), batch_sampler=sampler, collate_fn=list, num_workers=workers)

    whole = loader()
    whole.set_epoch(1)
    expected = list(whole)
    resumed = skip_first_batches(loader(), 4)
    resumed.batch_sampler.batch_sampler.set_epoch(1)  # how the Trainer reaches it after a skip
    assert list(resumed) == expected[4:]
