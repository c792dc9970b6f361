"""Grading prediction files in process: which rows are read, how they are graded, which are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import calc_acc_aime
from promptcot_mamba.benchmarks import BENCHMARKS, get_benchmark
from promptcot_mamba.benchmarks.score_file import Options, run_math, score_math_file
from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.summary import detail_lines
from promptcot_mamba.jsonl import read_jsonl, write_json, write_jsonl
from promptcot_mamba.run_info import side_path
from scripts import calc_acc

Row = dict[str, object]


def answer(box: str) -> str:
    return f"<think>\nlet me see, \\boxed{{1}}\n</think>\nSo it is $\\boxed{{{box}}}$."


def row(gold: str = "33", **keys: object) -> Row:
    return {"idx": 0, "prompt": "?", "reference_solution": f"...\n#### {gold}", "source": "aime2024", **keys}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def to_file(*rows: Row) -> Path:
        write_jsonl(tmp_path / "predictions.jsonl", rows)
        return tmp_path / "predictions.jsonl"

    return to_file


def score(path: Path, benchmark: str | None = None, **options: object) -> dict[str, Row]:
    """The figures by title, as the program writes them."""
    chosen = get_benchmark(benchmark) if benchmark else None
    settings = {"expected_runs": 1, "strict_runs": False, "grader": "strict", "compare": None, "markdown": False}
    run_math(str(path), chosen, Options(**{**settings, **options}))
    document = json.loads(path.with_name("predictions.metrics.json").read_text(encoding="utf-8"))
    return {figures["title"]: figures for figures in document["summaries"]}


def test_one_row_a_problem_with_a_list_of_completions(write: Callable[..., Path]):
    path = write(row(completions=[answer("33"), answer("34"), answer("33")]))
    figures = score(path)["AIME 2024"]
    assert figures["samples"] == 3
    assert figures["avg_at_n"]["mean"] == pytest.approx(2 / 3)


SAMPLED = {"attempt": 0, "seed": 5, "finish_reason": "stop", "format_valid": True}  # marks of our sampler
PLAIN = "It is $\\boxed{33}$."


@pytest.mark.parametrize(
    ("keys", "ending"),
    [
        ({}, "truncated"),  # another tool's row: its prompt has opened a thought that never closed
        ({**SAMPLED}, "answered"),  # ours, of a version that kept the problem file's prompt whatever was sent
        ({**SAMPLED, "thinking": "none"}, "answered"),
        ({"completion": f"</think>{PLAIN} <think>", "thinking": "none"}, "answered"),  # the whole of it
        ({"completion": f"<think>\n{PLAIN}", **SAMPLED, "thinking": "think"}, "truncated"),
        ({"completions": [PLAIN, PLAIN], "format_valids": [True, True]}, "answered"),
    ],
)
def test_a_completion_is_read_as_it_was_sampled(write: Callable[..., Path], keys: Row, ending: str):
    """The prompt of a problem file ends in `<think>`; what was sent may have been another."""
    given = keys if "completions" in keys else {"completion": PLAIN, **keys}
    path = write({**row(**given), "prompt": render_prompt("Find it.")})
    figures = score(path)["AIME 2024"]
    assert figures["avg_at_n"]["mean"] == float(ending == "answered")
    assert figures["rates"]["truncated"] == float(ending == "truncated")


def test_rows_without_run_are_numbered_in_order(write: Callable[..., Path]):
    path = write(row(completion=answer("33")), row(completion=answer("34")))
    assert score(path)["AIME 2024"]["over_runs"]["by_run"] == {"0": 1.0, "1": 0.0}


def test_rows_without_id_are_told_apart_by_their_prompts(write: Callable[..., Path]):
    rows = [{**row(completion=answer("33")), "prompt": text} for text in ("a", "b", "a")]
    for one in rows:
        del one["idx"]
    figures = score(write(*rows))["AIME 2024"]
    assert (figures["problems"], figures["samples"]) == (2, 3)


def test_the_prompt_may_have_opened_the_thought(write: Callable[..., Path]):
    path = write(row(completion="still thinking of \\boxed{33}", prompt="question\n<think>\n"))
    assert score(path)["AIME 2024"]["rates"]["truncated"] == 1.0


def test_a_text_that_the_sampler_stopped_is_cut_off_not_unanswered(write: Callable[..., Path]):
    path = write(row(completion="<think>\nso\n</think>\nThe answer", finish_reason="length"))
    assert score(path)["AIME 2024"]["rates"] == {
        "truncated": 1.0,
        "no_answer": 0.0,
        "format_invalid": None,
        "other": {},
    }


@pytest.mark.parametrize("grader", ["strict", "paper"])
@pytest.mark.parametrize("text", ["", "<think>\n", "I can't help with that."])
def test_what_a_server_refused_is_no_cut_off_thought(write: Callable[..., Path], grader: str, text: str):
    """The sampler opens the thought that the prompt opened, and nothing follows."""
    refused = {**SAMPLED, "finish_reason": "refused", "format_valid": False, "thinking": "think"}
    figures = score(write(row(completion=text, **refused), row(completion=answer("33"))), grader=grader)["AIME 2024"]
    assert figures["rates"]["other"] == {"refused": 0.5}
    assert figures["rates"]["truncated"] == figures["rates"]["no_answer"] == 0.0
    assert figures["avg_at_n"]["mean"] == 0.5
    assert "refused 50.0 %" in "\n".join(detail_lines(figures))


def test_the_chosen_grader_heads_the_table_and_both_are_kept(write: Callable[..., Path]):
    path = write(row(completion=answer("3300")))
    for grader, mean in (("strict", 0.0), ("paper", 1.0)):
        figures = score(path, grader=grader)["AIME 2024"]
        assert figures["avg_at_n"]["mean"] == mean
        assert figures["by_grader"] == {"strict": 0.0, "paper": 1.0}


def test_disagreements_are_written_for_a_person(write: Callable[..., Path]):
    path = write(row(completion=answer("3300")), row(completion=answer("33")))
    score(path, expected_runs=2)
    audit = path.with_name("predictions.audit.md").read_text(encoding="utf-8")
    assert "1 of 2 samples" in audit
    assert "aime2024/0 · run 0 · only paper says right" in audit
    assert "`3300`" in audit


def test_olympiadbench_rows_bring_their_types(write: Callable[..., Path]):
    several = {"final_answer": ["$1,3$"], "is_multiple_answer": True, "answer_type": "Numerical"}
    percent = {"final_answer": ["62.5%"], "answer_type": "Numerical"}
    tolerant = {"final_answer": ["4.2"], "answer_type": "Numerical", "unit": "%", "error": "1e-1"}
    rows = [{"id": i, "question": "?", **keys} for i, keys in enumerate((several, percent, tolerant))]
    answers = ("3, 1", "0.625", "4.25")
    path = write(*({**one, "completion": answer(box)} for one, box in zip(rows, answers, strict=True)))
    assert score(path, "olympiadbench")["OlympiadBench"]["avg_at_n"]["mean"] == 1.0


def test_rows_of_other_benchmarks_are_left_out(write: Callable[..., Path]):
    path = write(row(completion=answer("33")), row("5", idx=1, source="aime2025", completion=answer("4")))
    assert list(score(path, "aime25")) == ["AIME 2025"]
    with pytest.raises(InputError, match=r"no row of gsm8k; sources found: aime2024, aime2025"):
        score(path, "gsm8k")


def test_missing_runs_set_the_exit_status_only_when_asked(write: Callable[..., Path]):
    path = write(row(completion=answer("33"), run=1))
    options = Options(expected_runs=3, strict_runs=False, grader="strict", compare=None, markdown=False)
    assert run_math(str(path), None, options) == 0
    options.strict_runs = True
    assert run_math(str(path), None, options) == 1
    assert score_math_file(path, None, "strict", 3).missing.runs == {"aime2024/0": [0, 2]}


def test_problems_that_are_absent_altogether_are_missing_too(write: Callable[..., Path], caplog):
    rows = [row(idx=i, source="math", completion=answer("33")) for i in range(5)]
    options = Options(expected_runs=1, strict_runs=True, grader="strict", compare=None, markdown=False)
    path = write(*rows)
    with caplog.at_level("WARNING", logger="promptcot_mamba"):
        assert run_math(str(path), None, options) == 1
    assert "495 of the 500 problems of math500 have no run at all" in caplog.text
    document = json.loads(path.with_name("predictions.metrics.json").read_text(encoding="utf-8"))
    assert (document["missing_runs"], document["missing_problems"]) == ({}, {"math500": 495})
    whole = [row(idx=i, completion=answer("33")) for i in range(30)]
    assert run_math(str(write(*whole)), None, options) == 0
    assert run_math(str(write(*whole[1:])), None, options) == 1


def test_problems_of_two_sources_with_one_id_are_refused(write: Callable[..., Path]):
    """Files of two benchmarks put together, both numbered from 0: the second's would have the first's gold."""
    first, second = ({"id": 0, "source": source, "prompt": "?"} for source in ("math", "gsm8k"))
    rows = (
        {**one, "reference_solution": f"#### {gold}", "completion": answer(gold)}
        for one, gold in ((first, 1), (second, 2))
    )
    path = write(*rows)
    message = (
        rf"{path}:2: problem 0 of source 'gsm8k' has the id of one of 'math' in line 1; score each source's file alone"
    )
    with pytest.raises(InputError, match=message):
        score(path)
    apart = write(*({"idx": one.pop("id"), **one} for one in map(dict, read_jsonl(path))))
    assert {title: figures["avg_at_n"]["mean"] for title, figures in score(apart).items()} == {
        "MATH-500": 1,
        "GSM8K": 1,
    }


def test_files_without_a_common_problem_are_not_compared(write: Callable[..., Path], tmp_path: Path):
    other = tmp_path / "other.jsonl"
    write_jsonl(other, [row(idx=i, completion=answer("33")) for i in (7, 8)])
    path = write(*(row(idx=i, completion=answer("33")) for i in (1, 2)))
    message = (
        r"no problem of AIME 2024 in common .*: ids aime2024/7, aime2024/8 here, aime2024/1, aime2024/2 there; sample"
    )
    with pytest.raises(InputError, match=message):
        score(path, compare=str(other))
    assert {file.name for file in tmp_path.iterdir()} == {"other.jsonl", "predictions.jsonl"}


def test_files_that_number_other_problems_alike_are_not_compared(write: Callable[..., Path], tmp_path: Path):
    """By id alone the difference would be one between unrelated problems."""
    path, other = write(row("033", completion=answer("33"))), tmp_path / "other.jsonl"
    write_jsonl(other, [row("33", completion=answer("33"))])  # the same number, written otherwise
    score(path, compare=str(other))
    write_jsonl(other, [row("204", completion=answer("204"))])
    message = r"other.jsonl: the answer of problem aime2024/0 is '204' here and '033' in .*: not the same problem"
    with pytest.raises(InputError, match=message):
        score(path, compare=str(other))


def test_one_common_problem_has_a_difference_and_no_interval(write: Callable[..., Path], tmp_path: Path, capsys):
    other = tmp_path / "other.jsonl"
    write_jsonl(other, [row(idx=i, completion=answer("33")) for i in (2, 3)])
    path = write(*(row(idx=i, completion=answer("34")) for i in (1, 2)))
    score(path, compare=str(other))
    text = path.with_name("predictions.compare.json").read_text(encoding="utf-8")
    figures = json.loads(text, parse_constant=pytest.fail)["AIME 2024"]
    assert (figures["difference"]["mean"], figures["unpaired_problems"]) == (1.0, 2)
    assert [figures["difference"]["low"], figures["p_value"], figures["minimum_detectable"]] == [None] * 3
    assert "nan" not in capsys.readouterr().out


def folder_args(folder: Path, *arguments: str) -> list[str]:
    return ["calc_acc", "--input_path", str(folder), *arguments]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--benchmark", "math500", "--time_limit", "1"), "--benchmark math500 is maths: the sandbox's flags"),
        (("--benchmark", "all", "--workers", "1"), "--benchmark math500 is maths: the sandbox's flags"),
        (("--benchmark", "livecodebench", "--grader", "paper"), "--grader is for maths; --benchmark livecodebench"),
    ],
)
def test_a_folder_of_one_kind_refuses_what_a_file_refuses(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch
):
    name = "livecodebench" if "livecodebench" in arguments else "math500"
    write_jsonl(tmp_path / f"{name}.jsonl", [row(source="math", completion=answer("33"))])
    monkeypatch.setattr("sys.argv", folder_args(tmp_path, *arguments))
    with pytest.raises(InputError, match=message):
        calc_acc.main()
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}.jsonl"]


def test_a_folder_of_maths_may_be_told_where_files_lie(tmp_path: Path, monkeypatch):
    write_jsonl(tmp_path / "math500.jsonl", [row(source="math", completion=answer("33"))])
    flags = ("--benchmark", "math500", "--data_dir", str(tmp_path), "--sample_tests", "True")
    monkeypatch.setattr("sys.argv", folder_args(tmp_path, *flags))
    assert calc_acc.main() == 0


def test_the_runs_expected_are_those_that_were_sampled(write: Callable[..., Path]):
    """A greedy recipe makes one sample of a problem, whatever the benchmark's own n is."""
    path = write(row(idx=9, completion=answer("33")))
    assert score_math_file(path, None, "strict", None).missing.runs
    write_json(side_path(path, "run.json"), {"samples": {"n": 1}})
    assert not score_math_file(path, None, "strict", None).missing.runs


