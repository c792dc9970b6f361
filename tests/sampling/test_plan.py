"""What is decided before an engine is loaded: recipes, sizes, capacity, tokens to stop at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptcot_mamba.benchmarks import BENCHMARKS
from promptcot_mamba.checkpoint import Checkpoint, read_checkpoint
from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.gpus import Gpu
from promptcot_mamba.sampling import capacity
from promptcot_mamba.sampling import plan as plans
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.backend import LENGTH, STOP
from promptcot_mamba.sampling.cache_cost import cache_cost
from promptcot_mamba.sampling.capacity import GIB, Device, free_memory, loaded_bytes, plan_capacity
from promptcot_mamba.sampling.decode import completion_text
from promptcot_mamba.sampling.engines import engine_settings
from promptcot_mamba.sampling.plan import make_plan
from promptcot_mamba.sampling.rope import model_context
from promptcot_mamba.sampling.vllm_engine import engine_arguments
from tests.sampling.conftest import ROOT, write_problems
from tests.sampling.published_configs import PUBLISHED
from tests.tiny import make_tokenizer

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


@pytest.mark.parametrize(("typed", "length"), [([], None), (["--segment_len"], 8192), (["--segment-len", "64"], 64)])
def test_segments_have_a_length_of_their_own(typed: list[str], length: int | None):
    line = ["--data_path=p.jsonl", "--output_path=x.jsonl", "--model_path=m", *typed, "--n=2"]
    assert parse_args(SamplingArguments, line).segment_len == length


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
    with pytest.raises(InputError, match="a higher --tensor_parallel_size, --dtype bfloat16"):
        plan_capacity(model, Device("cuda", 16 * GIB), samples=960, **HOW)
    assert plan_capacity(model, Device("cuda", 16 * GIB), samples=960, tensor_parallel_size=2, **HOW).max_num_seqs > 10


def test_more_states_than_fit_are_refused_before_the_weights_are_loaded():
    """vLLM would end at its start: "max_num_seqs (1024) exceeds available Mamba cache blocks" (pull request 38270)."""
    model, h100 = Checkpoint(Path("7b"), CODESTRAL, WEIGHTS), Device("cuda", 80 * GIB)
    most = plan_capacity(model, h100, samples=960, **HOW).max_num_seqs
    assert plan_capacity(model, h100, samples=960, max_num_seqs=most, **HOW).max_num_seqs == most
    with pytest.raises(InputError, match=rf"--max_num_seqs 1024: so many states of 25\d.* at most {most} fit"):
        plan_capacity(model, h100, samples=960, max_num_seqs=1024, **HOW)


R1_DISTILL = {"model_type": "qwen2", "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
              "hidden_size": 1536, "max_position_embeddings": 131072, "rope_theta": 10000.0}  # fmt: skip
QWQ = {"model_type": "qwen2", "num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8,
       "hidden_size": 5120, "vocab_size": 152064, "tie_word_embeddings": False, "dtype": "bfloat16"}  # fmt: skip


@pytest.mark.parametrize("samples", [1, 2, 8, 30])
def test_a_cpu_holds_a_whole_chain_however_few_are_missing(samples: int):
    """vLLM 0.32 wants 1,060,634,624 bytes of R1-Distill-1.5B at 36,864 tokens, its empty block included."""
    model, how = Checkpoint(Path("r1"), R1_DISTILL, 0), HOW | {"context": 36864}
    plan = plan_capacity(model, Device("cpu", 1 << 40), samples=samples, **how)
    assert plan.max_num_seqs == samples
    assert plan.cache_bytes >= max(1_060_634_624, samples * plan.typical_bytes)
    exact = Device("cpu", int(1_060_634_624 / capacity.CPU_SHARE))  # holds that, but not a block's rounding
    with pytest.raises(InputError, match=r"one chain of 0.99 GiB exceed the cpu memory budget"):
        plan_capacity(model, exact, samples=samples, **how)


def test_weights_are_counted_as_they_are_loaded():
    """QwQ-32B fits an H100 in fp8; a 7B model does not fit 24 GiB in float32, nor twice its size in an A100's 80."""
    h100, qwq = Device("cuda", 81559 << 20), Checkpoint(Path("qwq"), QWQ, 65_527_841_792)
    with pytest.raises(InputError, match=r"weights of 61.0 GiB and one chain of"):
        plan_capacity(qwq, h100, samples=960, **HOW)
    tables = 2 * 152064 * 5120 * 2
    for name, a_number in (("fp8", 1), ("fp8_per_tensor", 1), ("mxfp8", 33 / 32)):
        plan = plan_capacity(qwq, h100, samples=960, quantization=name, **HOW)
        assert plan.weight_bytes == tables + int((65_527_841_792 - tables) * a_number / 2)
    awq = Checkpoint(Path("awq"), QWQ | {"quantization_config": {"quant_method": "awq"}}, 19_300_000_000)
    for quantization in (None, "awq"):
        assert plan_capacity(awq, h100, samples=9, quantization=quantization, **HOW).weight_bytes == 19_300_000_000
    seven = Checkpoint(Path("7b"), QWQ | {"num_hidden_layers": 28, "hidden_size": 3584}, 15_200_000_000)
    how = HOW | {"context": 8192}
    assert plan_capacity(seven, Device("cuda", 24 * GIB), samples=1, **how).weight_bytes == 15_200_000_000
    with pytest.raises(InputError, match=r"weights of 28.3 GiB"):
        plan_capacity(seven, Device("cuda", 24 * GIB), samples=1, **how | {"dtype": "float32"})


