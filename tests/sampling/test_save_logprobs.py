"""--save_logprobs: what the model thought of each token it drew, beside the samples, whatever interrupts the run."""

from __future__ import annotations

import json
import math
import random
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import infer_longcot
from promptcot_mamba.benchmarks.score_file import score_math_file, write_scores
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.report.evaluations import load_evaluation
from promptcot_mamba.report.figures import draw_figures
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling import scheduler
from promptcot_mamba.sampling.backend import Request, SamplingSettings
from promptcot_mamba.sampling.endpoint_answers import add_scores
from promptcot_mamba.sampling.endpoint_protocol import payload
from promptcot_mamba.token_scores import TOP, TokenScores, entropy_of, mean, read_scores
from tests.sampling.conftest import comparable, kill_when_grown, write_problems
from tests.sampling.scripted import TokenBackend, score_of
from tests.sampling.test_continue import TOKENIZER, run_slowly


@pytest.fixture
def flags(checkpoint: Path, tmp_path: Path):
    problems = write_problems(tmp_path / "problems.jsonl", 5)

    def make(output: Path, **changed: object) -> list[str]:
        values = {"data_path": problems, "output_path": output, "model_path": checkpoint, "n": 4, "max_len": 900}
        return [f"--{name}={value}" for name, value in (values | {"save_logprobs": True} | changed).items()]

    return make


def saved(output: Path) -> dict[tuple[str, int, int], TokenScores]:
    rows = read_jsonl(side_path(output, "logprobs.jsonl"))
    return {(row["problem_id"], row["run"], row["attempt"]): TokenScores.unpack(row) for row in rows}


@given(st.lists(st.floats(-60, 0, width=16)), st.lists(st.floats(0, 12, width=16)))
def test_a_line_gives_back_what_was_packed(logprobs: list[float], entropies: list[float]):
    scores = TokenScores()
    scores.add(logprobs, entropies[: len(logprobs)])
    scores.entropies.extend([math.nan] * (len(logprobs) - len(scores.entropies)))
    again = TokenScores.unpack(json.loads(json.dumps(scores.pack())))
    assert again.logprobs == scores.logprobs
    assert [value for value in again.entropies if value == value] == entropies[: len(logprobs)]


def test_impossible_and_unknown_values_survive():
    scores = TokenScores()
    scores.add([-math.inf, -1e30, math.nan, -0.0001], [0.0, 1e9, math.nan, 2.5])
    again = TokenScores.unpack(scores.pack())
    assert list(again.logprobs[:2]) == [-65504.0, -65504.0]
    assert math.isnan(again.logprobs[2])
    assert again.logprobs[3] == pytest.approx(-0.0001, rel=1e-2)
    assert mean(again.entropies) == pytest.approx((65504 + 2.5) / 3)
    assert mean([math.nan]) is None


def test_an_entropy_is_a_lower_bound_that_is_tight_where_little_is_left():
    numbers = random.Random(3)
    for sharpness in (0.5, 2.0, 8.0):
        weights = sorted((math.exp(sharpness * numbers.gauss(0, 1)) for _ in range(500)), reverse=True)
        logprobs = [math.log(weight / sum(weights)) for weight in weights]
        whole = -sum(value * math.exp(value) for value in logprobs)
        rest = sum(math.exp(value) for value in logprobs[TOP:])
        given = entropy_of(logprobs[:TOP])
        assert given <= whole + 1e-9
        assert whole - given <= rest * math.log(500 - TOP) + 1e-9
    assert entropy_of([0.0]) == 0.0
    assert entropy_of([math.log(0.5), math.log(0.5), -math.inf]) == pytest.approx(math.log(2))


def test_every_sample_has_a_score_for_each_token(flags, tmp_path: Path):
    plain, scored = tmp_path / "plain.jsonl", tmp_path / "scored.jsonl"
    for output, asked in ((plain, False), (scored, True)):
        how = flags(output, save_logprobs=asked, thinking_budget=150)
        assert infer_longcot.main(how, make_backend=lambda plan: TokenBackend(TOKENIZER)) == 0
    assert comparable(plain) == comparable(scored)
    assert not side_path(plain, "logprobs.jsonl").exists()
    found, rows = saved(scored), read_jsonl(scored)
    closing = len(TOKENIZER("\n</think>\n\n", add_special_tokens=False)["input_ids"])
    assert any("thought_closed" in row for row in rows)
    for row in rows:
        scores = found[f"made/{row['idx']}", row["run"], 0]
        assert len(scores) == row["completion_tokens"]
        unknown = sum(value != value for value in scores.logprobs)
        assert unknown == (min(closing, len(scores) - 150) if "thought_closed" in row else 0)


