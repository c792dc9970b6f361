"""DeepSpeed configs as people have them: completed from the flags, or refused in one line; nothing in them is ignored.

The sections are those of transformers' documentation and tests (`deepspeed_sections`), LLaMA-Factory's `ds_z*.json`,
axolotl's `deepspeed_configs` and accelerate's YAML files.
"""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.training.deepspeed_config import (
    check_by_deepspeed,
    name_mismatches,
    read_deepspeed_config,
    settle_deepspeed,
)
from promptcot_mamba.training.deepspeed_keys import IDLE, PASSED, REFUSED_SECTIONS, complete, offload_device
from tests.training.deepspeed_sections import ADAMW, AUTO_SIZES, CPU, DOCUMENTED, SCALER, WARMUP, ZERO3

UNKNOWN = {  # LLaMA-Factory's: two sections that DeepSpeed does not know
    **AUTO_SIZES, "fp16": SCALER, "bf16": {"enabled": "auto"}, "zero_allow_untested_optimizer": True,
    "zero_optimization": {"stage": 2, "overlap_comm": False}, "comms_config": {"verbose": False},
    "monitor_config": {"enabled": True},
}  # fmt: skip


def completed(config: dict, **changes: object) -> tuple[dict, list[str]]:
    return complete({"zero_optimization": {"stage": 2}, **config}, flags(**changes))


def flags(**changes: object) -> types.SimpleNamespace:
    defaults = {
        "deepspeed": None, "bf16": False, "optim": "adamw_torch_fused", "learning_rate": 1e-3, "adam_beta1": 0.9,
        "adam_beta2": 0.95, "adam_epsilon": 1e-8, "weight_decay": 0.01, "lr_scheduler_type": "constant_with_warmup",
        "lr_scheduler_kwargs": None, "warmup_steps": 2, "max_steps": 7,
    }  # fmt: skip
    return types.SimpleNamespace(**defaults | changes)


def test_what_a_config_leaves_out_is_taken_from_the_flags():
    """A missing gradient_accumulation_steps is 1 to accelerate, a missing gradient_clipping 0 to DeepSpeed."""
    made, notes = complete({"zero_optimization": {"stage": 1, "overlap_comm": True}}, flags())
    assert {name: made[name] for name in AUTO_SIZES} == AUTO_SIZES
    assert made["bf16"] == {"enabled": "auto"}
    assert notes == []


def test_the_documented_config_is_followed():
    made, notes = complete(DOCUMENTED, flags())
    assert "optimizer" not in made  # the flags make the same one
    assert "amp" not in made
    assert made["scheduler"] == DOCUMENTED["scheduler"]
    assert [note.split()[0] for note in notes] == ["optimizer", "its"]
    assert DOCUMENTED["optimizer"] == ADAMW  # the caller's is left as it was
    assert offload_device(made) == "cpu"


def test_keys_that_do_nothing_are_told():
    made, notes = complete({**UNKNOWN, "_comment": "mine", "activation_checkpointing": {}}, flags())
    assert made["zero_optimization"] == UNKNOWN["zero_optimization"]
    assert notes == [
        "DeepSpeed knows no comms_config: it does nothing",
        "DeepSpeed knows no monitor_config: it does nothing",
        "activation_checkpointing does nothing: see --gradient_checkpointing and --checkpoint_policy",
    ]


def test_a_schedule_takes_the_flags_numbers():
    """DeepSpeed's own defaults are a rate of 0.001 and 1,000 steps of warm-up."""
    made, _ = completed({"scheduler": {"type": "WarmupDecayLR"}}, lr_scheduler_type="linear")
    assert made["scheduler"]["params"] == {**WARMUP, "total_num_steps": "auto"}
    made, _ = completed({"scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": 2}}})
    assert made["scheduler"]["params"] == {"warmup_num_steps": 2, "total_num_steps": "auto"}


def test_zero3_saves_whole_weights():
    for names in ({}, {"gather_16bit_weights_on_model_save": True}, {"stage3_gather_fp16_weights_on_model_save": True}):
        zero = completed({"zero_optimization": {**ZERO3, **names}})[0]["zero_optimization"]
        assert zero == {**ZERO3, "stage3_gather_16bit_weights_on_model_save": True}


