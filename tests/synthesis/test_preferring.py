"""Which samples become rows, and that every sample and problem is accounted for."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError
from promptcot_mamba.synthesis import preferring
from promptcot_mamba.synthesis.preferring import MATCHES, Choice, choose_rows
from promptcot_mamba.synthesis.verdicts import NO_GRADE, Judged, Tried


def sample(problem: str, run: int, right: bool, text: str | None = None, **more) -> Judged:
    row = {"prompt": f"What is {problem}?", "source": "made", "domain": "math", **more.pop("row", {})}
    told = {"cut_short": False, "format_valid": True, "tokens": 10 + run, "line": run + 1, **more}
    text = f"<think>\nrun {run}\n</think>\n{right}" if text is None else text
    return Judged(problem, run, text, right, row=row, **told)


def choice(**changes) -> Choice:
    values = {"pairs": 1, "answers": 1, "match": "random", "band": (0.0, 1.0), "seed": 3, **changes}
    return Choice(**values)


RIGHT_AND_WRONG = Tried("p", [sample("p", run, run < 3) for run in range(5)])

a_sample = st.fixed_dictionaries(
    {
        "right": st.booleans(),
        "text": st.one_of(st.none(), st.sampled_from(["", "<think>\n", "same", "<think>\nsame", "other"])),
        "cut_short": st.booleans(),
        "format_valid": st.booleans(),
        "tokens": st.integers(1, 50),
    }
)
problems_of = st.lists(
    st.tuples(st.lists(a_sample, min_size=1, max_size=9), st.sampled_from([None, None, None, NO_GRADE])), max_size=5
)


@given(
    drawn=problems_of,
    pairs=st.integers(0, 5),
    answers=st.integers(0, 5),
    match=st.sampled_from(sorted(MATCHES)),
    band=st.sampled_from([(0.0, 1.0), (0.1, 0.8), (0.5, 0.5)]),
    paired_only=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_rows_are_right_against_wrong_and_everything_is_accounted_for(drawn, pairs, answers, match, band, paired_only):
    problems = [
        Tried(f"p{at}", [sample(f"p{at}", run, **one) for run, one in enumerate(own)], unjudged)
        for at, (own, unjudged) in enumerate(drawn)
    ]
    picked = choice(pairs=pairs, answers=answers, match=match, band=band, paired_only=paired_only)
    pair_rows, answer_rows, accounts = choose_rows(problems, picked)
    by_run = {(one.problem, one.run): one for problem in problems for one in problem.samples}
    for row in pair_rows:
        chosen, rejected = (by_run[row["problem_id"], row[f"{side}_run"]] for side in ("chosen", "rejected"))
        assert (chosen.completion, rejected.completion) == (row["chosen"], row["rejected"])
        assert chosen.right
        assert chosen.format_valid
        assert not rejected.right
        assert not chosen.cut_short
        assert not rejected.cut_short
        assert chosen.completion.strip() != rejected.completion.strip()
    for row in answer_rows:
        one = by_run[row["problem_id"], row["run"]]
        assert (one.right, one.cut_short, one.format_valid, one.completion) == (True, False, True, row["completion"])
    assert len({row["id"] for row in pair_rows}) == len(pair_rows)
    for rows, most in ((pair_rows, pairs), (answer_rows, answers)):
        assert all(count <= most for count in Counter(row["problem_id"] for row in rows).values())
    used = {(row["problem_id"], row[f"{side}_run"]) for row in pair_rows for side in ("chosen", "rejected")}
    told = {(row["problem_id"], row["run"]) for row in answer_rows}
    assert accounts.samples[preferring.IN_A_PAIR] == len(used)
    assert accounts.samples[preferring.AN_ANSWER] == len(told - used)
    assert accounts.samples.total() == len(by_run)
    assert accounts.problems.total() == len(problems)
    assert len(accounts.left_out) == len(problems) - accounts.problems[preferring.PAIRED]


def test_a_problems_rows_do_not_depend_on_its_neighbours():
    others = [Tried(name, [sample(name, run, run % 2 == 0) for run in range(4)]) for name in "abc"]
    alone = choose_rows([RIGHT_AND_WRONG], choice(pairs=2))[0]
    together = choose_rows([*others, RIGHT_AND_WRONG], choice(pairs=2))[0]
    assert [row for row in together if row["problem_id"] == "p"] == alone
    seeds = {choose_rows([RIGHT_AND_WRONG], choice(seed=seed))[0][0]["id"] for seed in range(20)}
    assert len(seeds) > 1


@pytest.mark.parametrize(("right", "wrong"), [(1, 1), (2, 3), (4, 2), (6, 4), (1, 5)])
def test_random_pairs_are_all_pairs_once_and_use_every_sample_before_any_again(right: int, wrong: int):
    sides = [[sample("p", run, True) for run in range(right)], [sample("p", 10 + run, False) for run in range(wrong)]]
    pairs = [(one.run, other.run) for one, other in MATCHES["random"](*sides, random.Random(1))]
    assert len(set(pairs)) == len(pairs) == right * wrong
    few = min(right, wrong)
    assert len({one for one, _ in pairs[:few]}) == len({other for _, other in pairs[:few]}) == few


def test_matches_by_length():
    right = [sample("p", run, True, tokens=tokens) for run, tokens in enumerate((30, 10, 20))]
    wrong = [sample("p", 5 + run, False, tokens=tokens) for run, tokens in enumerate((11, 99))]
    pairs = {
        name: [(one.tokens, other.tokens) for one, other in MATCHES[name](right, wrong, random.Random(1))]
        for name in MATCHES
    }
    assert pairs["near_length"] == [(10, 11), (30, 99)]
    assert pairs["short_over_long"] == [(10, 99), (20, 11)]


@pytest.mark.parametrize(
    ("problem", "changes", "reason"),
    [
        (Tried("p", [sample("p", 0, True)]), {}, "no usable wrong answer"),
        (Tried("p", [sample("p", 0, False)]), {}, "no usable right answer"),
        (Tried("p", [sample("p", 0, True, cut_short=True), sample("p", 1, False)]), {}, "no usable right answer"),
        (RIGHT_AND_WRONG, {"band": (0.0, 0.5)}, "too easy"),
        (RIGHT_AND_WRONG, {"band": (0.7, 1.0)}, "too hard"),
        (Tried("p", RIGHT_AND_WRONG.samples, NO_GRADE), {}, "no grade"),
    ],
)
def test_a_problem_without_a_pair_has_its_reason(problem: Tried, changes: dict, reason: str):
    pairs, _, accounts = choose_rows([problem], choice(**changes))
    assert pairs == []
    assert accounts.problems == {reason: 1}
    assert accounts.left_out[0]["reason"] == reason


def test_the_band_holds_its_ends():
    assert RIGHT_AND_WRONG.pass_rate == pytest.approx(0.6)
    assert len(choose_rows([RIGHT_AND_WRONG], choice(band=(0.6, 0.6)))[0]) == 1


def test_one_text_graded_both_ways_makes_no_pair(caplog):
    both = [sample("p", 0, True, text="<think>\n2\n</think>\n2"), sample("p", 1, False, text="2\n</think>\n2")]
    pairs, answers, accounts = choose_rows([Tried("p", both)], choice())
    assert (pairs, answers) == ([], [])
    assert accounts.samples == {"the same text right and wrong": 2}
    assert "lines 1 and 2 hold the same answer, graded right and wrong" in caplog.text


def test_easy_problems_give_right_answers_unless_only_pairs_count():
    easy = Tried("e", [sample("e", run, True) for run in range(3)])
    assert len(choose_rows([easy], choice(answers=2))[1]) == 2
    assert choose_rows([easy, RIGHT_AND_WRONG], choice(paired_only=True))[1][0]["problem_id"] == "p"


def test_a_sample_without_a_prompt_is_named():
    bare = Tried("p", [sample("p", run, run == 0, row={"prompt": None}) for run in range(2)], path="x.jsonl")
    with pytest.raises(InputError, match=r"x.jsonl:1: problem 'p' has no 'prompt'"):
        choose_rows([bare], choice())
