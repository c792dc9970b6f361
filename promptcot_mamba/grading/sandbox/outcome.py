"""What one test may use, how it ended, and why: the trusted side's reading of a fork server's reply."""

import signal
from dataclasses import asdict, dataclass
from typing import Any

from promptcot_mamba.grading.sandbox import child

PATIENCE = 100  # wall seconds a busy machine may take over each CPU second that a test is allowed
MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one test may use. LiveCodeBench gives a test 6 s of wall time; here they are seconds of CPU time, so that
    a busy machine changes no verdict. The wall limit counts only the time in which no thread of a program runs or waits
    for a core: it ends what sleeps or is blocked, and nothing that computes."""

    cpu_seconds: int = 6
    wall_seconds: float = 15.0
    memory_mb: int = 4096
    output_mb: int = 32  # of each file a program writes, its standard output among them
    disk_mb: int = 64
    files: int = 256
    threads: int = 64

    @property
    def patience_seconds(self) -> float:
        """How long a busy machine may take over one test."""
        return self.wall_seconds + PATIENCE * self.cpu_seconds

    def to_request(self) -> dict[str, Any]:
        return {
            "cpu_seconds": self.cpu_seconds,
            "wall_seconds": self.wall_seconds,
            "patience_seconds": self.patience_seconds,
            "memory_bytes": self.memory_mb * MIB,
            "file_bytes": self.output_mb * MIB,
            "disk_bytes": self.disk_mb * MIB,
            "files": self.files,
            "threads": self.threads,
        }

    def to_row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `reason` is None where the program ended by itself, whatever its exit code.

    Else: timeout, memory, output_limit, disk, threads, syntax_error, runtime_error (an exception that travelled out),
    crash (a signal). `detail` quotes the program's last words, which may say anything. `settled` is False for a
    timeout of a program that had CPU seconds left: it slept, or the machine was too busy.
    """

    reason: str | None
    exit_code: int
    stdout: bytes
    result: bytes
    detail: str
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    settled: bool = True


class SandboxBrokenError(RuntimeError):
    """The fork server ended or stopped answering."""


def judge_ending(reply: dict[str, Any], stdout: bytes, result: bytes, stderr: bytes, limits: Limits) -> Outcome:
    """Why a run ended, from what the server saw. Raises SandboxBrokenError if the test could not be locked down."""
    status, killed = reply["status"], reply["killed"]
    words = stderr.decode("utf-8", "replace").strip().splitlines()
    detail = words[-1][:200] if words else ""
    if reply["refused"] is not None:
        raise SandboxBrokenError(f"a process could not be locked down: {reply['refused'] or 'it ended too soon'}")
    reasons = {
        child.STATUS_EXCEPTION: "runtime_error",
        child.STATUS_MEMORY: "memory",
        child.STATUS_SYNTAX: "syntax_error",
    }
    unsettled = {
        "blocked": f"neither ran nor wanted to for {limits.wall_seconds:g} s",
        "starved": f"this busy machine gave it {reply['cpu_seconds']:.1f} CPU s in {reply['wall_seconds']:.0f} s",
    }
    reason: str | None
    if killed in unsettled:
        reason, detail = "timeout", unsettled[killed]
    elif killed:
        reason = killed
    elif reply["cpu_seconds"] > limits.cpu_seconds or status == -signal.SIGXCPU:
        reason = "timeout"
    elif status == -signal.SIGXFSZ or max(len(stdout), len(result)) >= limits.output_mb * MIB:
        reason = "output_limit"
    else:
        reason = "crash" if status < 0 else reasons.get(status)
    return Outcome(
        reason, status, stdout, result, detail, reply["cpu_seconds"], reply["wall_seconds"], reply["peak_bytes"],
        settled=killed not in unsettled,
    )  # fmt: skip
