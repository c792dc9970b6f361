"""What a chain holds in the cache, family by family: by hand for the tables' models, by vLLM's count for tiny ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
from transformers import Mamba2Config

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger
from promptcot_mamba.sampling import layers
from promptcot_mamba.sampling.cache_cost import attention_heads, cache_cost, has_latents
from promptcot_mamba.sampling.layers import has_states, language_config, layer_kinds
from tests.sampling.conftest import ROOT
from tests.sampling.kv_spec import ARCHITECTURES, FAMILIES
from tests.sampling.published_configs import PUBLISHED

MIB = 1 << 20
CONTEXT = 69632
GEMMA3_27B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text", "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16,
        "head_dim": 128, "hidden_size": 5376, "sliding_window": 1024, "sliding_window_pattern": 6,
    },
    "vision_config": {"num_hidden_layers": 27, "hidden_size": 1152, "num_attention_heads": 16},
}  # fmt: skip
NEMOTRON_H_8B = {
    "model_type": "nemotron_h", "num_hidden_layers": 52, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "hidden_size": 4096, "mamba_num_heads": 128, "mamba_head_dim": 64, "ssm_state_size": 128,
    "n_groups": 8, "conv_kernel": 4,
    "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
}  # fmt: skip


def test_a_multimodal_model_holds_what_its_language_model_holds():
    cost = cache_cost(GEMMA3_27B, "bfloat16", "float32")
    a_layer = 2 * 16 * 128 * 2  # keys and values of 16 heads of 128, two bytes each
    assert (cost.a_token, cost.a_window_token, cost.window) == (10 * a_layer, 52 * a_layer, 1024)
    assert cost.bytes(CONTEXT) == CONTEXT * 10 * a_layer + 1024 * 52 * a_layer
    assert cost.bytes(500) == 500 * 62 * a_layer
    assert cost.bytes(CONTEXT) > 5000 * MIB


def test_a_hybrid_counts_its_few_attention_layers_and_its_states():
    kinds = layer_kinds(NEMOTRON_H_8B)
    assert (kinds.count("state"), kinds.count("attention"), kinds.count("nothing")) == (24, 4, 24)
    cost = cache_cost(NEMOTRON_H_8B, "bfloat16", "float32")
    assert cost.a_token == 4 * 2 * 8 * 128 * 2
    assert cost.state == 24 * (128 * 64 * 128 * 4 + (128 * 64 + 2 * 8 * 128) * 3 * 2)
    assert cost.state - cache_cost(NEMOTRON_H_8B, "bfloat16", "bfloat16").state == 24 * 128 * 64 * 128 * 2
    assert has_states(NEMOTRON_H_8B)
    assert not has_states(GEMMA3_27B)


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({"num_hidden_layers": 3, "sliding_window": 4096}, ["window"] * 3),  # Mistral 7B v0.1
        ({"num_hidden_layers": 3, "sliding_window": 131072, "use_sliding_window": False}, ["attention"] * 3),  # Qwen2.5
        ({"num_hidden_layers": 3, "sliding_window": 9, "use_sliding_window": True, "max_window_layers": 2},
         ["attention", "attention", "window"]),
        ({"num_hidden_layers": 3, "sliding_window": None}, ["attention"] * 3),
        ({"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}, ["window", "attention"]),
        ({"num_hidden_layers": 2, "model_type": "mamba2"}, ["state"] * 2),
        ({"n_layer": 2, "ssm_cfg": {}}, ["state"] * 2),
        ({"num_hidden_layers": 2, "model_type": "falcon_h1"}, ["both"] * 2),
        ({"layers_block_type": ["mamba", "attention"]}, ["state", "attention"]),
    ],
)  # fmt: skip
def test_layers_are_told_apart_as_configs_name_them(config: dict, kinds: list[str]):
    assert layer_kinds(language_config(config)) == kinds


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({"num_hidden_layers": 2, "hidden_size": 64}, "num_attention_heads"),
        ({"num_attention_heads": 2, "hidden_size": 64}, "num_hidden_layers"),
        ({"num_attention_heads": 2, "num_hidden_layers": 2}, "hidden_size"),
        ({"model_type": "unheard", "blocks": 2, "width": 64}, "num_hidden_layers"),
    ],
)
def test_a_config_that_does_not_say_its_sizes_is_refused(config: dict, missing: str):
    """One layer, one head or a width of one were planned for, in silence."""
    with pytest.raises(InputError, match=f"says no {missing}.* --base_url"):
        cache_cost(config, "bfloat16", "float32")


@pytest.mark.parametrize("kind", ["bailing_hybrid", "inkling_text", "deepseek_v4"])
def test_a_family_that_is_not_counted_is_named(kind: str, caplog: pytest.LogCaptureFixture, monkeypatch):
    monkeypatch.setattr(layers, "log_once", logger.warning)
    sizes = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 64}
    cache_cost({"model_type": kind, **sizes}, "bfloat16", "float32")
    assert f"a chain of a {kind} model holds is not counted right" in caplog.text
    caplog.clear()
    cache_cost({"model_type": "qwen2", **sizes}, "bfloat16", "float32")
    assert not caplog.text


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_counted_as_by_hand(name: str):
    config, wanted = PUBLISHED[name]
    cost = cache_cost(config, "bfloat16", "float32")
    assert (cost.a_token, cost.a_window_token, cost.window if cost.a_window_token else 0, cost.state) == wanted
    assert has_states(config) == bool(cost.state)
    shared = cache_cost(config, "bfloat16", "float32", 16)  # a device holds one head at least, and latents whole
    assert shared.state == cost.state // 16
    read = language_config(config)
    whole = not cost.grows or has_latents(read) or attention_heads(read)[1] == 1  # one head is on every device
    assert (shared.a_token == cost.a_token) if whole else (cost.a_token / 20 <= shared.a_token <= cost.a_token / 2)


def test_a_config_with_transformers_own_infinity_is_read():
    """Every Mamba-2 checkpoint has one, in `time_step_limit`; what is left out comes from the class all the same."""
    written = json.loads(Mamba2Config(num_heads=4, head_dim=64, hidden_size=128, expand=2).to_json_string())
    assert written["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    usual = written.pop("conv_kernel")
    assert language_config(written)["conv_kernel"] == usual


def ask_vllm(*arguments: str) -> dict:
    """What `kv_spec` tells, in a process of its own."""
    pytest.importorskip("vllm")
    command = [sys.executable, "-m", "tests.sampling.kv_spec", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def sees() -> bool:
    """Whether torchvision can be imported; in a process of its own, for half an import of it stays."""
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0


def check_shapes(names: Sequence[str]) -> None:
    for name, counted in ask_vllm("shapes", *names).items():
        token, window_token, window, state = PUBLISHED[name][1]
        assert (counted["token"], counted["window_token"], counted["state"]) == (token, window_token, state), name
        assert window_token == 0 or counted["window"] == window
        assert counted["refused"] is None, (name, counted)
        assert counted["needed"] <= counted["cache"], (name, counted)
        if not state:
            assert counted["cache"] < 1.1 * counted["needed"], (name, counted)  # and no memory is wasted


@pytest.mark.timeout(1600)
def test_vllm_starts_with_the_cache_that_is_planned_for_one_sample():
    """Dense, a window in 52 of 62 layers, a hybrid."""
    check_shapes(["r1-distill-1.5b", "gemma3-27b", "nemotron-nano-9b-v2"])


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_vllm_starts_with_what_is_planned_for_published_sizes():
    check_shapes(list(ARCHITECTURES))


@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_counts_the_same(family: str):
    """In an engine that has the cache planned for one sample, of a context that does not fit the least one."""
    if family == "gemma3_seeing" and not sees():
        pytest.skip("vLLM's class of this model wants torchvision, which has no wheel beside torch's CPU build")
    counted = ask_vllm("engine", family)
    # vLLM rounds to whole blocks, keeps one block more of a window, and pads a hybrid's pages to one size.
    assert counted["ours"] <= counted["vllm"] <= counted["most"], counted
    assert family == "mamba2" or counted["cache"] > 32 * MIB or family == "nemotron_h"
    assert counted["tokens"] == 8
