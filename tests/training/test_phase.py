"""Every kind of bad input ends in one clear message, before the output folder exists."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, TrainingArguments

from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.training import arguments
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.deepspeed_config import find_deepspeed_config
from promptcot_mamba.training.flags import FOLLOWED, REFUSED, UNSHOWN
from promptcot_mamba.training.plan import PlanArguments
from tests.programs.train_helpers import read_curve, write_examples
from train import check, encode, train


@pytest.fixture
def flags(tmp_path: Path, checkpoint: Path) -> dict[str, object]:
    return {
        "model_name_or_path": checkpoint,
        "data_path": write_examples(tmp_path / "sums.jsonl", 6),
        "output_dir": tmp_path / "out",
        "token_cache": tmp_path / "cache",
        "max_length": 256,
        "report_to": "none",
    }


def parse(flags: dict[str, object]) -> tuple[SftArguments, DataArguments]:
    return parse_args([SftArguments, DataArguments], [f"--{name}={value}" for name, value in flags.items()])


def complaint(flags: dict[str, object], **changes: object) -> str:
    """The message of a run with these changes, having checked that it left no output behind."""
    changed = {name: value for name, value in {**flags, **changes}.items() if value is not None}
    with pytest.raises(InputError) as caught:
        train(*parse(changed))  # either may refuse
    assert not Path(str(flags["output_dir"])).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model_name_or_path", "data_path", "output_dir"])
def test_required_flags(flags, name: str):
    assert complaint(flags, **{name: None}) == f"--{name} is required"


def test_data_that_is_missing_empty_or_malformed(flags, tmp_path: Path):
    assert "no such file" in complaint(flags, data_path=tmp_path / "nowhere.jsonl")
    assert "no such file" in complaint(flags, eval_data_path=tmp_path / "nowhere.jsonl")
    for text, message in (
        ("", "bad.jsonl: the file is empty"),
        ('{"prompt": "p", "completion": "c"}\n{oops\n', "bad.jsonl:2: malformed JSON"),
        ('{"prompt": "p"}\n', "bad.jsonl:1: missing key 'completion'"),
        ('{"prompt": "", "completion": "c"}\n', "bad.jsonl:1: 'prompt' must be a non-empty text"),
        ('{"prompt": "p", "completion": " "}\n', "bad.jsonl:1: 'completion' must be a non-empty text"),
    ):
        (tmp_path / "bad.jsonl").write_text(text)
        assert message in complaint(flags, data_path=tmp_path / "bad.jsonl")


def test_max_length_below_the_shortest_example(flags):
    assert "--max_length 10: no usable example; the shortest of 6 has" in complaint(flags, max_length=10)
    assert "expected at least 2" in complaint(flags, max_length=1)


def test_model_that_is_no_causal_language_model(flags, checkpoint: Path, tmp_path: Path):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=384, **small)).save_pretrained(tmp_path / "bert")
    for file in checkpoint.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "bert")
    message = complaint(flags, model_name_or_path=tmp_path / "bert")
    assert "BertModel" in message
    assert "causal language model" in message
    assert "nowhere" in complaint(flags, model_name_or_path=tmp_path / "nowhere")


def test_tokenizer_that_does_not_fit(flags, checkpoint: Path, tmp_path: Path):
    from tests.tiny import make_tokenizer

    larger = make_tokenizer()
    larger.add_tokens([f"<extra{number}>" for number in range(400)])
    larger.save_pretrained(tmp_path / "larger")
    assert "do not belong together" in complaint(flags, tokenizer_path=tmp_path / "larger")
    assert "no tokenizer here" in complaint(flags, tokenizer_path=tmp_path / "nowhere")


def test_output_that_cannot_be_written(flags, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in complaint(flags, output_dir=tmp_path / "file" / "run")


def test_packing_other_models_is_refused(flags, checkpoint: Path, tmp_path: Path):
    """Attention would look across documents of a packed row."""
    shutil.copytree(checkpoint, tmp_path / "qwen")
    config = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 384}
    (tmp_path / "qwen" / "config.json").write_text(json.dumps(config))
    assert "would see one another" in complaint(flags, model_name_or_path=tmp_path / "qwen", packing=True)


def test_every_flag_of_transformers_is_followed_or_refused():
    """A new version's new field fails here: decide what it means and put it into one of the tables."""
    ours = {one.name for one in fields(SftArguments)} - {one.name for one in fields(TrainingArguments)}
    ours |= {one.name for kind in (DataArguments, PlanArguments) for one in fields(kind)}
    followed = [name for names in FOLLOWED.values() for name in names]
    theirs = {one.name for one in fields(TrainingArguments)}
    assert len(followed) == len(set(followed))
    assert len(theirs & set(followed)) <= 50  # of 112: --help is there to be read
    assert not REFUSED.keys() & {*followed, *UNSHOWN}
    assert theirs == (REFUSED.keys() | {*followed, *UNSHOWN}) - ours
    assert ours <= set(followed)


