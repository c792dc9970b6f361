"""Text is text: no substring of data becomes a control token, in any tokenizer, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.chat_markup import FAMILIES, Part, find_rendered
from promptcot_mamba.data.encode import encode_examples, encode_prompt, get_encoder
from tests.data.families import ADDED, SPECIAL, make_family_tokenizer
from tests.tiny import encode_example

TOKENIZERS = {name: make_family_tokenizer(name) for name in SPECIAL}
CONTROL = {name: [token for token in (*SPECIAL[name], *ADDED.get(name, ())) if token not in ("<table>", "  ")]
           for name in SPECIAL}  # fmt: skip
EVERYONES = sorted({token for tokens in CONTROL.values() for token in tokens})
names = pytest.mark.parametrize("name", SPECIAL)


def control_ids(name: str) -> list[int]:
    unknown = TOKENIZERS[name].backend_tokenizer.token_to_id("<unk>")  # what unknown characters rightly become
    ids = [TOKENIZERS[name].backend_tokenizer.token_to_id(token) for token in CONTROL[name]]
    return [number for number in ids if number != unknown]


def count_control(name: str, ids) -> int:
    return int(np.isin(np.asarray(ids), control_ids(name)).sum())


@names
def test_the_plain_tokenizer_does_make_control_tokens_of_text(name):
    """What all of this is about: without care each is one id."""
    for token in CONTROL[name]:
        ids = TOKENIZERS[name](f"a {token} b", add_special_tokens=False)["input_ids"]
        assert TOKENIZERS[name].backend_tokenizer.token_to_id(token) in ids


@names
def test_no_control_token_comes_out_of_data(name):
    tokenizer = TOKENIZERS[name]
    clean, _ = encode_example(tokenizer, render_prompt("Find A."), "<think>\nso\n</think>\n12")
    for token in EVERYONES:
        ids, labels = encode_example(
            tokenizer,
            render_prompt(f"Find {token} A{token}."),
            f"<think>\n{token}so{token}\n</think>\n{token}1{token}2",
        )
        assert count_control(name, ids) == count_control(name, clean), token
        assert labels.count(tokenizer.eos_token_id) == ids.count(tokenizer.eos_token_id) - sum(
            label == -100 and number == tokenizer.eos_token_id for number, label in zip(ids, labels, strict=True)
        )
        assert ids[-1] == tokenizer.eos_token_id
        assert [number for number in labels if number != -100].count(tokenizer.eos_token_id) == 1


@names
def test_text_that_spells_them_is_read_back_as_it_was(name):
    tokenizer = TOKENIZERS[name]
    text = f"the {' '.join(CONTROL[name])} quick"
    ids = get_encoder(tokenizer).text.encode([(Part(text, placed=False),)], add_special_tokens=False)[0][0]
    assert count_control(name, ids) == 0
    if "<unk>" in CONTROL[name]:  # spaces of sentencepiece, unknown letters of a small vocabulary
        ids = [number for number in ids if number != tokenizer.backend_tokenizer.token_to_id("<unk>")]
        assert tokenizer.decode(ids).split()[0] == "the"
    else:
        assert tokenizer.decode(ids) == text


pieces = st.lists(
    st.one_of(st.sampled_from([*EVERYONES, "  ", "<table>", "\n", " ", "<", ">", "</", "[", "\ufdd0", "\ufdd0" "1;"]),
              st.text(max_size=8)),
    max_size=12,
).map("".join)  # fmt: skip


@given(text=pieces, question=pieces, name=st.sampled_from(list(SPECIAL)))
@settings(max_examples=300, deadline=None)
def test_whatever_is_written(text, question, name):
    """Random text around and of control tokens, theirs and others': only markup makes any."""
    tokenizer = TOKENIZERS[name]
    clean, _ = encode_example(tokenizer, render_prompt("Q"), "<think>\na\n</think>\nb")
    ids, _ = encode_example(tokenizer, render_prompt(question), f"<think>\n{text}\n</think>\n{text}.")
    assert count_control(name, ids) == count_control(name, clean)


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=80), name=st.sampled_from(list(SPECIAL)))
@settings(max_examples=300, deadline=None)
def test_where_nothing_is_spelled_the_definition_gives_what_the_tokenizer_gives(text, name):
    tokenizer, encoder = TOKENIZERS[name], get_encoder(TOKENIZERS[name]).text
    parts = find_rendered(render_prompt(text)).parts
    if encoder.spells(parts):
        return
    expected = tokenizer(render_prompt(text))["input_ids"]
    assert encode_prompt(tokenizer, render_prompt(text)) == expected
    assert encoder.encode_as_text(parts, add_special_tokens=True).tolist() == expected


@names
def test_placed_thought_marks_stay_what_the_tokenizer_makes_of_them(name):
    tokenizer = TOKENIZERS[name]
    ids, _ = encode_example(tokenizer, render_prompt("Q"), "<think>\na </s> b\n</think>\nc")
    opened, closed = (tokenizer.backend_tokenizer.token_to_id(mark) for mark in ("<think>", "</think>"))
    assert (opened is None) == ("<think>" not in ADDED.get(name, ()))
    if opened is not None:
        assert (ids.count(opened), ids.count(closed)) == (1, 1)


@names
@pytest.mark.parametrize("family", FAMILIES)
def test_markup_of_every_format_is_markup(name, family):
    """A prompt in its family's own format keeps the control tokens its tokenizer makes of it."""
    from jinja2 import Template

    tokenizer = TOKENIZERS[name]
    prompt = Template(FAMILIES[family].template).render(
        messages=[{"role": "user", "content": "Find A."}], add_generation_prompt=True
    )
    assert encode_prompt(tokenizer, prompt) == tokenizer(prompt)["input_ids"]


def test_documents_that_spell_them_are_told():
    tokenizer = TOKENIZERS["codestral"]
    plain, spelled = encode_examples(tokenizer, [(render_prompt("Q"), "a"), (render_prompt("Q"), "<s>a</s> b")])
    assert (plain.spells_control, spelled.spells_control) == (False, True)


def test_an_end_of_text_that_the_data_ends_in_is_the_end():
    tokenizer = TOKENIZERS["codestral"]
    assert encode_example(tokenizer, "Q", "12") == encode_example(tokenizer, "Q", "12</s>")
