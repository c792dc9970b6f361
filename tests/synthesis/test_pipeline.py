"""The stages in a row with a scripted model: ten seeds in, kept chains out; killed anywhere, the result is the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.synthesis import STAGES
from promptcot_mamba.synthesis.stage import Context, settings_from
from tests.synthesis.scripted import SETTINGS, ScriptedModel, answer, likelihood


def run(folder: Path, seeds: Path, stages=tuple(SETTINGS), stop_after=None, **changes) -> ScriptedModel:
    """Run stages with one scripted model for every name; it dies after `stop_after` requests."""
    model = ScriptedModel(answer, likelihood, stop_after)
    model.scored = {}

    def score(prompt: str, continuation: str) -> float:
        model.scored[prompt, continuation] = likelihood(prompt, continuation)
        return model.scored[prompt, continuation]

    model.likelihood = score
    context = Context(folder, 0, lambda name: model)
    for name in stages:
        settings_class, function = STAGES[name].load()
        values = {**SETTINGS[name], **changes.get(name, {})}
        if name == "concepts":
            values["seeds"] = str(seeds)
        function(settings_from(settings_class, values, name), context)
    return model


def contents(folder: Path) -> dict[str, list]:
    return {path.name: read_jsonl(path) for path in sorted(folder.glob("*.jsonl")) if path.stat().st_size}


def test_ten_rows_through_every_stage(tmp_path, seeds):
    run(tmp_path / "work", seeds)
    rows = contents(tmp_path / "work")
    assert len(rows["concepts.jsonl"]) == 10
    assert all(len(row["concepts"]) == 2 and row["level"] == "easy" for row in rows["concepts.jsonl"])
    assert len(rows["rationales.jsonl"]) == 30
    chosen = rows["chosen_rationales.jsonl"]
    assert len(chosen) == 10
    for row in chosen:
        rivals = [other for other in rows["rationales.jsonl"] if other["problem_key"] == row["problem_key"]]
        assert row["log_likelihood"] == max(likelihood("", other["rationale"]) for other in rivals)
    assert set(rows["generator_sft.jsonl"][0]) == {"prompt", "completion", "source"}
    sets = rows["concept_sets.jsonl"]
    assert len(sets) == len({row["key"] for row in sets}) == 8
    assert {row["level"] for row in sets} == {"easy", "hard"}
    assert len(rows["problems.jsonl"]) + len(rows["problems.rejected.jsonl"]) == 16
    judged = rows["judgements.jsonl"]
    assert len(judged) == len(rows["problems.jsonl"])
    kept = rows["kept_problems.jsonl"]
    assert [row["key"] for row in kept] == [
        row["key"] for row in judged if set(row["verdicts"].values()) == {"perfect"}
    ]
    verdicts = {row["verdict"] for row in rows["judgements_a.jsonl"]}
    assert verdicts <= {"perfect", "acceptable", "bad", "unparseable"}
    assert rows["teacher_problems.jsonl"][0]["prompt"].endswith("<think>\n")
    info = json.loads((tmp_path / "work" / "kept_problems.run.json").read_text())
    assert info["complete"]
    assert info["problems"] == len(judged)
    assert info["rows"] == len(kept)


def test_a_rationale_is_scored_as_the_text_that_the_generator_trains_on(tmp_path, seeds):
    model = run(tmp_path / "work", seeds, stages=("concepts", "rationales", "choose_rationales", "generator_data"))
    assert len(model.scored) == 30
    trained = read_jsonl(tmp_path / "work/generator_sft.jsonl")
    assert {(row["prompt"], row["completion"]) for row in trained} <= set(model.scored)


@pytest.mark.parametrize(("keep", "count"), [(1.0, 10), (0.55, 5), (0.01, 1)])
def test_only_the_likeliest_share_of_problems_is_kept(tmp_path, seeds, keep, count):
    run(tmp_path, seeds, stages=("concepts", "rationales", "choose_rationales"), choose_rationales={"keep": keep})
    best: dict[str, float] = {}
    for row in read_jsonl(tmp_path / "rationales.jsonl"):
        best[row["problem_key"]] = max(likelihood("", row["rationale"]), best.get(row["problem_key"], -1e9))
    kept = read_jsonl(tmp_path / "chosen_rationales.jsonl")
    assert sorted((row["log_likelihood"] for row in kept), reverse=True) == sorted(best.values(), reverse=True)[:count]
    order = list(best)
    assert [row["problem_key"] for row in kept] == [key for key in order if key in {row["problem_key"] for row in kept}]


@pytest.mark.parametrize("keep", [0, -0.5, 1.01, float("nan"), "half", True, None])
def test_a_share_of_problems_is_a_number_up_to_one(tmp_path, seeds, keep):
    with pytest.raises(InputError, match="keep: expected a share"):
        run(tmp_path, seeds, stages=("concepts", "rationales", "choose_rationales"), choose_rationales={"keep": keep})


@pytest.mark.parametrize("stop_after", [1, 7, 13, 29, 45, 60, 80])
def test_a_killed_run_continues_to_the_same_files(tmp_path, seeds, stop_after):
    run(tmp_path / "whole", seeds)
    with pytest.raises(ConnectionError):
        run(tmp_path / "torn", seeds, stop_after=stop_after)
    run(tmp_path / "torn", seeds)
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


def test_a_complete_run_asks_nothing_again(tmp_path, seeds):
    run(tmp_path / "work", seeds)
    assert run(tmp_path / "work", seeds).backend.asked == []


def test_changed_settings_are_refused_by_name(tmp_path, seeds):
    run(tmp_path / "work", seeds, stages=["concepts"])
    with pytest.raises(InputError, match="k: 2 then, 3 now"):
        run(tmp_path / "work", seeds, stages=["concepts"], concepts={"k": 3})


def test_a_changed_input_is_refused_by_name(tmp_path, seeds):
    run(tmp_path / "work", seeds, stages=["concepts", "rationales"])
    path = tmp_path / "work" / "concepts.jsonl"
    write_jsonl(path, read_jsonl(path)[:5])
    with pytest.raises(InputError, match="concepts_fingerprint"):
        run(tmp_path / "work", seeds, stages=["rationales"])


def test_missing_and_unfinished_inputs_are_named(tmp_path, seeds):
    with pytest.raises(InputError, match=r"concepts\.jsonl: no such file; run the stage"):
        run(tmp_path / "work", seeds, stages=["rationales"])
    with pytest.raises(ConnectionError):
        run(tmp_path / "work", seeds, stages=["concepts"], stop_after=7)
    with pytest.raises(InputError, match=r"concepts\.jsonl: its stage has not finished"):
        run(tmp_path / "work", seeds, stages=["rationales"])


def test_no_survivors_stop_with_counts(tmp_path, seeds):
    run(tmp_path / "work", seeds, stages=list(SETTINGS)[:6])
    path = tmp_path / "work" / "problems.jsonl"
    assert len(read_jsonl(path)) > 0
    nobody = ScriptedModel(lambda prompt, seed: "bad", None)
    context = Context(tmp_path / "work", 0, lambda name: nobody)
    settings_class, judge = STAGES["judge"].load()
    judge(settings_class(models=["a"]), context)
    with pytest.raises(InputError, match=r"no rows survived this stage .*not approved"):
        run(tmp_path / "work", seeds, stages=["filter"])


def test_filter_refuses_to_forget_the_benchmarks(tmp_path, seeds):
    run(tmp_path / "work", seeds, stages=list(SETTINGS)[:7])
    with pytest.raises(InputError, match="benchmarks is empty"):
        run(tmp_path / "work", seeds, stages=["filter"], filter={"allow_no_benchmarks": False})


def test_a_benchmark_named_like_a_stages_file_is_not_taken_for_it(tmp_path, seeds):
    benchmark = tmp_path / "bench" / "problems.jsonl"
    write_jsonl(benchmark, [{"id": "1", "question": "How many ways lead from the river to the old mill?"}])
    run(tmp_path / "work", seeds, filter={"allow_no_benchmarks": False, "benchmarks": [str(benchmark)]})
    assert contents(tmp_path / "work")["teacher_problems.jsonl"]


def test_over_long_and_empty_replies_are_counted(tmp_path, seeds):
    model = ScriptedModel(lambda prompt, seed: "" if seed % 2 else "1. a b c d\n2. " + "x" * 50, None)
    context = Context(tmp_path / "work", 0, lambda name: model)
    settings_class, function = STAGES["concepts"].load()
    with pytest.raises(InputError, match="no rows survived"):
        function(settings_class(seeds=str(seeds), model="m", k=2, max_tokens=20, attempts=1), context)
    reasons = {row["reason"] for row in read_jsonl(tmp_path / "work" / "concepts.rejected.jsonl")}
    assert reasons == {"empty", "over length"}
