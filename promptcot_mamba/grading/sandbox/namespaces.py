"""Namespaces around the fork server: own users, mounts, processes, network, IPC; and an empty root folder.

The new root holds read-only views of Python's own folders at their usual paths, four device nodes, and one small
tmpfs for the programs' files. Needs no privilege where the kernel lets users make namespaces.
"""

import ctypes
import os
import struct
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
ISOLATED = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPABILITY_VERSION_3 = 0x20080522

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
LINKS = {
    "/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}  # fmt: skip


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(libc: ctypes.CDLL, source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    result = libc.mount(*encoded, ctypes.c_ulong(flags), None if data is None else data.encode())
    _check(result, f"mount {target}")


def enter_namespaces(libc: ctypes.CDLL) -> None:
    """Leave the host's namespaces; children of this process live in a new process namespace.

    Raises OSError where neither an unprivileged user namespace nor a privileged `unshare` is allowed.
    """
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(ctypes.c_int(ISOLATED | CLONE_NEWUSER)) == 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        return
    _check(libc.unshare(ctypes.c_int(ISOLATED)), "unshare")


def _bind_read_only(libc: ctypes.CDLL, source: str, target: Path) -> None:
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(libc, source, str(target), None, MS_BIND)
    # A remount in a user namespace must keep the flags the host had set.
    inherited = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount(libc, "none", str(target), None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | inherited)


def change_root(libc: ctypes.CDLL, base: Path, readable: list[str], own: str, own_bytes: int, own_files: int) -> None:
    """Make an empty tmpfs at `base` the root, with `readable` paths bound into it and a writable tmpfs at `own`.

    To be called by the first process of the new process namespace. Raises OSError if the kernel refuses.
    """
    _mount(libc, "none", "/", None, MS_REC | MS_PRIVATE)
    _mount(libc, "tmpfs", str(base), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in sorted(readable):
        target = base / path.lstrip("/")
        if not target.exists():  # an outer folder already shows it
            _bind_read_only(libc, path, target)
    for device in DEVICES:
        target = base / device.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        _mount(libc, device, str(target), None, MS_BIND)
    (base / "proc").mkdir()
    for path, target_path in LINKS.items():
        (base / path.lstrip("/")).symlink_to(target_path)
    _mount(libc, "proc", str(base / "proc"), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    folder = base / own.lstrip("/")
    folder.mkdir(parents=True)
    options = f"size={own_bytes},nr_inodes={own_files},mode=700"
    _mount(libc, "tmpfs", str(folder), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    os.chdir(base)
    _check(libc.syscall(ctypes.c_long(SYS_PIVOT_ROOT[os.uname().machine]), b".", b"."), "pivot_root")
    _check(libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")
    _mount(libc, "none", "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up every capability for good, also as root. Raises OSError if the kernel refuses."""
    _check(libc.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24)), "capset")
