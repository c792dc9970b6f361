"""train.py as a program: the published line under DeepSpeed, bad input, a kill, a signal, numbers that are none."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from promptcot_mamba.chat_format import CHAT_TEMPLATE
from tests.programs.train_helpers import (
    HANG_SECONDS,
    STEPS,
    ZERO2,
    flags_for,
    have_the_same_curves,
    losses,
    make_work,
    read_curve,
    run_train,
    start_train,
    wait_for_step,
    write_examples,
)
from tests.tiny import make_checkpoint


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("train"))


def published_line(work: Path, output: Path) -> dict[str, object]:
    """The published command's flags, in its order, with the paths filled in."""
    return {
        "adam_beta1": 0.9, "adam_beta2": 0.95, "bf16": True, "data_path": work / "sums.jsonl",
        "ddp_find_unused_parameters": False, "deepspeed": ZERO2, "fp16": False, "gradient_accumulation_steps": 8,
        "gradient_checkpointing": True, "learning_rate": 5e-06, "max_grad_norm": 1.0, "max_length": 20480,
        "model_name_or_path": work / "model", "num_train_epochs": 1, "output_dir": output,
        "per_device_train_batch_size": 1, "save_steps": 1000, "save_strategy": "steps", "save_total_limit": 10,
        "tokenizer_path": work / "model", "warmup_steps": 100, "weight_decay": 0.01,
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(work: Path) -> Path:
    """An uninterrupted run in one process, with validation."""
    result = run_train(
        flags_for(work, "whole", eval_data_path=work / "sums.jsonl", eval_strategy="steps", eval_steps=4)
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return work / "whole"


def test_published_command_line(work: Path):
    """Two processes, ZeRO-2, bf16, as published and without further flags."""
    output = work / "published"
    result = run_train(published_line(work, output), processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "mismatch" not in result.stderr
    (row,) = read_curve(output)
    assert row["documents"] == 40
    assert row["padding_share"] == pytest.approx(0, abs=0.01)
    assert (output / "tensorboard").is_dir()
    checkpoint = json.loads((output / "checkpoint-1" / "checkpoint.json").read_text())
    assert checkpoint["devices"] == 2
    assert (output / "config.json").exists()


def test_checkpoint_is_complete_for_serving(whole: Path):
    from transformers import AutoTokenizer, GenerationConfig, Mamba2ForCausalLM

    for folder in (whole, whole / f"checkpoint-{STEPS}"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.chat_template == CHAT_TEMPLATE
        assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
        model, report = Mamba2ForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert model.config.use_cache
        run = json.loads((folder / "run.json").read_text())
        assert run["identity"]["--learning_rate"] == 1e-3
        assert run["versions"]["torch"]


def test_log_has_every_figure(whole: Path):
    rows = [json.loads(line) for line in (whole / "train_log.jsonl").read_text().splitlines()]
    assert {
        "loss", "grad_norm", "learning_rate", "tokens_per_second_per_device", "documents", "labelled_tokens",
        "padding_share", "peak_memory_gb", "eta_seconds",
    } <= rows[0].keys()  # fmt: skip
    validations = [row for row in rows if "eval_loss" in row]
    assert [row["step"] for row in validations] == [4, STEPS]
    for row in validations:
        assert min(row["eval_add_loss"], row["eval_sum_loss"]) <= row["eval_loss"]
        assert row["eval_loss"] <= max(row["eval_add_loss"], row["eval_sum_loss"])
    assert validations[1]["eval_loss"] < validations[0]["eval_loss"]


def test_two_processes_train_as_one(work: Path, whole: Path):
    """ZeRO-2 over two processes, half the accumulation each: the losses and norms of one process without DeepSpeed.

    Against one process under ZeRO-2 they are the same bits (a sum of two gradients has no order); against none, what
    differs is how DeepSpeed sums the norm that gradients are clipped by.
    """
    result = run_train(flags_for(work, "two", deepspeed=ZERO2, gradient_accumulation_steps=1), processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    have_the_same_curves(whole, work / "two")
    for one, two in zip(read_curve(whole), read_curve(work / "two"), strict=True):
        assert (two["documents"], two["labelled_tokens"]) == (one["documents"], one["labelled_tokens"])


def test_killed_run_continues_to_the_same_curve(work: Path, whole: Path):
    """kill -9 after a checkpoint, one torn checkpoint left behind; the same command ends with the same losses."""
    flags = flags_for(work, "killed", eval_data_path=work / "sums.jsonl", eval_strategy="steps", eval_steps=4)
    process = start_train(flags)
    wait_for_step(work / "killed", 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    killed = work / "killed"
    torn = killed / "checkpoint-5"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half a file")
    (killed / ".writing-checkpoint-6").mkdir(exist_ok=True)
    result = run_train(flags)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "torn checkpoint" in result.stderr
    assert not (killed / ".writing-checkpoint-6").exists()
    assert losses(killed) == losses(whole)


def test_ctrl_c_saves_and_says_how_to_go_on(work: Path, whole: Path):
    """SIGTERM follows at once, as DeepSpeed's launcher sends it: it is no second Ctrl-C."""
    flags = flags_for(work, "signalled", save_steps=1000)
    process = start_train(flags)
    wait_for_step(work / "signalled", 2, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=HANG_SECONDS)
    done = losses(work / "signalled")
    assert process.returncode == 75
    assert len(done) < STEPS
    saved = work / "signalled" / f"checkpoint-{done[-1][0]}"
    assert saved.is_dir()
    assert said.count("saving after this step, then stopping (Ctrl-C again: at once") == 1
    assert f"stopped after step {done[-1][0]}: {saved}; the same command goes on" in said
    assert done == losses(whole)[: len(done)]


def test_a_second_ctrl_c_does_not_wait_for_the_step(work: Path):
    """In the middle of a step: what waited for its end would save. Nothing is saved, and nothing half saved is left."""
    write_examples(work / "many.jsonl", 4000)
    flags = flags_for(work, "twice", data_path=work / "many.jsonl", gradient_accumulation_steps=400)
    process = start_train(flags)
    wait_for_step(work / "twice", 1, process)
    while process.poll() is None:  # two that come before the first is handled are one
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert process.returncode == -signal.SIGINT
    assert not list((work / "twice").glob("*checkpoint-*"))


def test_loss_that_is_no_number_stops_the_run(work: Path):
    """A weight that is not a number: one line with step and examples, exit 1, no checkpoint."""
    import torch
    from safetensors.torch import load_file, save_file

    broken = make_checkpoint(work / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["lm_head.weight"][5] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    result = run_train(flags_for(work, "diverged", model_name_or_path=broken, deepspeed=ZERO2))
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("stopped:")]
    assert "step 1: the loss is not finite" in line
    assert "examples: ex" in line
    assert "Traceback" not in result.stderr
    assert not list((work / "diverged").glob("checkpoint-*"))


def test_bad_row_under_the_launcher(work: Path):
    """Two processes, one message, exit 2, nothing written."""
    bad = work / "bad.jsonl"
    bad.write_text('{"prompt": "p", "completion": "c"}\n{"prompt": \n')
    result = run_train(flags_for(work, "bad", data_path=bad, deepspeed=ZERO2), processes=2)
    assert result.returncode == 2
    assert result.stderr.count("error: ") == 1
    assert f"error: {bad}:2: malformed JSON" in result.stderr
    assert not (work / "bad").exists()


def test_plan_needs_no_model():
    result = run_train({"plan": True, "config": "configs/sft_phase1.yaml"})
    assert result.returncode == 0, result.stderr
    for text in ("7.285 B parameters", "8 x H100", "1 x H200", "does not fit", "phase 2:", "tokens/s per GPU"):
        assert text in result.stdout
