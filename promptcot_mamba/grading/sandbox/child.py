"""What happens in the one process a test runs in: take the files, give up the rights, run the program.

Everything here runs beside hostile code, so nothing here decides anything: the process writes its output and, for
function calls, the returned value's content. It never holds an expected output, and verdicts are made elsewhere.
"""

import _sitebuiltins
import atexit
import builtins
import contextlib
import ctypes
import fcntl
import gc
import io
import json
import os
import random
import resource
import signal
import sys
import threading
import traceback
from types import ModuleType
from typing import Any, cast

from promptcot_mamba.grading.code import values as code_values
from promptcot_mamba.grading.sandbox.source import MAIN_FUNCTION, compile_program, compile_source

# Exit statuses that say why a program ended. A program may forge them, to its own loss only.
STATUS_EXCEPTION, STATUS_MEMORY, STATUS_SYNTAX = 201, 202, 203

RESULT_FD = 3  # where a function call's value goes
RECURSION_LIMIT = 50_000  # as LiveCodeBench sets it
MAX_INT_DIGITS = 50_000  # likewise
MAX_OPEN_FILES = 64
FREE_FD = 128  # the fork server holds fewer
MAX_JOB_FILES = 8  # that come with a request
PR_SET_PDEATHSIG = 1

# LiveCodeBench runs every program below these imports, star imports (and two more) first, in this order.
MODULE_IMPORTS = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json",
)  # fmt: skip


def make_prelude() -> dict[str, Any]:
    """The names LiveCodeBench puts in scope of every program."""
    names: dict[str, Any] = {}
    for module in (*MODULE_IMPORTS, "builtins", "typing"):
        exec(f"from {module} import *", names)
    for module in MODULE_IMPORTS:
        exec(f"import {module}", names)
    del names["__builtins__"]
    return names


# The interpreter runs without `site`, which gives every program these.
for _name in ("exit", "quit"):
    setattr(builtins, _name, _sitebuiltins.Quitter(_name, "Ctrl-D (i.e. EOF)"))

OWN_PACKAGE, OWN_FOLDER = "promptcot_mamba", __file__.rpartition("/")[0]

LAST_NAME = MAIN_FUNCTION  # what a program defines stands behind this name in its namespace
# Made before the fork and never copied: touching 600 objects costs a process half a millisecond of page faults.
MODULES = {prelude: ModuleType("program") for prelude in (True, False)}
PRELUDE = make_prelude()
MODULES[True].__dict__.update(PRELUDE)
for _module in MODULES.values():
    _module.__dict__.update({"__builtins__": builtins, LAST_NAME: None})


def hide_own_modules() -> None:
    """Make this package look not installed, like every other that is not offered."""
    for name in [name for name in sys.modules if name.partition(".")[0] == OWN_PACKAGE]:
        del sys.modules[name]


def set_limits(limits: dict[str, int]) -> None:
    """Bind this process to its limits; but for the stack's, which that of memory includes."""
    cpu = limits["cpu_seconds"]
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # SIGXCPU, which can be ignored, then SIGKILL
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"], limits["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"], limits["file_bytes"]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    for nothing in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        resource.setrlimit(nothing, (0, 0))


