"""Processes acting as one, seen from a group of one."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist

from promptcot_mamba.training.ranks import part


def test_parting_takes_the_group_down(tmp_path: Path):
    part()  # without a group there is nothing to do
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    part()
    assert not dist.is_initialized()
