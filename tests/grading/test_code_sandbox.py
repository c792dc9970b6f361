"""The sandbox itself: what ends a program is told apart, servers end with their grader, the filter is sound."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.sandbox import seccomp as seccomp
from promptcot_mamba.grading.sandbox.libraries import wanted_modules
from promptcot_mamba.grading.sandbox.sandbox import SAFE_LEVELS, Limits, Sandbox
from promptcot_mamba.grading.sandbox.source import compile_program

ROOT = Path(__file__).resolve().parents[2]
SMALL = Limits(cpu_seconds=1, wall_seconds=5.0, memory_mb=512, output_mb=1)


def job(code: str) -> dict:
    return {"mode": "stdin", "code": code, "prelude": True}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print(1)", None),
        ("raise SystemExit(3)", None),
        ("while True: pass", "timeout"),
        ("x = bytearray(1 << 30)", "memory"),
        ("print('x' * (1 << 21))", "output_limit"),
        ("1 / 0", "runtime_error"),
        ("def f(): return f()\nf()", "runtime_error"),
        ("x = = 1", "syntax_error"),
        ("import os; os.abort()", "crash"),
    ],
)
def test_endings_are_told_apart(sandbox, code, reason):
    assert sandbox.run(job(code), limits=SMALL).reason == reason


def test_what_a_run_used_is_told(sandbox):
    outcome = sandbox.run(job("x = bytearray(100_000_000)\nsum(range(3_000_000))"), limits=SMALL)
    assert outcome.cpu_seconds > 0.01
    assert outcome.peak_bytes > 100_000_000
    assert sandbox.run(job("raise KeyError('which')")).detail == "KeyError: 'which'"


def test_an_unknown_level_is_bad_input():
    with pytest.raises(InputError, match="--sandbox strong"):
        Sandbox("strong")
    with pytest.raises(InputError, match="--unsafe"):
        Sandbox("unsafe")


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("print(1)", []),
        ("import numpy as np", ["numpy"]),
        ("import sys, numpy, os", ["numpy"]),
        ("def f():\n    from scipy import sparse, nowhere", ["scipy", "scipy.sparse"]),
        ("from scipy.sparse.csgraph import dijkstra", ["scipy", "scipy.sparse", "scipy.sparse.csgraph"]),
        ("import numpy.f2py.__main__, scipy.conftest", ["numpy", "scipy"]),
        ("x = 'sympy'\nimport torch", []),
        ("# import sympy", []),
        ("import networkx; import sympy", ["networkx", "sympy"]),
        ("try: import numpy\nexcept ImportError: pass", ["numpy"]),
    ],
)
def test_what_a_server_imports_for_a_program(code, modules):
    assert wanted_modules(code) == modules


def test_import_lines_are_read_in_no_time():
    started = time.process_time()
    for code in ("import numpy" + ".a" * 200_000, "import numpy" + ", a" * 200_000, "import numpy\n" * 100_000):
        assert wanted_modules(code) == ["numpy"]
    assert time.process_time() - started < 5


@pytest.mark.parametrize("level", SAFE_LEVELS)
def test_an_offered_package_is_imported_once_for_all(level):
    pytest.importorskip("sympy")
    with Sandbox(level) as own:
        outcomes = [own.run(job("import sympy\nprint(sympy.Integer(7))")) for _ in range(2)]
    assert [outcome.stdout for outcome in outcomes] == [b"7\n"] * 2
    assert max(outcome.cpu_seconds for outcome in outcomes) < 0.5  # importing takes longer


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("total = 0\ndef f():\n    global total\n    total += 7\nf()\nprint(total)\nreturn\nprint(8)", "7"),
        ("try:\n    print(7)\n    return\nexcept:\n    print(8)", "7"),
        ("from math import *\nx: int = floor(7.5)\nprint([x for _ in 'a'][0])\nreturn x", "7"),
        ("class A:\n    y = 7\nprint(A.y)\nif A.y:\n    return\nwhile True: pass", "7"),
        ("\ufeffprint(7)", "7"),
    ],
)
def test_a_program_may_return(source, printed, capsys):
    exec(compile_program(source), {"__name__": "__main__"})
    assert capsys.readouterr().out == printed + "\n"


@pytest.mark.parametrize("source", ["class A:\n    return", "return (", "def f(:\n    return", "yield 1\nreturn"])
def test_what_is_no_program_stays_none(source):
    with pytest.raises(SyntaxError):
        compile_program(source)


def test_servers_end_with_a_killed_grader():
    """`kill -9` of the grader in the middle of a test leaves no server and no program."""
    code = (
        "from promptcot_mamba.grading.sandbox.sandbox import Sandbox\n"
        "s = Sandbox()\nprint(s._process.pid, flush=True)\n"
        "s.run({'mode': 'stdin', 'prelude': True, 'code': 'import time; time.sleep(600)'})\n"
    )
    grader = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    server = int(grader.stdout.readline())
    time.sleep(0.3)
    grader.send_signal(signal.SIGKILL)
    grader.wait()
    deadline = time.monotonic() + 30
    while _runs(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(server)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def evaluate(program: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = 0xC000003E) -> int:
    """What a BPF program returns for one system call: a small interpreter of the operations it uses."""
    data = struct.pack("IIQ6Q", number, arch, 0, *arguments, *([0] * (6 - len(arguments))))
    ops = list(struct.iter_unpack("HBBI", program))
    place = accumulator = 0
    while True:
        code, jump_true, jump_false, k = ops[place]
        place += 1
        if code == seccomp.LD_W_ABS:
            (accumulator,) = struct.unpack_from("I", data, k)
        elif code == seccomp.ALU_AND_K:
            accumulator &= k
        elif code == seccomp.JEQ_K:
            place += jump_true if accumulator == k else jump_false
        elif code == seccomp.JGE_K:
            place += jump_true if accumulator >= k else jump_false
        elif code == seccomp.JMP_K:
            place += k
        else:
            assert code == seccomp.RET_K
            return k


EPERM = seccomp.RET_ERRNO | errno.EPERM


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_filter_allows_its_list_and_nothing_else(machine):
    target = seccomp.MACHINES[machine]
    program = seccomp.build_filter(4321, machine)
    names = {number: name for name, number in target.numbers.items()}
    conditional = set(seccomp._conditions(4321)) | {"clone3"}
    for number in range(600):
        result = evaluate(program, number, arch=target.audit_arch)
        if number not in names:
            assert result == EPERM, number
        elif names[number] not in conditional:
            assert result == seccomp.RET_ALLOW, names[number]


@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("clone", (0x3D0F00,), True),  # what glibc starts a thread with
        ("clone", (17,), False),  # fork
        ("clone", (0x4111,), False),  # vfork
        ("clone", (0x10000D00,), False),
        ("clone", (0x10010900,), False),  # a thread in a new user namespace
        ("kill", (4321, 9), True), ("kill", (0, 9), False), ("kill", (2**32 - 1, 9), False), ("kill", (1, 9), False),
        ("tgkill", (4321, 5, 6), True), ("tgkill", (4320, 5, 6), False),
        ("prlimit64", (0,), True), ("prlimit64", (4321,), True), ("prlimit64", (1,), False),
        ("fcntl", (1, 3), True), ("fcntl", (1, 8), False), ("fcntl", (1, 10), False),
        ("ioctl", (0, 0x5401), True), ("ioctl", (0, 0x5412), False),
        ("prctl", (15,), True), ("prctl", (22,), False),
        ("socketpair", (1, 1 | 0o2000000), True), ("socketpair", (1, 2), False), ("socketpair", (2, 1), False),
        ("openat", (0, 0, 0o1101), True), ("openat", (0, 0, 0o1000), False), ("open", (0, 0o1000), False),
    ],
)  # fmt: skip
def test_arguments_decide(name, arguments, allowed):
    number = seccomp.MACHINES["x86_64"].numbers[name]
    expected = seccomp.RET_ALLOW if allowed else EPERM
    assert evaluate(seccomp.build_filter(4321, "x86_64"), number, arguments) == expected


def test_other_abis_kill():
    program = seccomp.build_filter(4321, "x86_64")
    assert evaluate(program, 0x40000000 + 39) == seccomp.RET_KILL_PROCESS
    assert evaluate(program, 39, arch=0x40000003) == seccomp.RET_KILL_PROCESS


def test_a_template_aims_the_same_filter(monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "x86_64")
    for pid in (1, 4321, os.getpid()):
        assert seccomp.FilterTemplate().aim(pid) == seccomp.build_filter(pid)
