"""Limits that this process inherited (`ulimit`, a batch system) and that a program could not be given more than."""

import resource

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.sandbox import child
from promptcot_mamba.grading.sandbox.outcome import MIB, Limits

SOFT, HARD = 0, 1
# (limit, which of its values, ulimit's flag, unit, its size). What a test's process sets itself is bound by the hard
# value; the soft ones bind the grader, which writes programs' inputs, and the fork server.
CHECKED = (
    (resource.RLIMIT_CPU, HARD, "-t", "s of CPU time", 1),
    (resource.RLIMIT_AS, HARD, "-v", "MiB of address space", MIB),
    (resource.RLIMIT_DATA, SOFT, "-d", "MiB of data", MIB),
    (resource.RLIMIT_FSIZE, SOFT, "-f", "MiB a file", MIB),
    (resource.RLIMIT_NOFILE, SOFT, "-n", "open files", 1),
)


def assert_limits_can_be_given(limits: Limits) -> None:
    """Raise InputError if this process was started under a limit lower than what a program may use.

    Else a right program would end by it, or no program could be locked down at all.
    """
    memory = limits.memory_mb * MIB
    wanted = {
        resource.RLIMIT_CPU: limits.cpu_seconds + 1,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_FSIZE: limits.output_mb * MIB,
        resource.RLIMIT_NOFILE: child.FREE_FD + child.MAX_JOB_FILES + 1,
    }
    for kind, which, flag, unit, size in CHECKED:
        given = resource.getrlimit(kind)[which]
        if given != resource.RLIM_INFINITY and given < wanted[kind]:
            raise InputError(
                f"this shell or job is limited to {given / size:.4g} {unit} (ulimit {flag}), and a graded program may "
                f"need {wanted[kind] / size:.4g}; start with a higher limit (ulimit {flag} unlimited)"
            )
