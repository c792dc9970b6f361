"""Replies as models write them are read exactly or refused with a reason of their own; formats are files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.sampling.backend import Generated
from promptcot_mamba.synthesis import STAGES
from promptcot_mamba.synthesis.asking import read_text
from promptcot_mamba.synthesis.concepts import parse_concepts
from promptcot_mamba.synthesis.faults import STATED, find_fault
from promptcot_mamba.synthesis.judgement import Judgement, parse_judgement
from promptcot_mamba.synthesis.models import ModelBook
from promptcot_mamba.synthesis.problem import parse_problem
from promptcot_mamba.synthesis.rationale import parse_rationale
from promptcot_mamba.synthesis.replies import Rejected, clean_problem, read_pair
from promptcot_mamba.synthesis.stage import Context
from promptcot_mamba.synthesis.templates import load_format
from tests.synthesis.replies_others import CONCEPTS, JUDGEMENTS, RATIONALES
from tests.synthesis.replies_problems import BODIES, all_replies, in_tags, released
from tests.synthesis.scripted import ScriptedModel

PROBLEMS = list(all_replies())


def test_there_are_enough_replies_of_each_kind():
    usable = sum(isinstance(expected, tuple) for _, _, expected in PROBLEMS)
    assert (len(PROBLEMS) >= 300, usable >= 200, len(PROBLEMS) - usable >= 50) == (True, True, True)
    assert len({reply for _, reply, _ in PROBLEMS}) > 300


@pytest.mark.parametrize(("reply", "expected"), [case[1:] for case in PROBLEMS], ids=[case[0] for case in PROBLEMS])
def test_problem_replies(reply, expected):
    got = read_pair(reply)
    if isinstance(expected, tuple):
        assert got == expected
    else:
        assert isinstance(got, Rejected)
        assert expected in got.reason


def test_reasons_are_told_apart():
    reasons = Counter(got.reason for _, reply, _ in PROBLEMS if isinstance(got := read_pair(reply), Rejected))
    assert len(reasons) >= 9
    assert max(reasons.values()) < sum(reasons.values()) / 3


@pytest.mark.parametrize(("reply", "expected"), CONCEPTS)
def test_concept_replies(reply, expected):
    got = parse_concepts(reply, 2)
    if isinstance(expected, list):
        assert got == expected
    else:
        assert isinstance(got, Rejected)
        assert expected in got.reason


@pytest.mark.parametrize(("reply", "expected"), RATIONALES)
def test_rationale_replies(reply, expected):
    got = parse_rationale(reply, 10)
    if isinstance(expected, str):
        assert got == {"rationale": expected}
    else:
        assert isinstance(got, Rejected)
        assert expected[0] in got.reason


@pytest.mark.parametrize(("reply", "verdict", "contradicts", "ratings"), JUDGEMENTS)
def test_judgements(reply, verdict, contradicts, ratings):
    got = parse_judgement(reply)
    if verdict is None:
        assert isinstance(got, Rejected)
    else:
        assert (got.verdict, got.contradicts, len(got.ratings)) == (verdict, contradicts, ratings)


@given(
    st.text(max_size=300), st.sampled_from(["", "<problem>", "<rationale>", "**Problem:** ", '{"problem": "', "1. "])
)
def test_no_text_breaks_a_parser(text, start):
    for parse in (read_pair, lambda reply: parse_concepts(reply, 2), lambda reply: parse_rationale(reply, 3)):
        assert parse(start + text) is not None
    assert isinstance(parse_judgement(start + text), Judgement | Rejected)


@pytest.mark.parametrize(
    "reply",
    [
        "<problem>" * 20_000,
        "[" * 100_000,
        '{"problem": ' * 20_000,
        "**" * 100_000,
        "\n" * 100_000,
        "> " * 50_000,
        "`" * 90_000,
        "Format: good\n" * 30_000 + "Final Judgement: perfect",
        "Solvability" + " - " * 60_000 + "x\nFinal Judgement: perfect",
        "Solvability: " + "perfect " * 30_000 + "x?\nFinal Judgement: perfect",
        "Solvability: x" + " ; perfect" * 30_000 + "\n" + "Rating: 1. " * 20_000 + "\nFinal Judgement: perfect",
    ],
)
def test_long_nonsense_is_refused_at_once(reply):
    assert isinstance(read_pair(reply), Rejected)
    assert isinstance(parse_concepts(reply, 2), Rejected)
    assert isinstance(parse_judgement(reply), Rejected)


def test_latex_in_json_whose_backslashes_are_single():
    reply = (
        '{"rationale": "We take \\frac{1}{2} and \\neq, \\beta.\\nThen go on.", '
        '"problem": "Find $\\theta \\times \\sqrt{2}$."}'
    )
    got = read_pair(reply)
    assert got == ("We take \\frac{1}{2} and \\neq, \\beta.\nThen go on.", "Find $\\theta \\times \\sqrt{2}$.")


SALTS = "Two salt solutions are mixed.\nSolution 1: 200 mL of 0.5 M NaCl\nSolution 2: 300 mL of 1.5 M NaCl\n"
WHOLE = [  # statements with a label of an answer within
    f"{SALTS}Find the final concentration.",
    f"{SALTS}If 0.5 L of water is added, what is the final concentration?",
    SALTS.replace("Solution 1:", "**Solution 1:**").replace("Solution 2:", "**Solution 2:**")
    + "Which one has more salt?",
    "A quiz asks:\nQuestion: is 7 prime?\nAnswer: yes or no.\nIn how many ways can 10 pupils answer?",
    "A tank holds two liquids.\n\n### Solution\n200 g of brine.\n\n### Solvent\n300 g of water.\n\nCompute the share "
    "of salt to 0.1 %.",
    "A form reads\nAnswer: ____\nand takes up to 4 letters; determine\n$$N = \\#\\{\\text{words}\\}.$$",
    "Find the probability.\nGive the answer as\nAnswer: a/b where a and b are coprime.",
    "Find the probability. Give your final answer in the following format:\n\nAnswer: $a/b$ with coprime $a, b$.",
    "Find the least n. The last line should read like\n**Answer:** <number>",
    "问卷写着\n答案：是或否\n求十名学生的答卷种数。",
]
AFTER = [  # what is cut off behind a problem
    "Answer: 42",
    "**Answer:** 42\n\nWould you like a harder one?",
    "Solution: Compute $3 \\cdot 4 = 12$.",
    "Solution:\nWe need to find $x$. Squaring, $x = 4$.\n\nAnswer: 4",
    "### Solution\n\nTo solve it, determine the total first. So the answer is 42.",
    "**Solution:**",
    "Lösung: 42",
    "答案：42",
]


@pytest.mark.parametrize("problem", WHOLE)
def test_a_statement_that_goes_on_behind_an_answers_label_is_whole(problem):
    assert clean_problem(problem) == problem
    assert read_pair(in_tags("why so", problem)) == ("why so", problem)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("problem", [body[1] for body in BODIES] + [WHOLE[0], "Evaluate $3^4$"])
def test_an_answer_behind_a_problem_is_cut_off(problem, after):
    assert clean_problem(f"{problem}\n\n{after}") == problem


@pytest.mark.parametrize(
    "problem",
    [
        "Express the sum in simplest form",
        "Find the sum of the odd numbers below k",
        "Evaluate $3^4$",
        "Find $p$, written as",
        "Find the least n. Give it in the form",
    ],
)
@pytest.mark.parametrize("after", ["Answer: 81", "Answer: $\\frac{1}{2}$", "**Answer:** x = 5", "Answer: \\boxed{k}"])
def test_a_value_is_cut_off_whatever_leads_to_it(problem, after):
    assert clean_problem(f"{problem}\n{after}") == problem
    assert find_fault(f"{problem}\n{after}") == STATED


@pytest.mark.parametrize("problem", WHOLE[-4:-1])
def test_the_form_of_an_answer_is_no_answer(problem):
    assert find_fault(problem) is None
    assert clean_problem(f"{problem}\n\nAnswer: 3/4") == problem
    assert find_fault(f"{problem}\n\nAnswer: 3/4") == STATED


# -- formats --------------------------------------------------------------------------------------------------------


def test_the_released_generators_prompts_and_markup():
    form = load_format("promptcot_release")
    assert form.render_problem(["gcd", "Vieta's formulas"], "HMMT-Feb") == (
        "Given foundational concepts and difficulty level, identify connections and develop a question that integrates "
        "these concepts with appropriate complexity.\n\nFoundational Concepts:\n1. gcd\n2. Vieta's formulas\n\n"
        "Difficulty Level: HMMT-Feb"
    )
    code = load_format("promptcot2_code")
    assert code.render_problem(["graph traversal", "recursion"], "codeforces") == (
        "Given the foundational programming concepts and specified difficulty level, identify connections among these "
        "concepts and develop an olympiad-level coding problem that integrates them with appropriate complexity.\n\n"
        "Foundational Programming Concepts:\n1. graph traversal\n2. recursion\n\nDifficulty Level: codeforces"
    )
    assert form.write("a", "b") == code.write("a", "b") == released("a", "b")
    assert form.render("rationale", problem="p", concepts="c", level="l") == load_format().render(
        "rationale", problem="p", concepts="c", level="l"
    )


@pytest.mark.parametrize("name", ["ours", "promptcot_release", "promptcot2_code"])
@pytest.mark.parametrize("body", BODIES)
def test_what_a_format_writes_is_read_back(name, body):
    form = load_format(name)
    assert read_pair(form.write(*body), form) == body


OWN = """\
reply: |-
  DESIGN: {{rationale}}
  TASK: {{problem}}
  END
