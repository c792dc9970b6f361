"""The study of the rounds: flags refused, the order of its stages, its figures from files whose truth is known."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from promptcot_mamba.bench_record import render_record_table
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_json, write_jsonl
from promptcot_mamba.quickstart import em
from promptcot_mamba.quickstart.em import LONGER, WITHOUT, Arguments, Base, SeedRun
from promptcot_mamba.quickstart.em_report import count_pairs, figures, make_tables, measure, pairs_among
from promptcot_mamba.quickstart.road import Stage
from promptcot_mamba.quickstart.solver import solve
from promptcot_mamba.quickstart.synthesis import name_concepts
from promptcot_mamba.run_info import write_run_info

PROBLEM = "Let A be 10 plus 2. Let B be A minus 1. Find B."
ARMS = ["round 0", "round 1", "round 2", LONGER]


def make_arguments(output: Path, **values) -> Arguments:
    counts = {"known": 12, "cold": 6, "teacher_problems": 20, "composed_rows": 20, "single_rows": 5, "rounds": 2}
    return Arguments(**{"test": "{}", "seeds": [1, 2], "jobs": 1, "output_dir": str(output), **counts, **values})


@pytest.mark.parametrize("seeds", [[1], [1, 1], []])
def test_one_seed_says_nothing_of_another(tmp_path: Path, seeds: list[int]):
    with pytest.raises(InputError, match="--seeds: at least two"):
        make_arguments(tmp_path, seeds=seeds)


def pretend(stage: Stage, folder: Path, *, to_log: bool) -> float:
    """Leave a stage's files without running it; what it reads must be there, and its name is its own."""
    record = folder / "stages" / f"{stage.name}.json"
    done = record.exists()
    assert not done or json.loads(record.read_text()) == stage.command, f"two stages are called {stage.name}"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(stage.command))
    for path in stage.inputs:
        assert path.exists(), f"{stage.name} would read {path}, which no stage has left"
    for path in stage.outputs:
        if path.suffix == ".jsonl":
            row = {"prompt": path.stem, "completion": "c", "source": "quickstart_composed", "idx": 0}
            write_jsonl(path, [row | ({"problem_id": "quickstart_composed/0", "correct": True})])
        elif path.suffix != ".json":
            path.mkdir(parents=True, exist_ok=True)
            for name in ("problems.jsonl", "base"):  # the data's
                (path / name).touch()
            write_jsonl(path / "phase1.jsonl", [{"prompt": "p", "completion": "c", "source": "s"}] * 300)
            if path.name.startswith("round_"):
                write_jsonl(path / "judgements.jsonl", [{}])
    return 1.0


def test_every_stage_reads_what_an_earlier_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(em, "run_stage", pretend)
    args = make_arguments(tmp_path)
    seed_runs, verdicts = em.run_study(args)
    assert list(verdicts) == [WITHOUT, *ARMS]
    assert verdicts[LONGER] == {1: {"quickstart_composed/0": True}, 2: {"quickstart_composed/0": True}}
    known, cold = (read_jsonl(tmp_path / "seed_1" / f"{name}.jsonl") for name in ("known", "cold"))
    assert (len(known), len(cold)) == (12, 6)
    assert not {row["problem"] for row in known} & {row["problem"] for row in cold}
    assert known != read_jsonl(tmp_path / "seed_2" / "known.jsonl")

    stages = tmp_path / "seed_1" / "stages"
    rounds = json.loads((stages / "rounds.json").read_text())
    trained = shlex.split(next(word for word in rounds if word.startswith("--train_generator=")))
    at = trained.index("--data_path")
    assert trained[at : at + 4] == [
        "--data_path",
        "{data}",
        str(seed_runs[0].cold / "generator_sft.jsonl"),
        "--output_dir",
    ]
    assert trained[trained.index("--model_name_or_path") + 1] == "{model}"  # what the round before left
    writer = json.loads((stages / "train_cold_writer.json").read_text())
    assert writer[writer.index("--data_path") + 1] == str(seed_runs[0].cold / "writer_rows.jsonl")
    sources = [row["source"] for row in read_jsonl(seed_runs[0].cold / "writer_rows.jsonl")]
    assert sources.count("s") == 300  # all exercises that there are, a fifth
    assert len(sources) == 5 * 300
    settings = json.loads(next(word.partition("=")[2] for word in rounds if word.startswith("--stages=")))
    assert settings["quickstart_judge"] == {"known": str(tmp_path / "seed_1" / "cold.jsonl")}
    steps = {
        next(word for word in json.loads(path.read_text()) if word.startswith("--max_steps="))
        for path in stages.glob("train_students_*.json")
    }
    assert steps == {f"--max_steps={args.phase2_steps}"}


def test_the_control_pays_for_all_rounds(tmp_path: Path):
    """The cold start's 800 and 600 steps, two rounds' 400, the first round's 300 of the writer that the second asks,
    and passes over what was written and scored."""
    seed_run = SeedRun(Base(make_arguments(tmp_path, rounds=2)), 1)
    row = {"model": "m", "attempt": 0, "prompt_tokens": 5000, "completion_tokens": 1144, "outcome": "used"}
    write_jsonl(seed_run.work / "round_1" / "usage" / "rationales.jsonl", [row] * 2)
    write_jsonl(seed_run.work / "round_2" / "usage" / "chosen_rationales.jsonl", [row])
    write_jsonl(seed_run.work / "round_2" / "usage" / "problems.jsonl", [row] * 50)  # every generator writes problems
    assert seed_run.count_longer() == 800 + 600 + 2 * 400 + 300 + 3 * 6144 / (3 * 8 * 256)


