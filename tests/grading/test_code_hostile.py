"""Hostile and tricky programs, one a file: every verdict right, at both levels, and nothing changed outside.

A file begins with `# expect: VERDICT` (or `not right`), and may say `# mode: call` (of its `add`) or `# needs: MODULE`;
`@CANARY@`, `@TESTS@`, `@PORT@` and `@GRADER@` stand for a folder outside, the file of tests, an open port, our process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import socket
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from promptcot_mamba.grading.code.tests import CodeVerdict, parse_tests, run_tests
from promptcot_mamba.grading.sandbox.sandbox import SAFE_LEVELS, Limits, Sandbox, SandboxRefusedError
from tests.grading.processes import are_gone, becomes, tree_of

PROGRAMS = sorted((Path(__file__).parent / "hostile").glob("*.py.txt"))
# Small limits, so that hundreds of attacks take seconds.
LIMITS = Limits(cpu_seconds=1, wall_seconds=2.0, memory_mb=1024, output_mb=4, disk_mb=8, files=64, threads=32)
MARKS = ("left", "left-by-program", "answer", "count", "written", "alive", "sitecustomize.py", "poison.pth")
WATCHED = (
    "/tmp",
    "/dev/shm",
    "/var/tmp",
    "/run",
    str(Path.home()),
    sysconfig.get_path("stdlib"),
    sysconfig.get_path("purelib"),
)


def header(path: Path, name: str) -> str | None:
    match = re.search(rf"^# {name}: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else None


def make_tests(entry: str | None) -> dict:
    if entry:
        body = {"inputs": ["3\n4", "10\n-2"], "outputs": ["7", "8"], "fn_name": entry}
    else:
        body = {"inputs": ["3 4\n", "10 -2\n"], "outputs": ["7\n", "8\n"], "fn_name": None}
    return {"input_output": json.dumps(body)}


@dataclass
class Outside:
    """What programs try to reach: a folder, the tests file in it, a listening port."""

    folder: Path
    tests: Path
    port: int
    visitors: list[object]
    before: dict[Path, bytes]  # Debian's Python has a sitecustomize.py of its own

    def marks(self) -> list[Path]:
        """What some program left or changed where it must not."""
        return [path for path, text in find_marks().items() if self.before.get(path) != text]


def find_marks() -> dict[Path, bytes]:
    paths = (Path(folder, name) for folder in WATCHED for name in MARKS)
    return {path: path.read_bytes() if path.is_file() else b"" for path in paths if path.exists()}


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    tests = folder / "hostile.json"
    tests.write_text(json.dumps(make_tests(None)))
    visitors: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def welcome() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                visitors.append(address)
                connection.close()

        threading.Thread(target=welcome, daemon=True).start()
        yield Outside(folder, tests, server.getsockname()[1], visitors, find_marks())


def run_program(sandbox: Sandbox, path: Path, outside: Outside) -> CodeVerdict:
    code = path.read_text(encoding="utf-8")
    words = {"CANARY": outside.folder, "TESTS": outside.tests, "PORT": outside.port, "GRADER": os.getpid()}
    for word, value in words.items():
        code = code.replace(f"@{word}@", str(value))
    entry = "add" if header(path, "mode") == "call" else None
    return run_tests(sandbox, code, parse_tests(make_tests(entry), "", "tests"))


@pytest.fixture(scope="module", params=SAFE_LEVELS)
def verdicts(request, outside, monkeypatch_module):
    """Every program run once at one level, by two workers."""
    monkeypatch_module.setenv("SECRET_OF_THE_GRADER", "7\n8\n")
    digest = hashlib.sha256(outside.tests.read_bytes()).hexdigest()
    local = threading.local()
    made = []

    def grade(path: Path) -> CodeVerdict:
        if not hasattr(local, "sandbox"):
            local.sandbox = Sandbox(request.param, LIMITS)
            made.append(local.sandbox)
        return run_program(local.sandbox, path, outside)

    wanted = [path for path in PROGRAMS if _available(path)]
    try:
        with ThreadPoolExecutor(2) as pool:
            found = dict(zip(wanted, pool.map(grade, wanted), strict=True))
    except SandboxRefusedError as error:
        pytest.skip(f"level {request.param} cannot be reached here: {error}")
    finally:
        servers = [server for sandbox in made for server in (sandbox, *sandbox._others.values())]
        processes = {pid: start for server in servers for pid, start in tree_of(server._process.pid).items()}
        for sandbox in made:
            sandbox.close()
    untouched = hashlib.sha256(outside.tests.read_bytes()).hexdigest() == digest
    return found, outside.marks(), untouched, processes


def _available(path: Path) -> bool:
    needs = header(path, "needs")
    return needs is None or importlib.util.find_spec(needs) is not None


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_enough_programs():
    assert len(PROGRAMS) >= 60


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name.removesuffix(".py.txt"))
def test_verdict(path: Path, verdicts):
    if not _available(path):
        pytest.skip(f"{header(path, 'needs')} is not installed")
    found, expected = verdicts[0][path], header(path, "expect")
    if expected == "not right":
        assert not found.passed, found
    else:
        assert found.reason == expected, found


def test_nothing_changed_outside(verdicts, outside):
    _, marks, tests_untouched, _ = verdicts
    assert not marks
    assert tests_untouched
    assert [path.name for path in outside.folder.iterdir()] == ["hostile.json"]
    assert oct(outside.tests.stat().st_mode & 0o777) == oct(0o666 & ~_umask())
    assert not outside.visitors


def test_no_process_is_left(verdicts):
    """Closing a sandbox ends its fork server and whatever runs below it."""
    *_, processes = verdicts
    assert processes
    assert becomes(lambda: are_gone(processes))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
