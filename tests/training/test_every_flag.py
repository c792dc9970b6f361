"""Every flag that is followed changes something that a user can see, or is refused where it could change nothing.

One small run is observed (losses, rates, norms, what is logged, what is saved), and one more for each flag, with a
value that is not its default.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.flags import FOLLOWED
from tests.programs.train_helpers import ROOT, write_examples
from train import train

TIMES = ("tokens_per_second_per_device", "peak_memory_gb", "seconds_per_step", "eta_seconds", "train_runtime",
         "train_samples_per_second", "train_steps_per_second", "total_flos", "device_hours")  # fmt: skip
EVAL = {"eval_data_path": "DATA"}
# Flag -> a value, and what else both runs have. Observed in the same way, the two must differ.
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "model_name_or_path": ("OTHER", {}),
    "data_path": ("MORE", {}),
    "tokenizer_path": ("OTHER_TOKENIZER", {}),
    "eval_data_path": ("DATA", {}),
    "max_length": (128, {}),
    "packing": (False, {}),
    "overlong": ("truncate", {"max_length": 96}),
    "prompt_format": ("bare", {}),
    "control_text": ("drop", {"data_path": "SPELLED"}),
    "loss_on": ("last", {"data_path": "CHAT"}),
    "num_train_epochs": (2, {"max_steps": -1}),
    "max_steps": (2, {}),
    "learning_rate": (2e-3, {}),
    "lr_scheduler_type": ("linear", {}),
    "lr_scheduler_kwargs": ('{"power": 2.0}', {"lr_scheduler_type": "polynomial"}),
    "warmup_steps": (3, {}),
    "optim": ("adafactor", {}),
    "adam_beta1": (0.5, {}),
    "adam_beta2": (0.5, {}),
    "adam_epsilon": (1e-2, {}),
    "weight_decay": (0.5, {}),
    "max_grad_norm": (0.01, {"optim": "sgd"}),
    "neftune_noise_alpha": (5.0, {}),
    "loss_average": ("examples", {}),
    "bf16": (True, {}),
    "residual_in_fp32": (False, {"bf16": True, "split_master_weights": True}),
    "split_master_weights": (True, {"bf16": True}),
    "grad_accum_dtype": ("bf16", {"bf16": True, "split_master_weights": True, "gradient_accumulation_steps": 4}),
    "lora_rank": (4, {}),
    "lora_alpha": (1.0, {"lora_rank": 4}),
    "lora_target": ("out_proj", {"lora_rank": 4}),
    "seed": (7, {}),
    "data_seed": (7, {}),
    "per_device_train_batch_size": (2, {}),
    "gradient_accumulation_steps": (2, {}),
    "save_strategy": ("no", {}),
    "save_steps": (2, {}),
    "save_total_limit": (1, {}),
    "save_only_model": (True, {}),
    "eval_strategy": ("epoch", EVAL | {"max_steps": -1}),
    "eval_steps": (2, EVAL),
    "eval_delay": (2, EVAL),
    "eval_on_start": (True, EVAL),
    "load_best_model_at_end": (True, EVAL | {"learning_rate": 1.0}),  # diverges: the first step is the best
    "metric_for_best_model": (  # of what is not trained on the first is the best, of all the last
        "chat_loss",
        {"eval_data_path": "BOTH", "learning_rate": 0.3, "load_best_model_at_end": True},
    ),
    "logging_strategy": ("epoch", {"max_steps": -1}),
    "logging_steps": (2, {}),
    "logging_first_step": (True, {"logging_steps": 2}),
    "report_to": ("tensorboard", {}),
}
# What has no trace in a run on this machine, and where it is shown instead.
ELSEWHERE = {
    "token_cache": "a folder appears there: tests/programs/test_train_killed.py encodes anew",
    "ops": "which kernels run, and never what they compute: tests/training/test_phase.py",
    "per_device_eval_batch_size": "documents at once, and never their losses",
    "gradient_checkpointing": "memory and time, and never results: tests/training/test_capacity.py",
    "checkpoint_policy": "memory and time, and never results: tests/training/test_capacity.py",
    "checkpoint_every": "memory and time, and never results: tests/model/test_segments.py",
    "dataloader_num_workers": "who reads the rows, and never which",
    "dataloader_prefetch_factor": "how far ahead rows are read, and never which",
    "dataloader_pin_memory": "the speed of copies to a GPU",
    "output_dir": "where the run is observed at all",
    "resume_from_checkpoint": "tests/training/test_checkpoints.py",
    "run_name": "the run's name at wandb",
    "optim_args": "of optimizers that come with packages of their own; refused by those that take none",
    "debug_numerics": "tests/model/test_debug_numerics.py",
    "deepspeed": "tests/programs/test_train.py",
    "sequence_parallel_size": "tests/programs/test_train_sequence_parallel.py",
    "use_cpu": "set by itself where there is no GPU: tests/training/test_phase.py",
    "tf32": "matrix products of a GPU; refused on a CPU",
    "torch_empty_cache_steps": "a GPU's memory",
    "ddp_timeout": "how long a process waits for one that hangs",
    "full_determinism": "torch's deterministic kernels",
    "offload_checkpoints": "where the residual stream waits, and never results: tests/model/test_segments.py",
    **dict.fromkeys(
        ("objective", "beta", "length_normalised", "nll_weight", "reference_path"), "tests/training/test_preference.py"
    ),
    **dict.fromkeys(FOLLOWED["plan"], "tests/training/test_plan.py"),
}


def test_every_followed_flag_is_accounted_for():
    assert sorted(CHANGES | ELSEWHERE) == sorted(name for names in FOLLOWED.values() for name in names)
    assert not CHANGES.keys() & ELSEWHERE.keys()
    for words in ELSEWHERE.values():
        for word in words.split():
            assert not word.startswith("tests/") or (ROOT / word.rstrip(";,")).exists(), word


@pytest.fixture(scope="module")
def places(tmp_path_factory, checkpoint: Path) -> dict[str, Path]:
    from tests.tiny import make_checkpoint, make_tokenizer

    folder = tmp_path_factory.mktemp("flags")
    data = write_examples(folder / "data.jsonl", 24, sources=("add", "sum"))
    chat, spelled = folder / "chat.jsonl", folder / "spelled.jsonl"
    turns = [{"role": role, "content": f"{role} {n}"} for n in range(2) for role in ("user", "assistant")]
    chat.write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(24)))
    row = {"prompt": "Find 3.", "completion": "3 </s> 4"}
    spelled.write_text(data.read_text() + json.dumps(row) + "\n")
    both = folder / "both.jsonl"
    others = [{"source": "chat", "prompt": "Say it.", "completion": "the quick brown fox jumps"}] * 4
    both.write_text(data.read_text() + "".join(json.dumps(row) + "\n" for row in others))
    other = make_tokenizer()
    other.save_pretrained(folder / "tokenizer")
    config = folder / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": "<s>"}))
    return {
        "DATA": data, "MORE": write_examples(folder / "more.jsonl", 30), "CHAT": chat, "SPELLED": spelled, "BOTH": both,
        "MODEL": checkpoint, "OTHER": make_checkpoint(folder / "other", n_groups=2, seed=9),
        "OTHER_TOKENIZER": folder / "tokenizer", "cache": folder / "cache",
    }  # fmt: skip


@pytest.fixture(scope="module")
def observe(places, tmp_path_factory):
    """Flags -> what a run with them leaves, as a text; runs of equal flags are observed once."""

    @cache
    def observed(written: str) -> str:
        output = tmp_path_factory.mktemp("run") / "out"
        words = [f"--{name}={places.get(str(value), value)}" for name, value in json.loads(written).items()]
        train(*parse_args([SftArguments, DataArguments], [*words, f"--output_dir={output}"]))
        rows = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
        files = sorted(str(path.relative_to(output)) for path in output.rglob("*") if "tfevents" not in path.name)
        weights = (output / "model.safetensors").read_bytes()
        exported = json.loads((output / "run.json").read_text())["exported"]
        return json.dumps([rows, files, exported, hash(weights)], indent=1)

    def observe_flags(changes: dict[str, Any]) -> str:
        base = {
            "model_name_or_path": "MODEL", "data_path": "DATA", "token_cache": "cache", "max_length": 256,
            "max_steps": 4, "save_steps": 1, "report_to": "none", "warmup_steps": 0, "learning_rate": 1e-3,
        }  # fmt: skip
        return observed(json.dumps(base | changes))

    return observe_flags


@pytest.mark.slow
@pytest.mark.parametrize("flag", CHANGES)
def test_a_followed_flag_changes_what_is_seen(observe, flag: str):
    value, beside = CHANGES[flag]
    assert observe(beside) != observe(beside | {flag: value})


@pytest.mark.slow
def test_the_same_flags_leave_the_same(observe):
    """Or the tests above would see a difference wherever they look."""
    assert observe({}) == observe({"seed": 42})  # the default, spelled out: another run


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lora_alpha": 8}, "--lora_alpha: needs --lora_rank"),
        ({"lora_target": "out_proj"}, "--lora_target: needs --lora_rank"),
        ({"eval_steps": 2}, "--eval_steps 2.0: needs --eval_data_path"),
        ({"eval_delay": 2}, "--eval_delay 2.0: needs --eval_data_path"),
        ({"metric_for_best_model": "loss"}, "--metric_for_best_model loss: needs --eval_data_path"),
        ({**EVAL, "metric_for_best_model": "loss"}, "--metric_for_best_model loss: needs --load_best_model_at_end"),
        ({**EVAL, "eval_steps": 2, "eval_strategy": "epoch"}, "--eval_steps 2: needs --eval_strategy steps"),
        ({**EVAL, "load_best_model_at_end": True, "save_strategy": "no"}, "--load_best_model_at_end True: needs check"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "--lr_scheduler_type reduce_lr_on_plateau: needs --eval_data"),
        (
            {"lora_rank": 4, "lora_target": "lm_head"},
            "--lora_target lm_head: no such linear layer in the model; it has",
        ),
        ({"run_name": "x"}, "--run_name x: only wandb shows it"),
        ({"optim_args": "a=1"}, "--optim_args a=1: --optim adamw_torch_fused takes none of them"),
        ({"lr_scheduler_kwargs": '{"a": 1}'}, "--lr_scheduler_type constant_with_warmup takes none"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "--lr_scheduler_type cosine_with_min_lr: "),
        ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": '{"a": 1}'}, "unexpected keyword argument 'a'"),
        ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": "a=1"}, "--lr_scheduler_kwargs a=1: expected a JSON"),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": '{"power": "x"}'},
            "--lr_scheduler_type polynomial: ",
        ),
        ({"adam_beta1": 1}, "--optim adamw_torch_fused: Invalid beta parameter at index 0: 1.0"),
        ({"grad_accum_dtype": "bf16", "gradient_accumulation_steps": 2}, "--grad_accum_dtype bf16: gradients are fp32"),
    ],
)
def test_a_flag_that_could_do_nothing_is_refused(places, tmp_path: Path, flags: dict, message: str):
    base = {"model_name_or_path": "MODEL", "data_path": "DATA", "output_dir": tmp_path / "out", "report_to": "none"}
    words = [f"--{name}={places.get(str(value), value)}" for name, value in (base | flags).items()]
    with pytest.raises(InputError) as caught:
        train(*parse_args([SftArguments, DataArguments], words))
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_shipped_recipes_hold_no_flag_that_is_refused():
    for recipe in (*ROOT.glob("configs/sft_*.yaml"), *ROOT.glob("configs/quickstart/phase*.yaml")):
        unknown = yaml.safe_load(recipe.read_text()).keys() - (CHANGES | ELSEWHERE).keys()
        assert not unknown, recipe
