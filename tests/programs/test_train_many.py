"""Every shipped sharding, two nodes, two phases: each DeepSpeed start takes seconds, so these run when asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.programs.train_helpers import (
    HANG_SECONDS,
    ROOT,
    STEPS,
    ZERO2,
    child_environment,
    flags_for,
    free_port,
    have_the_same_curves,
    have_the_same_losses,
    losses,
    make_work,
    run_alone,
    run_train,
    start_train,
    wait_for_step,
    write_examples,
)

pytestmark = pytest.mark.slow
CONFIGS = [ZERO2, "configs/deepspeed_zero2_offload.json", "configs/deepspeed_zero3.json"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def alone(work: Path) -> Path:
    return run_alone(work)


@pytest.mark.parametrize("config", CONFIGS)
def test_sharding_trains_alike_and_survives_a_kill(work: Path, alone: Path, config: str):
    output = f"sharded-{Path(config).stem}"
    flags = flags_for(work, output, deepspeed=config, gradient_accumulation_steps=1)
    process = start_train(flags, processes=2)
    wait_for_step(work / output, 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    result = run_train(flags, processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    have_the_same_curves(alone, work / output)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_a_terminal_reaches_launcher_and_processes(work: Path, alone: Path, times: int):
    """Once: both processes save one checkpoint, and one says so. Twice: nothing is saved. No process is left."""
    output = work / f"interrupted-{times}"
    many = {1: {}, 2: {"data_path": write_examples(work / "many.jsonl", 4000), "gradient_accumulation_steps": 200}}
    settings = {"deepspeed": ZERO2, "gradient_accumulation_steps": 1, "save_steps": 1000, **many[times]}
    process = start_train(flags_for(work, output.name, **settings), processes=2)
    wait_for_step(output, 1, process)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    said, _ = process.communicate(timeout=60)  # until every process that holds the pipe has ended
    saved = list(output.glob("*checkpoint-*"))
    if times == 2:
        assert saved == []
        return
    done = losses(output)
    assert len(done) < STEPS
    assert saved == [output / f"checkpoint-{done[-1][0]}"]
    assert said.count("the same command goes on") == said.count("saving after this step") == 1
    assert run_train(flags_for(work, output.name, **settings), processes=2).returncode == 0
    have_the_same_losses(alone, output)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: Path(path).stem)
def test_a_full_disk_ends_all_processes_with_one_line(work: Path, config: str):
    """The optimizer's shards are longer than a file may be; both processes write one."""
    output = work / f"full-{Path(config).stem}"
    flags = flags_for(work, output.name, deepspeed=config, gradient_accumulation_steps=1)
    done = run_train(flags, processes=2, most_bytes=500_000)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert ("File too large" in line) or ("No space left" in line)
    assert not list(output.glob("*checkpoint-*"))
    assert run_train(flags, processes=2).returncode == 0


@pytest.mark.parametrize("config", CONFIGS[:2], ids=lambda path: Path(path).stem)
def test_adapters_are_sharded_resumed_and_merged(work: Path, config: str):
    """Killed and continued under ZeRO-2 with two processes: the losses and merged weights of one without DeepSpeed."""
    output, alone = work / f"adapters-{Path(config).stem}", work / "adapters-alone"
    lora = {"lora_rank": 4, "learning_rate": 1e-2, "output_dir": alone}
    if not alone.exists():
        assert run_train(flags_for(work, alone.name, **lora)).returncode == 0
    flags = flags_for(
        work, output.name, **lora | {"output_dir": output}, deepspeed=config, gradient_accumulation_steps=1
    )
    process = start_train(flags, processes=2)
    wait_for_step(output, 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = run_train(flags, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    have_the_same_losses(alone, output)
    start, ours, theirs = (load_file(folder / "model.safetensors") for folder in (work / "model", output, alone))
    assert start.keys() == ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-5)
    changed = "backbone.layers.0.mixer.in_proj.weight"
    assert not torch.equal(start[changed], ours[changed])


def test_adapters_under_zero3_are_refused(work: Path):
    result = run_train(flags_for(work, "zero3", deepspeed=CONFIGS[2], lora_rank=4))
    assert result.returncode == 2
    assert "error: --lora_rank: frozen weights are merged whole, which ZeRO-3 shards" in result.stderr
    assert not (work / "zero3").exists()


def train_on(
    work: Path, output: Path, config: str, rows: int, stages: tuple[tuple[int, int], ...]
) -> dict[str, object]:
    """Train on (devices, until which step) in turn, killed in between; `rows` a step. Returns the last flags."""
    for processes, until in stages:
        accumulation = rows // processes
        flags = flags_for(work, output.name, deepspeed=config, gradient_accumulation_steps=accumulation, save_steps=1)
        process = start_train(flags, processes)
        if until < STEPS:
            wait_for_step(output, until, process)
            os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=HANG_SECONDS)
        assert until < STEPS or process.returncode == 0, said[-3000:]
    assert set(devices_of(output)) == {processes for processes, _ in stages}
    return flags


