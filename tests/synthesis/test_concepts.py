"""Concept replies are parsed strictly and near-identical concepts merged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError
from promptcot_mamba.synthesis.concepts import (
    Rejected,
    apply_merge,
    concept_signature,
    merge_concepts,
    parse_concepts,
    read_seeds,
)
from promptcot_mamba.synthesis.templates import mark_up, number_lines, parse_markup, render_template


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("1. gcd\n2. modular inverse", ["gcd", "modular inverse"]),
        ("1) gcd\n\n2) **Modular inverse**.\n", ["gcd", "Modular inverse"]),
        ("<think>\n1. no\n</think>\n1. gcd\n2. lcm", ["gcd", "lcm"]),
        ("1. gcd", "not 2 lines"),
        ("1. gcd\n2. lcm\n3. primes", "not 2 lines"),
        ("2. gcd\n1. lcm", "not 2 lines"),
        ("Here they are:\n1. gcd\n2. lcm", "not a numbered list"),
        ("gcd\nlcm", "not a numbered list"),
        ("1. gcd\n2. The GCD", "empty or repeated"),
        ("1. gcd\n2. **", "empty or repeated"),
        ("<think>\n1. gcd\n2. lcm", "not 2 lines"),
    ],
)
def test_parsing(reply, expected):
    got = parse_concepts(reply, 2)
    if isinstance(expected, list):
        assert got == expected
    else:
        assert isinstance(got, Rejected)
        assert expected in got.reason


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Properties of triangles", "property of a triangle", True),
        ("Euler's totient", "Euler’s Totient", True),
        ("Bases", "base", False),  # conservative: an irregular plural is left apart
        ("sum of squares", "square of sums", False),  # the order of words matters
        ("basis", "bases", False),
    ],
)
def test_signatures(a, b, same):
    assert (concept_signature(a) == concept_signature(b)) is same


def test_merging_prefers_the_most_frequent_form():
    lists = [["Triangles", "gcd"], ["triangle"], ["triangle"]]
    assert merge_concepts(lists) == {"Triangles": "triangle", "triangle": "triangle", "gcd": "gcd"}
    rows = apply_merge(
        [{"concepts_said": ["Triangles", "gcd"]}, {"concepts_said": ["triangle"]}, {"concepts_said": ["triangle"]}]
    )
    assert rows[0]["concepts"] == ["triangle", "gcd"]


def test_seeds_are_checked(tmp_path):
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"problem": "p"}\n{"question": "p"}\n')
    with pytest.raises(InputError, match=":2: the same problem"):
        read_seeds(path)
    path.write_text('{"prompt": "p"}\n')
    with pytest.raises(InputError, match=":1: expected a non-empty 'problem'"):
        read_seeds(path)


@given(st.text(min_size=1), st.text(min_size=1))
def test_markup_reads_back(rationale, problem):
    if not rationale.strip() or not problem.strip() or "<" in rationale + problem:
        return
    assert parse_markup(mark_up(rationale, problem)) == (rationale.strip(), problem.strip())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<rationale>a</rationale>",
        "<problem>b</problem><rationale>a</rationale>",
        "<rationale>a</rationale><problem></problem>",
        "<rationale>a</rationale><problem>b</problem><problem>c</problem>",
        "Sure! <rationale>a</rationale><problem>b</problem>",
        "<rationale>a<rationale>a</rationale><problem>b</problem>",
    ],
)
def test_bad_markup(text):
    assert parse_markup(text) is None


def test_templates_insert_values_once_and_check_names():
    prompt = render_template("concepts", problem="find {{k}} $x$", k=3)
    assert "find {{k}} $x$" in prompt
    assert "Name the 3 foundational" in prompt
    with pytest.raises(KeyError, match="placeholders"):
        render_template("concepts", problem="p")
    assert number_lines(["a", "b"]) == "1. a\n2. b"
