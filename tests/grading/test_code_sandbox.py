"""The sandbox itself: what ends a program is told apart, servers end with their grader, the filter is sound."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code import grading
from promptcot_mamba.grading.code.tests import TestSet, run_tests
from promptcot_mamba.grading.sandbox import seccomp as seccomp
from promptcot_mamba.grading.sandbox.folder import empty_folder, within
from promptcot_mamba.grading.sandbox.libraries import wanted_modules
from promptcot_mamba.grading.sandbox.sandbox import SAFE_LEVELS, Limits, Sandbox, SandboxBrokenError
from promptcot_mamba.grading.sandbox.source import compile_program
from tests import small_disk
from tests.grading.lcb_files import RIGHT, flags, make_folder, read
from tests.grading.processes import are_gone, becomes, tree_of

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
    """The kernel's count of a test's CPU time begins no later than the program's own."""
    code = "import time\nx = bytearray(100_000_000)\nwhile time.process_time() < 0.1:\n    pass"
    outcome = sandbox.run(job(code), limits=SMALL)
    assert outcome.cpu_seconds >= 0.1
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


def test_import_lines_of_any_length_are_read():
    started = time.process_time()
    for code in ("import numpy" + ".a" * 200_000, "import numpy" + ", a" * 200_000, "import numpy\n" * 100_000):
        assert wanted_modules(code) == ["numpy"]
    assert time.process_time() - started < 120  # a guard: quadratic work would take hours


@pytest.mark.parametrize("level", SAFE_LEVELS)
def test_an_offered_package_is_imported_once_for_all(level):
    pytest.importorskip("sympy")
    code = "import sys\nprint('sympy' in sys.modules)\nimport sympy\nprint(sympy.Integer(7))"
    with Sandbox(level) as own:
        assert own.run(job(code)).stdout == b"True\n7\n"  # imported before the program began, so at no cost to it
        assert own.run(job("import sys\nprint('sympy' in sys.modules)")).stdout == b"False\n"  # by another server


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
        "s = Sandbox()\nprint(s._process.pid, flush=True)\ninput()\n"  # until its servers are counted
        "s.run({'mode': 'stdin', 'prelude': True, 'code': 'import time; time.sleep(6000)'})\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    grader = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **pipes)
    server = int(grader.stdout.readline())
    servers = len(tree_of(server))  # two, where processes have a namespace of their own
    print(file=grader.stdin, flush=True)
    assert becomes(lambda: len(tree_of(server)) > servers), "no program was started"
    below = tree_of(server)
    grader.send_signal(signal.SIGKILL)
    grader.wait()
    assert becomes(lambda: are_gone(below))


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (resource.RLIMIT_CPU, 6, r"6 s of CPU time \(ulimit -t\).* 7;"),
        (resource.RLIMIT_AS, 3 << 30, r"3072 MiB of address space \(ulimit -v\).* 4096;"),
        (resource.RLIMIT_DATA, 1 << 30, r"1024 MiB of data \(ulimit -d\).* 4096;"),
        (resource.RLIMIT_FSIZE, 1 << 20, r"1 MiB a file \(ulimit -f\).* 32;"),
        (resource.RLIMIT_NOFILE, 100, r"100 open files \(ulimit -n\)"),
    ],
)
def test_an_inherited_limit_below_a_programs_is_named(monkeypatch, kind, given, words):
    real = resource.getrlimit
    monkeypatch.setattr(resource, "getrlimit", lambda which: (given, given) if which == kind else real(which))
    with pytest.raises(InputError, match=words):
        Sandbox()


