"""Tiles are chosen by architecture, sizes and shared memory, and where none fit nobody pretends."""

from __future__ import annotations

import itertools

import pytest
import torch

from promptcot_mamba.ops.ssd.triton_configs import HALF, SHARED_MEMORY, find_config, find_misfit

ARCHS = sorted(SHARED_MEMORY)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_card_has_tiles_for_head_widths_and_states(arch):
    for headdim, dstate in itertools.product((16, 48, 64, 80, 96, 128), (16, 64, 128, 256)):
        assert find_config(torch.bfloat16, arch, SHARED_MEMORY[arch], headdim, dstate) is not None


@pytest.mark.parametrize("arch", ARCHS)
def test_chosen_tiles_fit_the_shared_memory(arch):
    config = find_config(torch.bfloat16, arch, SHARED_MEMORY[arch], 64, 128)
    (tiles,) = [tiles for family in HALF.values() for tiles in family if tiles.config == config]
    assert tiles.shared <= SHARED_MEMORY[arch]


def test_consumer_cards_do_not_take_the_data_centre_s_tiles():
    """sm_120's number is above sm_100's, its shared memory is less than half."""
    consumer = find_config(torch.bfloat16, 120, 101_376, 64, 128)
    assert consumer == find_config(torch.bfloat16, 86, 101_376, 64, 128)
    assert consumer != find_config(torch.bfloat16, 100, SHARED_MEMORY[100], 64, 128)


@pytest.mark.parametrize(
    ("dtype", "headdim", "dstate", "shared"),
    [
        (torch.bfloat16, 64, 96, 232_448),  # not a power of two
        (torch.bfloat16, 64, 512, 232_448),
        (torch.bfloat16, 72, 128, 232_448),  # no whole slices
        (torch.bfloat16, 256, 128, 232_448),
        (torch.float32, 64, 256, 232_448),
        (torch.bfloat16, 64, 128, 48 * 1024),  # no card of today
    ],
)
def test_what_does_not_fit_has_no_tiles(dtype, headdim, dstate, shared):
    assert find_config(dtype, 120, shared, headdim, dstate) is None


def test_a_misfit_is_told_with_what_would_fit():
    assert find_misfit(torch.bfloat16, torch.device("cpu"), 64, 128) is None
    told = find_misfit(torch.bfloat16, torch.device("cpu"), 72, 128)
    assert told.startswith("no tiles for p (headdim) 72 and n (dstate) 128 in bfloat16 on sm_90")
    assert "multiples of 16 up to 128" in told
