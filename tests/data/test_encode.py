"""Encoding: one end of text, loss on completion and end only, the boundary that sampling sees."""

from __future__ import annotations

import pytest

from promptcot_mamba.data.encode import IGNORE_INDEX, check_tokenizer, hash_tokenizer
from promptcot_mamba.errors import InputError
from tests.tiny import encode_example, make_tokenizer

PROMPT = "<|im_start|>user\nFind A.<|im_end|>\n<|im_start|>assistant\n<think>\n"


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_labels_cover_completion_and_end(tokenizer):
    ids, labels = encode_example(tokenizer, PROMPT, "12\n</think>\n12")
    prompt_ids = tokenizer(PROMPT)["input_ids"]
    assert ids[: len(prompt_ids)] == prompt_ids
    assert labels[: len(prompt_ids)] == [IGNORE_INDEX] * len(prompt_ids)
    assert labels[len(prompt_ids) :] == ids[len(prompt_ids) :]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[len(prompt_ids) : -1]) == "12\n</think>\n12"


def test_end_of_text_is_written_once(tokenizer):
    plain, _ = encode_example(tokenizer, PROMPT, "12")
    ended, _ = encode_example(tokenizer, PROMPT, "12</s>")
    assert plain == ended


def test_thought_opens_once_whichever_side_holds_it(tokenizer):
    both, _ = encode_example(tokenizer, PROMPT, "<think>\n12\n</think>\n12")
    prompt_only, _ = encode_example(tokenizer, PROMPT, "12\n</think>\n12")
    assert both == prompt_only
    bare = PROMPT.removesuffix("<think>\n")
    completion_only, _ = encode_example(tokenizer, bare, "<think>\n12\n</think>\n12")
    assert tokenizer.decode(completion_only).count("<think>") == 1


def test_boundary_is_not_merged_across(tokenizer):
    """Joined text may tokenise differently at the seam; sampling starts from the prompt's own tokens."""
    ids, labels = encode_example(tokenizer, "the qui", "ck brown")
    assert ids[: labels.count(IGNORE_INDEX)] == tokenizer("the qui")["input_ids"]


def test_tokenizer_must_fit_the_model(tokenizer):
    check_tokenizer(tokenizer, len(tokenizer), "t", "m")
    with pytest.raises(InputError, match=r"--tokenizer_path t: .* embedding of --model_name_or_path m has 5 rows"):
        check_tokenizer(tokenizer, 5, "t", "m")
    headless = make_tokenizer()
    headless.eos_token = None
    with pytest.raises(InputError, match="no eos_token"):
        check_tokenizer(headless, 1000, "t", "m")


def test_hash_ignores_padding_state(tokenizer):
    fresh = make_tokenizer()
    assert hash_tokenizer(fresh) == hash_tokenizer(tokenizer)
    fresh(["a", "b c d"], padding=True)
    assert hash_tokenizer(fresh) == hash_tokenizer(tokenizer)
    fresh.add_tokens(["<new>"])
    assert hash_tokenizer(fresh) != hash_tokenizer(tokenizer)