prompts:
  problem: |-
    Level {{level}}. Use
    {{concepts}}
"""


def test_a_format_of_ones_own_is_one_file(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    form = load_format(str(path))
    assert form.render_problem(["gcd"], "hard") == "Level hard. Use\n1. gcd"
    path = tmp_path / "ended.yaml"
    path.write_text(OWN + "prompt_end: ' go'\n")
    assert load_format(str(path)).render_problem(["gcd"], "hard") == "Level hard. Use\n1. gcd go"
    for body in BODIES:
        assert read_pair(f"Sure!\n\n{form.write(*body)}\n", form) == body
        assert read_pair(in_tags(*body), form) == body, "what all models are known to write is still read"


@pytest.mark.parametrize("text", ['reply: "R {{rationale}} P {{problem}}"', "prompts: {}", "{}"])
def test_a_format_with_our_problem_prompt_ends_it_as_we_do(tmp_path: Path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert load_format(str(path)).render_problem(["gcd"], "hard") == load_format().render_problem(["gcd"], "hard")
    path = tmp_path / "none.yaml"
    path.write_text("prompt_end: ''")
    assert load_format(str(path)).render_problem(["gcd"], "hard") + "\n" == load_format().render_problem(
        ["gcd"], "hard"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt_end:", 'prompt_end: expected a text ("" for none), found None'),
        ("prompt_end: 5", 'prompt_end: expected a text ("" for none), found 5'),
        ("prompts: {problem: 'Write {{concepts}}'}", "problem: expected a text with {{concepts}}, {{level}}"),
        ("prompts: {judge: 'Rate {{text}} {{concepts}} {{level}}'}", "judge: expected a text with"),
        ("prompts: {essay: x}", "unknown 'essay'"),
        ("replies: x", "unknown 'replies'"),
        ("reply: '<r>{{rationale}}</r>'", "reply: expected a text with {{problem}}, {{rationale}}"),
        ("reply: '{{rationale}} then {{problem}}'", "something must stand before"),
        ("- a", "expected 'key: value' lines"),
        ("prompts: short", "prompts: expected a mapping"),
        ("a: [", "malformed YAML"),
    ],
)
def test_a_wrong_format_is_refused_by_its_line(tmp_path: Path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(
        InputError,
        match=said.replace("{", r"\{").replace("}", r"\}").replace("[", r"\[").replace("(", r"\(").replace(")", r"\)"),
    ):
        load_format(str(path))


def test_an_unknown_format_is_refused_with_the_known_ones_before_anything_runs():
    with pytest.raises(
        InputError, match="models: m: format none: no such format or file; known: ours, promptcot2_code"
    ):
        ModelBook({"m": {"model_path": "x", "format": "none"}})


class Book:
    """One scripted model with a format of its own."""

    def __init__(self, answer, form):
        self.model, self.form = ScriptedModel(answer), form

    def __call__(self, name):
        return self.model

    def format(self, name):
        return self.form


def run_problems(folder: Path, book: Book, **settings) -> Context:
    context = Context(folder, 0, book)
    write_jsonl(context.path("concept_sets"), [{"key": "k", "concepts": ["gcd", "lcm"], "level": "AIME"}])
    settings_class, function = STAGES["problems"].load()
    function(settings_class(model="m", **settings), context)
    return context


def test_a_stage_asks_in_the_models_format_and_reads_its_replies(tmp_path: Path):
    rationale, problem = BODIES[0]
    book = Book(lambda prompt, seed: released(rationale, problem), load_format("promptcot_release"))
    (row,) = run_problems(tmp_path, book).read("problems")
    assert book.model.backend.asked[0].prompt.endswith("Difficulty Level: AIME")
    assert (row["rationale"], row["problem"]) == (rationale, problem)
    assert row["text"] == load_format().write(rationale, problem), "judges see one markup, whoever wrote it"


def test_one_repair_after_the_last_attempt(tmp_path: Path):
    from dataclasses import replace

    def answer(prompt: str, seed: int) -> str:
        if "could not be read: no rationale" in prompt:
            return in_tags(*BODIES[0])
        return f"<problem>{BODIES[0][1]}</problem>"

    book = Book(answer, replace(load_format(), repairs=True))
    context = run_problems(tmp_path, book, attempts=2)
    (row,) = context.read("problems")
    assert row["repaired"]
    assert row["problem"] == BODIES[0][1]
    asked = book.model.backend.asked
    assert [request.attempt for request in asked] == [0, 1, 1]
    assert len({request.seed for request in asked}) == 3
    assert asked[2].prompt.startswith(asked[0].prompt.strip())
    info = json.loads((tmp_path / "problems.run.json").read_text())
    assert (info["requests"], info["asked again"], info["repaired"]) == (3, 2, 1)
    usage = read_jsonl(tmp_path / "usage" / "problems.jsonl")
    assert [(line["attempt"], line.get("repair"), line["outcome"]) for line in usage] == [
        (0, None, "no rationale"),
        (1, None, "no rationale"),
        (1, True, "used"),
    ]


HARMONY = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>"
MARKS = [
    "<think>\n{}\n</think>\n\n{}",
    "{}\n</think>\n{}",
    "[THINK]{}[/THINK]{}",
    HARMONY,
    "analysis{}assistantfinal{}",
]
MARKS += ["<seed:think>{}</seed:think>{}", "◁think▷{}◁/think▷{}", "<thinking>\n{}\n</thinking>\n{}"]
DRAFT = "1. primes\n2. sieve\nSolvability: bad? No, fine.\n**Rationale:** a draft.\n<problem>Find 2.</problem>"
ANSWERS = [  # a stage's reading of an answer with nothing drafted before it
    (lambda text: parse_concepts(text, 2), "1. gcd\n2. lcm"),
    (lambda text: parse_rationale(text, 3), "I take divisors and parity."),
    (parse_judgement, "Solvability: perfect\nFinal Judgement: perfect"),
    (read_pair, in_tags(*BODIES[0])),
    (read_pair, released(*BODIES[0])),
]


def said(text: str, reasoning: str | None = None) -> Generated:
    return Generated(0, text, "stop", 1, 1, 0.0, reasoning=reasoning)


@pytest.mark.parametrize(("parse", "answer"), ANSWERS)
def test_a_thought_in_any_marks_is_no_part_of_a_reply(parse, answer):
    form = load_format()
    expected = parse(answer)
    assert not isinstance(expected, Rejected)
    for marks in MARKS:
        assert parse(read_text("Do it.", said(marks.format(DRAFT, answer)), form)) == expected, marks
    for opened in ("<think>\n", "[THINK]", "<seed:think>"):  # by the chat template
        text = f"{DRAFT}{opened.strip().replace('<', '</').replace('[', '[/')}{answer}"
        assert parse(read_text(f"Do it.{opened}", said(text), form)) == expected, opened
    assert parse(read_text("Do it.", said(answer, reasoning=DRAFT), form)) == expected, "served apart"
    assert parse(read_text("Do it.<think>\n", said(answer, reasoning=DRAFT), form)) == expected
    assert read_text("Do it.", said(answer), form) == answer, "without a thought as it is"
    assert parse(read_text("Do it.", said("<|channel|>final<|message|>" + answer), form)) == expected
    for begun in ("[THINK]", "<think>", "<seed:think>", "<|channel|>analysis<|message|>"):
        cut = parse(read_text("Do it.", said(begun + DRAFT), form))
        assert isinstance(cut, Rejected)
        assert "never closed" in cut.reason
    assert read_text("Do it.", said(" \n", reasoning=DRAFT), form) == "", "all thought"


def test_what_a_form_begins_with_opens_no_thought(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("reply: '<reasoning>{{rationale}}</reasoning><task>{{problem}}</task>'\n")
    form = load_format(str(path))
    whole = form.write("why so", "find b")
    assert read_pair(read_text("Do it.", said(whole), form), form) == ("why so", "find b")
    assert read_pair(read_text("Do it.", said(whole, reasoning=DRAFT), form), form) == ("why so", "find b")
    assert read_pair(read_text("Do it.", said(f"[THINK]{DRAFT}[/THINK]{whole}"), form), form) == ("why so", "find b")


def test_a_stage_reads_past_a_thought_and_does_not_show_it_again(tmp_path: Path):
    from dataclasses import replace

    def answer(prompt: str, seed: int) -> str:
        whole = "could not be read" in prompt
        return f"[THINK]{DRAFT}[/THINK]" + (in_tags(*BODIES[0]) if whole else "only a word")

    book = Book(answer, replace(load_format(), repairs=True))
    (row,) = run_problems(tmp_path, book).read("problems")
    assert (row["rationale"], row["problem"], row["repaired"]) == (*BODIES[0], True)
    assert "only a word" in book.model.backend.asked[1].prompt
    assert "a draft" not in book.model.backend.asked[1].prompt


@pytest.mark.parametrize("reply", ["I'm sorry, but I can't help with that.", ""])
def test_a_refusal_is_not_repaired(tmp_path: Path, reply):
    from dataclasses import replace

    book = Book(lambda prompt, seed: reply, replace(load_format(), repairs=True))
    with pytest.raises(InputError, match="no rows survived"):
        run_problems(tmp_path, book)
    assert len(book.model.backend.asked) == 1


def test_a_repair_that_does_not_fit_keeps_the_first_reason(tmp_path: Path):
    from dataclasses import replace

    book = Book(lambda prompt, seed: "nothing here", replace(load_format(), repairs=True))
    book.model.context, book.model.encode = 180, lambda text: list(range(len(text) // 4))
    with pytest.raises(InputError, match="no rows survived"):
        run_problems(tmp_path, book)
    assert len(book.model.backend.asked) == 1
    (row,) = read_jsonl(tmp_path / "problems.rejected.jsonl")
    assert row["reason"] == "not one rationale and one problem"


def test_raw_generators_are_not_asked_to_repair():
    book = ModelBook({"raw": {"model_path": "x", "chat_template": False}, "chat": {"model_path": "x"}})
    assert (book.format("raw").repairs, book.format("chat").repairs) == (False, True)


def test_parse_problem_keeps_our_markup_as_before():
    assert parse_problem(in_tags("a", "find b")) == {
        "rationale": "a",
        "problem": "find b",
        "text": "<rationale>\na\n</rationale>\n<problem>\nfind b\n</problem>",
    }
