"""Programs as contestants write them, all of them right, at both levels; and that the machine's load changes none."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_mamba.grading.code.tests import parse_tests, run_call_test, run_stdin_test, run_tests
from promptcot_mamba.grading.sandbox.libraries import OFFERED, wanted_modules
from promptcot_mamba.grading.sandbox.sandbox import SAFE_LEVELS, Limits, Sandbox, SandboxRefusedError
from tests.grading.test_code_hostile import make_tests

PROGRAMS = dict(
    part.split("\n", 1)
    for part in re.split(r"^#### ", (Path(__file__).parent / "contest_programs.txt").read_text(), flags=re.MULTILINE)[
        1:
    ]
)


TESTS_AND_JOKES = ("conftest", "tests", "testing", "distutils", "_pytesttester", "galgebra", "this")


@pytest.fixture(scope="module", params=SAFE_LEVELS)
def leveled(request):
    try:
        made = Sandbox(request.param)
    except SandboxRefusedError as error:
        pytest.skip(f"level {request.param} cannot be reached here: {error}")
    with made:
        yield made


def test_enough_programs():
    assert len(PROGRAMS) >= 90


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_right_program_is_right(leveled, name):
    code, entry = PROGRAMS[name], "add" if name.startswith("call") else None
    needed = {module.partition(".")[0] for module in wanted_modules(code)}
    for module in needed:
        pytest.importorskip(module)
    verdict = run_tests(leveled, code, parse_tests(make_tests(entry), "", "tests"))
    assert verdict.passed, verdict


def test_futures_are_the_program_s_own(sandbox):
    wrong = "def f(x: Lisst[int]): pass\nprint(7)"
    assert run_stdin_test(sandbox, wrong, "", "7").reason == "runtime_error"
    assert run_stdin_test(sandbox, "from __future__ import annotations\n" + wrong, "", "7").passed
    head = "from dataclasses import dataclass, fields\n@dataclass\nclass P:\n    x: int\n"
    code = head + "def kind():\n    return fields(P)[0].type is int"
    assert run_call_test(sandbox, code, "kind", '""', "true").reason == "runtime_error"  # it takes no argument
    assert run_call_test(sandbox, code.replace("kind()", "kind(x)"), "kind", "1", "true").passed
    wrong = "def add(x: Lisst[int]): return 7"
    assert run_call_test(sandbox, wrong, "add", "1", "7").detail == "NameError: name 'Lisst' is not defined"


@pytest.mark.parametrize(
    "module", ["numba", "torch", "pandas", "pytest", "yaml", "transformers", "promptcot_mamba", "nowhere"]
)
def test_what_is_not_offered_looks_not_installed(sandbox, module):
    code = (
        "import importlib.util, pkgutil\n"
        f"assert importlib.util.find_spec('{module}') is None\n"
        f"assert '{module}' not in {{m.name for m in pkgutil.iter_modules()}}\n"
        f"try:\n    import {module}\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    assert run_stdin_test(sandbox, code, "", f"No module named '{module}'").passed


def test_every_submodule_of_the_offered_packages(sandbox, monkeypatch):
    """All that import outside import inside, but for parts that test or draw; no program needs them all."""
    monkeypatch.setattr(sandbox, "limits", Limits(cpu_seconds=300, wall_seconds=600.0))
    code = (
        "import importlib, pkgutil\n"
        f"for package in {OFFERED}:\n"
        "    try:\n        path = importlib.import_module(package).__path__\n"
        "    except ModuleNotFoundError:\n        continue\n"
        "    for module in pkgutil.iter_modules(path):\n"
        f"        if module.name not in {TESTS_AND_JOKES}:\n"
        "            importlib.import_module(f'{package}.{module.name}')\n"
        "print(7)"
    )
    result = run_stdin_test(sandbox, code, "", "7")
    assert result.passed, result


def test_numpy_under_a_small_memory_limit(sandbox):
    """Imported libraries are not a program's memory; what it takes itself is."""
    pytest.importorskip("numpy")
    small = Limits(memory_mb=256)
    code = "import numpy as np\nx = np.zeros({}, np.int8)\nx[:] = 1\nprint(x.sum())"
    run = lambda size: sandbox.run({"mode": "stdin", "code": code.format(size), "prelude": True}, limits=small)  # noqa: E731
    assert run(100 << 20).reason is None
    assert run(300 << 20).reason == "memory"


@pytest.fixture
def busy():
    """Four loops beside: on most machines more than there are free cores."""
    loops = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(4)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


COMPUTE = "import time\nwhile time.process_time() < {}:\n    pass\nprint(7)"


@pytest.mark.parametrize("threads", [False, True])
def test_a_busy_machine_changes_no_verdict(sandbox, busy, threads):
    """The wall limit is far below what these take; they compute, and have the CPU seconds."""
    code = COMPUTE.format(1.2)
    if threads:
        body = code.replace("\n", "\n    ")
        code = f"import threading\ndef main():\n    {body}\nthreading.Thread(target=main).start()"
    limits = Limits(cpu_seconds=3, wall_seconds=0.5)
    outcome = sandbox.run({"mode": "stdin", "code": code, "prelude": True}, limits=limits)
    assert (outcome.reason, outcome.stdout) == (None, b"7\n")
    assert outcome.wall_seconds > 1.2


@pytest.mark.parametrize(
    ("code", "blocked"),
    [
        ("import time\ntime.sleep(60)", True),
        ("import threading\nthreading.Lock().acquire() and threading.Event().wait()", True),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", True),
        ("import os\nr, w = os.pipe()\nos.read(r, 1)", True),
        ("import time\nwhile True:\n    time.sleep(0.02)\n    sum(range(1000))", True),
        ("while True: pass", False),
    ],
)
def test_a_time_out_says_whether_the_program_computed(sandbox, busy, code, blocked):
    limits = Limits(cpu_seconds=1, wall_seconds=0.6)
    outcome = sandbox.run({"mode": "stdin", "code": code, "prelude": True}, limits=limits)
    assert (outcome.reason, outcome.settled) == ("timeout", not blocked)
    assert outcome.wall_seconds >= 0.6


def test_a_machine_too_busy_to_judge_settles_nothing(sandbox, monkeypatch):
    monkeypatch.setattr("promptcot_mamba.grading.sandbox.outcome.PATIENCE", 0.05)
    job = {"mode": "stdin", "code": "while True: pass", "prelude": True}
    outcome = sandbox.run(job, limits=Limits(cpu_seconds=10, wall_seconds=0.1))
    assert (outcome.reason, outcome.settled) == ("timeout", False)
    assert outcome.detail.startswith("this busy machine gave it")
