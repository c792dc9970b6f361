"""Phase 3's study: what is drawn, what it costs, its stages in order, its tables. Nothing is trained here."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_json, write_jsonl
from promptcot_mamba.quickstart import programs, selfplay
from promptcot_mamba.quickstart.exercise import links_of
from promptcot_mamba.quickstart.road import Stage
from promptcot_mamba.quickstart.selfplay import (
    ARMS,
    DPO,
    MORE,
    RIGHT,
    START,
    Arguments,
    Compute,
    check_workings,
    count_compute,
    run_study,
)
from promptcot_mamba.quickstart.selfplay_report import by_seed, figures, make_tables, over_problems, over_seeds
from promptcot_mamba.quickstart.splits import HELD_OUT_LINKS, draw_selfplay_rows, is_held_out
from promptcot_mamba.run_info import side_path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "configs/quickstart/selfplay_study.yaml"
SOURCES = ("quickstart_composed", "quickstart_unseen", "quickstart_code_composed", "quickstart_code_unseen")
PROBLEMS = {"quickstart_composed": 30, "quickstart_code_composed": 10}


def make_arguments(**values) -> Arguments:
    small = {"problems": json.dumps(PROBLEMS), "seeds": [1, 2]}
    return Arguments(**{**small, "test": json.dumps(dict.fromkeys(SOURCES, 1)), **values})


def test_problems_are_of_the_training_side_and_can_be_checked():
    rows = draw_selfplay_rows(PROBLEMS, seed=3)
    assert len({row["prompt"] for row in rows}) == len(rows) == 40
    for row in rows:
        assert not is_held_out(extract_question(row["prompt"]).removesuffix(programs.INSTRUCTION).strip())
        assert not links_of(tuple(row["kinds"])) & HELD_OUT_LINKS
    program, code = next((row["reference_solution"].partition("#### ")[2], row) for row in rows if "tests" in row)
    for test in code["tests"]:
        done = subprocess.run([sys.executable, "-c", program], input=test["input"], capture_output=True, text=True)
        assert done.stdout.strip() == test["output"].strip()
    assert rows != draw_selfplay_rows(PROBLEMS, seed=4)
    with pytest.raises(InputError, match="quickstart_unseen: its combinations only ever test"):
        draw_selfplay_rows({"quickstart_unseen": 1}, seed=3)
    with pytest.raises(InputError, match=r"quickstart_code_single: 500 problems asked for, .* are to train on"):
        draw_selfplay_rows({"quickstart_code_single": 500}, seed=3)


def test_seeds_drawn_side_by_side_have_their_own_tests():
    """What a reference program prints is its own, whichever thread prints beside it."""
    wanted = {"quickstart_code_composed": 60}
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda seed: draw_selfplay_rows(wanted, seed), range(4)))
    assert drawn == [draw_selfplay_rows(wanted, seed) for seed in range(4)]


def test_compute_counts_samples_reference_and_training():
    samples = [
        {"source": "s", "idx": 0, "run": run, "prompt_tokens": 10, "completion_tokens": 20 + run} for run in range(3)
    ]
    pairs = [{"problem_id": "s/0", "chosen_run": 1, "rejected_run": 2}]
    compute = count_compute(samples, pairs, trained=100)
    assert compute == Compute(sampled=30 + 31 + 32, reference=31 + 32, trained=100)
    assert compute.whole == 93 + 63 + 300
    assert compute.steps_for(MORE, 10) == round(456 / 30)
    assert compute.steps_for(RIGHT, 10) == round((456 - 93) / 30)  # its samples were paid for too
    assert compute.steps_for(RIGHT, 10**6) == 1


def test_a_lucky_answer_is_no_right_working():
    [row] = draw_selfplay_rows({"quickstart_composed": 1}, seed=5)
    thought, _, gold = row["reference_solution"].partition("\n#### ")
    texts = [
        f"<think>\n{thought}\n</think>\nThe answer is \\boxed{{{gold}}}.",
        f"<think>\n{gold}\n</think>\n\\boxed{{{gold}}}",
    ]
    samples = [{**row, "run": run, "completion": text} for run, text in enumerate(texts)]
    program = {"source": "code", "idx": 0, "run": 0, "completion": "x", "tests": [], "prompt": "p"}
    grades = [{"problem_id": "quickstart_composed/0", "run": run, "correct": True, "strict": True} for run in range(2)]
    code = {"problem_id": "code/0", "run": 0, "correct": True}
    checked = check_workings([*samples, program], [*grades, code])
    assert [grade["correct"] for grade in checked] == [True, False, True]
    assert [grade.get("strict") for grade in checked] == [True, False, None]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"problems": '{"aime": 3}'}, "--problems: unknown source"),
        ({"problems": "{}"}, "--problems: none to sample"),
        ({"test": '{"quickstart_composed": 3}'}, "--test: no code problems"),
        ({"seeds": [1]}, "--seeds: at least two, all different"),
        ({"seeds": [1, 1]}, "--seeds: at least two, all different"),
    ],
)
def test_flags_that_no_study_can_use_are_refused(flags: dict, message: str):
    with pytest.raises(InputError, match=message):
        make_arguments(**flags)


def test_a_quickstart_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"--quickstart .*: holds no trained phase2; run scripts/quickstart\.sh first"):
        run_study(make_arguments(quickstart=str(tmp_path), output_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def solves(stage: Stage, problem: str, run: int) -> bool:
    """What the pretended models can do: the arm of preferences all, others maths with seen pairs alone."""
    return (
        stage.name.startswith(f"grade_{DPO}")
        or ("its_own" in stage.name and run % 2 == 0)
        or problem.startswith("quickstart_composed")
    )


def pretend(stage: Stage, folder: Path) -> float:
    """Leave a stage's files without running it; what it reads must be there. Rows are what the programs write."""
    for path in stage.inputs:
        assert path.exists(), f"{stage.name} would read {path}, which no stage has left"
    words = stage.command
    if stage.name == "data":
        rows = [{"idx": 0, "source": source, "prompt": "p", "reference_solution": "#### 1"} for source in SOURCES]
        write_jsonl(
            stage.outputs[0] / "problems.jsonl", [{**r, "tests": {}} if "code" in r["source"] else r for r in rows]
        )
    elif stage.name.startswith("sample_"):
        problems = read_jsonl(words[words.index("--data_path") + 1])
        runs = 2 if "its_own" in stage.name else 1
        told = {"prompt_tokens": 5, "completion_tokens": 7, "finish_reason": "stop", "format_valid": True}
        rows = [{**row, **told, "run": run, "completion": f"run {run}"} for row in problems for run in range(runs)]
        write_jsonl(stage.outputs[0], rows)
        stage.outputs[1].touch()
    elif stage.name.startswith("grade_"):
        rows = [
            {
                "problem_id": (name := f"{row['source']}/{row['idx']}"),
                "run": row["run"],
                "correct": solves(stage, name, row["run"]),
            }
            for row in read_jsonl(stage.inputs[0])
        ]
        write_jsonl(stage.outputs[0], rows)
    elif stage.name.startswith("prefer"):
        samples = [row for path in stage.inputs[1:] if "grades" not in path.name for row in read_jsonl(path)]
        names = {f"{row['source']}/{row['idx']}" for row in samples}
        write_jsonl(stage.outputs[0], [{"problem_id": name, "chosen_run": 0, "rejected_run": 1} for name in names])
        for path in stage.outputs[1:]:
            write_jsonl(path, [{"prompt": "p", "completion": "c"} for _ in names])
        told = {"problems": {"with a pair": len(names)}, "samples": {}, "rows": len(names)}
        write_json(side_path(stage.outputs[0], "run.json"), told)
    else:
        (stage.outputs[0]).mkdir(parents=True, exist_ok=True)
    return 1.0


