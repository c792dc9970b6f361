"""A lock that a killed build left in torch's extension cache: torch waits for it without a word and without end.

torch keeps the file open while it builds (`torch/utils/file_baton.py`), so a lock that no process of this machine has
open is another machine's, where the cache is on a shared disk, or nobody's. A build takes about a minute.
"""

import os
import time
from pathlib import Path
from typing import Any

from torch.utils.cpp_extension import get_default_build_root

from promptcot_mamba.log import logger
from promptcot_mamba.training.deepspeed_keys import offload_device

NOBODYS_AFTER = 600.0  # seconds that a lock is old, without a process here that has it open
POLL_SECONDS = 1.0


def built_for(config: dict[str, Any]) -> set[str]:
    """What DeepSpeed compiles for a config."""
    names = {"cpu_adam"} if offload_device(config) != "none" else set()
    if "nvme" in (offload_device(config), offload_device(config, "param")):
        names.add("async_io")
    return names


def wait_for_builds(config: dict[str, Any]) -> None:
    """Before DeepSpeed compiles for this config: return once no abandoned lock is in its way.

    One that is old is removed; of one that is young, and may be another machine's, a line tells what to do.
    """
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()
    for name in sorted(built_for(config)):
        for lock in (Path(root, name, "lock"), *Path(root).glob(f"py*/{name}/lock")):
            told = False
            while (age := _age(lock)) is not None and not is_held(lock):
                if age > NOBODYS_AFTER:
                    lock.unlink(missing_ok=True)
                    logger.info("%s: removed; a build that was killed left it", lock)
                elif not told:
                    told = True
                    logger.warning(
                        "waiting for %s: no process here holds it. If no other machine is compiling, remove it; "
                        "otherwise it is removed in %.0f s", lock, NOBODYS_AFTER - age,
                    )  # fmt: skip
                time.sleep(POLL_SECONDS)


def _age(lock: Path) -> float | None:
    """Seconds since it was made; None where there is none."""
    try:
        return time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return None


def is_held(lock: Path) -> bool:
    """Whether a process of this machine that we may look at has the file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.path.samestat(link.stat(), lock.stat()):
                return True
        except OSError:  # a descriptor that was closed, a process that ended, another user's
            continue
    return False
