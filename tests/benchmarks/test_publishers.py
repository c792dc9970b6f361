"""Publishers' rows -> problem rows: published prompts to the character, tests decoded without running pickles."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path

import pytest

from promptcot_mamba.benchmarks import BENCHMARKS, fetched
from promptcot_mamba.benchmarks.benchmark import Form
from promptcot_mamba.benchmarks.livecodebench import FROM_STDIN, decode_private_tests, frame_of, hash_tests, make_tests
from promptcot_mamba.chat_format import (
    ASSISTANT_START,
    MATH_INSTRUCTION,
    THINK_START,
    TURN_END,
    USER_START,
    extract_question,
    frame_question,
    render_prompt,
)
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math.strict import grade
from promptcot_mamba.jsonl import read_jsonl

PROMPT_END = f"{TURN_END}{ASSISTANT_START}{THINK_START}\n"
TESTS = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}, {"input": "3\n", "output": "4\n", "testtype": "stdin"}]


@pytest.fixture
def benchmarks() -> Path:
    if "PROMPTCOT_BENCHMARKS" not in os.environ:
        pytest.skip("PROMPTCOT_BENCHMARKS is not set: no published problem files to compare with")
    return Path(os.environ["PROMPTCOT_BENCHMARKS"])


def pack(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def split_livecodebench(prompt: str) -> tuple[str, str]:
    """The publisher's `question_content` and `starter_code` of a published prompt."""
    body = prompt.removeprefix(USER_START).removesuffix(PROMPT_END).split("Question: ", 1)[1]
    if body.endswith(FROM_STDIN):
        return body.removesuffix(FROM_STDIN).removesuffix("\n\n"), ""
    question, _, rest = body.rpartition("\n\nYou will use the following starter code")
    return question, rest.split("```python\n", 1)[1].removesuffix("\n```\n\n")


def form_of(name: str, place: int = 0) -> Form:
    return BENCHMARKS[name].publisher.forms[place]


def test_benchmarks_are_whole_and_told_apart():
    assert fetched(published=True) == list(BENCHMARKS)[:8]
    assert fetched(published=False) == ["hmmt25", "aime26"]
    sources = [source for benchmark in BENCHMARKS.values() for source in benchmark.sources]
    assert len(set(sources)) == len(sources)
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert (benchmark.read_gold is None) == (benchmark.kind == "code")
        same_file = [other for other in BENCHMARKS.values() if other.problem_file == benchmark.problem_file]
        if benchmark.publisher:  # they are sampled in one run, by one recipe
            assert {(other.n, str(other.sampling)) for other in same_file} == {(benchmark.n, str(benchmark.sampling))}
    for name in fetched():
        publisher = BENCHMARKS[name].publisher
        assert publisher.licence
        assert publisher.origin.startswith("https://")
        assert publisher.forms[0].repo


def test_livecodebench_prompts_equal_the_published_ones(benchmarks):
    rows = read_jsonl(benchmarks / "livecodebench_test.jsonl")
    assert len(rows) == 279
    starters = 0
    for row in rows:
        question, starter = split_livecodebench(row["prompt"])
        starters += bool(starter)
        assert render_prompt(question, frame_of(starter)) == row["prompt"]
        made = form_of("livecodebench", -1).convert(row, 0)
        assert (made["question"], made["instruction"]) == (question, frame_of(starter))
        assert made == {**row, "question": made["question"], "instruction": made["instruction"]}
    assert starters == 104


def test_aime_rows_equal_the_published_ones(benchmarks):
    rows = read_jsonl(benchmarks / "aime_test.jsonl")
    positions = {"aime2024": 0, "aime2025": 0}
    for row in rows:
        question = row["prompt"].removeprefix(USER_START).removesuffix(f"\n{MATH_INSTRUCTION}{PROMPT_END}")
        solution, _, answer = row["reference_solution"].rpartition("\n#### ")
        source = row["source"]
        if source == "aime2024":
            raw = {"ID": "2024-I-1", "Problem": question, "Solution": solution, "Answer": answer}
        else:
            raw = {"question": question, "answer": answer}
        form = form_of("aime24" if source == "aime2024" else "aime25")
        form.check(raw, "row")
        made = form.convert(raw, positions[source])
        assert made == {**row, "question": question, "instruction": MATH_INSTRUCTION}
        assert extract_question(made["prompt"]) == question
        positions[source] += 1
    assert positions == {"aime2024": 30, "aime2025": 30}


