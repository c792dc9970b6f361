"""One row a sample or one row a problem: the same samples are the same predictions, and are graded alike."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptcot_mamba.benchmarks import BENCHMARKS
from promptcot_mamba.benchmarks.code_scoring import CodeOptions, JobMaker
from promptcot_mamba.benchmarks.score_file import score_math_file
from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.predictions import Prediction, read_predictions
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.records import Problem, Sample, grouped_row, problem_id
from promptcot_mamba.report.evaluations import Evaluation
from promptcot_mamba.report.samples import collect_samples
from promptcot_mamba.synthesis.verdicts import judge_by_majority

HEAD = '\n\ndef double(x):\n    """Twice x."""\n'
FUNCTION = {"entry_point": "double", "canonical_solution": "    return 2 * x\n", "test": "def check(f):\n    f(1)\n"}
ASKED = render_prompt("What is 30 + 3?")
SENT = "<|im_start|>user\nWhat is 30 + 3?<|im_end|>\n<|im_start|>assistant\n"
MATHS_TEXTS = (
    "It is \\boxed{33}.",
    "<think>\nhm\n</think>\nIt is \\boxed{33}.",
    "<think>\nhm, \\boxed{32}",
    "<think>\nhm\n</think>\nThe answer",
    "</think>\\boxed{33} <think>",
    "",
)
CODE_TEXTS = (
    "```python\ndef double(x):\n    return 2 * x\n```",
    "<think>\nhm\n</think>\n```python\ndef double(x):\n    return 2 * x",
    "    return x + x\n",
    "<think>\nhm",
)
SETTINGS = {"template": "tokenizer:abc", "temperature": 0.8}
Samples = list[Sample]


@st.composite
def drawn_samples(draw: st.DrawFn, identity: str, texts: tuple[str, ...]) -> Samples:
    """What any runs of one problem left: some spared, some refused, some cut off; of this version or an old one."""
    runs = sorted(draw(st.sets(st.integers(0, 5), min_size=1, max_size=4)))
    sent = draw(st.sampled_from([None, SETTINGS]))
    prompt = None if sent is None else draw(st.sampled_from([ASKED, SENT, HEAD]))
    return [
        Sample(
            identity, run, draw(st.integers(0, 2)), draw(st.integers(0, 9)), draw(st.sampled_from(texts)),
            draw(st.sampled_from(["stop", "length", "loop"])), 5, draw(st.integers(0, 99)), 0.5, draw(st.booleans()),
            prompt, "" if sent is None else draw(st.sampled_from(["", "none", "think"])), sent,
            draw(st.sampled_from([None, (3, 7)])), draw(st.sampled_from([None, 4])),
            draw(st.sampled_from([None, "too long"])),
        )
        for run in runs
    ]  # fmt: skip


MATHS_ROWS = (
    {"idx": 1, "source": "aime2024", "prompt": ASKED, "reference_solution": "#### 33"},
    {"idx": 1, "source": "aime2024", "question": "What is 30 + 3?", "reference_solution": "#### 33"},
    {"source": "aime2024", "prompt": ASKED, "reference_solution": "#### 33"},  # no id: told by its prompt
    # An earlier prediction, sampled again: its own values are none of the new samples'.
    {"idx": 1, "source": "aime2024", "prompt": ASKED, "reference_solution": "#### 33", "run": 3, "completion": "old",
     "finish_reason": "length", "thinking": "none", "seed": 1},
)  # fmt: skip
CODE_ROWS = (
    {"task_id": "HumanEval/0", "source": "humaneval", "prompt": HEAD, **FUNCTION},
    {"task_id": "HumanEval/0", "source": "humaneval", "prompt": ASKED, "question": HEAD, **FUNCTION},
)


def written(folder: Path, row: dict, samples: Samples) -> tuple[Path, Path]:
    """The same samples in both formats."""
    problem = Problem(problem_id(row) or "", row.get("prompt"), row)
    write_jsonl(folder / "rows.jsonl", (sample.to_row(problem) for sample in samples))
    write_jsonl(folder / "grouped.jsonl", [grouped_row(problem, samples)])
    return folder / "rows.jsonl", folder / "grouped.jsonl"


def told(one: Prediction) -> tuple[object, ...]:
    return one.problem_id, one.run, one.completion, one.row, one.source, one.cut_short, one.completion_hash


def timeless(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(MATHS_ROWS).flatmap(lambda row: st.tuples(st.just(row), drawn_samples("", MATHS_TEXTS))))
def test_maths_is_graded_alike_in_both_formats(drawn: tuple[dict, Samples]):
    with tempfile.TemporaryDirectory() as folder:
        paths = written(Path(folder), *drawn)
        read = [[told(one) for one in read_predictions(path)] for path in paths]
        assert read[0] == read[1]
        scored = [score_math_file(path, None, "strict", None) for path in paths]
        graded = [timeless([grade.to_row() for grade in one.grades]) for one in scored]
        assert graded[0] == graded[1]
        assert scored[0].missing == scored[1].missing
        judged = [judge_by_majority(str(path), 0.5) for path in paths]
        for rows, grouped in zip(*judged, strict=True):
            assert [{**vars(one), "line": 0} for one in rows.samples] == [
                {**vars(one), "line": 0} for one in grouped.samples
            ]
        shown = [
            collect_samples(
                [Evaluation("m", {}, {"aime24": [grade.to_row() for grade in one.grades]}, {"aime24": path})], 9
            )["samples"]
            for one, path in zip(scored, paths, strict=True)
        ]
        assert shown[0] == shown[1]
        assert len(shown[0]) == len(read[0])


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(CODE_ROWS).flatmap(lambda row: st.tuples(st.just(row), drawn_samples("", CODE_TEXTS))))
def test_programs_are_cut_out_alike_in_both_formats(drawn: tuple[dict, Samples]):
    """Also below the same head: that of a file of only prompts, of which a template sent something else."""
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for path in written(Path(folder), *drawn):
            maker = JobMaker(path, BENCHMARKS["humaneval"], CodeOptions())
            jobs = [maker.make(one) for one in read_predictions(path)]
            made.append([(job.question_id, job.run, job.code, job.no_code_reason, job.tests_md5) for job in jobs])
    assert made[0] == made[1]


def test_the_head_of_a_program_is_never_the_sent_prompt():
    problem = Problem("HumanEval/0", HEAD, CODE_ROWS[0])
    sample = Sample("HumanEval/0", 0, 0, 1, CODE_TEXTS[2], "stop", 5, 9, 0.5, True, f"{SENT}<think>\n", "none", {})
    assert grouped_row(problem, [sample])["question"] == sample.to_row(problem)["question"] == HEAD
    assert "question" not in grouped_row(Problem("x", None, {"id": "x"}), [sample])


def test_a_list_of_another_tools_completions_is_as_many_runs(tmp_path: Path):
    """What stands beside it holds for each: a `run` of the whole row is no sample's."""
    row = {"idx": 4, "source": "aime2024", "prompt": "q\n<think>\n", "run": 7, "finish_reason": "length", "seed": 3}
    write_jsonl(tmp_path / "x.jsonl", [{**row, "completions": ["a", "<think>b"]}, {**row, "completions": ["c"]}])
    found = read_predictions(tmp_path / "x.jsonl")
    assert [(one.problem_id, one.run, one.completion, one.line) for one in found] == [
        ("aime2024/4", 0, "<think>\na", 1), ("aime2024/4", 1, "<think>b", 1), ("aime2024/4", 2, "<think>\nc", 2)
    ]  # fmt: skip
    assert all(one.cut_short and one.source == "aime2024" for one in found)
    best = {"idx": 5, "completion": "best", "completions": ["a", "best"], "finish_reasons": ["stop", "stop"]}
    write_jsonl(tmp_path / "x.jsonl", [best])
    assert [(one.run, one.completion, one.row) for one in read_predictions(tmp_path / "x.jsonl")] == [(0, "best", best)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"completions": ["a", "b"], "finish_reasons": ["stop"]}, "'finish_reasons' holds 1 values for 2 completions"),
        ({"completions": ["a", 3], "runs": [0, 1]}, "a completion must be text, found int"),
        ({"completions": ["a", "b"], "runs": [0, "1"]}, "'run' must be a whole number from 0, found '1'"),
        ({"completions": "a"}, "missing key 'completion'"),
    ],
)
def test_lists_that_do_not_fit_are_named(row: dict, words: str, tmp_path: Path):
    write_jsonl(tmp_path / "x.jsonl", [{"idx": 0, "completion": "a"}, {"idx": 1, **row}])
    with pytest.raises(InputError, match=rf"x\.jsonl:2: {words}"):
        read_predictions(tmp_path / "x.jsonl")


