"""A seccomp filter for one Python process: the system calls an ordinary program needs, and no others.

The list is of what is allowed. Everything else fails with EPERM: sockets, new processes, `execve`, signals to
others, tracing, mounts, namespaces, keys, io_uring, shared memory, memfd, changes of file modes. Threads are
allowed. A process that uses another architecture's system calls is killed.
"""

import ctypes
import errno
import platform
import struct
from dataclasses import dataclass

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2

RET_KILL_PROCESS = 0x80000000
RET_ERRNO = 0x00050000
RET_ALLOW = 0x7FFF0000

LD_W_ABS = 0x20
JMP_K = 0x05
ALU_AND_K = 0x54
JEQ_K = 0x15
JGE_K = 0x35
RET_K = 0x06
NR_OFFSET, ARCH_OFFSET, ARGS_OFFSET = 0, 4, 16  # struct seccomp_data
X32_BIT = 0x40000000
MAX_JUMP = 256

CLONE_THREAD = 0x00010000 | 0x00000100 | 0x00000800  # THREAD, VM, SIGHAND
CLONE_NEW = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x80


@dataclass(frozen=True)
class Machine:
    """AUDIT_ARCH and the numbers of the system calls we name."""

    audit_arch: int
    numbers: dict[str, int]


def _numbers(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in (item.split("=") for item in text.split())}


# Linux's arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        _numbers(
            "read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12 "
            "rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 ioctl=16 pread64=17 pwrite64=18 readv=19 writev=20 "
            "access=21 pipe=22 select=23 sched_yield=24 mremap=25 msync=26 mincore=27 madvise=28 dup=32 dup2=33 "
            "pause=34 nanosleep=35 getitimer=36 alarm=37 setitimer=38 getpid=39 sendfile=40 sendto=44 recvfrom=45 "
            "shutdown=48 socketpair=53 clone=56 exit=60 kill=62 uname=63 fcntl=72 fsync=74 fdatasync=75 ftruncate=77 "
            "getdents=78 getcwd=79 chdir=80 fchdir=81 rename=82 mkdir=83 rmdir=84 creat=85 unlink=87 readlink=89 "
            "umask=95 gettimeofday=96 getrlimit=97 getrusage=98 sysinfo=99 times=100 getuid=102 getgid=104 geteuid=107 "
            "getegid=108 getppid=110 getpgrp=111 getgroups=115 getresuid=118 getresgid=120 getpgid=121 getsid=124 "
            "rt_sigpending=127 rt_sigtimedwait=128 rt_sigsuspend=130 sigaltstack=131 statfs=137 fstatfs=138 "
            "getpriority=140 sched_getparam=143 sched_getscheduler=145 sched_get_priority_max=146 "
            "sched_get_priority_min=147 prctl=157 arch_prctl=158 setrlimit=160 gettid=186 time=201 futex=202 "
            "sched_getaffinity=204 getdents64=217 set_tid_address=218 restart_syscall=219 fadvise64=221 "
            "clock_gettime=228 clock_getres=229 clock_nanosleep=230 exit_group=231 epoll_wait=232 epoll_ctl=233 "
            "tgkill=234 openat=257 mkdirat=258 newfstatat=262 unlinkat=263 renameat=264 readlinkat=267 faccessat=269 "
            "pselect6=270 ppoll=271 set_robust_list=273 get_robust_list=274 epoll_pwait=281 fallocate=285 eventfd2=290 "
            "epoll_create1=291 dup3=292 pipe2=293 preadv=295 pwritev=296 prlimit64=302 getcpu=309 renameat2=316 "
            "getrandom=318 membarrier=324 statx=332 rseq=334 clone3=435 close_range=436 faccessat2=439 "
            "epoll_pwait2=441"
        ),
    ),
    "aarch64": Machine(
        0xC00000B7,
        _numbers(
            "getcwd=17 eventfd2=19 epoll_create1=20 epoll_ctl=21 epoll_pwait=22 dup=23 dup3=24 fcntl=25 ioctl=29 "
            "mkdirat=34 unlinkat=35 renameat=38 statfs=43 fstatfs=44 ftruncate=46 fallocate=47 faccessat=48 chdir=49 "
            "fchdir=50 openat=56 close=57 pipe2=59 getdents64=61 lseek=62 read=63 write=64 readv=65 writev=66 "
            "pread64=67 pwrite64=68 preadv=69 pwritev=70 sendfile=71 pselect6=72 ppoll=73 readlinkat=78 newfstatat=79 "
            "fstat=80 fsync=82 fdatasync=83 exit=93 exit_group=94 set_tid_address=96 futex=98 set_robust_list=99 "
            "get_robust_list=100 nanosleep=101 getitimer=102 setitimer=103 clock_gettime=113 clock_getres=114 "
            "clock_nanosleep=115 sched_getscheduler=120 sched_getparam=121 sched_getaffinity=123 sched_yield=124 "
            "sched_get_priority_max=125 sched_get_priority_min=126 restart_syscall=128 kill=129 tgkill=131 "
            "sigaltstack=132 rt_sigsuspend=133 rt_sigaction=134 rt_sigprocmask=135 rt_sigpending=136 "
            "rt_sigtimedwait=137 rt_sigreturn=139 getpriority=141 getresuid=148 getresgid=150 times=153 getpgid=155 "
            "getsid=156 getgroups=158 uname=160 getrlimit=163 setrlimit=164 getrusage=165 umask=166 prctl=167 "
            "getcpu=168 gettimeofday=169 getpid=172 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 "
            "gettid=178 sysinfo=179 socketpair=199 sendto=206 recvfrom=207 shutdown=210 brk=214 munmap=215 mremap=216 "
            "clone=220 mmap=222 fadvise64=223 mprotect=226 msync=227 mincore=232 madvise=233 prlimit64=261 "
            "renameat2=276 getrandom=278 membarrier=283 statx=291 rseq=293 clone3=435 close_range=436 faccessat2=439 "
            "epoll_pwait2=441"
        ),
    ),
}

