r"""Ask a checkpoint in the terminal: the answer streams, the thought dimmed, with speed and state memory below.

    python -m scripts.chat --model_path outputs/quickstart/phase2
    python -m scripts.chat --model_path /path/to/model --prompt "What is 17 * 23?" --max_len 2000

Runs on our own model, so it starts in seconds on a laptop. A question may lean on the turns before it: earlier answers
are read again, without their thoughts, as chat templates do. `/reset` begins anew, `/save FILE` keeps the talk, Ctrl-C
stops an answer, an empty line or Ctrl-D ends. Lines can be edited and recalled with the arrow keys.
"""

import contextlib
import importlib.util
import logging
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptcot_mamba.chat_format import (
    ASSISTANT_START,
    MATH_INSTRUCTION,
    THINK_END,
    THINK_START,
    TURN_END,
    USER_START,
    frame_question,
    opens_thought,
    read_completion,
    render_prompt,
    split,
)
from promptcot_mamba.checkpoint import find_folder, load_tokenizer
from promptcot_mamba.cli import describe_os_error, flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.gpus import has_nvidia_device
from promptcot_mamba.jsonl import write_json
from promptcot_mamba.log import logger

DIM, PLAIN, FAINT = "\x1b[2m", "\x1b[0m", "\x1b[36m"
COMMANDS = {"/reset": "forget the turns so far", "/save FILE": "write them to a JSON file", "/help": "say this"}
HISTORY_LINES = 1000


@dataclass
class ChatArguments:
    model_path: str = flag("a checkpoint folder, or its name on the hub", elsewhere=True)
    prompt: str | None = flag("ask this one question and end", default=None)
    instruction: str = flag("what is added below a question", default=MATH_INSTRUCTION)
    max_len: int = flag("most tokens of an answer", default=4096, least=1)
    temperature: float = flag("0 takes the likeliest token", default=0.8, least=0)
    top_p: float = flag("share of probability that is drawn from", default=0.95, above=0, most=1)
    repetition_penalty: float = flag("1 is none", default=1.1, above=0)
    seed: int = 0
    dtype: str = flag("of weights and activations", default="auto", choices=("auto", "float32", "bfloat16"))


@dataclass
class Talk:
    """The turns of a conversation, and the prompt of the next answer."""

    tokenizer: Any  # as transformers gives it
    instruction: str
    turns: list[dict[str, str]] = field(default_factory=list)  # role, content and, of an answer, its thought

    def ask(self, question: str) -> str:
        """Add a question; return the prompt that it and the turns before it make, in the tokenizer's chat template.

        Without a template it is this project's format. Earlier answers stand in it without their thoughts.
        """
        self.turns.append({"role": "user", "content": frame_question(question, self.instruction)})
        if getattr(self.tokenizer, "chat_template", None):
            messages = [{"role": turn["role"], "content": turn["content"]} for turn in self.turns]
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before = "".join(
            f"{USER_START if turn['role'] == 'user' else ASSISTANT_START}{turn['content']}{TURN_END}"
            for turn in self.turns[:-1]
        )
        return before + render_prompt(question, self.instruction)

    def answered(self, prompt: str, text: str) -> None:
        """Add what the model said after `prompt`."""
        parts = split(read_completion(prompt, text)[0])
        self.turns.append(
            {"role": "assistant", "content": parts.answer.strip("\n"), "thought": parts.thought.strip("\n")}
        )

    def command(self, line: str) -> str:
        """Do what a line that begins with a slash says; returns what to tell."""
        name, _, rest = line.partition(" ")
        if name == "/reset":
            self.turns.clear()
            return "Begun anew."
        if name == "/save" and rest.strip():
            try:
                write_json(rest.strip(), {"turns": self.turns})
            except OSError as error:
                return describe_os_error(error) or str(error)
            except InputError as error:
                return str(error)
            return f"{len(self.turns)} turns in {rest.strip()}"
        return "\n".join(f"{name:12} {what}" for name, what in COMMANDS.items())


class Screen:
    """Prints an answer as it comes: dim until its thought closes, plain after; no colours into a file."""

    def __init__(self, *, thinking: bool) -> None:
        self._colours = sys.stdout.isatty()
        self._tail = THINK_START if thinking else ""
        if thinking:  # the prompt has opened the thought
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


def answer(model, talk: Talk, question: str, args: ChatArguments) -> None:
    """Stream one answer and say what it took."""
    from promptcot_mamba.sampling.stream import TextStream, TokenStream

    tokenizer = talk.tokenizer
    tokens = TokenStream(
        model,
        temperature=args.temperature,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
        seed=args.seed,
    )
    prompt = talk.ask(question)
    text, screen, pieces = TextStream(tokenizer), Screen(thinking=opens_thought(prompt)), []
    prompt_ids = tokenizer(prompt, add_special_tokens=not getattr(tokenizer, "chat_template", None))["input_ids"]
    count, first_state, started = 0, 0, time.perf_counter()
    try:
        for token_id in tokens(prompt_ids, tokenizer.eos_token_id, args.max_len):
            count += 1
            first_state = first_state or tokens.state_bytes()
            pieces.append(text.add(token_id))
            screen.show(pieces[-1])
    except KeyboardInterrupt:  # stop this answer, not the chat
        pass
    seconds = time.perf_counter() - started
    talk.answered(prompt, "".join(pieces))
    screen.end(f"{count:,} tokens | {count / seconds:,.1f} tok/s | {describe_state(first_state, tokens.state_bytes())}")


def describe_state(first: int, last: int) -> str:
    """State memory after the prompt and at the end."""
    if first == last:
        return f"state {last / 1024:,.1f} KiB, constant"
    return f"cache {first / 1024:,.1f} KiB after the prompt, {last / 1024:,.1f} KiB at the end"


def main(argv: list[str] | None = None) -> int:
    args = parse_args(ChatArguments, argv, description=__doc__)
    args.model_path = str(find_folder(args.model_path))
    tokenizer = load_tokenizer(args.model_path)
    import torch
    from transformers.utils.logging import disable_progress_bar

    from promptcot_mamba.model import load_causal_lm

    logger.setLevel(logging.WARNING)  # the screen belongs to the answer
    disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and has_nvidia_device():
        logger.warning("an NVIDIA driver runs here, but torch sees no device: this is the CPU (why: scripts.doctor)")
    model = load_causal_lm(args.model_path, dtype=args.dtype).eval().to(device)
    talk = Talk(tokenizer, args.instruction)
    if args.prompt is not None:
        answer(model, talk, args.prompt, args)
        return 0
    print("Ask a question; /help tells more.")
    with line_editing():
        while True:
            try:
                line = input("\n> ").strip()
            except EOFError:
                return 0
            except KeyboardInterrupt:  # drops the line, as in a shell
                continue
            if not line:
                return 0
            if line.startswith("/"):
                print(talk.command(line))
            else:
                answer(model, talk, line, args)


@contextlib.contextmanager
def line_editing():
    """Arrow keys, and questions of earlier talks, where Python has readline and standard input is a terminal."""
    if importlib.util.find_spec("readline") is None or not sys.stdin.isatty():  # Windows has none
        yield
        return
    import readline

    file = Path(os.environ.get("XDG_STATE_HOME", "~/.local/state")).expanduser() / "promptcot_mamba" / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a home that cannot be written keeps no history
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(HISTORY_LINES)
            readline.write_history_file(file)


if __name__ == "__main__":
    run_program(main)
