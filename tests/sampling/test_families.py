"""Families of models through their own chat templates, from our problem files to the grades of all seven benchmarks.

The engine is scripted: run 0 answers right, run 1 wrong. Nothing may be called cut off that was not, and no wrong
answer may pass.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import infer_longcot
from promptcot_mamba.benchmarks import BENCHMARKS, fetched, problem_sets
from promptcot_mamba.benchmarks.livecodebench import make_tests
from promptcot_mamba.chat_format import THINKING
from promptcot_mamba.cli import parse_args
from promptcot_mamba.jsonl import Row, read_jsonl, write_json, write_jsonl
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.backend import STOP, Request
from scripts import calc_acc
from tests.sampling.conftest import ROOT
from tests.sampling.families import FAMILIES, make_family
from tests.sampling.scripted import ScriptedBackend

HEAD = '\n\ndef twice(x):\n    """Double x."""\n'
CHECK = "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(0) == 0\n"
FUNCTION = {
    "task_id": "HumanEval/0", "prompt": HEAD, "entry_point": "twice", "canonical_solution": "    return 2 * x\n",
    "test": CHECK,
}  # fmt: skip
STDIN = json.dumps([{"input": "4\n", "output": "5\n", "testtype": "stdin"}])
# One problem a benchmark, in its publisher's schema, and a right and a wrong answer to it.
RAW: dict[str, tuple[Row, str, str]] = {
    "aime24": ({"ID": "2024-I-1", "Problem": "Find a thing.", "Solution": "So.", "Answer": 33}, "033", "34"),
    "aime25": ({"question": "Find another thing.", "answer": "336^\\circ"}, "336", "337"),
    "math500": ({"problem": "Halve one.", "solution": "So.", "answer": "\\frac{1}{2}"}, "0.5", "2"),
    "olympiadbench": (
        {"id": 7, "question": "Solve it.", "solution": ["So."], "final_answer": ["3", "5"], "is_multiple_answer": True,
         "answer_type": "Numerical", "unit": None, "error": None, "subject": "Math"}, "5, 3", "3",
    ),
    "gsm8k": ({"question": "How many apples?", "answer": "so\n#### 1,000"}, "1000", "100"),
    "humaneval": (FUNCTION, "def twice(x):\n    return x + x", "def twice(x):\n    return x"),
    "humanevalplus": (FUNCTION, "def twice(x):\n    return x + x", "def twice(x):\n    return x"),
    "livecodebench": (
        {"question_content": "Add one to N.", "question_id": "abc1_a", "contest_id": "abc1", "starter_code": "",
         "contest_date": "2024-09-01T00:00:00", "public_test_cases": STDIN, "private_test_cases": STDIN,
         "metadata": "{}"}, "print(int(input()) + 1)", "print(int(input()) + 2)",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The problem files of the papers' benchmarks, as `scripts.prepare_problems` writes them."""
    folder = tmp_path_factory.mktemp("data")
    assert list(RAW) == fetched(published=True)
    for members in problem_sets(["paper"]).values():
        rows = [member.publisher.forms[0].convert(RAW[member.name][0], place) for place, member in enumerate(members)]
        write_jsonl(folder / members[0].problem_file, rows)
    tests = make_tests(RAW["livecodebench"][0])
    write_json(folder / "livecodebench_v5_tests/0.json", tests)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, make_family(request.param, tmp_path_factory.mktemp("model") / request.param)


