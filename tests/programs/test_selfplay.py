"""`scripts/selfplay.sh`: real graders, preferences and training between scripted samples; hops done once, in order."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from promptcot_mamba.cli import parse_args
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from scripts.make_preferences import Arguments as PreferenceArguments
from tests.programs.train_helpers import ROOT, child_environment, make_work, read_curve

PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n"
TESTS = [{"input": "1 2\n", "output": "3\n"}]
# In place of train.py: the flags it was given, and a checkpoint.
TRAINER = """
import json, sys
from pathlib import Path
if Path({stop!r}).exists():
    sys.exit(75)
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
output = Path(flags["--output_dir"])
output.mkdir(parents=True, exist_ok=True)
(output / "config.json").write_text(json.dumps(flags))
(output / "model.safetensors").write_text(repr(flags))
"""
# In place of every program: leaves what its flags name. A script from standard input is run.
STAND_IN = """#!/usr/bin/env bash
[ "$1" != - ] || exec {python} "$@"
while [ $# -gt 0 ]; do
    case $1 in
    --output_path | --sft_path) mkdir -p "$(dirname "$2")"; echo x >"$2" ;;
    --output_dir) mkdir -p "$2"; echo '{{}}' >"$2/config.json"; echo x >"$2/model.safetensors" ;;
    esac
    shift
