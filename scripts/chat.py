r"""Ask a checkpoint in the terminal: the answer streams, the thought dimmed, with speed and state memory below.

    python -m scripts.chat --model_path outputs/quickstart/phase2
    python -m scripts.chat --model_path /path/to/model --prompt "What is 17 * 23?" --max_len 2000

Runs on our own model, so it starts in seconds on a laptop. Each question starts from an empty state, as in training.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass, field

from promptcot_mamba.chat_format import MATH_INSTRUCTION, THINK_END, THINK_START, render_prompt
from promptcot_mamba.checkpoint import load_tokenizer
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import ROOT, get_logger

DIM, PLAIN, FAINT = "\x1b[2m", "\x1b[0m", "\x1b[36m"


@dataclass
class ChatArguments:
    """Flags of the chat."""

    model_path: str = field(metadata={"elsewhere": True, "help": "a checkpoint folder"})
    prompt: str | None = field(default=None, metadata={"help": "ask this one question and end"})
    instruction: str = field(default=MATH_INSTRUCTION, metadata={"help": "what is added below a question"})
    max_len: int = field(default=4096, metadata={"help": "most tokens of an answer"})
    temperature: float = 0.8
    top_p: float = 0.95
    repetition_penalty: float = 1.1
    seed: int = 0
    dtype: str = field(default="auto", metadata={"help": "auto, float32 or bfloat16"})

    def __post_init__(self) -> None:
        if self.max_len < 1:
            raise InputError(f"--max_len {self.max_len}: must be at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.repetition_penalty <= 0:
            raise InputError("--temperature must be >= 0, --top_p in (0, 1], --repetition_penalty > 0")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise InputError(f"--dtype {self.dtype}: must be auto, float32 or bfloat16")


class Screen:
    """Prints an answer as it comes: dim until its thought closes, plain after; no colours into a file."""

    def __init__(self) -> None:
        self._colours = sys.stdout.isatty()
        self._tail = THINK_START  # the prompt has opened the thought
        self.style(DIM)
        self._write(f"{THINK_START}\n")

    def style(self, code: str) -> None:
        if self._colours:
            self._write(code)

    def show(self, text: str) -> None:
        """Print some more of the answer; the closing tag may come in pieces."""
        before, self._tail = self._tail, (self._tail + text)[-len(THINK_END) - len(text) :]
        self._write(text)
        if THINK_END in self._tail and THINK_END not in before:
            self.style(PLAIN)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def end(self, line: str) -> None:
        self.style(PLAIN + FAINT)
        self._write(f"\n\n{line}\n")
        self.style(PLAIN)


def answer(model, tokenizer, question: str, args: ChatArguments) -> None:
    """Stream one answer and say what it took."""
    from promptcot_mamba.sampling.stream import TextStream, TokenStream

    tokens = TokenStream(
        model,
        temperature=args.temperature,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
        seed=args.seed,
    )
    text, screen = TextStream(tokenizer), Screen()
    prompt_ids = tokenizer(render_prompt(question, args.instruction))["input_ids"]
    count, first_state, started = 0, 0, time.perf_counter()
    try:
        for token_id in tokens(prompt_ids, tokenizer.eos_token_id, args.max_len):
            count += 1
            first_state = first_state or tokens.state_bytes()
            screen.show(text.add(token_id))
    except KeyboardInterrupt:  # stop this answer, not the chat
        pass
    seconds = time.perf_counter() - started
    screen.end(f"{count:,} tokens | {count / seconds:,.1f} tok/s | {describe_state(first_state, tokens.state_bytes())}")


def describe_state(first: int, last: int) -> str:
    """State memory after the prompt and at the end."""
    if first == last:
        return f"state {last / 1024:,.1f} KiB, constant"
    return f"cache {first / 1024:,.1f} KiB after the prompt, {last / 1024:,.1f} KiB at the end"


def main(argv: list[str] | None = None) -> int:
    args = parse_args(ChatArguments, argv, description=__doc__)
    tokenizer = load_tokenizer(args.model_path)
    import torch
    from transformers.utils.logging import disable_progress_bar

    from promptcot_mamba.model import load_causal_lm

    get_logger(ROOT).setLevel(logging.WARNING)  # the screen belongs to the answer
    disable_progress_bar()
    model = load_causal_lm(args.model_path, dtype=args.dtype).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    if args.prompt is not None:
        answer(model, tokenizer, args.prompt, args)
        return 0
    print("Ask a question; Ctrl-C stops an answer, an empty line or Ctrl-D ends.")
    while True:
        try:
            question = input("\n> ").strip()
        except EOFError:
            return 0
        if not question:
            return 0
        answer(model, tokenizer, question, args)


if __name__ == "__main__":
    run_program(main)
