"""The fork server: a warm interpreter that forks one process per test, watches it, and says how it ended.

It is started fresh (`python -c`), with an empty environment, and is never told what a test expects: jobs pass
through it as sealed files that only the forked process reads. One request at a time comes over a packet socket.

    request   JSON limits, with descriptors: stdin, stdout, stderr, job [, result [, calls out, calls in]]
    reply     JSON: wait status, CPU and wall seconds, peak memory, and what the server killed it for, if it did
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from promptcot_mamba.grading import sandbox_child as child
from promptcot_mamba.grading import sandbox_landlock as landlock
from promptcot_mamba.grading import sandbox_namespaces as namespaces
from promptcot_mamba.grading import sandbox_seccomp as seccomp

WATCH_SECONDS = 0.05  # how often threads and files of a running program are counted
MAX_FDS = 8
MAX_PACKET = 4096
STACK_BYTES = 1 << 30  # the main thread's; memory is bounded by RLIMIT_AS
THREAD_STACK_BYTES = 8 << 20
OWN_FOLDER = "/box"  # the programs' tmpfs, in a root of our own
OWN_FOLDER_INODES = 4096

# Modules warm in every program's process: what contest programs import, and what the harness needs.
WARM = (
    "abc", "array", "asyncio", "base64", "binascii", "calendar", "cmath", "concurrent.futures", "contextlib", "copy",
    "dataclasses", "decimal", "enum", "fileinput", "fractions", "hashlib", "inspect", "itertools", "numbers",
    "operator", "pprint", "queue", "secrets", "struct", "tempfile", "textwrap", "timeit", "types", "uuid",
    "unicodedata", "zlib", "encodings.idna", "encodings.latin_1", "encodings.ascii",
)  # fmt: skip


class Server:
    """One fork server: its C library, its Landlock rules, its folder of programs' folders."""

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.abi = 0
        self.readable: list[tuple[int, int]] = []  # opened path, rights
        self.base = Path(config["base"])
        self.count = 0

    def enter_level(self) -> None:
        """Reach the level asked for, or raise OSError."""
        level = self.config["level"]
        if level == "namespaces":
            paths = [path for path, _ in self.config["readable"]]
            limits = (self.config["disk_bytes"], OWN_FOLDER_INODES)
            namespaces.change_root(self.libc, self.base, paths, OWN_FOLDER, *limits)
            self.base = Path(OWN_FOLDER)
        self.libc.prctl(seccomp.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        namespaces.drop_capabilities(self.libc)
        if level == "unsafe":
            return
        self.abi = landlock.abi_version(self.libc)
        if self.abi < 1:
            raise OSError("this kernel has no Landlock")
        if not seccomp.is_supported():
            raise OSError(f"no system call table for {os.uname().machine}")
        for path, kind in self.config["readable"]:
            rights = {
                "code": landlock.READ_CODE,
                "list": landlock.READ_DIR,
                "file": landlock.READ_FILE,
                "device": landlock.READ_FILE | landlock.WRITE_FILE,
            }[kind]
            with contextlib.suppress(FileNotFoundError):
                self.readable.append((os.open(path, os.O_PATH | os.O_CLOEXEC), rights))

    def lock_down(self, folder: Path) -> None:
        """Bind the forked process to its own folder, the readable paths and the system calls it may make."""
        ruleset = landlock.create_ruleset(self.libc, self.abi)
        for fd, rights in self.readable:
            landlock.allow_beneath(self.libc, ruleset, self.abi, fd, rights)
        own = os.open(folder, os.O_PATH)
        landlock.allow_beneath(self.libc, ruleset, self.abi, own, landlock.OWN_FOLDER)
        landlock.restrict_self(self.libc, ruleset)
        os.close(own)
        os.close(ruleset)
        for fd, _ in self.readable:
            os.close(fd)
        seccomp.install_filter(seccomp.build_filter(os.getpid()), self.libc)

    def become_test(self, request: dict[str, Any], fds: list[int], folder: Path) -> bytes:
        """In the forked process: everything up to the program itself. Returns the job."""
        child.die_with_parent(self.libc)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.environ.update(HOME=str(folder), TMPDIR=str(folder))
        stdin, stdout, stderr, job_fd, *others = fds
        with os.fdopen(job_fd, "rb") as file:
            job = file.read()
        if self.config["level"] != "unsafe":
            self.lock_down(folder)
        child.take_files([stdin, stdout, stderr, *others])
        child.set_limits(request)
        return job

    def serve(self, sock: socket.socket) -> bytes | None:
        """Answer requests until the socket closes. In a forked process this returns the job it is to run."""
        while True:
            data, fds, _, _ = socket.recv_fds(sock, MAX_PACKET, MAX_FDS)
            if not data:
                return None
            request = json.loads(data)
            self.count += 1
            folder = self.base / str(self.count)
            folder.mkdir(mode=0o700)
            started = time.monotonic()
            pid = os.fork()
            if pid == 0:
                try:
                    return self.become_test(request, fds, folder)
                except BaseException as error:  # noqa: BLE001 - a test that cannot be locked down must not run
                    os.write(2, f"sandbox: {error!r}\n".encode())
                    os._exit(child.STATUS_SETUP)
            for fd in fds:
                os.close(fd)
            reply = self.watch(pid, folder, request)
            reply["wall_seconds"] = time.monotonic() - started
            shutil.rmtree(folder)
            sock.send(json.dumps(reply).encode())

    def watch(self, pid: int, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
        """Wait for a process; kill it at its wall limit, or if it has too many threads or too much on disk."""
        deadline = time.monotonic() + request["wall_seconds"]
        killed = None
        pidfd = os.pidfd_open(pid)
        while killed is None and not select.select([pidfd], [], [], WATCH_SECONDS)[0]:
            if time.monotonic() > deadline:
                killed = "timeout"
            elif self.count_threads(pid) > request["threads"]:
                killed = "threads"
            elif not within(folder, request["disk_bytes"], request["files"]):
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

    def count_threads(self, pid: int) -> int:
        try:
            return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[17])
        except (OSError, IndexError):  # it ended meanwhile
            return 0


def within(folder: Path, max_bytes: int, max_files: int) -> bool:
    """Whether a folder holds no more than this; stops counting once it holds too much."""
    count = size = 0
    for root, folders, names in os.walk(folder):
        count += len(folders) + len(names)
        for name in names:
            with contextlib.suppress(OSError):
                size += Path(root, name).lstat().st_blocks * 512
        if count > max_files or size > max_bytes:
            return False
    return True


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


def reap_until_server_ends(pid: int) -> None:
    """The outer process of a process namespace only waits for the inner one."""
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def main(config: dict[str, Any], root: str) -> None:
    """Serve on the socket at `config["socket"]`; in a forked test, run the job and never return."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    if soft != wanted:  # room for the main stack is laid out when a program starts
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))
        os.execv(sys.executable, sys.orig_argv)
    sock = socket.socket(fileno=config["socket"])
    server = Server(config)
    server.libc.prctl(child.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900")  # when memory ends, a test dies first
    warm_up(server.libc)
    sys.path[:] = [path for path in sys.path if path not in ("", root)] + config["sys_path"]
    try:
        if config["level"] == "namespaces":
            namespaces.enter_namespaces(server.libc)
            pid = os.fork()
            if pid:
                reap_until_server_ends(pid)
            child.die_with_parent(server.libc)
        server.enter_level()
    except OSError as error:
        sock.send(json.dumps({"refused": str(error)}).encode())
        os._exit(1)
    sock.send(json.dumps({"ready": config["level"], "landlock_abi": server.abi}).encode())
    job = server.serve(sock)
    if job is None:
        os._exit(0)
    child.run_and_exit(job)
