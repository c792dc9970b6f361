r"""What a sample from a server costs the sampler: processor time, and bytes on disk.

    python -m scripts.bench.sampling_cost

A small server in a process of its own answers at once with texts of one length; `infer_longcot.py` runs against it as a
user would start it, twice as often in its second run, so that what a start costs falls out. aiohttp, which carries its
requests, is measured beside it: as many requests, their answers read as JSON and dropped. Bytes are those of the
published rows (X.jsonl) and of everything beside them. Writes docs/records/sampling_cost.json.
"""

import asyncio
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp

import infer_longcot
from promptcot_mamba.bench_record import report_record, tabulate
from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.jsonl import Row, read_jsonl, write_jsonl
from promptcot_mamba.sampling.arguments import SamplingArguments

STEP = 'Next, we write $x_{{{0}}} = \\frac{{{0}}}{{7}}$ and see that it is not "whole".\n'
COLUMNS = (
    ("bytes a text", "{size:,}"),
    ("samples", "{samples:,}"),
    ("ms of processor a sample", "{milliseconds:.2f}"),
    ("aiohttp alone", "{bare_milliseconds:.2f}"),
    ("bytes of rows, of twice the samples", "{rows:,}"),
    ("beside them", "{beside:,}"),
    ("all / rows", "{all_to_rows:.3f}"),
    ("all / completions", "{all_to_texts:.3f}"),
)


@dataclass
class CostArguments:
    kilobytes: list[int] = flag("lengths of a completion", factory=lambda: [1, 200], least=1)
    megabytes: int = flag("of text in the shorter run of a pair, at most", default=100, least=1)
    most_samples: int = flag("in the shorter run of a pair", default=5000, least=50)
    repeats: int = flag("pairs of runs; medians are shown", default=5, least=1)
    record: str = "docs/records/sampling_cost.json"


def make_text(size: int) -> str:
    """A chain of `size` characters in the form that models write: lines, TeX, quotes."""
    steps = "".join(STEP.format(i) for i in range(size // 60 + 2))
    end = "\n</think>\nThe answer is \\boxed{7}."
    return steps[: size - len(end)] + end


def serve(size: int, port: Connection) -> None:
    """Answer every request with one text, on a port that is told through the pipe."""
    choice = {"index": 0, "text": make_text(size), "finish_reason": "stop"}
    answer = {"choices": [choice], "usage": {"prompt_tokens": 60, "completion_tokens": size // 4}}
    models = {"object": "list", "data": [{"id": "m", "owned_by": "bench"}]}
    replies = {
        method: b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        for method, body in ((b"POST", json.dumps(answer).encode()), (b"GET", json.dumps(models).encode()))
    }

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                writer.write(replies[head.split(b" ", 1)[0]])
                await writer.drain()

    async def run() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def served(size: int) -> Iterator[str]:
    """A server's address, while it runs."""
    ours, theirs = Pipe()
    process = Process(target=serve, args=(size, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def sample(url: str, samples: int, folder: Path) -> Row:
    """One run of the program: its processor seconds, and the bytes it leaves."""
    problems, output = folder / "problems.jsonl", folder / f"{time.monotonic_ns()}" / "x.jsonl"
    questions = [f"What is the remainder when {i}^{i + 7} is divided by {2 * i + 3}?" for i in range(1, 51)]
    write_jsonl(problems, ({"id": i, "prompt": render_prompt(text)} for i, text in enumerate(questions)))
    flags = {"data_path": problems, "output_path": output, "model_path": "m", "base_url": url, "n": samples // 50}
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        if infer_longcot.main([f"--{name}={value}" for name, value in flags.items()]):
            raise SystemExit("the sampler stopped")
    seconds = time.process_time() - started
    files = {path.name: path.stat().st_size for path in output.parent.iterdir()}
    texts = sum(len(row["completion"].encode()) for row in read_jsonl(output))
    return {"seconds": seconds, "rows": files.pop("x.jsonl"), "beside": sum(files.values()), "texts": texts}


def ask_bare(url: str, samples: int) -> float:
    """Processor seconds of aiohttp alone for so many requests, as many at once as the sampler makes by default."""

    async def run() -> None:
        places = asyncio.Semaphore(SamplingArguments.concurrency)
        body = {"model": "m", "prompt": "x" * 200, "max_tokens": 65536, "seed": 1}

        async def ask(session: aiohttp.ClientSession) -> None:
            async with places, session.post(f"{url}/v1/completions", json=body) as response:
                await response.json()

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(ask(session) for _ in range(samples)))

    started = time.process_time()
    asyncio.run(run())
    return time.process_time() - started


def measure(args: CostArguments, kilobytes: int, folder: Path) -> dict[str, Any]:
    """Medians over pairs of runs; the second of a pair makes twice as many samples."""
    size = 1000 * kilobytes
    samples = max(50, min(args.most_samples, 1_000_000 * args.megabytes // size) // 50 * 50)
    milliseconds, bare = [], []
    with served(size) as url:
        for _ in range(args.repeats):
            once, twice = sample(url, samples, folder), sample(url, 2 * samples, folder)
            milliseconds.append(1000 * (twice["seconds"] - once["seconds"]) / samples)
            bare.append(1000 * ask_bare(url, samples) / samples)
    everything = twice["rows"] + twice["beside"]
    return {
        "size": size,
        "samples": samples,
        "milliseconds": statistics.median(milliseconds),
        "bare_milliseconds": statistics.median(bare),
        "rows": twice["rows"],
        "beside": twice["beside"],
        "all_to_rows": everything / twice["rows"],
        "all_to_texts": everything / twice["texts"],
    }


def main(argv: list[str] | None = None) -> int:
    args = parse_args(CostArguments, argv, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(args, kilobytes, Path(folder)) for kilobytes in args.kilobytes]
    caption = "A sample from a server, medians; `rows` are X.jsonl, `completions` their texts alone."
    tables = [tabulate(caption, COLUMNS, results)]
    report_record(args, title="Sampling: what a sample costs", tables=tables, results=results)
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