def test_a_low_file_limit_ends_the_program_with_one_line(tmp_path):
    folder = make_folder(tmp_path)
    command = [sys.executable, "calc_acc_lcb.py", "--input_path", str(folder / "p.jsonl"), *flags(folder)]
    files = sorted(tmp_path.iterdir())
    ended = subprocess.run(
        ["bash", "-c", 'ulimit -f 100 && exec "$@"', "bash", *command], cwd=ROOT, capture_output=True, text=True,
        env=small_disk.ENVIRONMENT,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.search(r"(?<!.)error: .*ulimit -f.*\n\Z", ended.stderr)  # behind the warning of absent problems
    assert ended.stderr.count("error: ") == 1
    assert sorted(tmp_path.iterdir()) == files


def test_what_breaks_two_sandboxes_is_no_verdict():
    """Such as a limit that nobody foresaw: the reason is told, by an error that ends a program in one line."""
    words = "could not be locked down: .*not allowed to raise maximum limit"
    code = (
        "import resource, sys\n"
        "from promptcot_mamba.grading.code.grading import SandboxPool\n"
        "from promptcot_mamba.grading.sandbox import sandbox\n"
        "sandbox.assert_limits_can_be_given = lambda limits: None\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "with SandboxPool(1) as pool:\n"
        "    try:\n        pool.run(lambda one: one.run({'mode': 'stdin', 'code': '', 'prelude': True}))\n"
        "    except sandbox.SandboxRefusedError as error:\n        print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=small_disk.ENVIRONMENT
    )
    assert re.fullmatch(f"two sandboxes broke over one program: .*{words}.*\n", ended.stdout), ended


LEAVINGS = (
    "os.makedirs('d', mode=0)",
    "os.umask(0o777)\nos.mkdir('a')",
    "for _ in range(1200):\n    os.mkdir('d')\n    os.chdir('d')",
    "for _ in range(100):\n    os.mkdir('d' * 250, 0o300)\n    os.chdir('d' * 250)\nopen('f', 'w').close()",
    "os.mkdir(b'\\xff\\n', 0o100)\nos.mkdir('d')\nos.mkdir('d/e', 0o200)\nos.mkdir('d/f', 0o400)",
)


@pytest.mark.parametrize("level", SAFE_LEVELS)
def test_whatever_a_program_leaves_the_next_finds_nothing(level):
    with Sandbox(level) as own:
        server = own._process.pid
        for code in LEAVINGS:
            left = own.run(job(f"import os\n{code}"))
            assert left.reason in (None, "disk"), left  # so many folders are too many, if it is seen meanwhile
            assert own.run(job("import os\nprint(os.listdir('.'))")).stdout == b"[]\n"
        assert own._process.pid == server


@pytest.mark.parametrize("name", ["d", "d" * 250])
def test_no_folder_hides_what_it_holds_from_the_limit(name):
    """A folder that its maker may not list; with long names also one whose path is too long to be named."""
    code = (
        f"import os, time\nfor _ in range(20):\n    os.mkdir({name!r}, 0o300)\n    os.chdir({name!r})\n"
        "for n in range(20):\n    open(str(n), 'wb').write(bytes(1 << 20))\ntime.sleep(6000)"
    )
    with Sandbox("landlock") as own:
        limits = Limits(cpu_seconds=60, wall_seconds=600.0, disk_mb=8)
        assert own.run(job(code), limits=limits).reason == "disk"


def test_a_stopped_program_s_folder_goes_too():
    own = Sandbox("landlock")
    base = Path(own._process.args[-1].split('"base": "')[1].split('"')[0])
    code = (
        "import os, time\nd = 'd' * 250\nfor _ in range(20):\n    os.mkdir(d, 0o300)\n    os.chdir(d)\ntime.sleep(6000)"
    )

    def stop() -> None:
        if becomes((base / "box" / ("d" * 250)).exists):
            os.killpg(own._process.pid, signal.SIGKILL)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(SandboxBrokenError):
        own.run(job(code), limits=Limits(wall_seconds=600.0))
    stopper.join()
    own.close()
    assert not base.exists()


@pytest.fixture
def deep_folder():
    """A folder 2,500 deep, which nothing that recurses could remove again: not pytest either."""
    folder = Path(tempfile.mkdtemp(prefix="deep-"))
    place = os.open(folder, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("d", dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_folders_are_emptied_without_recursion(deep_folder, tmp_path):
    (tmp_path / "kept").touch()
    for place in (deep_folder, deep_folder / "d"):
        (place / "file").touch()
        (place / "link").symlink_to(tmp_path)
    assert not within(deep_folder, 1 << 30, 256)
    empty_folder(deep_folder)
    assert list(deep_folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_a_folder_holds_is_counted(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "f").write_bytes(bytes(100_000))
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    assert within(tmp_path, 200_000, 4)
    assert not within(tmp_path, 200_000, 3)
    assert not within(tmp_path, 50_000, 4)


class Breaking(Sandbox):
    """A sandbox whose server ends at a program that says so, as one did that a program's folder was too much for."""

    words = "break"

    def run(self, job, stdin=b"", limits=None):
        if self.words in job["code"]:
            self.close()
            raise SandboxBrokenError("the fork server ended")
        return super().run(job, stdin, limits)


@pytest.fixture
def breaking(monkeypatch):
    monkeypatch.setattr(grading, "Sandbox", Breaking)


def sample(code: str, run: int) -> grading.CodeJob:
    tests = TestSet(("1 2\n",), ("3\n",), None, "md5")
    return grading.CodeJob("q7", run, code, None, "md5", partial(run_tests, code=code, tests=tests), "inline", "mine")


def test_a_program_that_breaks_sandboxes_costs_its_verdict(breaking, tmp_path, caplog):
    """Not the run, and not for good: it is named, and tried again."""
    jobs = [sample(code, run) for run, code in enumerate((RIGHT, f"# break\n{RIGHT}", f"{RIGHT}\n"))]
    for tried in (1, 2):
        with grading.SandboxPool(1) as pool:
            rows = [row for _, row in grading.grade_jobs(jobs, pool, tmp_path / "c.jsonl")]
        assert [row["reason"] for row in rows] == ["right", grading.SANDBOX_BROKE, "right"]
        assert caplog.text.count("problem q7, run 1: two sandboxes broke over one program: the fork server") == tried
    assert [row["run"] for row in read(tmp_path / "c.jsonl")] == [0, 2]


def test_where_no_program_runs_any_more_the_run_ends(breaking, monkeypatch):
    monkeypatch.setattr(Breaking, "words", "")  # which stands in every program, the empty one too
    named = r"problem q7, run 3: two sandboxes broke .*run the same command"
    with grading.SandboxPool(1) as pool, pytest.raises(InputError, match=named):
        list(grading.grade_jobs([sample(RIGHT, 3)], pool))


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
