"""The road's stages: done once, kept while nothing they read changes, redone beside the old output when it does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from promptcot_mamba.errors import ProgramFailedError
from promptcot_mamba.quickstart.road import PORT_FLAG, Stage, family_file, hash_inputs, run_stage, sample_stage
from promptcot_mamba.run_info import ROOT
from scripts.quickstart.run import Args, make_stages


def counting_stage(folder: Path, word: str = "x") -> Stage:
    """A stage that copies its input to its output and counts how often it ran."""
    script = (
        "import pathlib, sys; given, made, runs = map(pathlib.Path, sys.argv[1:4]);"
        "text = given.read_text(); assert text != 'bad';"
        "made.write_text(text); runs.open('a').write('1')"
    )
    paths = [folder / "given", folder / "made", folder / "runs"]
    command = [sys.executable, "-c", script, *map(str, paths), word]
    return Stage("copy", "copy a file", command, (paths[0],), (paths[1],))


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text(encoding="utf-8"))


def test_a_stage_runs_once_until_its_input_command_or_output_changes(tmp_path: Path):
    (tmp_path / "given").write_text("one")
    stage = counting_stage(tmp_path)
    run_stage(stage, tmp_path)
    run_stage(stage, tmp_path)
    assert runs(tmp_path) == 1
    (tmp_path / "given").write_text("two")
    run_stage(stage, tmp_path)
    assert runs(tmp_path) == 2
    assert (tmp_path / "made").read_text() == "two"
    assert [path.read_text() for path in (tmp_path / "set_aside").iterdir()] == ["one"]
    run_stage(counting_stage(tmp_path, "y"), tmp_path)
    assert runs(tmp_path) == 3
    (tmp_path / "made").unlink()
    run_stage(counting_stage(tmp_path, "y"), tmp_path)
    assert runs(tmp_path) == 4


def test_a_failed_stage_is_named_and_tried_again(tmp_path: Path):
    (tmp_path / "given").write_text("bad")
    stage = counting_stage(tmp_path)
    with pytest.raises(ProgramFailedError, match="copy a file: ended with status 1"):
        run_stage(stage, tmp_path)
    with pytest.raises(ProgramFailedError):
        run_stage(stage, tmp_path)
    (tmp_path / "given").write_text("good")
    run_stage(stage, tmp_path)
    assert runs(tmp_path) == 1


def test_every_stage_reads_what_an_earlier_one_leaves():
    left = {Path("configs/quickstart"), ROOT / "configs"}
    for stage in make_stages(Args()):
        for path in stage.inputs:
            known = any(path == made or made in path.parents for made in left)
            assert known, f"{stage.name} reads {path}, which nothing leaves"
        left |= set(stage.outputs)
        if stage.name.startswith("sample_"):  # main splits these
            left |= {family_file(stage.outputs[0], family) for family in ("maths", "code")}


def test_phase_2_and_its_control_differ_in_data_alone():
    stages = {
        stage.name: [word for word in stage.command if not word.startswith(PORT_FLAG)] for stage in make_stages(Args())
    }
    swapped = [word.replace("phase2.jsonl", "control.jsonl") for word in stages["train_phase2"]]
    swapped[-1] = swapped[-1].replace("phase2", "control")
    assert swapped == stages["train_control"]


def test_the_launcher_gets_the_devices_that_the_variable_names(monkeypatch):
    """A shared machine's fourth GPU: beside --num_gpus DeepSpeed would take the first, which is somebody else's."""
    plain = make_stages(Args(processes=1))[1]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    chosen = make_stages(Args(processes=1))[1]
    assert chosen.command[1] == "--include=localhost:3"
    assert hash_inputs(Stage("", "", chosen.command, (), ())) == hash_inputs(Stage("", "", plain.command, (), ()))
    assert make_stages(Args(processes=2))[1].command[1] == "--include=localhost:3,5"
    assert make_stages(Args(processes=3))[1].command[1] == "--num_gpus=3"  # the launcher says that there are too few
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-5cf3-01")
    assert make_stages(Args(processes=1))[1].command[1] == "--num_gpus=1"


def test_another_free_port_is_not_another_stage():
    first, second = (make_stages(Args(processes=2))[1] for _ in range(2))
    assert first.name == "train_phase1"
    one = Stage(first.name, first.title, first.command, (), ())
    other = Stage(second.name, second.title, [*second.command[:2], f"{PORT_FLAG}1", *second.command[3:]], (), ())
    assert one.command != other.command
    assert hash_inputs(one) == hash_inputs(other)


def test_a_sampler_leaves_nothing_that_another_version_of_it_would_refuse(tmp_path: Path):
    """infer_longcot.py compares its settings with those of X.run.json: the file moves with the samples."""
    outputs = sample_stage("m", tmp_path / "r.yaml", tmp_path / "m", tmp_path / "p.jsonl", tmp_path / "x.jsonl").outputs
    assert {path.name for path in outputs} == {"x.jsonl", "x.attempts.jsonl", "x.run.json"}