class Answering(ScriptedBackend):
    """Answers as the family would: after a thought where its template has opened one."""

    def __init__(self, thinks: bool):
        super().__init__(8, write=self.answer)
        self.prompts: list[str] = []
        self.thinks = thinks

    def set_sampling(self, sampling: object) -> None:
        """Nothing is drawn."""

    def answer(self, request: Request) -> tuple[str, str, int]:
        self.prompts.append(request.prompt)
        name = next(name for name, (raw, *_) in RAW.items() if statement(raw) in request.prompt)
        answers = RAW[name][1:]
        size = 2 if name in ("aime24", "aime25") else 1  # problems in its file
        said = answers[request.unit // size]
        kind = BENCHMARKS[name].kind
        answer = f"It is $\\boxed{{{said}}}$." if kind == "math" else f"So:\n```python\n{said}\n```"
        text = f"I think of \\boxed{{9}}.\n</think>\n\n{answer}" if self.thinks else answer
        return text, STOP, 9


def statement(raw: Row) -> str:
    """What tells a problem's prompt apart."""
    question = next(raw[key] for key in ("Problem", "question", "problem", "prompt", "question_content") if key in raw)
    return question.strip("\n")


def grades(output: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    flags = ["--benchmark", "paper", "--input_path", str(output), "--data_dir", str(data), "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["calc_acc", *flags])
    assert calc_acc.main() == 0
    return [row for name in problem_sets(["paper"]) for row in read_jsonl(output / f"{name}.grades.jsonl")]


def test_right_answers_are_right_and_wrong_ones_wrong(
    family: tuple[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    name, model = family
    kind = FAMILIES[name]
    engine = Answering(kind.thinks)
    flags = ["--benchmark", "paper", "--data_dir", data, "--output_dir", tmp_path, "--model_path", model]
    flags += ["--use_chat_template", True, "--n", 2, "--max_len", 64]
    assert infer_longcot.main(list(map(str, flags)), lambda plan: engine) == 0
    assert len(engine.prompts) == 2 * len(RAW)
    for prompt in engine.prompts:
        assert prompt.startswith(kind.begins)
        assert prompt.endswith(kind.ends)
        assert ("boxed" in prompt) == ("```python" not in prompt)  # code is asked for code
    for row in grades(tmp_path, data, monkeypatch):
        assert row["correct"] == (row["run"] == 0), row
        assert row["reason"] != "truncated", row
        assert row["thinking"] == ("think" if kind.thinks else "none")
    for name in problem_sets(["paper"]):
        for row in read_jsonl(tmp_path / f"{name}.jsonl"):
            assert row["prompt"] in engine.prompts  # what was sent, not what the problem file holds
            assert row["sent"]["template"].startswith("tokenizer:")
            assert "system" not in row["sent"]
            assert row["sent"]["max_tokens"] == 64
            assert row["format_valid"]
    assert ("thought  100.0 % of the samples have none" in capsys.readouterr().out) == (not kind.thinks)


def test_a_thought_that_never_ends_is_cut_off(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The rule of whole answers must not let a half thought pass."""
    engine = Answering(False)  # answers right away, within the thought that R1's template has opened
    model = make_family("r1_distill", tmp_path / "model")
    flags = ["--benchmark", "paper", "--data_dir", data, "--output_dir", tmp_path, "--model_path", model]
    flags += ["--use_chat_template", True, "--n", 2, "--max_len", 64]
    assert infer_longcot.main(list(map(str, flags)), lambda plan: engine) == 0
    for row in grades(tmp_path, data, monkeypatch):
        assert (row["correct"], row["reason"]) == (False, "truncated")


def test_publishers_own_rows_are_asked_and_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """HumanEval.jsonl as it is published: its `prompt` is a bare head, which grading needs once it was asked about."""
    write_jsonl(tmp_path / "HumanEval.jsonl", [FUNCTION])
    engine = Answering(False)
    model = make_family("qwen2", tmp_path / "model")
    flags = ["--data_path", tmp_path / "HumanEval.jsonl", "--output_path", tmp_path / "x.jsonl", "--model_path", model]
    flags += ["--use_chat_template", True, "--n", 2, "--max_len", 64]
    assert infer_longcot.main(list(map(str, flags)), lambda plan: engine) == 0
    [row, _] = read_jsonl(tmp_path / "x.jsonl")
    assert row["question"] == HEAD
    assert "fenced code block" in row["prompt"]
    monkeypatch.setattr(
        sys, "argv", ["calc_acc", "--benchmark", "humaneval", "--input_path", f"{tmp_path}/x.jsonl", "--workers", "1"]
    )
    assert calc_acc.main() == 0
    assert [grade["correct"] for grade in read_jsonl(tmp_path / "x.grades.jsonl")] == [True, False]


@pytest.mark.parametrize(
    ("recipe", "family", "ends"),
    [
        ("s1.1-7b", "qwen2", "<|im_start|>assistant\n"),
        ("gemma3-12b", "gemma3", "<start_of_turn>model\n"),
        ("r1-distill-qwen-7b", "r1_distill", "<think>\n"),
        ("nemotron-h-8b", "nemotron_h", "<SPECIAL_11>Assistant\n<think></think>"),
        ("qwen3-8b", "qwen3", "<|im_start|>assistant\n"),
        ("qwen2.5-7b-simplerl", "qwen2", " ASSISTANT:\n"),  # not its tokenizer's ChatML
    ],
)
def test_recipes_of_the_tables_rows_run(recipe: str, family: str, ends: str, data: Path, tmp_path: Path):
    """configs/models on a tiny model of the family: their flags are known, their prompts what the publishers send."""
    engine = Answering(FAMILIES[family].thinks)
    model = make_family(family, tmp_path / "model")
    flags = ["--config", ROOT / f"configs/models/{recipe}.yaml", "--benchmark", "math500", "humaneval", "--n", 1]
    flags += ["--data_dir", data, "--output_dir", tmp_path, "--model_path", model, "--max_len", 64]
    assert infer_longcot.main(list(map(str, flags)), lambda plan: engine) == 0
    assert all(prompt.endswith(ends) for prompt in engine.prompts)
    [row] = read_jsonl(tmp_path / "math500.jsonl")
    assert row["thinking"] == ("think" if FAMILIES[family].thinks else "none")
    assert row["sent"]["repetition_penalty"] == 1.0
    wanted = parse_args(
        SamplingArguments, ["--data_path=d", "--output_path=o.jsonl", "--model_path=m", *map(str, flags[:2])]
    )
    assert row["sent"].get("system") == wanted.system_prompt
    assert (row["sent"]["temperature"], row["sent"].get("top_k", 0)) == (wanted.temperature, wanted.top_k)


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs/models").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_one_the_program_takes(recipe: Path):
    flags = ["--data_path=d", "--output_path=o.jsonl", "--model_path=m", "--config", str(recipe)]
    args = parse_args(SamplingArguments, flags)
    assert args.thinking in THINKING
    assert "boxed" not in (args.system_prompt or "")  # it would be said of code too
    assert (args.temperature == 0) <= (args.n == 1)
    assert recipe.read_text().startswith("# ")  # what was read and what was not
    assert re.match(r"(unverified: )?https://[\w.-]+/\S+", args.source), "where its settings come from"
