"""Cut the program out of a completion: the last fenced program after `</think>`.

LiveCodeBench (`lcb_runner/utils/extraction_utils.py`) takes what lies between the last two lines that hold backticks.
Where that is the program, so is ours; docs/sandbox.md lists where ours is meant to be better.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from promptcot_mamba.chat_format import split
from promptcot_mamba.grading.code.fences import Block, find_blocks, parse_python
from promptcot_mamba.grading.code.needed import only_needed
from promptcot_mamba.grading.code.quotes import last_whole
from promptcot_mamba.grading.code.unfenced import define_pattern, find_function

# Blocks of these are never Python. Any other name (`code`, `text`, `solution`) says too little to tell.
OTHER_LANGUAGES = {
    "bash", "sh", "shell", "zsh", "console", "terminal", "cmd", "powershell", "bat", "c", "cpp", "c++", "cxx",
    "java", "javascript", "js", "typescript", "ts", "go", "golang", "rust", "rs", "ruby", "rb", "php", "kotlin",
    "swift", "scala", "haskell", "csharp", "c#", "cs", "sql", "json", "jsonl", "yaml", "yml", "toml", "xml",
    "html", "css", "markdown", "md", "latex", "tex", "diff", "csv", "ini", "make", "makefile", "cmake",
    "dockerfile", "r", "julia", "perl", "lua", "matlab", "mermaid", "dot", "pycon",
}  # fmt: skip
DOES_SOMETHING = (ast.Call, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
MARKDOWN = ("markdown", "md")
SOLUTION = re.compile(r"^class\s+Solution\b", re.MULTILINE)
# Of either kind one name stands in every program that reads its input and prints, whichever way it does.
READING = frozenset(("input", "open", "read", "stdin", "fileinput", "mmap", "exec", "eval"))
PRINTING = frozenset(("print", "pprint", "open", "write", "writelines", "stdout", "exec", "eval"))
READING_WORDS = re.compile(rf"\b(?:{'|'.join(sorted(READING))})\b")
LANGUAGE_LINE = re.compile(r"\A\s*(?:python3?|py)[ \t]*\n", re.IGNORECASE)


@dataclass(frozen=True)
class Extracted:
    """A program, or why there is none: `truncated` (the thought or the program never ended) or `no_code`."""

    code: str | None
    reason: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What the program of an answer must do: define `entry`, or without one read standard input and print.

    `head` is what HumanEval showed of the function; LiveCodeBench's may be a method of a `Solution`.
    """

    entry: str | None = None
    head: str | None = None

    def is_in(self, body: str) -> bool:
        if self.entry is None:
            return reads_and_prints(body)
        if self.head is None and SOLUTION.search(body):
            return True
        return define_pattern(self.entry).search(body) is not None


READER = Wanted()


def fenced_blocks(text: str) -> tuple[list[tuple[str, str]], bool]:
    """All closed fenced blocks as `(language, body)`, and whether the text ends inside an open one."""
    blocks, is_open = find_blocks(text)
    return [(block.language, block.body) for block in blocks], is_open


def extract_program(completion: str, finish_reason: str | None = None, wanted: Wanted = READER) -> Extracted:
    """The last block that is a program, if one does what is wanted the last that does; else unfenced text that does.

    An unfinished thought, or a program cut off by the length limit, is `truncated`; text without a program is
    `no_code`. Neither is ever guessed at. Of a HumanEval answer only what the function needs is kept.
    """
    parts = split(completion)
    if parts.closed is False:
        return Extracted(None, "truncated")
    blocks, is_open = find_blocks(parts.answer)
    if is_open and finish_reason == "length":
        return Extracted(None, "truncated")
    chosen = choose_block([block for block in open_wrappers(blocks) if block.body.strip()], wanted)
    if chosen is not None:
        program = at_margin(chosen.body, wanted)
        needed = only_needed(program, wanted.entry) if wanted.head and wanted.entry else None
        return Extracted((program if needed is None else needed) + "\n")
    if wanted.head and wanted.entry:
        function = find_function(parts.answer, wanted.head, wanted.entry)
        if function is not None:
            return Extracted(function + "\n")
    return Extracted(None, "truncated" if finish_reason == "length" else "no_code")


def open_wrappers(blocks: list[Block]) -> Iterator[Block]:
    """The blocks, those inside a block of Markdown in its place: a whole answer may be wrapped in one."""
    for block in blocks:
        if block.language in MARKDOWN:
            yield from find_blocks(block.body)[0]
        else:
            yield block


def choose_block(blocks: list[Block], wanted: Wanted) -> Block | None:
    """The last block that says it is Python or, where it does not say, is a program; else the last without a name.

    Where some do what is wanted, it is the last of these that is more than a quotation.
    """
    programs = [block for block in blocks if block.is_python or is_program(block)]
    meant = [block for block in programs if wanted.is_in(at_margin(block.body, wanted))]
    unnamed = [block for block in blocks if not block.info]
    return last_whole(meant) or next(reversed(programs or unnamed), None)


def at_margin(body: str, wanted: Wanted) -> str:
    """A program all of whose lines are indented, at the margin; a HumanEval answer may be a body, which stays.

    A first line that only says "python" belonged on the fence.
    """
    body = LANGUAGE_LINE.sub("", body)
    first = next((line for line in body.split("\n") if line.strip()), "")
    if not first[:1].isspace():
        return body
    moved = textwrap.dedent(body)
    return body if wanted.head is not None and not wanted.is_in(moved) else moved


def reads_and_prints(body: str) -> bool:
    """Whether a program names anything that could read its standard input, and print; comments and prose do not count.

    Of one that is no Python, words that could read are enough.
    """
    tree = parse_python(body)
    if tree is None:
        return READING_WORDS.search(body) is not None
    names: set[str | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.alias):
            names |= {node.name, node.asname}
        else:
            names |= {getattr(node, "id", None), getattr(node, "attr", None)}
    return bool(names & READING and names & PRINTING)


def is_program(block: Block) -> bool:
    """Whether a block of no or an unknown language is Python that does something: not the output of one."""
    if block.language in OTHER_LANGUAGES:
        return False
    tree = parse_python(block.body)
    return tree is not None and any(isinstance(node, DOES_SOMETHING) for node in ast.walk(tree))