REFUSED = [
    ({"fp16": {"enabled": True}}, {}, "fp16: is not followed here: use --bf16 True"),
    ({"fp16": {"enabled": 1}}, {}, "fp16: is not followed here: use --bf16 True"),
    ({"amp": True}, {}, "amp: is not followed here: use --bf16 True"),
    ({"fp8": {"enabled": True}}, {}, "fp8: is not followed here"),
    ({"bf16": {"enabled": True}}, {}, "bf16.enabled is True: pass --bf16 True"),
    ({"bfloat16": {"enabled": True}}, {}, "bf16.enabled is True: pass --bf16 True"),
    ({"bf16": {"enabled": False}}, {"bf16": True}, "bf16.enabled is False: pass --bf16 False"),
    ({"bf16": True}, {"bf16": True}, 'bf16 True: expected an object, as {"enabled": true}'),
    ({"tensor_parallel": {"autotp_size": 2}}, {}, "tensor_parallel: is not followed here: use ZeRO-3"),
    ({"compile": {"disable": False, "backend": "inductor"}}, {}, "compile: is not followed here"),
    ({"elasticity": {"enabled": True}}, {}, "elasticity: is not followed here"),
    ({"zero_optimisation": {"stage": 3}}, {}, "zero_optimisation: unknown; did you mean zero_optimization?"),
    ({"train_micro_batch_size": 1}, {}, "did you mean train_micro_batch_size_per_gpu?"),
    ({"zero_optimization": {"stage": "3"}}, {}, "zero_optimization.stage 3: expected 1, 2 or 3"),
    ({"zero_optimization": {"stage": 0}}, {}, "stage 0 shards nothing: use 1, 2 or 3, or torchrun without --deepspeed"),
    ({"zero_optimization": {}}, {}, "zero_optimization.stage 0 shards nothing"),
    ({"zero_optimization": {"stage": 2, "cpu_offload": True}}, {}, 'write "offload_optimizer": {"device": "cpu"}'),
    ({"zero_optimization": {"stage": 2, "offload_param": CPU}}, {}, "offload_param: needs stage 3"),
    ({"zero_optimization": {"stage": 2, "compute_grad_norm": False}}, {}, "compute_grad_norm false: "),
    (
        {"zero_optimization": {"stage": 3, "gather_16bit_weights_on_model_save": False}},
        {},
        "checkpoints hold whole weights here",
    ),
    ({"optimizer": {"type": "OneBitAdam", "params": {}}}, {}, "optimizer OneBitAdam: optimizers are made by --optim"),
    ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, {}, "optimizer Adam: "),
    ({"optimizer": {"type": "AdamW", "params": {"lr": 3e-5}}}, {}, "optimizer.params.lr is 3e-05, 0.001 by the flags"),
    ({"optimizer": {"type": "AdamW", "params": {"betas": [0.8, 0.999]}}}, {}, "betas is [0.8, 0.999], [0.9, 0.95] by"),
    ({"optimizer": {"type": "AdamW", "params": {"freeze_step": 2}}}, {}, "freeze_step is 2, no flag says it"),
    ({"optimizer": ADAMW}, {"optim": "sgd"}, "--optim sgd: the config's is AdamW"),
    # accelerate would have made any optimizer DeepSpeed's CPU Adam
    (
        {"zero_optimization": {"stage": 2, "offload_optimizer": CPU}},
        {"optim": "adafactor"},
        "--optim adafactor: an offloaded optimizer is DeepSpeed's AdamW",
    ),
    ({"scheduler": {"type": "OneCycle"}}, {}, "scheduler OneCycle: expected WarmupLR, WarmupDecayLR, WarmupCosineLR"),
    ({"scheduler": {"type": "WarmupLR"}}, {"lr_scheduler_type": "cosine"}, "--lr_scheduler_type cosine says another"),
    (
        {"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 500}}},
        {},
        "scheduler.params.warmup_num_steps is 500, 2 by the flags",
    ),
    (
        {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 100}}},
        {"max_steps": -1},
        "scheduler.params.total_num_steps is 100, counted",
    ),
    ({"data_types": {"grad_accum_dtype": "fp16"}}, {}, "data_types.grad_accum_dtype fp16: expected fp32 or bf16"),
    ({"checkpoint": {"load_universal": True}}, {}, "checkpoint.load_universal: "),
    ({"checkpoint": {"use_node_local_storage": True}}, {}, "checkpoint.use_node_local_storage: "),
]


