"""Run a program nobody trusts: one fresh, locked-down process per run, from a warm fork server.

    with Sandbox() as sandbox:
        outcome = sandbox.run({"mode": "stdin", "code": code, "prelude": True}, stdin=b"1 2\n")

What it stops, what it does not, and its levels: docs/sandbox.md. The files: `server` forks and watches, `folder` looks
after programs' files, `child` runs the program, `libraries` says what it may import, `outcome` how it ended,
`namespaces`, `landlock` and `seccomp` lock it down. This module is the trusted side; nothing it knows of expected
outputs goes to the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import select
import socket
import subprocess
import sys
import sysconfig
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.sandbox.folder import empty_folder
from promptcot_mamba.grading.sandbox.inherited import assert_limits_can_be_given
from promptcot_mamba.grading.sandbox.libraries import OFFERED, wanted_modules
from promptcot_mamba.grading.sandbox.outcome import MIB, Limits, Outcome, SandboxBrokenError, judge_ending
from promptcot_mamba.log import log_once

LEVELS = {
    "namespaces": "namespaces+landlock+seccomp+rlimits",
    "landlock": "landlock+seccomp+rlimits",
    "unsafe": "rlimits",
}
SAFE_LEVELS = ("namespaces", "landlock")

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS, STOP_SECONDS = 120.0, 5.0
GRACE_SECONDS = 60.0  # how much longer than a test may take its server may take to answer
# What the offered packages (`libraries.OFFERED`) read beside themselves.
BINARIES = ("numpy.libs", "scipy.libs")
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
FILES = ("/etc/ld.so.cache", "/etc/localtime")
ZONES = "/usr/share/zoneinfo"
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
SERVER_CODE = (
    "import sys, json; sys.path.insert(0, {root!r}); "
    "from promptcot_mamba.grading.sandbox.server import main; main(json.loads({config!r}), {root!r})"
)


class SandboxRefusedError(InputError):
    """The kernel does not allow the level of isolation asked for."""


def readable_paths() -> list[tuple[str, str]]:
    """What programs may read, as (path, kind): Python's library, system libraries, a few packages and devices."""
    libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    prefix = Path(sys.base_prefix)
    if prefix not in (Path("/"), Path("/usr"), Path("/usr/local")):
        libraries.add(str(prefix / "lib"))
    libraries |= set(SYSTEM_LIBRARIES) | {ZONES}
    found = [(path, "code") for path in libraries] + [(path, "file") for path in FILES]
    for site in _site_folders():
        found += [(str(site / name), "code") for name in (*OFFERED, *BINARIES)]
    found += [(path, "device") for path in DEVICES]
    return [(os.path.realpath(path) if kind != "code" else path, kind) for path, kind in found if Path(path).exists()]


def _site_folders() -> list[Path]:
    spec = importlib.util.find_spec("numpy")
    folders = {Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))}
    if spec is not None and spec.origin:
        folders.add(Path(spec.origin).parents[1])
    return sorted({Path(os.path.realpath(folder)) for folder in folders if folder.is_dir()})


def assert_unreadable(path: Path, flag: str) -> None:
    """Raise InputError if programs could read `path`: expected outputs must not lie among Python's libraries."""
    real = Path(os.path.realpath(path))
    for root, kind in readable_paths():
        if kind == "code" and real.is_relative_to(os.path.realpath(root)):
            raise InputError(f"{flag} {path}: lies under {root}, which graded programs can read; move it elsewhere")


