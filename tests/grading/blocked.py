"""Run a program on a kernel that refuses some things: a seccomp filter over this process and what it starts.

python tests/grading/blocked.py unshare,landlock python calc_acc_lcb.py ...
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

from promptcot_mamba.grading.sandbox.seccomp import (
    JEQ_K,
    LD_W_ABS,
    NR_OFFSET,
    RET_ALLOW,
    RET_ERRNO,
    RET_K,
    _op,
    install_filter,
)

CALLS = {
    "unshare": ({"x86_64": 272, "aarch64": 97}[platform.machine()], errno.EPERM),
    "landlock": (444, errno.ENOSYS),
}


def main() -> None:
    ops = [_op(LD_W_ABS, NR_OFFSET)]
    for name in sys.argv[1].split(","):
        number, code = CALLS[name]
        ops += [_op(JEQ_K, number, 0, 1), _op(RET_K, RET_ERRNO | code)]
    install_filter(b"".join([*ops, _op(RET_K, RET_ALLOW)]), ctypes.CDLL(None, use_errno=True))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