# Official answers, problems 1 to 15 of each contest.
AIME_2024_KEY = {
    "I": (204, 25, 809, 116, 104, 294, 540, 197, 480, 113, 371, 385, 110, 104, 721),
    "II": (73, 236, 45, 33, 80, 55, 699, 127, 902, 468, 601, 23, 321, 211, 315),
}
AIME_PAGE = "https://artofproblemsolving.com/wiki/index.php/2024_AIME_{}_Problems/Problem_{}"


def test_aime_2024_has_one_numbering_whichever_upload_it_comes_from(benchmarks):
    """HuggingFaceH4's rows follow their pages' names (I-1, I-10, ...); the published file begins with II-4."""
    pages = sorted(
        (AIME_PAGE.format(part, n + 1), key) for part, keys in AIME_2024_KEY.items() for n, key in enumerate(keys)
    )
    form = form_of("aime24", 1)
    assert form.repo == "HuggingFaceH4/aime_2024"
    made = {}
    for place, (url, key) in enumerate(pages):
        raw = {"id": 60 + place, "problem": url, "solution": "So.", "answer": str(key), "url": url, "year": "2024"}
        form.check(raw, "row")
        row = form.convert(raw, place)
        made[row["idx"]] = BENCHMARKS["aime24"].read_gold(row).answer
    known = [row for row in read_jsonl(benchmarks / "aime_test.jsonl") if row["source"] == "aime2024"]
    assert made == {row["idx"]: BENCHMARKS["aime24"].read_gold(row).answer for row in known}
    tetrahedron, hexagon = (form.convert({**raw, "url": AIME_PAGE.format("I", n)}, 0)["idx"] for n in (14, 5))
    assert ("AB=CD" in known[tetrahedron]["prompt"], "collinear" in known[hexagon]["prompt"]) == (True, True)


@pytest.mark.parametrize("url", [AIME_PAGE.format("I", 16), "https://example.com/2023_AIME_I_Problems/Problem_1", "x"])
def test_an_aime_row_of_no_known_page_is_refused(url: str):
    raw = {"problem": "?", "solution": "So.", "answer": "1", "url": url}
    with pytest.raises(InputError, match="column 'url' names no problem of AIME 2024"):
        form_of("aime24", 1).convert(raw, 0)


@pytest.mark.parametrize("value", [None, float("nan"), "", " "])
def test_an_answer_that_is_missing_is_no_gold(value: object):
    with pytest.raises(InputError, match="column 'Answer' is empty"):
        form_of("aime24").convert({"ID": "2024-II-4", "Problem": "?", "Solution": "So.", "Answer": value}, 0)


@pytest.mark.parametrize(("value", "gold"), [(33, "33"), (33.0, "33"), (0.0, "0"), ("033", "033"), (2.5, "2.5")])
def test_a_whole_answer_is_whole_in_any_column(value: object, gold: str):
    row = form_of("aime24").convert({"ID": "2024-II-4", "Problem": "?", "Solution": "So.", "Answer": value}, 0)
    assert row["reference_solution"].endswith(f"#### {gold}")


def test_livecodebench_row_carries_position_and_md5_of_its_tests():
    raw = {
        "question_content": "Add one.", "question_id": "abc1_a", "contest_id": "abc1", "starter_code": "",
        "contest_date": "2024-08-03T00:00:00", "public_test_cases": json.dumps(TESTS[:1]),
        "private_test_cases": pack(json.dumps(TESTS[1:])), "metadata": "{}",
    }  # fmt: skip
    form = form_of("livecodebench")
    form.check(raw, "row")
    row = form.convert(raw, 559)
    tests = make_tests(raw)
    assert json.loads(tests["input_output"]) == {"inputs": ["1\n", "3\n"], "outputs": ["2\n", "4\n"], "fn_name": None}
    assert row["global_id"] == 559
    assert row["tests"] == {"fname": "559.json", "md5": hash_tests(tests)}
    assert form.convert({**raw, "contest_date": "2024-07-31T00:00:00"}, 1) is None
    functional = make_tests({**raw, "metadata": json.dumps({"func_name": "addOne"})})
    assert json.loads(functional["input_output"])["fn_name"] == "addOne"