def test_a_grouped_file_may_be_the_problems_of_the_next(tmp_path: Path):
    """Its lists are the problem's own keys then, and the new samples' take their place."""
    old = grouped_row(Problem("p", "q", {"id": "p", "prompt": "q"}), [
        Sample("p", run, 0, 1, "old", "length", 5, 9, 0.5, False, refusal="no") for run in range(3)
    ])  # fmt: skip
    new = [Sample("p", run, 0, 1, f"new {run}", "stop", 5, 9, 0.5, True) for run in (0, 2)]
    for path in written(tmp_path, json.loads(json.dumps(old)), new):
        found = read_predictions(path)
        assert [(one.run, one.completion, one.cut_short) for one in found] == [(0, "new 0", False), (2, "new 2", False)]
        assert all(one.row.get("refusal") is None for one in found)
    assert len(read_jsonl(tmp_path / "grouped.jsonl")) == 1


@pytest.mark.parametrize("value", [[{"role": "user", "content": "What is 30 + 3?"}], {"text": "?"}, 3])
def test_a_prompt_that_is_no_text_is_named(value: object, tmp_path: Path):
    """Chat messages say not which text the model saw; what ends it decides how a completion is read."""
    good = {"id": "a", "prompt": ASKED, "completion": "</think> \\boxed{33}"}
    write_jsonl(tmp_path / "p.jsonl", [good, {**good, "id": "b", "prompt": value}])
    with pytest.raises(InputError, match=r"p\.jsonl:2: 'prompt' must be the text that was sent, found \w+"):
        read_predictions(tmp_path / "p.jsonl")