def test_a_row_without_a_solution_has_its_answer_as_gold(write: Callable[..., Path]):
    path = write({"id": "a", "question": "2+2?", "answer": 4, "completion": answer("4")})
    scored = score_math_file(path, BENCHMARKS["math500"], "strict", 1)
    assert [grade.correct for grade in scored.grades] == [True]


BAD_ROWS = {
    "no completion": (row(), "missing key 'completion'"),
    "no source": ({**row(completion="x"), "source": None}, "missing key 'source'; known sources: aime2024"),
    "unknown source": (row(completion="x", source="aime1999"), "unknown source 'aime1999'; known: aime2024, aime2025"),
    "code": (row(completion="x", source="humaneval"), "is code; score it with scripts.calc_acc"),
    "no gold": (row(completion="x", reference_solution="so 3"), "must end in '#### answer'"),
    "empty gold": (row("", completion="x"), "no gold answer after"),
    "completion of a wrong type": (row(completion=3), "must be text, found int"),
    "run of a wrong type": (row(completion="x", run="0"), "'run' must be a whole number"),
    "no identity": ({"completion": "x", "source": "math"}, "no id and no 'prompt'"),
    "bad answer type": (
        {"id": 1, "source": "olympiadbench", "completion": answer("1"), "final_answer": ["1"], "answer_type": "Poem"},
        "unknown answer_type 'Poem'",
    ),
    "bad tolerance": (
        {"id": 1, "source": "olympiadbench", "completion": answer("1"), "final_answer": ["1"], "error": "small"},
        "'error' must be a number",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_named_by_line_and_nothing_is_written(name: str, write: Callable[..., Path]):
    bad, message = BAD_ROWS[name]
    path = write(row(idx=9, completion=answer("33")), bad)
    with pytest.raises(InputError) as caught:
        score(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert [file.name for file in path.parent.iterdir()] == ["predictions.jsonl"]


@pytest.mark.parametrize("program", [calc_acc, calc_acc_aime])
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--grader=kind", "--grader kind: must be one of strict, paper"),
        ("--expected_runs=0", "--expected_runs 0: must be at least 1"),
    ],
)
def test_bad_options(program: ModuleType, flag: str, message: str, write: Callable[..., Path]):
    path = write(row(completion="x"))
    with pytest.raises(InputError, match=message):
        parse_args(
            program.Arguments, [*(["--benchmark=aime24"] if program is calc_acc else []), f"--input_path={path}", flag]
        )


GOLDS = {"aime24": "33", "aime25": "336^\\circ", "math500": "\\frac{14}{3}", "gsm8k": "2,125", "olympiadbench": "2n-2"}


@pytest.mark.parametrize("name", [name for name, one in BENCHMARKS.items() if one.kind == "math" and name in GOLDS])
def test_right_wrong_truncated_and_empty_completions(name: str, write: Callable[..., Path]):
    gold, source = GOLDS[name], BENCHMARKS[name].sources[0]
    completions = (answer(gold), answer("999"), f"<think>\n\\boxed{{{gold}}}", "")
    path = write(*(row(gold, source=source, run=run, completion=text) for run, text in enumerate(completions)))
    score(path, name, expected_runs=4)
    grades = [json.loads(line) for line in path.with_name("predictions.grades.jsonl").open()]
    assert [grade["reason"] for grade in grades] == ["right", "wrong", "truncated", "no_answer"]
    assert [grade["extracted"] for grade in grades] == [gold, "999", None, None]


def test_every_benchmark_is_whole():
    sources: list[str] = []
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert (benchmark.read_gold is not None) == (benchmark.kind == "math")
        assert benchmark.n >= 1
        sources += benchmark.sources
    assert len(sources) == len(set(sources))


def test_unknown_benchmarks_are_refused_with_the_known():
    with pytest.raises(InputError, match="unknown benchmark 'hmmt'; known: aime24, aime25, math500"):
        get_benchmark("hmmt")
