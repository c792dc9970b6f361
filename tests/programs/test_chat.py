"""The chat's one-shot mode: an answer, its speed, and a state that does not grow."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.errors import InputError
from promptcot_mamba.model import load_causal_lm
from promptcot_mamba.sampling.stream import TextStream, TokenStream
from scripts import chat
from tests.sampling.conftest import ROOT
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


def test_a_gpu_that_torch_does_not_see_is_not_passed_over_in_silence(checkpoint: Path, monkeypatch, caplog):
    monkeypatch.setattr(chat, "has_nvidia_device", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(chat.logger, "propagate", True)
    assert chat.main(["--model_path", str(checkpoint), "--prompt", "1 + 1?", "--max_len", "2"]) == 0
    assert "torch sees no device: this is the CPU" in caplog.text


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


def run_talk(checkpoint: Path, monkeypatch, *lines: str) -> None:
    """The chat with these lines typed, then the end of input."""
    typed = iter(lines)

    def type_next(_: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", type_next)
    assert chat.main(["--model_path", str(checkpoint), "--max_len", "12"]) == 0


def test_several_turns_reset_and_save(checkpoint: Path, tmp_path: Path, monkeypatch, capsys):
    prompts = []
    ask = chat.Talk.ask
    monkeypatch.setattr(chat.Talk, "ask", lambda talk, question: prompts.append(ask(talk, question)) or prompts[-1])
    saved = tmp_path / "talk.json"
    unwritable = ("/save /proc/x", f"/save {tmp_path}")
    run_talk(
        checkpoint, monkeypatch, "1 + 1?", "and 2 more?", f"/save {saved}", "/reset", "1 + 1?", "/what", *unwritable
    )
    assert [turn["role"] for turn in json.loads(saved.read_text())["turns"]] == ["user", "assistant"] * 2
    first, second, third = prompts
    assert first == third == render_prompt("1 + 1?")
    assert second.startswith(first.removesuffix("<think>\n"))
    assert second.count("<think>") == 1  # the earlier answer without its thought
    assert second.endswith(render_prompt("and 2 more?"))
    out = capsys.readouterr().out
    assert "4 turns in" in out
    assert "Begun anew." in out
    assert "forget the turns so far" in out
    assert "cannot write here" in out
    assert f"{tmp_path}: Is a directory" in out


def test_turns_are_the_same_with_and_without_a_template():
    with_template, without = (chat.Talk(make_tokenizer(), "Say {question}") for _ in range(2))
    without.tokenizer.chat_template = None
    for talk in (with_template, without):
        talk.answered(talk.ask("one"), "thought\n</think>\n\nanswer")
    assert with_template.ask("two") == without.ask("two")
    assert with_template.turns == without.turns


def test_lines_are_edited_and_kept_in_a_terminal(checkpoint: Path, tmp_path: Path):
    """In a pseudo-terminal: the arrow key brings the last question back."""
    pytest.importorskip("readline")
    parent, child = pty.openpty()
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    command = [sys.executable, "-m", "scripts.chat", "--model_path", str(checkpoint), "--max_len", "3"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=child, stdout=child, stderr=child)
    os.close(child)
    seen = b""

    def wait_for(text: bytes, times: int) -> None:
        nonlocal seen
        while seen.count(text) < times:
            seen += os.read(parent, 4096)

    def wait_for_prompt(answers: int) -> None:
        """The prompt after that many answers: keys that come before it meet a terminal that readline does not hold."""
        nonlocal seen
        wait_for(b"tok/s", answers)
        while b"> " not in seen.rsplit(b"tok/s", 1)[-1]:
            seen += os.read(parent, 4096)

    wait_for_prompt(0)
    os.write(parent, b"1 + 2?\r")
    wait_for_prompt(1)
    os.write(parent, b"\x1b[A\r")  # up, enter
    wait_for_prompt(2)
    os.write(parent, b"\x04")
    assert process.wait(300) == 0
    os.close(parent)
    assert (tmp_path / "promptcot_mamba" / "chat_history").read_text().splitlines()[-1] == "1 + 2?"