def test_variety_is_counted_at_equal_numbers():
    rows = [{"concepts": [f"c{i}", f"c{j}"]} for i in range(20) for j in range(i)]
    assert count_pairs([*rows, {"concepts": ["c1", "c0"]}, {"concepts": ["c3", "c3"]}]) == 190
    assert pairs_among(rows[:40]) == 40
    assert pairs_among(rows + rows, 100) < 100 == pairs_among(rows, 100)


def leave_round(folder: Path, sound: int) -> None:
    """Ten problems asked for, some sound; one that the teacher's majority has right and one that it has wrong."""
    concepts, thought = name_concepts(solve(PROBLEM)), solve(PROBLEM).thought
    rows = [
        {"problem": f"p{i}", "concepts": concepts, "verdicts": {"s": "perfect" if i < sound else "bad"}}
        for i in range(10)
    ]
    write_jsonl(folder / "judgements.jsonl", rows)
    write_run_info(folder / "problems.jsonl", {}, tasks=10)
    chain = {"question": PROBLEM, "prompt": PROBLEM, "finish_reason": "stop", "format_valid": True, "domain": "math"}
    chain |= {"completion_tokens": 9}
    chains = [
        {**chain, "id": name, "run": run, "completion": f"<think>\nso\n</think>\nIt is \\boxed{{{answer}}}."}
        for name, answer in (("right", 11), ("wrong", 12))
        for run in range(4)
    ]
    write_jsonl(folder / "chains.jsonl", chains)
    if folder.name.startswith("round_"):
        written = [{"problem": PROBLEM, "rationale": text} for text in (thought, "no", "no", "no")]
        write_jsonl(folder / "rationales.jsonl", written)
        write_jsonl(folder / "chosen_rationales.jsonl", written[:2])
        write_run_info(folder / "chosen_rationales.jsonl", {}, log_likelihood=-1.5)


def test_figures_say_what_the_files_hold(tmp_path: Path):
    base = Base(make_arguments(tmp_path))
    seed_runs = [SeedRun(base, seed) for seed in (1, 2)]
    for seed_run in seed_runs:
        for arm, sound in zip(ARMS, (2, 4, 6, 3), strict=True):
            leave_round(seed_run.arms[arm], sound)
        for stage, seconds in (("cold_start", 60.0), ("rounds", 540.0 + 60 * seed_run.seed)):
            write_json(seed_run.folder / "stages" / f"{stage}.json", {"seconds": seconds})
    write_json(base.folder / "stages" / "data.json", {"seconds": 120.0})
    verdicts = {arm: {seed: {"a": True, "b": seed == 1} for seed in (1, 2)} for arm in (WITHOUT, *ARMS)}
    told = measure(seed_runs)
    first = told[1]["arms"]
    assert [first[arm]["sound"] for arm in ARMS] == [0.2, 0.4, 0.6, 0.3]
    assert first["round 2"] | {"pairs_among": None} == {
        "asked": 10, "sound": 0.6, "different": 6, "pairs": 1, "pairs_among": None,
        "kept": 2, "kept_right": 1, "unanimous": 2, "unanimous_right": 1, "teacher_problems": 2,
    }  # fmt: skip
    assert told[1]["choices"]["round 1"] == {"written": 0.25, "chosen": 0.5, "log_likelihood": -1.5, "problems": 2}
    text = "\n".join(render_record_table(table) for table in make_tables(told, verdicts))
    assert "60.0 [60.0, 60.0]" in text  # sound
    assert "3.00" in text  # times round 0
    assert "50.0 (2 of 4)" in text  # kept answers, which are those that all agree on: no column of their own
    header, rows = make_tables(told, verdicts)[0].header, make_tables(told, verdicts)[0].rows
    assert header[-1].startswith("kept")
    assert [row[3] for row in rows] == ["-10.0 [-10.0, -10.0]", "+10.0 [10.0, 10.0]", "+30.0 [30.0, 30.0]", "–"]
    assert make_tables(told, verdicts)[-1].rows == [
        ["phase 1 and teacher, once", "2"], ["a seed", "12 (11 to 12)"], ["2 seeds, 1 at once", "25"],
    ]  # fmt: skip
    assert figures(told, verdicts)["students_by_seed"][WITHOUT] == [1.0, 0.5]
    for own in told.values():  # nothing to compare with, nothing that can be right
        own["arms"]["round 0"] |= {"sound": 0.0, "kept": 0, "kept_right": 0}
        own["arms"]["round 1"]["unanimous"] = 0
    rows = make_tables(told, verdicts)[0].rows
    assert [row[2] for row in rows] == ["–"] * len(ARMS)
    assert [row[-2:] for row in rows][:2] == [["–", "50.0 (2 of 4)"], ["50.0 (2 of 4)", "–"]]
