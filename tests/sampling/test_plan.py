"""What is decided before an engine is loaded: recipes, sizes, capacity, tokens to stop at."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptcot_mamba.benchmarks import BENCHMARKS
from promptcot_mamba.checkpoint import Checkpoint, read_checkpoint
from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.gpus import Gpu
from promptcot_mamba.sampling import capacity
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.backend import LENGTH, STOP
from promptcot_mamba.sampling.cache_cost import cache_cost
from promptcot_mamba.sampling.capacity import GIB, Device, free_memory, plan_capacity
from promptcot_mamba.sampling.decode import completion_text
from promptcot_mamba.sampling.plan import make_plan
from promptcot_mamba.sampling.rope import model_context
from tests.sampling.conftest import ROOT, write_problems

RECIPES = sorted((ROOT / "configs" / "eval").glob("*.yaml"))
CODESTRAL = {  # the base model's shapes
    "model_type": "mamba2", "num_hidden_layers": 64, "num_heads": 128, "head_dim": 64, "state_size": 128,
    "n_groups": 8, "conv_kernel": 4,
}  # fmt: skip
WEIGHTS = 14_570_000_000
HOW = {"dtype": "bfloat16", "state_dtype": "float32", "context": 69632}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_the_benchmarks_own(recipe: Path):
    args = parse_args(SamplingArguments, ["--config", str(recipe), "--model_path=m", "--output_path=x.jsonl"])
    benchmark = BENCHMARKS["aime24" if recipe.stem == "aime" else recipe.stem]
    assert args.data_path == f"data/{benchmark.problem_file}"
    assert args.n == benchmark.n
    assert (args.temperature, args.top_p, args.repetition_penalty, args.max_len) == (0.8, 0.95, 1.1, 65536)


def test_a_chain_of_the_7b_model_takes_268_megabytes():
    cost = cache_cost(CODESTRAL, "bfloat16", "float32")
    state = 64 * 128 * 64 * 128 * 4
    assert cost.bytes(HOW["context"]) == cost.bytes(1) == state + 64 * (128 * 64 + 2 * 8 * 128) * 3 * 2
    assert round(state / 1e6) == 268
    assert model_context(Checkpoint(Path("7b"), CODESTRAL, WEIGHTS), {}) is None


@pytest.mark.parametrize(("memory", "least", "most"), [(24, 0, 24), (80, 150, 220), (141, 350, 440)])
def test_chains_at_once_follow_from_the_devices_memory(memory: int, least: int, most: int):
    model = Checkpoint(Path("7b"), CODESTRAL, WEIGHTS)
    plan = plan_capacity(model, Device("cuda", memory * GIB), samples=960, **HOW)
    assert least < plan.max_num_seqs < most
    assert plan.cache_bytes is None  # vLLM sizes its own cache on CUDA
    used = plan.weight_bytes + plan.max_num_seqs * plan.sequence_bytes
    assert used < 0.9 * memory * GIB


def test_too_small_a_device_is_refused_and_more_devices_help():
    model = Checkpoint(Path("7b"), CODESTRAL, WEIGHTS)
    with pytest.raises(InputError, match="raise --tensor_parallel_size"):
        plan_capacity(model, Device("cuda", 16 * GIB), samples=960, **HOW)
    assert plan_capacity(model, Device("cuda", 16 * GIB), samples=960, tensor_parallel_size=2, **HOW).max_num_seqs > 10


def test_what_devices_share_and_what_each_holds_whole():
    """Latents are whole on every device, a head is one at least, states are shared out."""
    deepseek = {"model_type": "deepseek_v3", "num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    two_heads = {"model_type": "qwen2", "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 2,
                 "hidden_size": 2048}  # fmt: skip
    for config, share in ((deepseek, 1), (two_heads, 2), (CODESTRAL, 8)):
        model, device = Checkpoint(Path("m"), config, 0), Device("cuda", 141 * GIB)
        alone, shared = (plan_capacity(model, device, samples=9, tensor_parallel_size=n, **HOW) for n in (1, 8))
        assert shared.sequence_bytes == alone.sequence_bytes // share
        assert alone.typical_bytes == alone.sequence_bytes // (1 if config is CODESTRAL else 8)
        assert alone.state_bytes == (alone.sequence_bytes if config is CODESTRAL else 0)


def test_no_more_chains_than_samples_and_as_many_as_asked(checkpoint: Path):
    model, device = read_checkpoint(checkpoint), Device("cpu", 4 * GIB)
    how = HOW | {"dtype": "float32"}
    assert plan_capacity(model, device, samples=7, **how).max_num_seqs == 7
    asked = plan_capacity(model, device, samples=10_000, max_num_seqs=33, **how)
    assert asked.max_num_seqs == 33
    assert asked.cache_bytes >= 35 * asked.sequence_bytes


def test_an_attention_model_counts_its_context():
    config = {"model_type": "qwen2", "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
              "hidden_size": 3584, "max_position_embeddings": 131072}  # fmt: skip
    model = Checkpoint(Path("q"), config, WEIGHTS)
    assert cache_cost(config, "bfloat16", "float32").bytes(1) == 57344  # 57 KB a token
    assert model_context(model, {}) == 131072


def test_free_memory_is_what_this_machine_has():
    assert 0 < free_memory() < 1 << 50
    assert Device("cpu", 0).bandwidth() > 1e8


def test_gpus_are_counted_as_they_are_visible(monkeypatch):
    h100 = Gpu(0, "GPU-0", "NVIDIA H100 80GB HBM3", 81559 << 20, (9, 0), "580.82.07")
    monkeypatch.setattr(capacity, "list_gpus", lambda: [h100, h100])
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert capacity.find_device(2).memory == 81559 << 20
    with pytest.raises(InputError, match="--n_gpus 4: this machine has 2"):
        capacity.find_device(4)


def test_a_device_that_shares_the_hosts_memory_is_no_cpu(monkeypatch):
    monkeypatch.setattr(capacity, "list_gpus", lambda: [Gpu(0, "GPU-0", "NVIDIA GB10", None, (12, 1), "580.95.05")])
    monkeypatch.setattr("torch.version.cuda", "13.0")
    device = capacity.find_device()
    assert device.kind == "cuda"
    assert device.memory > 0


def test_nothing_samples_on_a_cpu_unsaid(monkeypatch, caplog):
    """A CUDA build without a device cannot sample at all; a CPU build beside one can, and says so."""
    monkeypatch.setattr(capacity, "list_gpus", list)
    monkeypatch.setattr(capacity, "has_nvidia_device", lambda: True)
    with caplog.at_level("WARNING", logger=capacity.logger.name), pytest.MonkeyPatch.context() as cpu_build:
        cpu_build.setattr("torch.version.cuda", None)
        cpu_build.setattr(capacity.logger, "propagate", True)
        assert capacity.find_device().kind == "cpu"
    assert "this torch is a CPU build: sampling on the CPU" in caplog.text
    monkeypatch.setattr("torch.version.cuda", "13.0")
    with pytest.raises(InputError, match="nvidia-smi names no device for this process"):
        capacity.find_device()


def test_chains_stop_at_the_tokenizers_end_of_text(checkpoint: Path, tmp_path: Path):
    problems = write_problems(tmp_path / "p.jsonl", 1)
    plan = make_plan(SamplingArguments(str(problems), "x.jsonl", str(checkpoint)))
    sampling = plan.sampling()
    assert sampling.stop_token_ids == (plan.tokenizer.eos_token_id,)
    assert sampling.skip_special_tokens
    plan.tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    assert not plan.sampling().skip_special_tokens  # or the thought's tags would vanish from completions


def test_marks_that_no_config_names_are_seen_and_dropped_at_the_end(checkpoint: Path, tmp_path: Path):
    """gpt-oss: `<|channel|>` is special in tokenizer.json alone, and so is `<|call|>`, at which its chains end too."""
    from tokenizers import AddedToken

    plan = make_plan(SamplingArguments(str(write_problems(tmp_path / "p.jsonl", 1)), "x.jsonl", str(checkpoint)))
    plan.tokenizer.add_tokens([AddedToken(mark, special=True) for mark in ("<|channel|>", "<|call|>")])
    assert not {"<|channel|>", "<|call|>"} & set(plan.tokenizer.all_special_tokens)
    sampling = plan.sampling()
    assert not sampling.skip_special_tokens
    ids = plan.tokenizer("<|channel|>hm<|call|>", add_special_tokens=False)["input_ids"]
    assert completion_text(plan.tokenizer, sampling, [], ids, STOP) == "<|channel|>hm"
    assert completion_text(plan.tokenizer, sampling, [], ids, LENGTH) == "<|channel|>hm<|call|>"