@pytest.mark.parametrize(("config", "changes", "message"), REFUSED, ids=lambda part: str(part)[:40])
def test_what_is_not_followed_is_refused_by_name(tmp_path: Path, config: dict, changes: dict, message: str):
    (tmp_path / "mine.json").write_text(json.dumps({"zero_optimization": {"stage": 2}} | config))
    with pytest.raises(ValueError, match=r"^--deepspeed .*mine\.json: ") as caught:
        settle_deepspeed(flags(deepspeed=str(tmp_path / "mine.json"), **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sections_are_in_one_table_each():
    assert not PASSED & IDLE.keys()
    assert not PASSED & REFUSED_SECTIONS.keys()


def test_sums_have_our_names():
    for said, meant in (("float32", "fp32"), ("torch.bfloat16", "bf16"), ("fp32", "fp32")):
        made, _ = completed({"data_types": {"grad_accum_dtype": said}})
        assert made["data_types"] == {"grad_accum_dtype": meant}
    assert completed({"data_types": {"grad_accum_dtype": "auto"}})[0]["data_types"] == {}


def test_an_object_on_the_command_line():
    assert read_deepspeed_config('{"zero_optimization": {"stage": 1}}') == {"zero_optimization": {"stage": 1}}
    with pytest.raises(ValueError, match=r"--deepspeed {oops: malformed JSON"):
        read_deepspeed_config("{oops")


def test_mismatches_are_one_line():
    lines = ["- ds gradient_clipping=0.5 vs hf max_grad_norm=1.0", "- ds train_batch_size=64 vs hf train_batch_size=2"]
    assert name_mismatches(lines) == (
        "--deepspeed: gradient_clipping=0.5, flags say max_grad_norm=1.0; train_batch_size=64, flags say "
        'train_batch_size=2; write "auto" there, or pass that flag'
    )


@pytest.mark.parametrize(
    ("zero", "message"),
    [
        ({"stage": 2, "reduce_bucket": 5}, "--deepspeed: reduce_bucket: Extra inputs are not permitted"),
        ({"stage": 2, "reduce_bucket_size": -1}, "--deepspeed: reduce_bucket_size: "),
        ({"stage": 2, "offload_optimizer": {"device": "disk"}}, "--deepspeed: offload_optimizer.device: "),
        ({"stage": 3, "mics_shard_size": 2}, "--deepspeed: MiCS ZeRO-3 sharding has been removed"),
    ],
)
def test_what_deepspeed_refuses_is_one_line(zero: dict, message: str):
    with pytest.raises(InputError) as caught:
        check_by_deepspeed({"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# What `accelerate launch --config_file` sets, of a file with distributed_type DEEPSPEED, zero_stage 3, bf16.
LAUNCHED = {
    "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    "ACCELERATE_CONFIG_DS_FIELDS": "deepspeed_multinode_launcher,offload_optimizer_device,zero_stage,mixed_precision",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none", "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
}  # fmt: skip


def test_accelerate_launch_is_followed(monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    args = flags()
    assert settle_deepspeed(args) == []
    assert args.bf16
    assert args.deepspeed["zero_optimization"]["stage"] == 3
    assert offload_device(args.deepspeed) == "none"
    json.dumps(args.deepspeed)
    with pytest.raises(ValueError, match=r"--deepspeed x.json: accelerate launch brings a DeepSpeed config of its own"):
        settle_deepspeed(flags(deepspeed="x.json"))
    monkeypatch.delenv("ACCELERATE_CONFIG_DS_FIELDS")  # as after a run with DeepSpeed in this process
    again = flags(bf16=True)
    assert settle_deepspeed(again) == []
    assert again.deepspeed is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MIXED_PRECISION", "fp16", "accelerate launch with mixed_precision fp16: use --bf16 True"),
        ("USE_FSDP", "true", "accelerate launch with fsdp: use --deepspeed configs/deepspeed_zero3.json"),
        ("DYNAMO_BACKEND", "INDUCTOR", "accelerate launch with a dynamo backend: the kernels here are compiled"),
    ],
)
def test_what_accelerate_brings_and_is_not_followed(monkeypatch, name: str, value: str, message: str):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(ValueError, match=message):
        settle_deepspeed(flags())