def _sealed_file(name: str, data: bytes) -> int:
    """A read-only descriptor of an unnamed file that nobody can change any more."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _contents(fd: int, limit: int | None = None) -> bytes:
    """What a file holds, from its start, wherever a program left its offset; its tail where there is a limit."""
    size = os.fstat(fd).st_size
    start = max(0, size - limit) if limit is not None else 0
    chunks = []
    while start < size:
        chunk = os.pread(fd, size - start, start)
        if not chunk:
            break
        chunks.append(chunk)
        start += len(chunk)
    return b"".join(chunks)


def _stop(process: subprocess.Popen, sock: socket.socket, base: tempfile.TemporaryDirectory) -> None:
    sock.close()  # an idle server ends at that
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(OSError):
        empty_folder(Path(base.name))  # a program stopped in its midst may have left what `cleanup` cannot remove
    base.cleanup()


class Sandbox(contextlib.AbstractContextManager):
    """One fork server and its level. Not for use by two threads at once: give each its own.

    Raises SandboxRefusedError if neither safe level can be reached and `unsafe` is not given, InputError if this
    process inherited lower limits than programs are to have.
    """

    def __init__(self, level: str | None = None, limits: Limits | None = None, unsafe: bool = False):
        self.limits = limits or Limits()
        assert_limits_can_be_given(self.limits)
        self._others: dict[str, Sandbox] = {}
        if level is not None and (level not in LEVELS or (level not in SAFE_LEVELS and not unsafe)):
            raise InputError(f"--sandbox {level}: expected {' or '.join(SAFE_LEVELS)}; or pass --unsafe")
        refusals = []
        for candidate in [level] if level else [*SAFE_LEVELS, *(["unsafe"] if unsafe else [])]:
            try:
                self._start(candidate)
            except SandboxRefusedError as error:
                refusals.append(f"{candidate}: {error}")
                continue
            return
        raise SandboxRefusedError(
            "no sandbox can be made here (" + "; ".join(refusals) + "). Programs would run with your rights: "
            "use a kernel with Landlock (5.13 or newer), or pass --unsafe to run them unprotected"
        )

    def _start(self, level: str) -> None:
        self.level = level
        self.label = LEVELS[level]
        base = tempfile.TemporaryDirectory(prefix="programs-", ignore_cleanup_errors=True)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = {
            "level": level,
            "socket": theirs.fileno(),
            "base": base.name,
            "readable": readable_paths(),
            "disk_bytes": 2 * self.limits.disk_mb * MIB,
            "site": [str(folder) for folder in _site_folders()],
        }
        code = SERVER_CODE.format(root=str(ROOT), config=json.dumps(config))
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-S", "-s", "-B", "-c", code],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/",
            pass_fds=[theirs.fileno()], start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self._process, self._socket = process, ours
        self._closer = weakref.finalize(self, _stop, process, ours, base)
        hello = self._receive(START_SECONDS)
        if "refused" in hello:
            self.close()
            raise SandboxRefusedError(hello["refused"])
        log_once(f"programs run in a sandbox: {self.label}")

    def _receive(self, seconds: float) -> dict[str, Any]:
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(4096)
        except (TimeoutError, ConnectionResetError):  # the latter of a server that ended with a request unread
            data = b""
        if not data:
            self.close()
            raise SandboxBrokenError("the fork server of the sandbox ended or stopped answering")
        return json.loads(data)

    def run(self, job: dict[str, Any], stdin: bytes = b"", limits: Limits | None = None) -> Outcome:
        """Run one job (see `child.run_job`) in a fresh process, with real files for its standard streams."""
        modules = wanted_modules(job["code"])
        sandbox = self._other("libraries") if modules else self
        return sandbox._run({**job, "modules": modules}, stdin, limits or self.limits, None)

    def run_check(self, job: dict[str, Any], answer: Callable[[bytes], bytes | None], limits: Limits) -> Outcome:
        """Run a trusted `check(candidate)`; each call of its candidate is answered by `answer(encoded arguments)`."""
        return self._run({**job, "mode": "check"}, b"", limits, answer)

    def _run(self, job: dict[str, Any], stdin: bytes, limits: Limits, answer: Callable | None) -> Outcome:
        with contextlib.ExitStack() as stack:

            def keep(fd: int) -> int:
                stack.callback(os.close, fd)
                return fd

            fds = [keep(_sealed_file("stdin", stdin))]
            fds += [keep(os.memfd_create(name, os.MFD_CLOEXEC)) for name in ("stdout", "stderr")]
            fds.append(keep(_sealed_file("job", json.dumps(job).encode())))
            if job["mode"] != "stdin":
                fds.append(keep(os.memfd_create("result", os.MFD_CLOEXEC)))
            request = json.dumps({**limits.to_request(), "modules": job.get("modules", [])}).encode()
            if answer is None:
                socket.send_fds(self._socket, [request], fds)
            else:
                calls_out, their_out = os.pipe()
                their_in, calls_in = os.pipe()
                keep(calls_out), keep(calls_in)
                socket.send_fds(self._socket, [request], [*fds, their_out, their_in])
                os.close(their_out)
                os.close(their_in)
                self._answer_calls(calls_out, calls_in, answer)
            reply = self._receive(limits.patience_seconds + GRACE_SECONDS)
            result = _contents(fds[4]) if len(fds) > 4 else b""
            stdout = _contents(fds[1])
            return judge_ending(reply, stdout, result, _contents(fds[2], 400), limits)

    def _answer_calls(self, calls_out: int, calls_in: int, answer: Callable[[bytes], bytes | None]) -> None:
        """Serve a check's calls until it ends and its side of the pipe closes."""
        pending = b""
        while select.select([calls_out], [], [])[0]:
            chunk = os.read(calls_out, 1 << 16)
            if not chunk:
                return
            pending += chunk
            while len(pending) >= 8 and len(pending) >= 8 + int.from_bytes(pending[:8], "little"):
                size = 8 + int.from_bytes(pending[:8], "little")
                value = answer(pending[8:size]) or b""
                pending = pending[size:]
                view = memoryview(len(value).to_bytes(8, "little") + value)
                try:
                    while view:
                        view = view[os.write(calls_in, view) :]
                except BrokenPipeError:
                    return

    @property
    def companion(self) -> Sandbox:
        """A second sandbox of the same level, for trusted code that holds expected values; started when first used."""
        return self._other("companion")

    def _other(self, purpose: str) -> Sandbox:
        """Another server of the same level: what it has imported makes its forks dearer, and is no other's cost."""
        if purpose not in self._others:
            self._others[purpose] = Sandbox(self.level, self.limits, unsafe=True)
        return self._others[purpose]

    def close(self) -> None:
        """End the fork server, and with it everything that runs below it."""
        self._closer()
        for other in self._others.values():
            other.close()

    def __exit__(self, *exc: object) -> None:
        self.close()
