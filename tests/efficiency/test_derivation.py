"""Parameter counts are transformers'; the small pair keeps the 7B proportions."""

from __future__ import annotations

import pytest
import torch
import transformers

from promptcot_mamba.efficiency.models import LARGE_PAIR, MAMBA2_7B, QWEN25_7B, SMALL_PAIR, derivation_table

SMALL = SMALL_PAIR


@pytest.mark.parametrize("shape", [SMALL.mamba2, SMALL.qwen2, MAMBA2_7B, QWEN25_7B], ids=lambda shape: shape.name)
def test_parameters_are_transformers(shape):
    config = transformers.AutoConfig.for_model(**shape.config)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters


def test_published_bytes():
    assert MAMBA2_7B.parameters == 7_285_403_648
    assert QWEN25_7B.parameters == 7_615_616_512
    assert QWEN25_7B.token_bytes == 57_344  # 28 layers x keys and values x 4 heads x 128 x 2 bytes


@pytest.mark.parametrize("budget", [24, 48, 72])
def test_the_small_pair_fills_budgets_alike(budget):
    for pair in (LARGE_PAIR, SMALL):
        assert pair.cache_bytes(pair.mamba2, budget) > 0
    chains = [pair.mamba2.chains_in(pair.cache_bytes(pair.mamba2, budget), 0) for pair in (LARGE_PAIR, SMALL)]
    assert chains[1] == pytest.approx(chains[0], rel=0.01)
    for length in (1024, 65536):
        fits = [
            pair.qwen2.chains_in(pair.cache_bytes(pair.qwen2, budget), pair.length(length))
            for pair in (LARGE_PAIR, SMALL)
        ]
        assert fits[1] == pytest.approx(fits[0], rel=0.02)


def test_the_table_shows_both():
    assert ["24 GiB: chains of Mamba-2", "41.1", "41.1"] in derivation_table(SMALL, [24, 72]).rows
