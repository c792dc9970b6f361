"""Bytes by formula are those of the launches, and seconds by part are sums a reader can check."""

from __future__ import annotations

import importlib.util
from collections import Counter

import pytest

from promptcot_mamba.gpus import DATA_SHEETS
from promptcot_mamba.memory_budget import Mamba2Shapes, matrix_parameters, shapes_from_config
from promptcot_mamba.roofline import CHUNKS, Rates, Step, at_best, mamba2_traffic, step_seconds, tokens_per_second

SEVEN_B = Mamba2Shapes(hidden=4096, layers=64, heads=128, head_dim=64, n_groups=8, state=128, conv=4, vocab=32_768)
TOKENS = 20_480
H100 = DATA_SHEETS["H100"]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("arch", sorted(CHUNKS))
def test_traffic_is_that_of_the_recorded_launches(arch: int):
    """Every tensor that a launch is given, once: the formulas know no more than the kernels' arguments."""
    from scripts.bench.kernel_launches import SHAPES, count_bytes, record_shipped

    assert (SHAPES["l"], SHAPES["h"], SHAPES["p"], SHAPES["n"]) == (TOKENS, 128, 64, 128)
    moved: Counter[str] = Counter()
    for part, launches in record_shipped(arch).items():
        if not part.endswith("carried"):
            moved[part] += sum(map(count_bytes, launches))
    for part, size in mamba2_traffic(SEVEN_B, arch).items():
        if not part.startswith("stream"):
            assert moved[part] == pytest.approx(size * TOKENS, rel=2e-3), part  # weights and per-head sums beside


def test_seconds_by_part_by_hand():
    step = Step(TOKENS, micro_batches=8, devices=8)
    seconds = step_seconds(SEVEN_B, H100, step, Rates(0.5, 0.5))
    layers = 64 * (2 * SEVEN_B.layer_matrix_parameters + SEVEN_B.mixing_flops)
    assert seconds["matrix products"] == pytest.approx(8 * TOKENS * 4 * layers / (0.5 * 989.4e12))
    moved = mamba2_traffic(SEVEN_B)
    forward = sum(size for name, size in moved.items() if "forward" in name)
    assert seconds["mixing"] == pytest.approx(8 * TOKENS * 64 * (sum(moved.values()) + forward) / (0.5 * 3.35e12))
    assert seconds["head"] > 8 * TOKENS * 6 * 32_768 * 4096 / (0.5 * 989.4e12)
    assert seconds["communication"] == pytest.approx(2 * SEVEN_B.parameters * 7 / 8 / (0.8 * 450e9))
    assert tokens_per_second(SEVEN_B, H100, step, Rates(0.5, 0.5)) == pytest.approx(8 * TOKENS / sum(seconds.values()))


def test_what_a_policy_saves():
    """A kept layer saves its products' repetition; frozen weights their gradients; segments cost one forward more."""
    seconds = {
        name: step_seconds(SEVEN_B, H100, Step(TOKENS, **how))["matrix products"]
        for name, how in {
            "all": {}, "kept": {"kept_layers": 64}, "segments": {"segment": 8}, "adapters": {"adapters": 10**7},
        }.items()
    }  # fmt: skip
    assert seconds["kept"] / seconds["all"] == pytest.approx(3 / 4)
    assert seconds["segments"] / seconds["all"] == pytest.approx(5 / 4)
    assert seconds["adapters"] / seconds["all"] == pytest.approx(3 / 4)


def test_a_slow_network_is_waited_for_and_a_fast_one_hidden():
    fast, slow = (
        step_seconds(SEVEN_B, H100, Step(TOKENS, 8, devices=16), Rates(network_gbs=gbs))["communication"]
        for gbs in (400, 5)
    )
    assert fast < 0.1
    assert slow > 8
    alone = step_seconds(SEVEN_B, H100, Step(TOKENS, 8, devices=1), Rates(network_gbs=5))
    assert alone["communication"] == 0


def test_the_bound_is_above_the_estimate_for_every_sheet():
    decoder = shapes_from_config(
        {
            "model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
            "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151_936,
        }
    )  # fmt: skip
    for sheet in DATA_SHEETS.values():
        for shapes in (SEVEN_B, decoder):
            step = Step(16_384, 8, devices=8)
            rate, most = (tokens_per_second(shapes, sheet, step, rates) for rates in (None, at_best(Rates())))
            assert 0 < rate < most < sheet.bf16_tflops * 1e12 / (6 * matrix_parameters(shapes))