def take_files(fds: list[int]) -> int:
    """Put the files at descriptors 0, 1, 2 and on; close every other one, the fork server's socket among them.

    Returns the descriptor of the last.
    """
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, FREE_FD) for fd in fds]  # first out of the way of the low numbers
    for index, fd in enumerate(high):
        os.dup2(fd, index)
    os.closerange(len(fds), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return len(fds) - 1


def open_streams() -> None:
    """Fresh text streams over descriptors 0, 1 and 2, as the interpreter makes them in UTF-8 mode."""

    def stream(fd: int, mode: str, name: str, errors: str) -> io.TextIOWrapper:
        raw = io.FileIO(fd, mode, closefd=False)
        buffered = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        text = io.TextIOWrapper(buffered, encoding="utf-8", errors=errors, line_buffering=fd == 2)
        raw.name = name
        cast(Any, text).mode = mode  # the interpreter sets it too
        return text

    made = {
        "stdin": stream(0, "r", "<stdin>", "surrogateescape"),
        "stdout": stream(1, "w", "<stdout>", "surrogateescape"),
        "stderr": stream(2, "w", "<stderr>", "backslashreplace"),
    }
    for name, text in made.items():
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


def new_namespace(name: str, prelude: bool) -> dict[str, Any]:
    """The global names a program starts with, in a module of its own registered as `name`."""
    module = MODULES[prelude]
    sys.modules[name] = module
    names = module.__dict__
    names |= {"__name__": name, "__file__": sys.argv[0]}
    if prelude:
        names |= {"stdin": sys.stdin, "stdout": sys.stdout, "stderr": sys.stderr, "argv": sys.argv}
    return names


def forget_names() -> None:
    """Drop what the program defined, so that files it left open are flushed, as at the end of an interpreter."""
    for module in MODULES.values():
        names = module.__dict__
        while names and next(reversed(names)) != LAST_NAME:
            names.popitem()
    gc.collect()


def call_function(names: dict[str, Any], entry: str, args: list[Any], in_class: bool) -> Any:
    """Call the program's function, or the method of its `Solution`; `operator.add` is no answer to "write add"."""
    in_class = in_class and "Solution" in names  # else only a comment names it
    wanted = "Solution" if in_class else entry
    if wanted not in names or names[wanted] is PRELUDE.get(wanted):
        raise NameError(f"name {wanted!r} is not defined by the program")
    return getattr(names["Solution"](), entry)(*args) if in_class else names[entry](*args)


def write_result(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


class RemoteCandidate:
    """The function under test as a benchmark's `check` sees it: each call runs in a sandbox of its own.

    Calls go out as a length and the encoded arguments; back comes a length and the encoded value, or nothing.
    """

    def __init__(self, out_fd: int, in_fd: int):
        self.out = os.fdopen(out_fd, "wb")
        self.back = os.fdopen(in_fd, "rb")

    def __call__(self, *args: Any) -> Any:
        data = code_values.encode_value(args)
        self.out.write(len(data).to_bytes(8, "little") + data)
        self.out.flush()
        size = int.from_bytes(self.back.read(8), "little")
        if size == 0:
            raise RuntimeError("the candidate gave no value")
        return code_values.decode_value(self.back.read(size))


def run_job(job: dict[str, Any]) -> None:
    """Run what a job says; `mode` is stdin, call, batch or check."""
    code, mode = job["code"], job["mode"]
    if mode == "stdin":
        exec(compile_program(code), new_namespace("__main__", job["prelude"]))
        return
    args = code_values.decode_value(job["args"].encode()) if "args" in job else []
    names = new_namespace("solution", job["prelude"])
    exec(compile_source(job.get("before", ""), "<head>"), names)
    exec(compile_source(code), names)
    if mode == "call":
        value = call_function(names, job["entry"], args, job["in_class"])
        write_result(RESULT_FD, code_values.encode_value(value))
    elif mode == "batch":  # trusted code over many inputs: one encoded value a line
        for one in args:
            value = call_function(names, job["entry"], one, False)
            write_result(RESULT_FD, code_values.encode_value(value) + b"\n")
    elif mode == "check":
        exec(compile_source(job["check"], "<check>"), names)
        random.seed(0)  # one check draws its inputs at random
        names["check"](RemoteCandidate(RESULT_FD + 1, RESULT_FD + 2))
        write_result(RESULT_FD, b"true")


def run_and_exit(job_bytes: bytes) -> None:
    """Run a job and end this process as the interpreter would: threads joined, exit functions run, files flushed."""
    gc.enable()
    random.seed(0)  # the same draws for every test, so a verdict can be repeated
    sys.argv = ["program.py"]
    open_streams()
    sys.setrecursionlimit(RECURSION_LIMIT)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(MAX_INT_DIGITS)
    exit_now = os._exit
    status = 0
    try:
        run_job(json.loads(job_bytes))
    except SystemExit as stop:
        status = _exit_status(stop.code)
    except BaseException as error:  # noqa: BLE001 - whatever a program raises ends it, and is told by the status
        status = _report(error)
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # private: what the interpreter itself calls at its end
        atexit._run_exitfuncs()
        flush_streams(sys.stdout, sys.stderr)
        forget_names()
        flush_streams(sys.__stdout__, sys.__stderr__)
    except BaseException as error:  # noqa: BLE001 - as above
        status = status or _report(error)
    exit_now(status)


def flush_streams(*streams: Any) -> None:
    """Flush what is open, by methods only: a program may have changed the builtins."""
    for stream in streams:
        if stream is None:
            continue
        try:
            closed = stream.closed
        except AttributeError:
            closed = False
        except ValueError:  # detached: another stream has its buffer
            closed = True
        if not closed:
            stream.flush()


def _exit_status(code: Any) -> int:
    if code is None:
        return 0
    if type(code) is int:
        return code & 0xFF
    with contextlib.suppress(Exception):
        print(code, file=sys.stderr)
    return 1


def _report(error: BaseException) -> int:
    """Print a traceback as the interpreter would, without our frames, and return the status that tells the error."""
    with contextlib.suppress(BaseException):
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename.startswith(OWN_FOLDER):
            frames = frames.tb_next
        traceback.print_exception(error.with_traceback(frames), limit=-5, file=sys.__stderr__)
        if sys.__stderr__ is not None:
            sys.__stderr__.flush()
    if issubclass(type(error), MemoryError):
        return STATUS_MEMORY
    return STATUS_SYNTAX if issubclass(type(error), SyntaxError) else STATUS_EXCEPTION


def die_with_parent(libc: ctypes.CDLL) -> None:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