def test_samples_that_were_made_without_are_counted(flags, tmp_path: Path, caplog):
    output = tmp_path / "x.jsonl"
    for n, asked, lacking in ((1, False, None), (1, True, 5), (3, True, 5), (3, True, 5)):
        caplog.clear()
        how = flags(output, n=n, save_logprobs=asked)
        assert infer_longcot.main(how, make_backend=lambda plan: TokenBackend(TOKENIZER)) == 0
        said = f"--save_logprobs: x.logprobs.jsonl has nothing of {lacking} sample(s) that are made already"
        assert (said in caplog.text) == (lacking is not None)


def test_a_damaged_line_is_moved_aside_and_none_stands_twice(flags, tmp_path: Path, caplog):
    """One that could not be read was told, on every rerun, as a sample that was made without the flag."""
    output = tmp_path / "x.jsonl"
    path = side_path(output, "logprobs.jsonl")
    again = flags(output)
    assert infer_longcot.main(again, make_backend=lambda plan: TokenBackend(TOKENIZER)) == 0
    before, lines = saved(output), path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[3][:50] + b"\n", *lines[4:], lines[5][:-30]]))
    rows = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(rows[2:]))  # two samples are lost, and drawn again
    assert infer_longcot.main(again, make_backend=lambda plan: TokenBackend(TOKENIZER)) == 0
    assert f"{path}:4: unreadable" in caplog.text
    assert f"{path}:{len(lines) + 1}: unreadable" in caplog.text
    assert "x.logprobs.jsonl has nothing of 1 sample(s)" in caplog.text
    damaged = side_path(path, "damaged.jsonl").read_bytes().splitlines()
    assert damaged == [lines[3][:50], lines[5][:-30]]
    lost = json.loads(lines[3])
    after = saved(output)
    assert len(path.read_bytes().splitlines()) == len(after)
    drawn_again = {(f"made/{row['idx']}", row["run"]) for row in map(json.loads, rows[:2])}
    if (lost["problem_id"], lost["run"]) not in drawn_again:
        before.pop((lost["problem_id"], lost["run"], lost["attempt"]))
    assert {key: list(each.logprobs) for key, each in after.items()} == {
        key: list(each.logprobs) for key, each in before.items()
    }
    caplog.clear()
    assert infer_longcot.main(again, make_backend=lambda plan: TokenBackend(TOKENIZER)) == 0
    assert "unreadable" not in caplog.text


@pytest.mark.parametrize("segment_len", [None, 64])
def test_scores_outlive_kills_like_the_tokens_they_are_of(flags, tmp_path: Path, monkeypatch, segment_len: int | None):
    """The made scores follow from a request's seed and the place in it, so a wrong join would show."""
    monkeypatch.setattr(scheduler, "SAVE_SECONDS", 0.02)
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    how = {"n": 16} | ({} if segment_len is None else {"segment_len": segment_len})
    assert infer_longcot.main(flags(whole, **how), make_backend=lambda plan: TokenBackend(TOKENIZER)) == 0
    numbers = random.Random(2)
    for _ in range(4):
        again, kept = partial(run_slowly, flags(killed, **how)), side_path(killed, "partial.jsonl")
        kill_when_grown(again, kept, numbers.randrange(1, 6000))
    last = TokenBackend(TOKENIZER)
    assert infer_longcot.main(flags(killed, **how), make_backend=lambda plan: last) == 0
    assert any(len(request.kept) for request in last.submitted)
    found, reference, continued = saved(killed), saved(whole), 0
    for row in read_jsonl(killed):
        key = (f"made/{row['idx']}", row["run"], 0)
        assert len(found[key]) == row["completion_tokens"]
        assert not any(value != value for value in found[key].logprobs)
        if "continued" not in row:
            assert found[key].logprobs == reference[key].logprobs
            continue
        continued += 1
        first, [request] = row["continued"][0], [
            each for each in last.submitted if each.unit == row["run"] * 5 + row["idx"]
        ] or [None]  # fmt: skip
        assert found[key].logprobs[: min(first, 5)] == reference[key].logprobs[: min(first, 5)]
        if request is not None:
            at, ids = len(request.kept), [score_of(request.seed, 1, token) for token in range(65, 91)]
            assert found[key].logprobs[at] in [*ids, score_of(request.seed, 1, TOKENIZER.eos_token_id)]
    assert continued == 0 if segment_len else continued > 0