# For every refused flag a value that asks for something.
ASKING = {
    "do_train": False, "logging_nan_inf_filter": True, "torch_compile_backend": "eager", "hub_strategy": "end",
    "torch_compile_mode": "default", "label_smoothing_factor": 0.1,
    "gradient_checkpointing_kwargs": '{"use_reentrant": true}', "optim_target_modules": "all",
    "average_tokens_across_devices": False, "log_on_each_node": False, "log_level": "info", "disable_tqdm": True,
    "log_level_replica": "info", "project": "p", "trackio_space_id": "s",
    "trackio_bucket_id": "b", "eval_do_concat_batches": False, "hub_token": "t",
    "eval_accumulation_steps": 2, "include_for_metrics": "loss", "hub_model_id": "m", "hub_revision": "r",
    "accelerator_config": '{"even_batches": false}', "fsdp": "full_shard",
    "fsdp_config": '{"min_num_params": 1}', "dataloader_multiprocessing_context": "fork", "debug": "underflow_overflow",
    "dataloader_in_order": False, "remove_unused_columns": False, "label_names": "labels", "ddp_bucket_cap_mb": 5,
    "train_sampling_strategy": "sequential", "length_column_name": "n", "ddp_backend": "gloo",
    "skip_memory_metrics": False,
}  # fmt: skip


# The three left out are Python objects: the parser refuses any text for them.
@pytest.mark.parametrize(
    "name", sorted(REFUSED.keys() - {"parallelism_config", "liger_kernel_config", "trackio_static_space_id"})
)
def test_refused_flags_say_what_to_use(flags, name: str):
    message = complaint(flags, **{name: ASKING.get(name, True)})
    assert message.startswith(f"--{name} ")
    assert REFUSED[name] in message


def test_published_flags_that_ask_for_nothing_pass(flags):
    parse({**flags, "fp16": False, "ddp_find_unused_parameters": False, "push_to_hub": False, "local_rank": 0})


def test_help_shows_flags_that_work_in_groups(capsys):
    with pytest.raises(SystemExit):
        parse_args([SftArguments, DataArguments, PlanArguments], ["--help"], groups=FOLLOWED)
    text = capsys.readouterr().out
    for title, names in FOLLOWED.items():
        assert f"\n{title}:\n" in text
        assert all(f"  --{name} " in text for name in names)
    assert not [name for name in REFUSED if f"--{name} " in text]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_strategy": "steps"}, "--eval_strategy steps: needs --eval_data_path"),
        ({"load_best_model_at_end": True}, "--load_best_model_at_end True: needs --eval_data_path"),
        ({"eval_on_start": True}, "--eval_on_start True: needs --eval_data_path"),
        ({"save_strategy": "best"}, "--save_strategy best: needs --eval_data_path"),
        ({"report_to": "wandb"}, "--report_to wandb: wandb is not installed"),
        ({"report_to": "mlflow"}, "--report_to mlflow: expected tensorboard, wandb or none"),
        ({"optim": "adamw_bnb_8bit"}, "--optim adamw_bnb_8bit: "),
        ({"optim": "galore_adamw"}, "--optim galore_adamw: "),
        ({"optim": "adamm"}, "adamm is not a valid OptimizerNames"),
        ({"bf16": True, "split_master_weights": True, "optim": "sgd"}, "--split_master_weights is AdamW"),
        ({"resume_from_checkpoint": "nowhere"}, "--resume_from_checkpoint nowhere: no whole checkpoint"),
    ],
)
def test_flags_that_cannot_be_followed_end_in_one_line(flags, changes, message: str):
    assert message in complaint(flags, **changes)


