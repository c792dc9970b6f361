"""The chat's one-shot mode: an answer, its speed, and a state that does not grow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.model import load_causal_lm
from promptcot_mamba.sampling.stream import TextStream, TokenStream
from scripts import chat
from tests.tiny import make_checkpoint, make_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny-mamba2", n_groups=2)


def test_one_question_one_answer(checkpoint: Path, capsys):
    assert chat.main(["--model_path", str(checkpoint), "--prompt", "1 + 1?", "--max_len", "40"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("<think>\n")
    assert "\x1b" not in out  # no colours into a pipe
    state = re.search(r"\d+ tokens \| [\d.]+ tok/s \| state ([\d.]+) KiB, constant", out)
    # 2 layers x (8 heads x 16 x 16 of state + (128 + 2 x 2 x 16) channels x 3 of convolution) x 4 bytes
    assert float(state[1]) == pytest.approx(2 * (8 * 16 * 16 + 192 * 3) * 4 / 1024, abs=0.05)


def test_the_stream_is_the_models_own_greedy_text(checkpoint: Path):
    model = load_causal_lm(checkpoint, dtype="float32").eval()
    stream = TokenStream(model, temperature=0.0, top_p=1.0, repetition_penalty=1.0, seed=0)
    prompt = list(range(5, 40))
    told = list(stream(prompt, stop_id=2, max_tokens=24))
    ids = torch.tensor([prompt])
    truth = model.generate(ids, do_sample=False, max_new_tokens=24, eos_token_id=2, pad_token_id=2)[0, len(prompt) :]
    assert told == [token for token in truth.tolist() if token != 2]


def test_the_state_stays_and_a_seed_repeats(checkpoint: Path):
    model = load_causal_lm(checkpoint, dtype="float32").eval()
    chains, sizes = [], set()
    for seed in (1, 1, 2):
        stream = TokenStream(model, temperature=1.0, top_p=0.95, repetition_penalty=1.1, seed=seed)
        chain = []
        for token in stream([5, 6, 7], stop_id=-1, max_tokens=50):
            chain.append(token)
            sizes.add(stream.state_bytes())
        chains.append(chain)
    assert len(sizes) == 1
    assert chains[0] == chains[1] != chains[2]


def test_characters_come_whole():
    tokenizer = make_tokenizer()
    text = "Größe: ∑ 数\nnext line – done\n"
    stream = TextStream(tokenizer)
    pieces = [stream.add(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("flag", ["--max_len=0", "--top_p=0", "--dtype=int8", "--model_path=nowhere"])
def test_bad_flags(checkpoint: Path, flag: str):
    with pytest.raises(InputError, match=flag.split("=")[0]):
        chat.main(["--model_path", str(checkpoint), "--prompt", "?", flag])
