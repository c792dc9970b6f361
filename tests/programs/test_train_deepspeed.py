"""Other people's DeepSpeed configs under train.py: the losses of a run without DeepSpeed, or one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs.train_helpers import (
    HANG_SECONDS,
    ROOT,
    child_environment,
    flags_for,
    free_port,
    have_the_same_curves,
    losses,
    make_work,
    read_curve,
    run_train,
    start_train,
    train_command,
    wait_for_step,
)
from tests.training.deepspeed_sections import AUTO_SIZES, CPU, DOCUMENTED, SCALER, ZERO3

CLIPPED = {"max_grad_norm": 0.05}  # clips every step
WITHOUT_SCHEDULE = {name: section for name, section in DOCUMENTED.items() if name != "scheduler"}
FOLLOWED = {
    # of all sizes only the stage is said: accumulation and clipping are the flags'
    "zero1": {"zero_optimization": {"stage": 1, "overlap_comm": True}, "fp16": SCALER, "bf16": {"enabled": "auto"}},
    "documented": WITHOUT_SCHEDULE,
    "torch's own AdamW on the host": {
        "zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 3, "offload_optimizer": CPU, "sub_group_size": 0, "max_live_parameters": 0},
    },
    "all on the host": {**AUTO_SIZES, "zero_optimization": {**ZERO3, "offload_optimizer": CPU, "offload_param": CPU}},
}  # fmt: skip
YAML = """\
compute_environment: LOCAL_MACHINE
deepspeed_config:
  deepspeed_multinode_launcher: standard
  offload_optimizer_device: none
  offload_param_device: none
  zero3_init_flag: true
  zero3_save_16bit_model: true
  zero_stage: 3
distributed_type: DEEPSPEED
downcast_bf16: 'no'
machine_rank: 0
main_training_function: main
mixed_precision: 'no'
num_machines: 1
num_processes: 2
rdzv_backend: static
same_network: true
use_cpu: true
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def alone(work: Path) -> Path:
    result = run_train(flags_for(work, "alone", **CLIPPED))
    assert result.returncode == 0, result.stderr[-3000:]
    return work / "alone"


def is_the_same(one: Path, two: Path) -> None:
    have_the_same_curves(one, two)
    rates = [[row["learning_rate"] for row in read_curve(folder)] for folder in (one, two)]
    assert rates[0] == pytest.approx(rates[1])


def kill_and_continue(flags: dict[str, object]) -> None:
    process = start_train(flags)
    wait_for_step(Path(str(flags["output_dir"])), 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = run_train(flags)
    assert done.returncode == 0, done.stderr[-3000:]


def test_numbers_that_contradict_the_flags_are_one_line(work: Path):
    config = json.dumps({"zero_optimization": {"stage": 2}, "gradient_clipping": 0.5, "train_batch_size": 64})
    result = run_train(flags_for(work, "contradicted", deepspeed=config))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "error: --deepspeed: train_batch_size=64, flags say" in result.stderr
    assert "gradient_clipping=0.5, flags say max_grad_norm=1.0" in result.stderr
    assert not (work / "contradicted").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLLOWED)
def test_a_published_config_trains_as_none(work: Path, alone: Path, name: str):
    (work / "config.json").write_text(json.dumps(FOLLOWED[name]))
    output = work / name.replace(" ", "-").replace("'", "")
    kill_and_continue(flags_for(work, output.name, **CLIPPED, deepspeed=work / "config.json"))
    is_the_same(alone, output)
    assert (output / "model.safetensors").stat().st_size == (alone / "model.safetensors").stat().st_size


@pytest.mark.slow
def test_a_schedule_of_deepspeed_is_followed_and_continued(work: Path):
    (work / "scheduled.json").write_text(json.dumps({**DOCUMENTED, "zero_optimization": {"stage": 2}}))
    flags = flags_for(work, "scheduled", deepspeed=work / "scheduled.json", warmup_steps=4)
    kill_and_continue(flags)
    done = run_train({**flags, "output_dir": work / "scheduled-whole"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "its scheduler WarmupLR sets the learning rate, and --lr_scheduler_type does not" in done.stderr
    assert losses(work / "scheduled") == losses(work / "scheduled-whole")
    rates = [row["learning_rate"] for row in read_curve(work / "scheduled")]
    assert rates == sorted(rates)
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(1e-3)
    assert rates[3] > 0.6e-3  # its warm-up is logarithmic


@pytest.mark.slow
def test_accelerate_launch_with_its_yaml(work: Path, alone: Path):
    (work / "zero3.yaml").write_text(YAML)
    flags = flags_for(work, "launched", **CLIPPED, gradient_accumulation_steps=1)
    accelerate = Path(sys.executable).parent / "accelerate"
    launch = [sys.executable, str(accelerate), "launch", "--config_file", str(work / "zero3.yaml")]
    launch += ["--main_process_port", str(free_port())]
    done = subprocess.run(
        [*launch, *train_command(flags)[1:]], cwd=ROOT, env=child_environment(), capture_output=True, text=True,
        timeout=HANG_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    run = json.loads((work / "launched" / "run.json").read_text())
    assert run["identity"]["ZeRO stage (--deepspeed)"] == 3
    is_the_same(alone, work / "launched")
    refused = run_train({**flags, "deepspeed": work / "zero3.yaml"})
    assert refused.returncode == 2
    assert "`accelerate launch --config_file" in refused.stderr
