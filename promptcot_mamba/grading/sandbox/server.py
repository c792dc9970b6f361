"""The fork server: a warm interpreter that forks one process per test, watches it, and says how it ended.

It is started fresh (`python -c`), with an empty environment, and is never told what a test expects: jobs pass
through it as sealed files that only the forked process reads. One request at a time comes over a packet socket.

    request   JSON limits and modules to import first, with descriptors: stdin, stdout, stderr, job [, result
              [, calls out, calls in]]
    reply     JSON: wait status, CPU and wall seconds, peak memory, and what the server killed it for, if it did
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from promptcot_mamba.grading.sandbox import child, landlock, libraries, namespaces, seccomp, thread_locks
from promptcot_mamba.grading.sandbox.folder import empty_folder, within

WATCH_SECONDS = 0.05  # how often a running program's threads and files are looked at
RUNNING = frozenset((b"R", b"D"))  # the states of a thread that runs, waits for a core, or for a page or a disk
STATE, THREADS = 0, 17  # fields of /proc/PID/stat behind the name
MAX_PACKET = 4096
READY = b"ready"
STACK_BYTES = 1 << 30  # the main thread's; memory is bounded by RLIMIT_AS
THREAD_STACK_BYTES = 8 << 20
OWN_FOLDER = "/box"  # the programs' tmpfs, in a root of our own
OWN_FOLDER_INODES = 4096

# Modules warm in every program's process: what contest programs import. Each more makes every fork dearer.
WARM = (
    "array", "bisect", "cmath", "contextlib", "copy", "dataclasses", "decimal", "enum", "fractions", "itertools",
    "numbers", "operator", "queue", "string", "struct", "textwrap", "types",
)  # fmt: skip


class Server:
    """One fork server: its C library, its Landlock rules, its folder of programs' folders."""

    def __init__(self, config: dict[str, Any], sock: socket.socket):
        self.config = config
        self.socket = sock
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.abi = 0
        self.ruleset = -1
        self.folder = Path(config["base"]) / "box"  # the running program's own
        self.modules_at_start = self.bytes_at_start = 0

    def enter_level(self) -> None:
        """Reach the level asked for, or raise OSError."""
        level = self.config["level"]
        if level == "namespaces":
            paths = [path for path, _ in self.config["readable"]]
            limits = (self.config["disk_bytes"], OWN_FOLDER_INODES)
            namespaces.change_root(self.libc, self.folder.parent, paths, OWN_FOLDER, *limits)
            self.folder = Path(OWN_FOLDER)
        else:
            self.folder.mkdir(mode=0o700)
        os.chdir(self.folder)
        os.environ.update(HOME=str(self.folder), TMPDIR=str(self.folder))
        self.libc.prctl(seccomp.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        namespaces.drop_capabilities(self.libc)
        if level == "unsafe":
            return
        self.abi = landlock.abi_version(self.libc)
        if self.abi < 1:
            raise OSError("this kernel has no Landlock")
        if not seccomp.is_supported():
            raise OSError(f"no system call table for {os.uname().machine}")
        self.ruleset = self.make_ruleset()
        self.filter = seccomp.FilterTemplate()

    def make_ruleset(self) -> int:
        """Landlock's rules, the same for every program: the readable paths and the one folder to write in."""
        granted = {
            "code": landlock.READ_CODE,
            "file": landlock.READ_FILE,
            "device": landlock.READ_FILE | landlock.WRITE_FILE,
        }
        rules = [(path, granted[kind]) for path, kind in self.config["readable"]]
        ruleset = landlock.create_ruleset(self.libc, self.abi)
        for path, rights in [*rules, (self.folder, landlock.OWN_FOLDER)]:
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
                landlock.allow_beneath(self.libc, ruleset, self.abi, fd, rights)
                os.close(fd)
        return ruleset

    def grown_bytes(self) -> int:
        """What this server has imported for programs since it was warm: no program's memory."""
        if len(sys.modules) == self.modules_at_start:
            return 0
        return address_space() - self.bytes_at_start

    def become_test(self, request: dict[str, Any], fds: list[int], ready: int) -> bytes:
        """In the forked process: everything up to the program itself. Returns the job.

        A word on `ready`, which the program never holds, says that every lock is on.
        """
        child.die_with_parent(self.libc)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stdin, stdout, stderr, job_fd, *others = fds
        with os.fdopen(job_fd, "rb") as file:
            job = file.read()
        if self.config["level"] != "unsafe":
            landlock.restrict_self(self.libc, self.ruleset)
            seccomp.install_filter(self.filter.aim(os.getpid()), self.libc)
            thread_locks.install()
        with os.fdopen(child.take_files([stdin, stdout, stderr, *others, ready]), "wb", 0) as said:
            try:
                child.set_limits(request)
            except (OSError, ValueError) as error:  # above what this process inherited
                said.write(repr(error).encode())
                os._exit(1)
            said.write(READY)
        return job

    def serve(self) -> bytes | None:
        """Answer requests until the socket closes. In a forked process this returns the job it is to run."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, MAX_PACKET, child.MAX_JOB_FILES)
            except ConnectionResetError:  # the grader ended with a reply unread
                return None
            if not data:
                return None
            request = json.loads(data)
            if request["modules"]:
                libraries.warm_modules(request["modules"])
            request["memory_bytes"] += self.grown_bytes()
            started = time.monotonic()
            is_ready, ready = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    return self.become_test(request, fds, ready)
                except BaseException as error:  # noqa: BLE001 - a test that cannot be locked down must not run
                    os.write(ready, f"{error!r}"[:MAX_PACKET].encode())
                    os._exit(1)
            for fd in (*fds, ready):
                os.close(fd)
            reply = self.watch(pid, request)
            word = os.read(is_ready, MAX_PACKET)
            os.close(is_ready)
            reply["refused"] = None if word == READY else word.decode(errors="replace")
            reply["wall_seconds"] = time.monotonic() - started
            empty_folder(self.folder)
            self.socket.send(json.dumps(reply).encode())

    def watch(self, pid: int, request: dict[str, Any]) -> dict[str, Any]:
        """Wait for a process; kill it once it was blocked for its wall limit, or has too many threads or files.

        Whatever a busy machine takes from a program, the program is running or waiting for a core meanwhile: only time
        in which none of its threads is counts.
        """
        started = last = time.monotonic()
        blocked = 0.0
        killed = None
        pidfd = os.pidfd_open(pid)
        sources: list[int | socket.socket] = [pidfd, self.socket]
        while killed is None:
            heard = select.select(sources, [], [], WATCH_SECONDS)[0]
            if pidfd in heard:
                break
            if heard:  # the grader is gone: nothing else comes while a program runs
                os._exit(1)
            now = time.monotonic()
            threads, runs = look_at(pid)
            blocked += 0.0 if runs else now - last
            last = now
            if blocked > request["wall_seconds"]:
                killed = "blocked"
            elif now - started > request["patience_seconds"]:
                killed = "starved"
            elif threads > request["threads"]:
                killed = "threads"
            elif not within(self.folder, request["disk_bytes"], request["files"]):
                killed = "disk"
        if killed:
            os.kill(pid, signal.SIGKILL)
        os.close(pidfd)
        _, status, usage = os.wait4(pid, 0)
        return {
            "status": os.waitstatus_to_exitcode(status),
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024,
            "killed": killed,
        }


def look_at(pid: int) -> tuple[int, bool]:
    """How many threads a process has, and whether one of them runs or waits for a core."""
    try:
        fields = stat_fields(Path(f"/proc/{pid}/stat"))
        threads = int(fields[THREADS])
        if fields[STATE] in RUNNING:
            return threads, True
        tasks = Path(f"/proc/{pid}/task").iterdir() if threads > 1 else ()
        return threads, any(stat_fields(task / "stat")[STATE] in RUNNING for task in tasks)
    except (OSError, IndexError):  # it, or one of its threads, ended meanwhile
        return 0, True


def stat_fields(path: Path) -> list[bytes]:
    return path.read_bytes().rpartition(b")")[2].split()


def warm_up(libc: ctypes.CDLL) -> None:
    """Import what programs import, and keep what is alive out of the children's garbage collections."""
    for name in WARM:
        with contextlib.suppress(ImportError):
            __import__(name)
    attributes = ctypes.create_string_buffer(64)  # pthread_attr_t: else threads take the main stack's size
    if libc.pthread_attr_init(attributes) == 0:
        libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(THREAD_STACK_BYTES))
        libc.pthread_setattr_default_np(attributes)
    gc.collect()
    gc.freeze()
    gc.disable()


