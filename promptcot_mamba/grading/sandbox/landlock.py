"""Landlock: the file system, as one process may see it, without privileges.

Numbers and structures are those of Linux's `include/uapi/linux/landlock.h`; each ABI adds rights, and all that
the running kernel knows are handled, so whatever no rule grants is refused.
"""

import ctypes
import errno
import os
import struct

SYS_CREATE_RULESET, SYS_ADD_RULE, SYS_RESTRICT_SELF = 444, 445, 446  # the same on every architecture
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
REFER, TRUNCATE = 1 << 13, 1 << 14

READ_CODE = EXECUTE | READ_FILE | READ_DIR
OWN_FOLDER = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER

NET_ALL = 0b11  # bind and connect TCP
SCOPE_ALL = 0b11  # abstract unix sockets, signals


def _syscall(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result


def abi_version(libc: ctypes.CDLL) -> int:
    """The kernel's Landlock ABI, 0 where there is none."""
    try:
        return _syscall(libc, SYS_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(CREATE_RULESET_VERSION))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


def handled_rights(abi: int) -> int:
    """Every file-system right the ABI knows: 13 at first, then REFER, TRUNCATE and IOCTL_DEV."""
    return (1 << (13 + (abi >= 2) + (abi >= 3) + (abi >= 5))) - 1


def create_ruleset(libc: ctypes.CDLL, abi: int) -> int:
    """A new ruleset that refuses everything, as a file descriptor."""
    attributes = struct.pack("QQQ", handled_rights(abi), NET_ALL, SCOPE_ALL)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    return _syscall(libc, SYS_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))


def allow_beneath(libc: ctypes.CDLL, ruleset: int, abi: int, path_fd: int, rights: int) -> None:
    """Grant rights on an opened path and, if it is a folder, on everything beneath it."""
    attributes = struct.pack("=Qi", rights & handled_rights(abi), path_fd)
    _syscall(libc, SYS_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(RULE_PATH_BENEATH), attributes, ctypes.c_uint(0))


def restrict_self(libc: ctypes.CDLL, ruleset: int) -> None:
    """Bind this thread for good. Needs PR_SET_NO_NEW_PRIVS."""
    _syscall(libc, SYS_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