def test_a_gpu_that_torch_cannot_use_is_not_passed_over(flags, tmp_path: Path, monkeypatch):
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr(arguments, "NVIDIA_DEVICES", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "an NVIDIA device is here, but torch cannot use it" in complaint(flags)
    parse({**flags, "use_cpu": True})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    parse(flags)


def test_a_cuda_build_on_a_login_node_does_not_train_on_its_cpu(flags, monkeypatch):
    monkeypatch.setattr(arguments.torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")  # what Slurm sets in a job that asked for none
    assert "torch is a build for CUDA 13.0 and finds no device (a login node" in complaint(flags)


def test_several_gpus_without_a_launcher_are_refused(flags, monkeypatch):
    """transformers would wrap the model in nn.DataParallel, which scatters cu_seqlens."""
    monkeypatch.setattr(SftArguments, "n_gpu", property(lambda _: 4))
    assert "start `deepspeed --num_gpus=4 train.py" in complaint(flags)


def test_other_values_are_refused_by_the_parser(flags):
    for name, value in (
        ("overlong", "maybe"),
        ("checkpoint_policy", "some"),
        ("loss_average", "words"),
        ("max_length", "long"),
        ("n_epochs", 1),
    ):
        with pytest.raises(InputError, match=name):
            parse({**flags, name: value})


def test_identity_tells_what_changes_samples_or_gradients_only(flags, tmp_path: Path):
    def identity(**changes: object):
        parsed = parse({**flags, **changes})
        return encode(*parsed, *check(*parsed))[2]

    first = identity()
    assert identity(logging_steps=5, save_steps=7, dataloader_num_workers=2, output_dir=tmp_path / "o") == first
    copied = shutil.copy(flags["data_path"], tmp_path / "copy.jsonl")
    assert identity(data_path=copied) == first
    for name, value in (
        ("learning_rate", 1e-3), ("seed", 7), ("max_length", 200), ("gradient_accumulation_steps", 3),
        ("loss_average", "examples"), ("packing", False), ("overlong", "truncate"), ("adam_beta2", 0.9),
    ):  # fmt: skip
        changed = identity(**{name: value})
        (key,) = [key for key in first if first[key] != changed[key]]
        assert name in key
    other = write_examples(tmp_path / "other.jsonl", 6, seed=1)
    assert identity(data_path=other)["--data_path (contents)"] != first["--data_path (contents)"]


def test_split_master_weights_follow_fp32_training_and_resume(flags, tmp_path: Path):
    """bf16 weights with fp32 masters learn as fp32 weights do, and continue exactly from a checkpoint."""
    flags |= {"learning_rate": 1e-3, "warmup_steps": 0, "max_steps": 4, "save_steps": 2, "save_total_limit": 3}
    split = {**flags, "bf16": True, "split_master_weights": True}
    half = tmp_path / "half"
    train(*parse({**flags, "output_dir": tmp_path / "wide"}))
    train(*parse(split))
    narrow, wide = read_curve(tmp_path / "out"), read_curve(tmp_path / "wide")
    assert [row["loss"] for row in narrow] == pytest.approx([row["loss"] for row in wide], rel=5e-3)
    assert narrow[-1]["loss"] < narrow[0]["loss"] - 0.1

    shutil.copytree(tmp_path / "out" / "checkpoint-2", half / "checkpoint-2")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    (half / "run.json").write_text(json.dumps(run | {"finished": None}))
    train(*parse({**split, "output_dir": half}))
    assert [row["loss"] for row in read_curve(half)] == [row["loss"] for row in narrow[2:]]
    for name in ("model.safetensors", "optimizer.pt"):
        ours, theirs = (folder / "checkpoint-4" / name for folder in (half, tmp_path / "out"))
        load = load_file if name == "model.safetensors" else torch.load
        assert torch.equal(flatten(load(ours)), flatten(load(theirs)))


def flatten(saved: dict) -> torch.Tensor:
    """Every tensor of a checkpoint's file, one after another."""
    tensors = saved["state"].values() if "state" in saved else [saved]
    return torch.cat([value.double().flatten() for one in tensors for value in one.values()])


def test_split_master_weights_need_bf16_alone(flags):
    with pytest.raises(InputError, match="--split_master_weights needs --bf16 True and no --deepspeed"):
        parse({**flags, "split_master_weights": True})


def test_deepspeed_configs_are_one_file_under_their_published_names(tmp_path: Path):
    """Also in an archive unpacked without links, which leaves the link's target as the file's text."""
    configs = Path(__file__).resolve().parents[2] / "configs"
    one = configs / "promptcot_mamba_7b_config.json"
    for name in ("promptcot_ds_1_5b_config.json", "promptcot_ds_7b_config.json"):
        assert (configs / name).resolve() == one
        assert json.loads(Path(find_deepspeed_config(str(configs / name))).read_text()) == json.loads(one.read_text())
    shutil.copy(one, tmp_path)
    (tmp_path / "linked.json").write_text(one.name)
    assert find_deepspeed_config(str(tmp_path / "linked.json")) == str(tmp_path / one.name)


def test_deepspeed_config_that_is_none(flags, tmp_path: Path):
    with pytest.raises(InputError, match=r"--deepspeed nowhere.json: No such file"):
        parse({**flags, "deepspeed": "nowhere.json"})
    (tmp_path / "bad.json").write_text("{oops")
    with pytest.raises(InputError, match=r"bad.json: malformed JSON"):
        parse({**flags, "deepspeed": tmp_path / "bad.json"})