def test_grades_say_how_sure_the_model_was_and_a_damaged_line_is_left_out(flags, tmp_path: Path, caplog):
    output = tmp_path / "x.jsonl"
    problems = [
        {"id": f"p{i}", "source": "gsm8k", "question": "1 + 1?", "answer": "#### 2", "solution": "#### 2"}
        for i in range(2)
    ]
    write_jsonl(tmp_path / "maths.jsonl", problems)
    how = flags(output, data_path=tmp_path / "maths.jsonl", n=12)
    assert infer_longcot.main(how, make_backend=lambda plan: TokenBackend(TOKENIZER)) == 0
    path = side_path(output, "logprobs.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0][:40], *lines[1:]]) + "\n")
    scored = score_math_file(output, None, "strict", 12)
    grades = scored.grades
    assert "logprobs.jsonl:1: unreadable" in caplog.text
    lost = json.loads(lines[0])
    for grade in grades:
        known = (grade.problem_id, grade.run) != (lost["problem_id"], lost["run"])
        assert (grade.extra.get("mean_logprob") is not None) == known
        assert not known or grade.extra["mean_entropy"] == -grade.extra["mean_logprob"]
    assert read_scores(tmp_path / "nowhere.jsonl") == {}

    def scored_rows(rows: list[dict]) -> int:
        write_jsonl(path, rows)
        return sum("mean_logprob" in grade.extra for grade in score_math_file(output, None, "strict", 12).grades)

    rows = [json.loads(line) for line in lines]
    older = [{name: value for name, value in row.items() if name != "completion_crc"} for row in rows]
    assert scored_rows(rows) == scored_rows(older) == len(rows)
    assert scored_rows([row | {"completion_crc": row["completion_crc"] ^ 1} for row in rows]) == 0  # of another run
    write_jsonl(path, rows)

    write_scores(scored, {})
    sections = draw_figures([load_evaluation("m", tmp_path)])
    assert "Confidence against correctness" in [section.title for section in sections]


COMPLETIONS = {  # vLLM and OpenAI
    "tokens": ["token_id:5", "token_id:9"], "token_logprobs": [-0.5, None], "text_offset": [0, 1],
    "top_logprobs": [{"token_id:5": -0.5, "token_id:6": -1.5}, None],
}  # fmt: skip
CHAT = {  # OpenAI's chat, and llama.cpp for both
    "content": [
        {"token": "a", "logprob": -0.5, "bytes": [97],
         "top_logprobs": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]},
        {"token": "b", "logprob": None, "top_logprobs": []},
    ]
}  # fmt: skip


@pytest.mark.parametrize("given", [COMPLETIONS, CHAT])
def test_what_servers_tell_is_read_in_either_form(given: dict):
    scores = TokenScores()
    add_scores(scores, {"logprobs": given})
    assert scores.logprobs[0] == -0.5
    assert scores.entropies[0] == pytest.approx(entropy_of([-0.5, -1.5]))
    assert math.isnan(scores.logprobs[1])
    assert math.isnan(scores.entropies[1])
    for nothing in (None, [], "no", {"content": None}, {"token_logprobs": None}, {}):
        add_scores(scores, {"logprobs": nothing})
    assert len(scores) == 2


def test_servers_are_asked_as_each_understands():
    plain = Request(0, 0, 1, "x", [1], 10)
    asked = Request(0, 0, 1, "x", [1], 10, scores=TokenScores())
    sampling = SamplingSettings(0.8, 0.95, 1.0, (2,))

    def body(request: Request, **how: bool) -> dict:
        return payload(request, sampling, "m", stream=False, **how)

    assert "logprobs" not in body(plain, is_vllm=True)
    assert body(asked, is_vllm=True)["logprobs"] == TOP
    assert body(asked, is_vllm=True)["return_tokens_as_token_ids"]
    assert body(asked, is_vllm=False)["logprobs"] == 5
    chat = body(asked, is_vllm=False, chat=True)
    assert (chat["logprobs"], chat["top_logprobs"]) == (True, TOP)