def test_private_tests_are_plain_json_or_a_packed_text():
    assert decode_private_tests(json.dumps(TESTS)) == TESTS
    assert decode_private_tests(pack(json.dumps(TESTS))) == TESTS


class _Touches:
    """What a hostile pickle looks like: it calls a function when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path):
    with pytest.raises(InputError, match="the pickle asks for"):
        decode_private_tests(pack(_Touches(tmp_path / "ran")))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "encoded",
    [
        "not base64!",
        base64.b64encode(b"no zlib").decode(),
        pack(["a list"]),
        pack("{not json"),
        '{"a": 1}',
        pack('["x"]'),
    ],
)
def test_private_tests_of_another_shape_are_refused(encoded):
    with pytest.raises(InputError, match="private_test_cases"):
        decode_private_tests(encoded)


@pytest.mark.parametrize(
    ("metadata", "name"),
    [('{"func_name": "f"}', "f"), ({"func_name": "f"}, "f"), ("null", None), (None, None), ("", None), ("{}", None)],
)
def test_metadata_names_a_function_or_none(metadata: object, name: str | None):
    raw = {"public_test_cases": json.dumps(TESTS), "private_test_cases": json.dumps(TESTS), "metadata": metadata}
    assert json.loads(make_tests(raw)["input_output"])["fn_name"] == name
    assert make_tests(raw | {"public_test_cases": TESTS}) == make_tests(raw)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("public_test_cases", "[{", "not JSON"), ("public_test_cases", "null", "expected a list"),
        ("public_test_cases", "", "not JSON"), ("public_test_cases", None, "expected a list"),
        ("public_test_cases", '[{"input": "1"}]', "expected a list of {input, output, testtype}"),
        ("private_test_cases", '[{"input": "1"}]', "expected a list of {input, output, testtype}"),
        ("metadata", "{", "not JSON"), ("metadata", "[1]", "expected an object"),
    ],
)  # fmt: skip
def test_columns_of_another_shape_are_named(column: str, value: object, words: str):
    raw = {"public_test_cases": json.dumps(TESTS), "private_test_cases": json.dumps(TESTS), "metadata": "{}"}
    with pytest.raises(InputError, match=rf"^{column}: .*{words}"):
        make_tests({**raw, column: value})


def test_truncated_private_tests_are_refused():
    whole = base64.b64decode(pack(json.dumps(TESTS * 50)))
    with pytest.raises(InputError, match="truncated"):
        decode_private_tests(base64.b64encode(whole[:-9]).decode())


def test_foreign_chat_markers_are_rendered_in_ours():
    raw = {
        "idx": 3,
        "prompt": "<\uff5cbegin\u2581of\u2581sentence\uff5c>Please reason step by step, and put your final answer "
        "within \\boxed{{}}.<\uff5cUser\uff5c>What is $1+1$?<\uff5cAssistant\uff5c>",
        "reference_solution": "#### 2",
        "source": "math",
    }
    form = form_of("math500", -1)
    prompt = f"{USER_START}What is $1+1$?\n{MATH_INSTRUCTION}{PROMPT_END}"
    asked = {"prompt": prompt, "question": "What is $1+1$?", "instruction": MATH_INSTRUCTION}
    assert form.convert(raw, 3) == {**raw, **asked}


def test_math_forms_put_the_gold_after_the_mark():
    row = form_of("math500").convert({"problem": "p", "solution": "s", "answer": "7", "unique_id": "u"}, 5)
    assert row["reference_solution"] == "s\n#### 7"
    assert (row["idx"], row["unique_id"], row["source"]) == (5, "u", "math")
    row = form_of("gsm8k").convert({"question": "q", "answer": "so\n#### 1,000"}, 2)
    assert row["reference_solution"] == "so\n#### 1,000"
    with pytest.raises(InputError, match="schema"):
        form_of("gsm8k").convert({"question": "q", "answer": "so"}, 2)
    raw = {
        "id": 1606, "question": "Find $n$.", "context": None, "solution": ["Because."], "final_answer": ["3", "5"],
        "is_multiple_answer": True, "unit": None, "answer_type": "Numerical", "error": None, "subfield": "Algebra",
    }  # fmt: skip
    row = form_of("olympiadbench").convert(raw, 0)
    assert row["reference_solution"] == "Because.\n#### 3, 5"
    assert BENCHMARKS["olympiadbench"].read_gold(row).answer == "3, 5"


def test_humaneval_keeps_the_functions_head():
    head = 'def f(x):\n    """Add one."""\n'
    raw = {"task_id": "HumanEval/0", "prompt": head, "entry_point": "f", "canonical_solution": "", "test": "pass"}
    row = form_of("humaneval").convert(raw, 0)
    assert row["question"] == head
    assert head.strip("\n") in row["prompt"]
    assert row["prompt"].endswith(PROMPT_END)
    assert row["task_id"] == "HumanEval/0"
    assert "boxed" not in row["instruction"]
    assert row["prompt"] == f"{USER_START}{frame_question(head, row['instruction'])}{PROMPT_END}"


def test_an_instruction_frames_the_question_or_follows_it():
    assert frame_question("Q?", "Say it.") == "Q?\nSay it."
    assert frame_question("\n\ndef f():\n", "Do:\n```\n{question}\n```") == "Do:\n```\ndef f():\n```"
    assert frame_question("as {question}", "<{question}>") == "<as {question}>"
    assert frame_question("Q?", "") == "Q?"


# Golds as MathArena/hmmt_feb_2025 writes them, with answers that equal them and answers that do not.
HMMT_ANSWERS = [
    ("103", "103", "104"),
    (r"\frac{1}{576}", r"\tfrac{1}{576}", r"\frac{1}{567}"),
    (r"1-\frac{2}{\pi}", r"\frac{\pi-2}{\pi}", r"\frac{2}{\pi}-1"),
    (r"\frac{9 \sqrt{23}}{23}", r"\frac{9}{\sqrt{23}}", r"\frac{9}{23}"),
    (r"2^{25} \cdot 26!", r"26! \cdot 2^{25}", r"2^{26} \cdot 25!"),
    (r"\frac{-1+\sqrt{17}}{2}, \frac{-1-\sqrt{17}}{2}", r"\frac{-1-\sqrt{17}}{2}, \frac{-1+\sqrt{17}}{2}",
     r"\frac{-1+\sqrt{17}}{2}"),
    (r"\frac{-1+\sqrt{17}}{2}, \frac{-1-\sqrt{17}}{2}", r"\frac{-1\pm\sqrt{17}}{2}", r"\frac{1\pm\sqrt{17}}{2}"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "right", "wrong"), HMMT_ANSWERS)
def test_hmmt_golds_of_every_kind_are_graded(gold: str, right: str, wrong: str):
    row = form_of("hmmt25").convert({"problem_idx": 9, "problem": "Find it.", "answer": gold}, 0)
    assert (row["idx"], row["source"]) == (9, "hmmt_feb_2025")
    read = BENCHMARKS["hmmt25"].read_gold(row)
    assert read.answer == gold
    assert grade(read, right).equal
    assert not grade(read, wrong).equal


def test_aime_2026_answers_are_integers():
    row = form_of("aime26").convert({"problem_idx": 1, "problem": "Find it.", "answer": 277}, 0)
    gold = BENCHMARKS["aime26"].read_gold(row)
    assert (gold.answer, gold.rules.type) == ("277", "integer")
    with pytest.raises(InputError, match="column 'answer' is empty"):
        form_of("aime26").convert({"problem_idx": 1, "problem": "Find it.", "answer": ""}, 0)
