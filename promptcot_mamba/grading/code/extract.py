"""Cut the program out of a completion: the last fenced program after `</think>`.

LiveCodeBench (`lcb_runner/utils/extraction_utils.py`) takes what lies between the last two lines that hold backticks.
Where that is the program, so is ours; docs/sandbox.md lists where ours is meant to be better.
"""

import ast
from dataclasses import dataclass

from promptcot_mamba.chat_format import split
from promptcot_mamba.grading.code.fences import Block, find_blocks, parse_python
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


@dataclass(frozen=True)
class Extracted:
    """A program, or why there is none: `truncated` (the thought or the program never ended) or `no_code`."""

    code: str | None
    reason: str | None = None


@dataclass(frozen=True)
class Wanted:
    """A function that the program must define, and the head that the model was shown of it."""

    entry: str
    head: str


def fenced_blocks(text: str) -> tuple[list[tuple[str, str]], bool]:
    """All closed fenced blocks as `(language, body)`, and whether the text ends inside an open one."""
    blocks, is_open = find_blocks(text)
    return [(block.language, block.body) for block in blocks], is_open


def extract_program(completion: str, finish_reason: str | None = None, wanted: Wanted | None = None) -> Extracted:
    """The last block that is a program; of a wanted function, the last that defines it, else unfenced text that does.

    An unfinished thought, or a program cut off by the length limit, is `truncated`; text without a program is
    `no_code`. Neither is ever guessed at.
    """
    parts = split(completion)
    if parts.closed is False:
        return Extracted(None, "truncated")
    blocks, is_open = find_blocks(parts.answer)
    if is_open and finish_reason == "length":
        return Extracted(None, "truncated")
    chosen = choose_block([block for block in blocks if block.body.strip()], wanted)
    if chosen is not None:
        return Extracted(chosen.body + "\n")
    function = find_function(parts.answer, wanted.head, wanted.entry) if wanted else None
    if function is not None:
        return Extracted(function)
    return Extracted(None, "truncated" if finish_reason == "length" else "no_code")


def choose_block(blocks: list[Block], wanted: Wanted | None) -> Block | None:
    """The last block that says it is Python or, where it does not say, is a program; else the last without a name."""
    programs = [block for block in blocks if block.is_python or is_program(block)]
    if wanted:
        defining = define_pattern(wanted.entry)
        programs = [block for block in programs if defining.search(block.body)] or programs
    unnamed = [block for block in blocks if not block.info]
    return next(reversed(programs or unnamed), None)


def is_program(block: Block) -> bool:
    """Whether a block of no or an unknown language is Python that does something: not the output of one."""
    if block.language in OTHER_LANGUAGES:
        return False
    tree = parse_python(block.body)
    return tree is not None and any(isinstance(node, DOES_SOMETHING) for node in ast.walk(tree))