def address_space() -> int:
    """Bytes of this process's address space, which is what RLIMIT_AS bounds."""
    return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()


def main(config: dict[str, Any], root: str) -> None:
    """Serve on the socket at `config["socket"]`; in a forked test, run the job and never return."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    if soft != wanted:  # room for the main stack is laid out when a program starts
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))
        os.execv(sys.executable, sys.orig_argv)
    sock = socket.socket(fileno=config["socket"])
    server = Server(config, sock)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900")  # when memory ends, a test dies first
    sys.path[:] = [path for path in sys.path if path not in ("", root)]
    sys.meta_path.append(libraries.OfferedFinder(config["site"]))
    try:
        if config["level"] == "namespaces":
            namespaces.enter_namespaces(server.libc)
            pid = os.fork()
            if pid:  # the outer process of a process namespace only waits for the inner one
                os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
            child.die_with_parent(server.libc)
        server.enter_level()
    except OSError as error:
        sock.send(json.dumps({"refused": str(error)}).encode())
        os._exit(1)
    sock.send(json.dumps({"ready": config["level"], "landlock_abi": server.abi}).encode())
    warm_up(server.libc)
    child.hide_own_modules()
    server.modules_at_start, server.bytes_at_start = len(sys.modules), address_space()
    job = server.serve()
    if job is None:
        os._exit(0)
    child.run_and_exit(job)
