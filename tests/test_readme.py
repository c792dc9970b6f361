"""Every command of the README is one the programs accept, and the pages' links and paths lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from promptcot_mamba.cli_parser import Parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("    #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "configs/ablations/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

BUILD_TOOLS = ("setuptools==78.1.1", "wheel", "packaging", "ninja")


class FlagsParsedError(Exception):
    """The program accepted its flags."""


def program_of(words: list[str]) -> tuple[str, list[str]] | None:
    """(module, flags) of a command that runs one of this project's Python programs."""
    if words[:2] == ["python", "-m"]:
        return words[2], words[3:]
    for place, word in enumerate(words):
        if word.endswith(".py"):
            return word.removesuffix(".py"), words[place + 1 :]
    return None


def parse_flags(module_name: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program's own parser, recipes included, read the flags, and stop there."""

    parse = Parser.parse_args

    def parse_only(parser, args):
        parse(parser, args)
        raise FlagsParsedError

    monkeypatch.setattr(Parser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [module_name, *flags])
    with pytest.raises(FlagsParsedError):
        importlib.import_module(module_name).main()


def test_the_readme_has_commands():
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z0-9_]+=", word)]
    program = program_of(words)
    if program is not None:
        parse_flags(*program, monkeypatch)
    elif words[0] == "bash":
        assert (ROOT / words[1]).is_file(), command
    else:
        assert words[:2] == ["pip", "install"], f"neither a program, a script nor an installation: {command}"
        for word in words[2:]:
            assert word.startswith(("torch==", "-r", "-c", "--")) or word in BUILD_TOOLS or (ROOT / word).is_file()


def name_anchor(heading: str) -> str:
    """As GitHub makes it of a heading's words."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(name_anchor, headings), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_paths_exist(page: Path):
    """But those that the reader is to add, and those of the log, which tells of what was."""
    if page.name == "LOG.md":
        return
    examples = ("brumo.py", "mine.yaml", "limo.py", "cute_kernels.py", "dedupe.py", "chemistry.py", "NAME.yaml")
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:configs|docs|scripts|promptcot_mamba|tests)/[\w./]+)`", text))
    assert {name for name in names if not (ROOT / name).exists() and not name.endswith(examples)} == set()


def test_every_page_is_found_from_the_list_of_pages():
    listed = set(re.findall(r"\]\(([^)#]+)", (ROOT / "docs/README.md").read_text(encoding="utf-8")))
    missing = {page for page in (ROOT / "docs").glob("*.md") if page.name not in {*listed, "README.md"}}
    assert missing == set()