def write_attention(folder: Path, dtype: str, config: dict) -> Path:
    """A folder with a config, a tokenizer and weights of 4,000 numbers, as their header says."""
    header = json.dumps({"w": {"dtype": dtype, "shape": [4000], "data_offsets": [0, 4000 * int(dtype[-2:]) // 8]}})
    make_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    start = len(header).to_bytes(8, "little") + header.encode()
    (folder / "model.safetensors").write_bytes(start + bytes(4000 * int(dtype[-2:]) // 8))
    return folder


def test_weights_stored_in_float32_take_half_in_bfloat16(tmp_path: Path):
    """The header tells how they are stored; configs of such models say either."""
    for said in ("float32", "bfloat16"):
        model = read_checkpoint(write_attention(tmp_path, "F32", R1_DISTILL | {"torch_dtype": said}))
        assert loaded_bytes(model, "bfloat16") == model.weight_bytes // 2
        assert loaded_bytes(model, "float32") == model.weight_bytes


def test_a_model_stored_in_float32_is_said_to_take_twice_the_memory(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr(plans, "find_device", lambda devices: Device("cuda", 24 * GIB))
    monkeypatch.setattr(plans.logger, "propagate", True)
    problems = str(write_problems(tmp_path / "p.jsonl", 1))
    model = str(write_attention(tmp_path, "F32", R1_DISTILL | {"torch_dtype": "float32"}))
    for dtype, is_said in (("bfloat16", False), ("float32", False), ("auto", True)):
        plan = make_plan(SamplingArguments(problems, "x.jsonl", model, dtype=dtype))
        with caplog.at_level("INFO", logger=plans.logger.name):
            plans.place(plan, 1)
        assert ("--dtype bfloat16 is what vLLM by itself makes of such a model" in caplog.text) == is_said
    for recipe in ("deepscaler-1.5b", "s1-32b"):  # published so
        flags = ["--config", str(ROOT / f"configs/models/{recipe}.yaml"), "--model_path=m", "--output_path=x.jsonl"]
        assert parse_args(SamplingArguments, [*flags, "--data_path=p"]).dtype == "bfloat16"


def test_states_are_kept_in_float32_on_a_cpu_and_so_recorded(checkpoint: Path, tmp_path: Path, monkeypatch, caplog):
    """vLLM's CPU platform sets them back to float32, which a half-sized cache and run.json would not know."""
    problems, attends = str(write_problems(tmp_path / "p.jsonl", 1)), write_attention(tmp_path, "BF16", R1_DISTILL)

    def kept(model: Path, build: str | None, **flags: object) -> str:
        monkeypatch.setattr("torch.version.cuda", build)
        plan = make_plan(SamplingArguments(problems, "x.jsonl", str(model), state_dtype="bfloat16", **flags))
        return plan.sample_settings["state_dtype"]

    monkeypatch.setattr(plans.logger, "propagate", True)
    with caplog.at_level("WARNING", logger=plans.logger.name):
        assert kept(checkpoint, "13.0") == "bfloat16"
        assert kept(checkpoint, None, base_url=["http://there"]) == "bfloat16"
        assert kept(attends, None) == "bfloat16"  # which has none
        assert "keeps states in float32" not in caplog.text
        assert kept(checkpoint, None) == "float32"
    assert "--state_dtype bfloat16: on a CPU vLLM keeps states in float32; so does this run" in caplog.text


PHI4 = R1_DISTILL | {"model_type": "phi3", "num_attention_heads": 40, "num_key_value_heads": 10}
MAMBA2 = CODESTRAL | {"hidden_size": 4096, "expand": 2}
NAS = PUBLISHED["llama-3.3-nemotron-super-49b"][0]


@pytest.mark.parametrize(
    ("config", "right", "wrong"),
    [
        (PHI4, {1: "", 2: "", 5: "", 10: "", 20: "", 40: ""}, {4: "num_key_value_heads of 10", 8: "heads of 10",
         3: "num_heads of 40"}),
        (R1_DISTILL, {2: "", 4: "", 12: ""}, {8: "num_heads of 12", 5: "num_heads of 12"}),
        (PUBLISHED["falcon-h1-7b"][0], {2: "", 4: ""}, {8: "num_heads of 12"}),
        (PUBLISHED["nemotron-nano-9b-v2"][0], {2: "", 8: ""}, {10: "num_key_value_heads of 8", 5: "heads of 8"}),
        (PUBLISHED["nemotron-3-nano-30b"][0], {2: "", 8: ""}, {16: "n_groups of 8 of the model's states"}),
        (PUBLISHED["granite-4.0-h-tiny"][0], {4: "", 12: ""}, {8: "num_heads of 12"}),  # of a single group
        (PUBLISHED["deepseek-r1-0528"][0], {8: "", 128: ""}, {3: "num_heads of 128"}),
        (PUBLISHED["minicpm3-4b"][0], {8: "", 40: ""}, {16: "num_heads of 40"}),
        (NAS, {8: "", 64: ""}, {3: "num_heads of 64"}),
        (MAMBA2, {8: "", 4: ""}, {16: "n_groups of 8", 3: "num_heads of 128"}),
        (MAMBA2 | {"n_groups": 1}, {16: ""}, {3: "num_heads of 128"}),
    ],
)  # fmt: skip
def test_devices_take_whole_heads_and_groups(config: dict, right: dict, wrong: dict):
    """As vLLM's layers assert (llama.py, mamba_mixer2.py), after it has started its workers."""
    model = Checkpoint(Path("m"), config, 0)
    for parts in right:
        plans._check_parts(parts, model)
    for parts, words in wrong.items():
        with pytest.raises(InputError, match=f"--tensor_parallel_size {parts}: .*{words}"):
            plans._check_parts(parts, model)


def test_servers_flags_are_said_to_be_theirs(checkpoint: Path, tmp_path: Path, monkeypatch, caplog):
    """With --base_url no flag of loading is checked against the model, and --rope_scaling says what it still does."""
    model = write_attention(tmp_path, "BF16", R1_DISTILL | {"max_position_embeddings": 32768})
    monkeypatch.setattr(plans.logger, "propagate", True)
    flags: dict = {"base_url": ["http://there"], "tensor_parallel_size": 5, "n_gpus": 5, "max_len": 65536}
    flags["rope_scaling"] = '{"rope_type": "yarn", "factor": 4}'
    with caplog.at_level("WARNING", logger=plans.logger.name):
        problems = str(write_problems(tmp_path / "p.jsonl", 1))
        plan = make_plan(SamplingArguments(problems, "x.jsonl", str(model), **flags))
    assert "--tensor_parallel_size: with --base_url the servers decide that" in caplog.text
    assert "--rope_scaling: with --base_url the servers scale as they were started" in caplog.text
    assert plan.context == 65536 + 4096
    with pytest.raises(InputError, match="--tensor_parallel_size 5"):
        make_plan(SamplingArguments(problems, "x.jsonl", str(model), **flags | {"base_url": []}))


def test_a_mamba_1s_state_is_kept_as_asked(tmp_path: Path):
    config, (*_, state) = PUBLISHED["falcon-mamba-7b"]
    model = Checkpoint(tmp_path, config, 0)
    args = SamplingArguments("p", "x.jsonl", "m", state_dtype="float32")
    plan = plans.Plan(args, [], None, model, None, Device("cuda", 80 * GIB))  # type: ignore[arg-type]
    plan.capacity = plan_capacity(model, plan.device, samples=9, **HOW)
    assert plan.capacity.state_bytes == state
    asked = engine_arguments(engine_settings(plan), is_mamba2=False)
    assert (asked["mamba_ssm_cache_dtype"], asked["enable_prefix_caching"]) == ("float32", False)


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


@pytest.mark.parametrize(
    ("said", "thinking", "closes"),
    [
        ("hm", "auto", "\n</think>\n\n"),
        ("<think>hm", "auto", "\n</think>\n\n"),
        ("<|channel|>analysis<|message|>hm", "auto", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("[THINK]hm", "auto", "[/THINK]"),
        ("[THINK]hm", "think", "\n</think>\n\n"),
        ("<|begin_of_thought|>hm", "auto", "<|end_of_thought|>"),
        ("<think:opensource>hm", "auto", "</think:opensource>"),
        ("<|im_start|>think\nhm", "s1", "<|im_start|>answer"),
    ],
)
def test_a_thought_is_closed_with_the_mark_it_began_with(
    said: str, thinking: str, closes: str, checkpoint: Path, tmp_path: Path
):
    """Another would be a word of its thought: the model thinks on, and a box of the thought is graded."""
    problems = str(write_problems(tmp_path / "p.jsonl", 1))
    plan = make_plan(SamplingArguments(problems, "x.jsonl", str(checkpoint), thinking=thinking, thinking_budget=9))
    closing = plan.cuts().closing
    assert plan.tokenizer.decode(closing("<|im_start|>assistant\n", said)) == closes
    if thinking == "auto":
        assert plan.tokenizer.decode(closing(f"assistant\n{said.removesuffix('hm')}", "hm")) == closes
    plan.tokenizer.add_special_tokens({"additional_special_tokens": [closes]})
    assert plan.cuts().closing("", said) == [plan.tokenizer.convert_tokens_to_ids(closes)]


def test_a_servers_model_is_asked_for_its_marks_where_no_tokenizer_tells_them(tmp_path: Path):
    """vLLM would leave [THINK] and the like out, and thought and answer would be one text."""
    problems = str(write_problems(tmp_path / "p.jsonl", 1))
    for thinking, skips in (("auto", False), ("think", False), ("none", True)):
        args = SamplingArguments(
            problems, "x.jsonl", "served", api="chat", base_url=["http://there"], thinking=thinking
        )
        assert make_plan(args).sampling().skip_special_tokens == skips


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
