"""The folder of a running program, as its fork server looks after it: how much lies in it, and emptying it.

A program chooses names, depths and modes. So no path here grows with a folder's depth, nothing recurses but for
`within`, which ends at the number of files allowed, and a folder made without rights is given those of its owner, who
is the server.
"""

import contextlib
import os
import stat
from pathlib import Path


def empty_folder(folder: Path) -> None:
    """Leave nothing of one program to the next. What a folder in it holds is first moved up, under drawn names."""
    while entries := list(folder.iterdir()):
        for entry in entries:
            if not is_folder(entry):
                entry.unlink()
                continue
            entry.chmod(stat.S_IRWXU)
            for inner in list(entry.iterdir()):
                if is_folder(inner):
                    inner.chmod(stat.S_IRWXU)  # one that may not be written cannot be moved
                inner.rename(folder / os.urandom(16).hex())
            entry.rmdir()


def is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def within(folder: Path, max_bytes: int, max_files: int) -> bool:
    """Whether a folder holds no more than this; stops counting once it holds too much, or what cannot be counted."""
    count = size = 0
    failed: list[OSError] = []
    for _, folders, names, fd in os.fwalk(folder, onerror=failed.append):
        for name in folders:
            with contextlib.suppress(OSError):  # gone meanwhile
                if os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode & stat.S_IRWXU != stat.S_IRWXU:
                    os.chmod(name, stat.S_IRWXU, dir_fd=fd)  # it would hide what it holds
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(name, dir_fd=fd, follow_symlinks=False).st_blocks * 512
        count += len(folders) + len(names)
        if count > max_files or size > max_bytes:
            return False
    return all(isinstance(error, (FileNotFoundError, NotADirectoryError)) for error in failed)
