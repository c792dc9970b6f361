"""The closed loop's program: flags refused, rows drawn alike for both arms, and the whole loop in small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.quickstart import closed_loop
from promptcot_mamba.quickstart.closed_loop import Arguments
from promptcot_mamba.quickstart.hops import draw_phase2_rows
from promptcot_mamba.quickstart.road import Stage

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "configs/quickstart/closed_loop.yaml"
SMALL = {
    "real_problems": 4000, "part": 400, "composed_rows": 800, "single_rows": 200, "phase1_rows": 6000,
    "phase1_steps": 250, "generator_steps": 350, "phase2_steps": 100,
    "sets": 40, "candidates": 4, "chains": 3, "threshold": 0.3,
    "test": '{"quickstart_composed": 12, "quickstart_unseen": 12}',
}  # fmt: skip


def make_arguments(**values) -> Arguments:
    return Arguments(**{"test": "{}", "real_problems": 3, "part": 2, "composed_rows": 10, "single_rows": 5, **values})


def make_pool(size: int) -> list[dict]:
    return [{"prompt": f"p{i}", "completion": f"c{i}", "source": "pool", "answer": "0"} for i in range(size)]


@pytest.mark.parametrize("size", [3, 7, 10, 40])
def test_both_arms_have_as_many_rows_of_each_kind(size: int):
    rows = draw_phase2_rows(make_pool(size), 10, 5, seed=1)
    composed = Counter(row["prompt"] for row in rows if row["source"] == "pool")
    assert composed.total() == 10
    assert len(rows) == 15
    assert all(set(row) == {"prompt", "completion", "source"} for row in rows)
    assert len(composed) == min(size, 10)
    assert max(composed.values()) - min(composed.values()) <= 1  # passes over the whole pool
    assert draw_phase2_rows(make_pool(size), 10, 5, seed=1) == rows
    assert draw_phase2_rows(make_pool(size), 10, 5, seed=2) != rows


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"test": '{"aime": 3}'}, "--test: unknown source"),
        ({"student_seeds": []}, "--student_seeds: at least one"),
        ({"part": 4}, "--part 4: must be a part of the 3 --real_problems"),
    ],
)
def test_flags_that_no_loop_can_use_are_refused(flags: dict, message: str):
    with pytest.raises(InputError, match=message):
        make_arguments(**flags)


SYNTHESIZED = {"prompt": "synthesized", "completion": "c", "source": "synthesis", "answer": "1"}
SAMPLED = {"source": "quickstart_composed", "idx": 0, "completion": "c"}
GRADE = {"problem_id": "quickstart_composed/0", "correct": True}


def pretend(stage: Stage) -> float:
    """Leave a stage's files without running it; what it reads must be there."""
    for path in stage.inputs:
        assert path.exists(), f"{stage.name} would read {path}, which no stage has left"
    for path in stage.outputs:
        if path.suffix == ".jsonl":
            row = {"distilled.jsonl": SYNTHESIZED}.get(path.name, GRADE if "grades" in path.name else SAMPLED)
            write_jsonl(path, [row])
        elif path.suffix != ".json":
            path.mkdir(parents=True, exist_ok=True)
            for name in ("problems.jsonl", "phase1.jsonl", "base"):  # the data's
                (path / name).touch()
    return 1.0