def test_every_arm_costs_the_same_and_tables_say_what_it_gains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ran: list[Stage] = []

    def run_stage(stage: Stage, folder: Path, **_: object) -> float:
        ran.append(stage)
        return pretend(stage, folder)

    monkeypatch.setattr(selfplay, "run_stage", run_stage)
    (tmp_path / "quickstart/phase2").mkdir(parents=True)
    (tmp_path / "quickstart/phase2/model.safetensors").touch()
    write_jsonl(tmp_path / "quickstart/data/phase2.jsonl", [{"prompt": "p", "completion": "c"}])
    args = make_arguments(quickstart=str(tmp_path / "quickstart"), output_dir=str(tmp_path / "out"), steps=5, jobs=1)
    verdicts, told = run_study(args)

    trained = [stage for stage in ran if stage.name.startswith("train_")]
    assert [stage.name for stage in trained] == [f"train_{selfplay.slug(arm)}" for arm in ARMS] * 2
    assert {stage.command[stage.command.index("--model_name_or_path") + 1] for stage in trained} == {str(args.start)}
    steps = [next(word for word in stage.command if word.startswith("--max_steps")) for stage in trained]
    assert steps == [f"--max_steps={told[seed]['steps'][arm]}" for seed in (1, 2) for arm in ARMS]
    cost = told[1]["compute"]
    assert cost["sampled"] == 40 * 2 * 12
    assert cost["reference"] == 40 * 2 * 12
    for seed in (1, 2):  # a step of phase 2's rows has 8 x 256 tokens, each trained one is three
        assert abs(told[seed]["steps"][MORE] * 3 * 8 * 256 - cost["whole"]) <= 3 * 8 * 256
    rows = [stage.command[stage.command.index("--data_path") + 1] for stage in trained]
    own = [
        [str(tmp_path / f"out/seed_{seed}/{name}.jsonl") for name in ("pairs", "pairs_worked", "right")]
        for seed in (1, 2)
    ]
    again = str(tmp_path / "quickstart/data/phase2.jsonl")
    assert rows == [*own[0], again, *own[1], again]
    samplers = [stage.command for stage in ran if stage.name == "sample_its_own"]
    assert [words[-2:] for words in samplers] == [["--seed", "1"], ["--seed", "2"]]

    assert by_seed(verdicts, DPO, "maths, composed") == {1: 1.0, 2: 1.0}
    assert by_seed(verdicts, MORE, "maths, composed") == {1: 0.5, 2: 0.5}
    assert by_seed(verdicts, MORE, "code, composed") == {1: 0.0, 2: 0.0}
    assert over_problems(verdicts, DPO, MORE, "maths, composed").difference.mean == 0.5
    assert over_seeds(verdicts, DPO, START, "maths, composed").samples == 2
    shares, differences, material = make_tables(verdicts, told)
    assert shares.rows[0][0] == "maths, composed"
    assert shares.rows[0][2].startswith("100.0 ")
    assert [f"{DPO} – {MORE}", "+50.0 +50.0"] == [differences.rows[0][1], differences.rows[0][4]]
    assert [row[0] for row in material.rows] == ["1", "2"]
    assert json.loads(json.dumps(figures(verdicts, told)))["seeds"]["1"]["pairs"] == 40


def test_the_recipe_has_eight_seeds():
    args = parse_args(Arguments, ["--config", str(RECIPE)])
    assert len(args.seeds) == 8