# fcntl: duplicate, descriptor flags, status flags, record locks, seals; not F_SETOWN, which aims signals at others.
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1034)
IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
PRCTL_OPTIONS = (15, 16)  # the thread's own name
O_TRUNC, O_ACCMODE = 0x200, 0x3
AF_UNIX, SOCK_STREAM, SOCK_TYPE_MASK = 1, 1, 0xF

Condition = tuple[int, int, tuple[int, ...]]  # argument index, mask, allowed values of (argument & mask)


def _conditions(pid: int) -> dict[str, tuple[Condition, ...]]:
    """System calls allowed only for some arguments; all conditions of one must hold."""
    whole = 0xFFFFFFFF
    # Landlock before its third ABI lets a file that may be read be emptied on opening.
    open_flags = (O_TRUNC | O_ACCMODE, (0, 1, 2, 3, O_TRUNC | 1, O_TRUNC | 2))
    return {
        "open": ((1, *open_flags),),
        "openat": ((2, *open_flags),),
        "clone": ((0, CLONE_THREAD | CLONE_NEW, (CLONE_THREAD,)),),
        "fcntl": ((1, whole, FCNTL_COMMANDS),),
        "ioctl": ((1, whole, IOCTL_REQUESTS),),
        "prctl": ((0, whole, PRCTL_OPTIONS),),
        "prlimit64": ((0, whole, (0, pid)),),
        "kill": ((0, whole, (pid,)),),
        "tgkill": ((0, whole, (pid,)),),
        # A connected stream pair reaches nobody else; asyncio's event loop is built on one.
        "socketpair": ((0, whole, (AF_UNIX,)), (1, SOCK_TYPE_MASK, (SOCK_STREAM,))),
    }


def _op(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, jump_true, jump_false, k)


def _check(condition: Condition) -> list[bytes]:
    """Load an argument's low word and return EPERM unless it is one of the allowed values.

    Every argument we look at is a C int, or a flag word whose meaning is in its low half.
    """
    argument, mask, values = condition
    ops = [_op(LD_W_ABS, ARGS_OFFSET + 8 * argument), _op(ALU_AND_K, mask)]
    for index, value in enumerate(values):
        ops.append(_op(JEQ_K, value, len(values) - index, 0))
    return [*ops, _op(RET_K, RET_ERRNO | errno.EPERM)]


def _tree(leaves: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """A balanced search: `leaves` are (first number, body), sorted, each good up to the next one's first number.

    The loaded system call number falls into one body, which ends in a return. Short paths matter: the kernel runs
    the program once for every number when it is installed.
    """
    if len(leaves) == 1:
        return leaves[0][1]
    middle = len(leaves) // 2
    lower, upper = _tree(leaves[:middle]), _tree(leaves[middle:])
    if len(lower) < MAX_JUMP:
        return [_op(JGE_K, leaves[middle][0], len(lower), 0), *lower, *upper]
    return [_op(JGE_K, leaves[middle][0], 0, 1), _op(JMP_K, len(lower)), *lower, *upper]


def build_filter(pid: int, machine: str | None = None) -> bytes:
    """The BPF program for process `pid`, as an array of `struct sock_filter`.

    Raises KeyError for an architecture whose system calls are not listed.
    """
    target = MACHINES[machine or platform.machine()]
    refuse, allow = [_op(RET_K, RET_ERRNO | errno.EPERM)], [_op(RET_K, RET_ALLOW)]
    bodies = dict.fromkeys(target.numbers.values(), allow)
    for name, conditions in _conditions(pid).items():
        if name not in target.numbers:  # ARM64 has openat only
            continue
        bodies[target.numbers[name]] = [op for condition in conditions for op in _check(condition)] + allow
    # glibc falls back from clone3, whose flags are out of a filter's sight, to clone.
    bodies[target.numbers["clone3"]] = [_op(RET_K, RET_ERRNO | errno.ENOSYS)]
    leaves = [(0, refuse)]
    for number in range(max(bodies) + 2):
        body = bodies.get(number, refuse)
        if body is not leaves[-1][1]:
            leaves.append((number, body))
    leaves = [leaf for place, leaf in enumerate(leaves) if place == len(leaves) - 1 or leaves[place + 1][0] > leaf[0]]
    leaves.append((X32_BIT, [_op(RET_K, RET_KILL_PROCESS)]))
    ops = [
        _op(LD_W_ABS, ARCH_OFFSET),
        _op(JEQ_K, target.audit_arch, 1, 0),
        _op(RET_K, RET_KILL_PROCESS),
        _op(LD_W_ABS, NR_OFFSET),
        *_tree(leaves),
    ]
    return b"".join(ops)


class FilterTemplate:
    """A filter built once, to be aimed at any process: only the process's own number differs."""

    MARK = 0x7FFF5A5A  # larger than any process number

    def __init__(self) -> None:
        self.parts = build_filter(self.MARK).split(struct.pack("I", self.MARK))

    def aim(self, pid: int) -> bytes:
        return struct.pack("I", pid).join(self.parts)


def is_supported() -> bool:
    return platform.machine() in MACHINES


def install_filter(program: bytes, libc: ctypes.CDLL) -> None:
    """Bind this thread, and the threads it starts, to a filter. Raises OSError if the kernel refuses."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp filter refused: {errno.errorcode.get(code, code)}")