done
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, five problems of maths, two of code."""
    work = make_work(tmp_path_factory.mktemp("work"))
    maths = [
        {
            "idx": i, "source": "quickstart_composed", "prompt": PROMPT.format(f"Find {i} plus {i}."),
            "reference_solution": f"#### {2 * i}",
        }
        for i in range(5)
    ]  # fmt: skip
    code = [
        {"question_id": f"sum{i}", "source": "made", "prompt": PROMPT.format(f"Add two numbers, {i}."), "tests": TESTS}
        for i in range(2)
    ]
    write_jsonl(work / "maths.jsonl", maths)
    write_jsonl(work / "code.jsonl", code)
    return work


@pytest.fixture
def play(work: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    (tmp_path / "trainer.py").write_text(TRAINER.format(stop=str(tmp_path / "stop")))

    def call(*flags: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        settings = {
            "MODEL": str(work / "model"), "MATHS": str(work / "maths.jsonl"), "CODE": str(work / "code.jsonl"),
            "OUTPUT": str(tmp_path / "out"), "SAMPLER": "python -m tests.programs.scripted_sampler",
            "LAUNCHER": f"python {tmp_path / 'trainer.py'}", **changes,
        }  # fmt: skip
        environment = child_environment() | {name: value for name, value in settings.items() if value is not None}
        command = ["bash", str(ROOT / "scripts/selfplay.sh"), *flags]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)

    return call


def hops(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^== round (\d, \w+(?:: done before)?)$", done.stdout, re.MULTILINE)


FIRST = ["1, sample_maths", "1, grade_maths", "1, sample_code", "1, grade_code", "1, prefer", "1, train"]


def test_rounds_go_on_where_they_were(work: Path, tmp_path: Path, play):
    (tmp_path / "stop").touch()  # the trainer is asked to stop, as a cluster does
    stopped = play()
    assert stopped.returncode == 75, stopped.stderr
    assert hops(stopped) == FIRST
    (tmp_path / "stop").unlink()

    two = play("--beta", "0.3", ROUNDS="2")
    assert two.returncode == 0, two.stderr
    second = [hop.replace("1", "2", 1) for hop in FIRST]
    assert hops(two) == [*(f"{hop}: done before" for hop in FIRST[:-1]), FIRST[-1], *second]
    assert two.stdout.endswith(f"== done: {tmp_path}/out/round_2/model\n")

    rounds = [tmp_path / "out" / f"round_{number}" for number in (1, 2)]
    calls = [(folder / "maths.calls").read_text().splitlines() for folder in rounds]
    assert calls == [[str(work / "model")], [str(rounds[0] / "model")]]  # once, and from what was trained
    trained = [json.loads((folder / "model/config.json").read_text()) for folder in rounds]
    assert [flags["--model_name_or_path"] for flags in trained] == [str(work / "model"), str(rounds[0] / "model")]
    assert [flags["--data_path"] for flags in trained] == [str(folder / "pairs.jsonl") for folder in rounds]
    assert {flags["--beta"] for flags in trained} == {"0.3"}
    pairs = [read_jsonl(folder / "pairs.jsonl") for folder in rounds]
    assert {row["source"] for row in pairs[0]} == {"quickstart_composed", "made"}
    assert [row["chosen"] for row in pairs[0]] != [row["chosen"] for row in pairs[1]]  # other samples each round
    assert all(row["completion"] for folder in rounds for row in read_jsonl(folder / "right.jsonl"))

    again = play("--beta", "0.3", ROUNDS="2")
    assert again.returncode == 0, again.stderr
    assert all(hop.endswith("done before") for hop in hops(again))

    other = play("--beta", "0.2", ROUNDS="2")
    assert other.returncode == 2
    assert f"error: {rounds[0]}/done/train: round 1 was made by other settings" in other.stderr


def test_a_changed_recipe_is_refused(tmp_path: Path, play):
    recipe = tmp_path / "pairs.yaml"
    recipe.write_text("pairs: 1\n")
    flags = {"CODE": None, "PAIRS_CONFIG": str(recipe)}
    assert play(**flags).returncode == 0
    recipe.write_text("pairs: 2\n")
    done = play(**flags)
    assert done.returncode == 2
    assert "/done/prefer: round 1 was made by other settings" in done.stderr


def test_more_problems_and_other_grades_are_noticed(work: Path, tmp_path: Path, play):
    problems = tmp_path / "mine.jsonl"
    problems.write_bytes((work / "maths.jsonl").read_bytes())
    flags = {"CODE": None, "MATHS": str(problems)}
    assert play(**flags).returncode == 0
    grades = tmp_path / "out/round_1/maths.grades.jsonl"
    before = grades.read_bytes()
    grades.write_bytes(before.replace(b'"correct": true', b'"correct":true'))
    assert grades.read_bytes() != before
    assert "/done/prefer: round 1 was made by other settings" in play(**flags).stderr
    grades.write_bytes(before)
    problems.write_bytes(problems.read_bytes() + b"\n")
    assert "/done/sample_maths: round 1 was made by other settings" in play(**flags).stderr


def test_where_it_runs_may_change_and_the_model_may_not(work: Path, tmp_path: Path, play):
    model, programs = Path(shutil.copytree(work / "model", tmp_path / "model")), tmp_path / "bin"
    programs.mkdir()
    for name in ("python", "deepspeed"):
        (programs / name).write_text(STAND_IN.format(python=sys.executable))
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    flags = {"CODE": None, "BY": "majority", "MODEL": str(model), "LAUNCHER": None, "PATH": path, "ROUNDS": "2"}
    sampler = "python infer_longcot.py --n_gpus 8 --temperature 1"
    first = play(**flags, SAMPLER=sampler)
    assert first.returncode == 0, first.stderr
    expected = [f"{number}, {hop}" for number in (1, 2) for hop in ("sample_maths", "prefer", "train")]
    assert hops(first) == expected

    elsewhere = {"SAMPLER": "nice python infer_longcot.py --temperature 1 --n_gpus 4", "NUM_GPUS": "4"}
    again = play(**flags | elsewhere | {"LAUNCHER": "nice python"})
    assert again.returncode == 0, again.stderr
    assert hops(again) == [f"{hop}: done before" for hop in expected]

    fewer = play("--gradient_accumulation_steps", "6", **flags | elsewhere | {"ROUNDS": "3"})
    assert hops(fewer)[:6] == [f"{hop}: done before" for hop in expected], fewer.stderr

    refused = "/done/sample_maths: round 1 was made by other settings or from other files or weights"
    other = play(**flags, SAMPLER=sampler.replace("--temperature 1", "--temperature 0.5"))
    assert other.returncode == 2
    assert refused in other.stderr

    (weights,) = model.glob("*.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    retrained = play(**flags, SAMPLER=sampler)
    assert retrained.returncode == 2
    assert refused in retrained.stderr

    weights.unlink()
    none = play(**flags, SAMPLER=sampler)
    assert (none.returncode, hops(none)) == (2, [])
    assert none.stderr.startswith(f"error: MODEL {model}: ")


def test_a_failing_hop_ends_the_script(tmp_path: Path, play):
    done = play(MATHS_GRADER="false", CODE=None)
    assert done.returncode == 1
    assert hops(done) == FIRST[:2]
    assert not (tmp_path / "out/round_1/done/grade_maths").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"MODEL": None}, "set MODEL to the folder"),
        ({"MATHS": None, "CODE": None}, "error: set MATHS or CODE"),
        ({"MATHS": "/nowhere.jsonl"}, "error: /nowhere.jsonl: no such file"),
        ({"ROUNDS": "0"}, "error: ROUNDS=0: expected a whole number from 1"),
        ({"BY": "luck"}, "error: BY=luck: expected gold or majority"),
        ({"BY": "majority"}, "error: BY=majority goes with MATHS alone"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path: Path, play, changes: dict, words: str):
    done = play(**changes)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_round_of_majorities_really_trains(work: Path, tmp_path: Path, play):
    rows = [{k: v for k, v in row.items() if k != "source"} for row in read_jsonl(work / "maths.jsonl")]
    write_jsonl(tmp_path / "maths.jsonl", rows)  # no source that a grader knows
    flags = ["--max_steps=2", "--warmup_steps=0", "--logging_steps=1", f"--token_cache={tmp_path / 'cache'}"]
    recipe = "configs/quickstart/selfplay.yaml"
    changes = {"CODE": None, "BY": "majority", "LAUNCHER": sys.executable, "TRAIN_CONFIG": recipe}
    done = play(*flags, MATHS=str(tmp_path / "maths.jsonl"), **changes)
    assert done.returncode == 0, done.stderr[-3000:]
    assert hops(done) == ["1, sample_maths", "1, prefer", "1, train"]
    model = tmp_path / "out/round_1/model"
    assert [row["step"] for row in read_curve(model)] == [1, 2]
    assert read_curve(model)[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert (model / "model.safetensors").is_file()
    told = json.loads((tmp_path / "out/round_1/pairs.run.json").read_text())
    assert told["config"]["by"] == "majority"


@pytest.mark.parametrize("folder", ["configs", "configs/quickstart"])
def test_the_recipes_fit_their_programs_and_one_another(folder: str):
    def recipe(name: str) -> list[str]:
        return ["--config", str(ROOT / folder / f"{name}.yaml")]

    sampling = parse_args(
        SamplingArguments,
        [*recipe("selfplay_sample"), "--model_path", "m", "--data_path", "d", "--output_path", "o.jsonl"],
    )
    pairs = parse_args(
        PreferenceArguments,
        [*recipe("selfplay_pairs"), "--input_path", os.fspath(ROOT / "README.md"), "--output_path", "o.jsonl"],
    )
    needed = ["--model_name_or_path", "m", "--data_path", "d", "--output_dir", "o"]
    training, data = parse_args([SftArguments, DataArguments], [*recipe("selfplay"), *needed, "--bf16", "False"])
    assert training.objective == "dpo"
    assert sampling.n > 1
    assert sampling.temperature > 0
    assert sampling.repetition_penalty == 1
    assert 2 * sampling.max_len <= data.max_length or folder != "configs"
    assert pairs.match == "random"
