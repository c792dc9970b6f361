"""One logger for every program: short lines on stderr, so stdout stays free for tables."""

from __future__ import annotations

import logging
import sys
from functools import cache

ROOT = "promptcot_mamba"


@cache
def _configure() -> logging.Logger:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger(ROOT)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False
    return root


def get_logger(name: str) -> logging.Logger:
    """Return the logger of one module; call it with `__name__`."""
    _configure()
    return logging.getLogger(name if name.startswith(ROOT) else f"{ROOT}.{name}")


@cache
def log_once(message: str) -> None:
    """Log a choice (a backend, a fallback, a default) the first time it is made."""
    get_logger(ROOT).info(message)
