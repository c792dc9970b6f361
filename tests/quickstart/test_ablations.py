"""The ablations' road with programs that leave files but do no work: what is shared, what is kept, what is compared."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from promptcot_mamba.errors import InputError, ProgramFailedError
from promptcot_mamba.jsonl import read_jsonl, write_json, write_jsonl
from promptcot_mamba.quickstart.splits import draw_test_rows
from promptcot_mamba.run_info import side_path
from scripts.quickstart import run_ablations

ARMS = {
    "full curriculum": {"phase1": {"quickstart_single": 8}, "phase2": {"quickstart_composed": 8}},
    "without synthesized problems": {"phase1": {"quickstart_single": 8}, "phase2": {"quickstart_single": 8}},
    "reversed phases": {"phase1": {"quickstart_composed": 8}, "phase2": {"quickstart_single": 8}},
}
TEST = {"quickstart_composed": 6, "quickstart_code_composed": 4, "quickstart_single": 2}
EVERY_OTHER = {"full_curriculum": 1, "without_synthesized_problems": 2, "reversed_phases": 3}  # solved: 1 in this many


class FakePrograms:
    """Stands in for `subprocess.run`: leaves what the program would, and remembers each command."""

    def __init__(self):
        self.commands: list[list[str]] = []
        self.fails = ""

    def __call__(self, command: list[str], stdout: Any = None, **_: Any) -> SimpleNamespace:
        self.commands.append(command)
        if self.fails and self.fails in " ".join(command):
            print("no memory", file=stdout)
            return SimpleNamespace(returncode=1)
        flags = dict(word.removeprefix("--").partition("=")[::2] for word in command if "=" in word)
        names = [word.removeprefix("--") for word in command]
        flags |= {name: after for name, after in itertools.pairwise(names) if f"--{name}" in command}
        program = next(word for word in command[1:] if word != "-m")
        self.programs[program](self, flags)
        return SimpleNamespace(returncode=0)

    def make_data(self, flags: dict[str, str]) -> None:
        folder = Path(flags["output_dir"])
        problems, tests = draw_test_rows(json.loads(flags["test"]), int(flags["seed"]))
        write_jsonl(folder / "problems.jsonl", problems)
        write_json(folder / "tests" / "all.json", tests)
        write_json(folder / "base" / "config.json", {"seed": flags["seed"]})

    def train(self, flags: dict[str, str]) -> None:
        start = json.loads((Path(flags["model_name_or_path"]) / "config.json").read_text())
        rows = [row["source"] for row in read_jsonl(Path(flags["data_path"]))]
        write_json(Path(flags["output_dir"]) / "config.json", {"start": start, "rows": rows, "seed": flags["seed"]})

    def sample(self, flags: dict[str, str]) -> None:
        assert (Path(flags["model_path"]) / "config.json").exists()
        predictions = Path(flags["output_path"])
        write_jsonl(predictions, read_jsonl(Path(flags["data_path"])))
        write_jsonl(side_path(predictions, "attempts.jsonl"), [])
        write_json(side_path(predictions, "run.json"), {})

    def grade(self, flags: dict[str, str]) -> None:
        predictions = Path(flags["input_path"])
        step = EVERY_OTHER[predictions.parent.name]
        names = [f"{row['source']}/{row['idx']}" for row in read_jsonl(predictions)]
        grades = [{"problem_id": name, "correct": int(name.rpartition("/")[2]) % step == 0} for name in names]
        write_jsonl(side_path(predictions, "grades.jsonl"), grades)

    programs: ClassVar = {
        "scripts.quickstart.make_data": make_data,
        "train.py": train,
        "infer_longcot.py": sample,
        "calc_acc_aime.py": grade,
        "calc_acc_lcb.py": grade,
    }

    def ran(self, program: str) -> int:
        return sum(program in command for command in self.commands)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    fake = FakePrograms()
    monkeypatch.setattr(
        "promptcot_mamba.quickstart.road.subprocess", SimpleNamespace(run=fake, STDOUT=subprocess.STDOUT)
    )
    return fake


def run(monkeypatch: pytest.MonkeyPatch, output: Path, **changes: Any) -> int | None:
    values = {"arms": json.dumps(ARMS), "test": json.dumps(TEST), "output_dir": output, **changes}
    flags = [f"--{name}={value}" for name, value in values.items()]
    monkeypatch.setattr(sys, "argv", ["run_ablations", *flags, "--seeds", "1", "2"])
    return run_ablations.main()


def test_arms_share_phase_1_and_are_compared_problem_by_problem(
    programs: FakePrograms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    record = tmp_path / "record.json"
    assert run(monkeypatch, tmp_path / "out", record=record) is None
    assert programs.ran("scripts.quickstart.make_data") == 2  # a seed
    assert programs.ran("train.py") == 2 * (2 + 3)  # two kinds of phase 1, three arms
    assert programs.ran("infer_longcot.py") == 2 * 3
    written = json.loads(record.read_text())
    rows = {row[0]: row[1:] for row in written["tables"][0]["rows"]}
    assert rows["full curriculum"] == ["100.0 [81.5, 100.0] (100 100)", "–", "100.0 [73.8, 100.0] (100 100)", "–"]
    assert rows["without synthesized problems"][0].endswith("(50 50)")
    assert rows["without synthesized problems"][1].startswith("-50.0 [")
    assert rows["without synthesized problems"][1].endswith("(-50 -50)")
    assert rows["reversed phases"][0].endswith("(33 33)")  # of 6: 0 and 3; the single ones do not count
    assert rows["reversed phases"][2].endswith("(50 50)")  # of 4: 0 and 3
    assert written["results"]["by_seed"]["reversed phases"]["maths"] == pytest.approx([1 / 3, 1 / 3])
    assert json.loads((tmp_path / "out/ablations.json").read_text())["tables"] == written["tables"]


def test_every_phase_starts_where_it_should(programs: FakePrograms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    run(monkeypatch, tmp_path)
    for seed in ("1", "2"):
        folder = tmp_path / f"seed_{seed}" / "phase2"
        full, reverse = (json.loads((folder / arm / "config.json").read_text()) for arm in list(EVERY_OTHER)[::2])
        assert set(full["rows"]) == set(reverse["start"]["rows"]) == {"quickstart_composed"}
        assert set(reverse["rows"]) == set(full["start"]["rows"]) == {"quickstart_single"}
        assert full["seed"] == full["start"]["seed"] == full["start"]["start"]["seed"] == seed
    one, two = (read_jsonl(tmp_path / f"seed_{seed}/rows/phase1/single8.jsonl") for seed in (1, 2))
    assert one != two


def test_a_failed_stage_stops_the_run_and_a_rerun_does_the_rest_only(
    programs: FakePrograms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
):
    programs.fails = "seed_2/phase2/reversed_phases"
    with pytest.raises(ProgramFailedError) as failed:
        run(monkeypatch, tmp_path, jobs=1)
    complaint = str(failed.value)
    log = tmp_path / "seed_2/logs/train_phase2_reversed_phases.log"
    assert f"seed 2: train phase2, reversed_phases: ended with status 1 (see {log})" in complaint
    assert log.read_text().endswith("no memory\n")
    done = {" ".join(command) for command in programs.commands[:-1]}
    programs.fails, programs.commands = "", []
    assert run(monkeypatch, tmp_path, jobs=1) is None
    assert not done & {" ".join(command) for command in programs.commands}
    programs.commands = []
    assert run(monkeypatch, tmp_path) is None
    assert programs.commands == []
    assert run(monkeypatch, tmp_path, phase2_steps=7) is None
    assert (programs.ran("train.py"), programs.ran("infer_longcot.py")) == (2 * 3, 0)  # the same weights come out


@pytest.mark.parametrize(
    ("flag", "value", "complaint"),
    [
        ("arms", "{", "--arms: expected a mapping"),
        ("arms", json.dumps({"a": ARMS["full curriculum"]}), "at least two arms"),
        ("arms", json.dumps({"a b": ARMS["full curriculum"], "a-b": ARMS["full curriculum"]}), "share a folder"),
        ("arms", json.dumps(ARMS | {"x": {"phase1": {"gsm8k": 1}, "phase2": {}}}), "x, phase1: unknown source"),
        ("arms", json.dumps(ARMS | {"x": {"phase1": {"quickstart_single": 1}, "phase2": {}}}), "x, phase2: no exer"),
        ("test", json.dumps({"quickstart_composed": 4}), "--test: no code problems"),
    ],
)
def test_a_recipe_that_cannot_be_meant(
    programs: FakePrograms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flag: str, value: str, complaint: str
):
    with pytest.raises(InputError, match=complaint):
        run(monkeypatch, tmp_path / "out", **{flag: value})
    assert not (tmp_path / "out").exists()
