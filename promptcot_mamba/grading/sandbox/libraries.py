"""The third-party packages a program may import; every other one looks as if it were not installed.

A fork server imports what a program names before it forks, once for all programs: importing sympy takes seconds, and
LiveCodeBench, which imports before it starts its clock, charges no program for it.
"""

import contextlib
import gc
import importlib
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

OFFERED = ("numpy", "scipy", "sympy", "networkx", "sortedcontainers", "mpmath")
SCIPY_PARTS = (
    "cluster", "fft", "integrate", "interpolate", "linalg", "ndimage", "optimize", "signal", "sparse", "sparse.csgraph",
    "sparse.linalg", "spatial", "special", "stats",
)  # fmt: skip
WARMABLE = frozenset((*OFFERED, *(f"scipy.{part}" for part in SCIPY_PARTS)))

IMPORT_LINE = re.compile(r"(?:^|[;:])[ \t]*(?:import|from)[ \t]+([^\n#;]*)", re.MULTILINE)
MAX_NAMES, MAX_PARTS = 100, 3  # read of one import line, and of one dotted name
NAME = re.compile(r"[A-Za-z_][\w.]*")


class OfferedFinder:
    """Finds the offered packages in the folders they are installed in, and nothing else there."""

    def __init__(self, folders: Sequence[str]):
        self.folders = list(folders)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None and name in OFFERED:
            return PathFinder.find_spec(name, self.folders, target)
        return None  # a package's own modules are found by its `__path__`


def wanted_modules(code: str) -> list[str]:
    """The offered modules that a program's import lines name, of the closed set that a server may import for it."""
    found: dict[str, None] = {}
    for line in IMPORT_LINE.findall(code) if any(name in code for name in OFFERED) else ():
        words = NAME.findall(line)[:MAX_NAMES]
        for word in words:
            for name in (word, f"{words[0]}.{word}"):  # from scipy import sparse
                parts = name.split(".", MAX_PARTS)[:MAX_PARTS]
                found |= dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return [name for name in found if name in WARMABLE]


def warm_modules(names: Iterable[str]) -> None:
    """Import offered modules into this process, for those that it forks. One that is not installed is passed over."""
    missing = [name for name in names if name in WARMABLE and name not in sys.modules]
    if not missing:
        return
    for name in missing:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)  # the same draws for every test
    gc.collect()
    gc.freeze()
