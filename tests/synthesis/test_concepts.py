"""Concept replies hold exactly what was asked for, and near-identical concepts are merged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError
from promptcot_mamba.synthesis.concepts import (
    Rejected,
    Settings,
    apply_merge,
    parse_concepts,
    read_seeds,
    run,
)
from promptcot_mamba.synthesis.merging import merge_concepts
from promptcot_mamba.synthesis.stage import Context
from promptcot_mamba.synthesis.templates import load_format, number_lines
from tests.synthesis.scripted import ScriptedModel


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("1. gcd\n2. modular inverse", ["gcd", "modular inverse"]),
        ("1) gcd\n\n2) **Modular inverse**.\n", ["gcd", "Modular inverse"]),
        ("<think>\n1. no\n</think>\n1. gcd\n2. lcm", ["gcd", "lcm"]),
        ("1. gcd", "not 2 lines"),
        ("1. gcd\n2. lcm\n3. primes", "not 2 lines"),
        ("2. gcd\n1. lcm", "not 2 lines"),
        ("Here they are:\n1. gcd\n2. lcm", ["gcd", "lcm"]),
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


SAME = [
    ("Properties of triangles", "property of a triangle"),
    ("Euler's totient", "Euler’s Totient"),
    ("Law of sines", "the sine rule"),
    ("Area of a triangle", "triangle area"),
    ("prime factorisation", "Prime Factorization"),
    ("modular inverses", "Modular inverse"),
    ("Poincaré duality", "Poincare duality"),
    ("Heron's formula", "Heron formula"),
    ("vertices of a graph", "graph vertex"),
    ("pigeonhole principle", "pigeon-hole principle"),
    ("co-prime integers", "coprime integers"),
]
DIFFERENT = [
    ("sine rule", "cosine rule"),
    ("permutation", "combination"),
    ("Bases", "base"),  # an irregular plural is left apart
    ("basis", "bases"),
    ("sum of squares", "square of sums"),
    ("tangents to a circle", "tangent circles"),
    ("homomorphism", "homeomorphism"),
    ("holomorphic functions", "homomorphic functions"),
    ("convex function", "concave function"),
    ("minimum", "maximum"),
    ("arithmetic mean", "geometric mean"),
    ("necessary condition", "sufficient condition"),
    ("injective function", "surjective function"),
    ("greatest common divisor", "least common multiple"),
    ("symmetric relation", "asymmetric relation"),
    ("rational number", "irrational number"),
    ("orthogonal basis", "orthonormal basis"),
    ("modulo 3", "modulo 2"),
    ("power set", "set of powers"),
    ("prime number", "prime number theorem"),
    ("interior angle", "exterior angle"),
    ("Fermat's little theorem", "Fermat's last theorem"),
]


@pytest.mark.parametrize(
    ("a", "b", "same"), [*((*pair, True) for pair in SAME), *((*pair, False) for pair in DIFFERENT)]
)
def test_what_is_merged_and_what_is_not(a, b, same):
    merged = merge_concepts([[a], [b], [b]])
    assert (merged[a] == b) is same
    assert merged == merge_concepts([[b], [a], [b]])


def test_initials_are_learned_where_they_are_written_beside_their_expansion():
    lists = [["greatest common divisor (GCD)"], ["gcd"], ["Greatest common divisors"], ["LCM (least common multiple)"]]
    merged = merge_concepts([*lists, ["LCM"], ["PIE"], ["apple pie"]])
    assert len({merged[name] for (name,) in lists[:3]}) == 1
    assert merged["LCM"] == merged["LCM (least common multiple)"] != merged["gcd"]
    assert merged["PIE"] == "PIE"  # nobody said what it stands for
    both = merge_concepts([["mean value theorem (MVT)"], ["major vote theorem (MVT)"], ["MVT"]])
    assert len(set(both.values())) == 3  # two things: MVT may be either


def test_embeddings_confirm_only_what_the_words_allow():
    near, far = [1.0, 0.05], [0.0, 1.0]
    vectors = {"modular inverse": [1.0, 0.0], "modular inverse modulo prime": near, "inverse": far}
    vectors |= {"sine rule": near, "cosine rule": near}
    lists = [["modular inverse"], ["modular inverse"], *([name] for name in vectors)]
    merged = merge_concepts(lists, vectors)
    assert merged["modular inverse modulo prime"] == "modular inverse"
    assert merged["inverse"] == "inverse"  # its words are held, its embedding is far
    assert merged["sine rule"] != merged["cosine rule"]  # the other way about
    assert merge_concepts(lists, vectors, cosine=0.9999)["modular inverse modulo prime"] != "modular inverse"
    rows = apply_merge([{"concepts_said": names} for names in lists], lambda texts: {t: vectors[t] for t in texts})
    assert rows[3]["concepts"] == ["modular inverse"]


@given(st.lists(st.lists(st.text(max_size=12), max_size=4), max_size=8))
def test_merging_does_not_depend_on_the_order_of_problems(lists):
    merged = merge_concepts(lists)
    assert merged == merge_concepts(lists[::-1])
    assert set(merged.values()) <= set(merged)
    assert all(merged[canonical] == canonical for canonical in merged.values())


def test_merging_prefers_the_most_frequent_form():
    lists = [["Triangles", "gcd"], ["triangle"], ["triangle"]]
    assert merge_concepts(lists) == {"Triangles": "triangle", "triangle": "triangle", "gcd": "gcd"}
    rows = apply_merge(
        [{"concepts_said": ["Triangles", "gcd"]}, {"concepts_said": ["triangle"]}, {"concepts_said": ["triangle"]}]
    )
    assert rows[0]["concepts"] == ["triangle", "gcd"]


def test_a_seeds_own_key_is_not_the_rows(tmp_path):
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"problem": "p", "key": "mine", "attempt": 9, "author": "me"}\n')
    context = Context(tmp_path, 0, lambda name: ScriptedModel(lambda prompt, seed: "1. gcd\n2. lcm"))
    run(Settings(str(path), "m", k=2), context)
    (row,) = context.read("concepts")
    assert (row["author"], row["attempt"]) == ("me", 0)
    assert row["key"] != "mine"


def test_seeds_are_checked(tmp_path):
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"problem": "p"}\n{"question": "p"}\n')
    with pytest.raises(InputError, match=":2: the same problem"):
        read_seeds(path)
    path.write_text('{"prompt": "p"}\n')
    with pytest.raises(InputError, match=":1: expected a non-empty 'problem'"):
        read_seeds(path)


def test_templates_insert_values_once_and_check_names():
    prompt = load_format().render("concepts", problem="find {{k}} $x$", k=3)
    assert "find {{k}} $x$" in prompt
    assert "Name the 3 foundational" in prompt
    with pytest.raises(KeyError, match="placeholders"):
        load_format().render("concepts", problem="p")
    assert number_lines(["a", "b"]) == "1. a\n2. b"


IN_ORDER = "1. {}\n2. gcd\n3. primes"
LETTERS = "Permutations of ['a', 'b', 'c']"


@pytest.mark.parametrize(
    ("reply", "first"),
    [
        (IN_ORDER.format(LETTERS), LETTERS),
        (IN_ORDER.format('Sorting of ["b", "c", "a"] by swaps'), 'Sorting of ["b", "c", "a"] by swaps'),
        (IN_ORDER.format("Sorting\n   Example:\n['b', 'c', 'a']"), "Sorting"),
        (f"Here they are:\n{IN_ORDER.format(LETTERS)}\n\nTry them on: ['d', 'e', 'f']", LETTERS),
        (f"- {LETTERS}\n- gcd\n- primes", LETTERS),
        (f"- {LETTERS}: used to count\n- gcd\n- primes", LETTERS),
        ("The concepts are: ['sorting', 'gcd', 'primes']", "sorting"),
        ("concepts = ['sorting', 'gcd', 'primes']", "sorting"),
        ("1. We look.\n2. We think.\n\n['sorting', 'gcd', 'primes']", "sorting"),
        ('1. We look.\n\n```json\n[\n  "sorting",\n  "gcd",\n  "primes"\n]\n```', "sorting"),
        ('1. We look.\n{"concepts": ["sorting", "gcd", "primes"]}', "sorting"),
    ],
)
def test_a_list_within_a_concept_is_not_the_list_of_concepts(reply, first):
    assert parse_concepts(reply, 3) == [first, "gcd", "primes"]