def is_the_same_run(output: Path, alone: Path) -> None:
    have_the_same_losses(alone, output)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (output, alone))
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: Path(path).stem)
def test_another_number_of_devices_goes_on(work: Path, alone: Path, config: str):
    """Two devices, one, two, killed in between: the losses of one device without DeepSpeed, and its weights."""
    output = work / f"devices-{Path(config).stem}"
    flags = train_on(work, output, config, 2, ((2, 3), (1, 5), (2, STEPS)))
    is_the_same_run(output, alone)
    finished = run_train({**flags, "gradient_accumulation_steps": 2}, processes=2)  # another batch: another run
    assert "holds another run" in finished.stderr
    finished = run_train(flags)  # the same flags on one device
    assert finished.returncode == 0
    assert f"finished at step {STEPS}; nothing to do" in finished.stderr


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: Path(path).stem)
def test_two_devices_become_four(work: Path, config: str):
    """Four rows a step: on one device without DeepSpeed, and on two, then four."""
    alone, output = work / "alone-of-four", work / f"four-{Path(config).stem}"
    if not alone.exists():
        assert run_train(flags_for(work, alone.name, gradient_accumulation_steps=4)).returncode == 0
    train_on(work, output, config, 4, ((2, 3), (4, STEPS)))
    is_the_same_run(output, alone)


def devices_of(output: Path) -> list[int]:
    """How many devices wrote each checkpoint."""
    return [json.loads(seal.read_text())["devices"] for seal in output.glob("checkpoint-*/checkpoint.json")]


def test_two_nodes_train_as_one(work: Path, alone: Path):
    """Two single-process nodes on this machine, each started by hand as without ssh."""
    (work / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    flags = flags_for(work, "nodes", deepspeed=ZERO2, gradient_accumulation_steps=1)
    place = {"NO_SSH": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = [
        subprocess.Popen(
            [
                "bash",
                "scripts/cluster/launch_multinode.sh",
                str(work / "hosts"),
                *(f"--{k}={v}" for k, v in flags.items()),
            ],
            cwd=ROOT,
            env={**child_environment(), **place, "NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for node in nodes:
        output, _ = node.communicate(timeout=HANG_SECONDS)
        assert node.returncode == 0, output[-3000:]
    have_the_same_losses(alone, work / "nodes")


def test_two_phases_chain_and_skip_what_is_done(work: Path):
    """Phase 2 starts from phase 1's weights; a second run has nothing left to do."""
    (work / "recipe.yaml").write_text(
        f"deepspeed: {ZERO2}\nmax_length: 256\nlearning_rate: 1.0e-3\nwarmup_steps: 1\nmax_steps: 3\nreport_to: none\n"
    )
    environment = {
        **child_environment(),
        "MODEL": str(work / "model"), "PHASE1_DATA": str(work / "sums.jsonl"), "PHASE2_DATA": str(work / "sums.jsonl"),
        "OUTPUT": str(work / "phases"), "PHASE1_CONFIG": str(work / "recipe.yaml"),
        "PHASE2_CONFIG": str(work / "recipe.yaml"), "LAUNCHER": f"deepspeed --num_gpus=1 --master_port={free_port()}",
    }  # fmt: skip
    command = ["bash", "scripts/sft_two_phase.sh", "--token_cache", str(work / "cache")]
    for _ in range(2):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("nothing to do") == 2
    first, second = losses(work / "phases" / "phase1"), losses(work / "phases" / "phase2")
    assert second[0][1] < first[0][1]
    changed = subprocess.run(
        [*command, "--learning_rate", "0.1"], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=HANG_SECONDS, check=False,
    )  # fmt: skip
    assert changed.returncode == 2
    assert "--learning_rate: 0.001 there, 0.1 now" in changed.stderr