def test_every_stage_reads_what_an_earlier_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ran: list[Stage] = []
    monkeypatch.setattr(closed_loop, "run_stage", lambda stage, folder: ran.append(stage) or pretend(stage))
    values = {
        "real_problems": 30,
        "part": 10,
        "composed_rows": 40,
        "output_dir": str(tmp_path),
        "student_seeds": [1, 2],
    }
    _, verdicts = closed_loop.close(make_arguments(**values))
    names = list(dict.fromkeys(stage.name for stage in ran))
    students = ["without_1", "without_2", "with_1", "with_2"]
    begin = ["seeds", "data", "train_phase1", "train_generator", "problems", "train_teacher_1", "distill"]
    assert names[:7] == begin
    assert set(names[7:]) == {
        *(f"train_{name}" for name in students),
        *(f"sample_{name}" for name in (*students, "teacher_1")),
        *(f"grade_{name}_maths" for name in (*students, "teacher_1")),
    }
    assert verdicts["with"] == {1: {"quickstart_composed/0": True}, 2: {"quickstart_composed/0": True}}
    assert set(verdicts["teacher"]) == {1}

    rows = {name: read_jsonl(tmp_path / "rows" / f"{name}.jsonl") for name in (*students, "teacher_1")}
    different = {
        name: len({row["prompt"] for row in own if row["source"] != "quickstart_single"}) for name, own in rows.items()
    }
    assert different == {"without_1": 10, "without_2": 10, "with_1": 11, "with_2": 11, "teacher_1": 30}
    assert {len(own) for own in rows.values()} == {45}
    distill = next(stage for stage in ran if stage.name == "distill")
    assert tmp_path / "teacher_1" in distill.inputs
    assert f'"model_path": "{tmp_path / "teacher_1"}"' in " ".join(distill.command)
    steps = {
        tuple(word for word in stage.command if word.startswith("--max_steps"))
        for stage in ran
        if "with" in stage.name and "train" in stage.name
    }
    assert steps == {("--max_steps=220",)}


def start_loop(output: Path) -> subprocess.Popen:
    """The small loop, in a session of its own, so that all of it can be killed."""
    flags = {**SMALL, "output_dir": output, "record": output / "record.json"}
    command = [
        sys.executable,
        "-m",
        "scripts.quickstart.closed_loop",
        "--config",
        RECIPE,
        "--student_seeds",
        "20",
        "21",
    ]
    command += [f"--{name}={value}" for name, value in flags.items()]
    with (output / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def wait_for_rows(path: Path, loop: subprocess.Popen) -> None:
    while loop.poll() is None and not (path.exists() and path.stat().st_size):
        time.sleep(0.2)
    assert loop.poll() is None, f"the loop ended before {path} had a row"


@pytest.mark.slow
def test_the_small_loop_survives_kills_and_reports(tmp_path: Path):
    for name in ("synthesis/problems.jsonl", "synthesis/chains.jsonl"):
        loop = start_loop(tmp_path)
        wait_for_rows(tmp_path / name, loop)
        os.killpg(loop.pid, signal.SIGKILL)
        loop.wait()
        assert not (tmp_path / "report.md").exists()
    loop = start_loop(tmp_path)
    assert loop.wait(3600) == 0, (tmp_path / "log.txt").read_text()[-3000:]

    record = json.loads((tmp_path / "record.json").read_text())
    funnel = record["results"]["funnel"]
    assert funnel["problems asked for"] == 4 * funnel["concept sets"]
    assert funnel["problems asked for"] >= funnel["in the markup"] >= funnel["perfect by the exact solver"] > 0
    assert funnel["in the markup"] == funnel["perfect by the exact solver"] + sum(record["results"]["flaws"].values())
    assert funnel["solved by a majority"] == len(read_jsonl(tmp_path / "synthesis/distilled.jsonl")) > 0
    assert set(record["results"]["accuracy_by_seed"]["with"]) == {"20", "21"}
    assert record["results"]["comparison"]["composed"]["difference"]["problems"] == 24
    for name in ("report.md", "report.html"):
        assert "the part and synthesized" in (tmp_path / name).read_text(encoding="utf-8")
    yields = (tmp_path / "synthesis/report.md").read_text(encoding="utf-8")
    asked, solved = funnel["not of the benchmark"], funnel["solved by a majority"]
    assert f"| kept chains of these problems | {asked:,} | {solved:,} |" in yields

    weights = (tmp_path / "with_21" / "model.safetensors").read_bytes()
    before = len((tmp_path / "log.txt").read_text())
    assert start_loop(tmp_path).wait(600) == 0
    assert (tmp_path / "log.txt").read_text()[before:].count("done before") == 22
    assert weights == (tmp_path / "with_21" / "model.safetensors").read_bytes()
