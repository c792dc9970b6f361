"""Workers that stop in the midst of their first job on the second host, until that is lost: at a known moment then,
with half-written files. On the first host they are the project's own."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from promptcot_mamba.data.chunk_work import ChunkContext, ChunkWorker
from promptcot_mamba.grading.code import grading
from promptcot_mamba.grading.sandbox.sandbox import Limits
from tests.cluster.hosts import ADDRESSES, HOSTS, WAIT_SECONDS

SIGN = "PROMPTCOT_HELD"  # names a file that tells of a held job; of the program's environment
make_grader_here = grading._make_grader
# The program as it is, but for who does its jobs.
PREPARE = """
import os, runpy
from promptcot_mamba.data import prepare
from tests.cluster.ray import held
prepare._make_chunk_runner = held.ChunkMaker(os.environ[held.SIGN])
runpy.run_module("scripts.prepare_sft_data", {}, "__main__", alter_sys=True)
"""
# The same on the second host. Ray looks through the machine's processes for a node to be part of, and finds the first
# host's, too, unless it is told.
PREPARE_THERE = PREPARE.replace(
    "import os, runpy\n",
    f"""import functools, os, runpy, ray
ray.init = functools.partial(ray.init, _node_ip_address="{ADDRESSES[HOSTS[1]]}")
""",
)
GRADE = """
import functools, os, runpy
from promptcot_mamba.grading.code import grading
from tests.cluster.ray import held
grading._make_grader = functools.partial(held.make_grader, os.environ[held.SIGN])
runpy.run_module("calc_acc_lcb", {}, "__main__", alter_sys=True)
"""


def hold(sign: str) -> None:
    if socket.gethostname() == HOSTS[1]:
        Path(sign).touch()
        time.sleep(WAIT_SECONDS)
        os._exit(1)  # nobody took the host away


class ChunkMaker:
    """`prepare._make_chunk_runner`, held while a chunk's file of tokens is being written."""

    def __init__(self, sign: str):
        self.sign = sign

    def __call__(self, context: ChunkContext, agrees: Callable[[str, str], bool] | None) -> Callable[..., Any]:
        worker = ChunkWorker(context, agrees)
        encode = worker.encoder.encode

        def encode_held(pairs):
            hold(self.sign)
            return encode(pairs)

        worker.encoder.encode = encode_held
        return worker.run


def make_grader(sign: str, limits: Limits, level: str) -> Callable[..., Any]:
    grade = make_grader_here(limits, level)

    def grade_held(job):
        hold(sign)
        return grade(job)

    return grade_held
