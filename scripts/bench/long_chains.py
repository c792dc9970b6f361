r"""What it costs that chains outlive their machine: saving their tokens, segments, and reading a chain again.

    python -m scripts.bench.long_chains --model_path outputs/quickstart/phase2

One engine generates the same chains, all of --max_len tokens, in turn with nothing saved, with their tokens saved as
they grow (`infer_longcot.py`'s default) and in segments of --segment_len tokens, files and all. The samples of the
first two must be equal. Ratios are medians over rounds, each against its own round; the order of the roads turns from
round to round. `waiting for files` is the share of a run's seconds in which it gathered and wrote tokens instead of
generating: what saving costs, without the noise between two runs.

Then chains of a quarter, a half and three quarters of that length are read again, as a rerun reads what a killed run
left. Writes docs/records/long_chains.json after every round.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.bench_record import RecordTable, render_record_table, tabulate, write_record
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.jsonl import Row, read_jsonl
from promptcot_mamba.records import Problem
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.backend import Backend, Request
from promptcot_mamba.sampling.chain import Chain, Cuts
from promptcot_mamba.sampling.ledger import Ledger
from promptcot_mamba.sampling.partial import PartialFile
from promptcot_mamba.sampling.prompts import PromptBook
from promptcot_mamba.sampling.scheduler import Scheduler
from scripts.bench.sampling import BenchArguments, load_engine, make_problems

UNSAVED, SAVED = "nothing saved", "saved as they grow"
MEASURES = ("seconds", "cpu_seconds", "waiting")
PARTS = (0.25, 0.5, 0.75)  # of a chain, that are read again
COLUMNS = (
    ("chains", "{road}"),
    ("seconds", "{seconds:.1f}"),
    ("/ nothing saved", "{ratio:.3f}"),
    ("CPU seconds", "{cpu_seconds:.1f}"),
    ("/ nothing saved", "{cpu_ratio:.3f}"),
    ("waiting for files", "{waiting:.2%}"),
)
READ_COLUMNS = (
    ("tokens kept of a chain", "{kept:,}"),
    ("seconds to read them", "{seconds:.2f}"),
    ("tokens a second", "{rate:,.0f}"),
    ("/ generating them", "{ratio:.3f}"),
)


@dataclass
class ChainArguments:
    model_path: str = flag("a checkpoint; a random tiny one will do", default="")
    dummy: str | None = flag("instead of one, random weights: see scripts/bench/dummy_model.py", default=None)
    chains: int = flag("that are generated at once", default=16, least=1)
    max_len: int = flag("tokens of each", default=4096, least=64)
    segment_len: list[int] = flag("lengths of segments that are tried", factory=lambda: [1024], least=1)
    rounds: int = flag("runs of each road; medians are shown", default=3, least=1)
    record: str = "docs/records/long_chains.json"


class TimedPartial(PartialFile):
    """A partial file that counts the seconds in which the sampler waits for it."""

    waited = 0.0

    def save(self, chain: Chain, ids: Sequence[int], seconds: float = 0.0) -> None:
        started = time.perf_counter()
        super().save(chain, ids, seconds)
        self.waited += time.perf_counter() - started

    def sync(self) -> None:
        started = time.perf_counter()
        super().sync()
        self.waited += time.perf_counter() - started


def generate(
    backend: Backend,
    problems: list[Problem],
    prompts: PromptBook,
    max_len: int,
    *,
    saved: bool,
    segment_len: int | None,
) -> tuple[dict[str, str], Row]:
    """The chains by one road: their texts by problem, and what they took."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "samples.jsonl"
        started, worked = time.perf_counter(), time.process_time()
        with Ledger(output, problems, n=1, max_retries=1) as ledger:
            ledger.resume()
            partial = TimedPartial(side_path(output, "partial.jsonl")) if saved else None
            with closing(partial) if partial is not None else nullcontext():
                Scheduler(
                    ledger, backend, prompts, base_seed=0, max_len=max_len, context=max_len + 4096,
                    cuts=Cuts(segment_len), partial=partial,
                ).run()  # fmt: skip
            ledger.finish()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
        waiting = partial.waited / seconds if partial is not None else 0.0
        took = {"seconds": seconds, "cpu_seconds": cpu_seconds, "waiting": waiting}
        return {row["id"]: row["completion"] for row in read_jsonl(output)}, took


def read_again(backend: Backend, prompts: PromptBook, chains: int, kept: int, vocabulary: int) -> float:
    """Seconds from asking for the next token of so many chains, each of `kept` tokens, until all have said it."""
    draw = random.Random(kept)
    started = time.perf_counter()
    for unit in range(chains):
        prompt, ids = prompts.get(unit)
        said = [draw.randrange(3, vocabulary) for _ in range(kept)]  # what a token is does not change what it costs
        backend.submit(Request(unit, 0, unit, prompt, ids, 1, kept=said))
    left = chains
    while left:
        left -= len(backend.poll(1.0))
    return time.perf_counter() - started


def summarise(rounds: list[dict[str, Row]]) -> list[Row]:
    """A row for each road: medians, and of its ratios to the same round's chains of which nothing is saved."""
    return [
        {"road": road}
        | {name: statistics.median(each[road][name] for each in rounds) for name in MEASURES}
        | {
            name: statistics.median(each[road][measure] / each[UNSAVED][measure] for each in rounds)
            for name, measure in (("ratio", "seconds"), ("cpu_ratio", "cpu_seconds"))
        }
        for road in rounds[0]
    ]


def make_tables(args: ChainArguments, rounds: list[dict[str, Row]], readings: list[Row]) -> list[RecordTable]:
    caption = f"{args.chains} chains of {args.max_len:,} tokens at once, medians of {len(rounds)} rounds; ratios are "
    caption += "within a round."
    tables = [tabulate(caption, COLUMNS, summarise(rounds))]
    if readings:
        tables.append(tabulate(f"{args.chains} chains, read again after a kill.", READ_COLUMNS, readings))
    return tables


def main(argv: list[str] | None = None) -> int:
    args = parse_args(ChainArguments, argv, description=__doc__)
    shape = {"problems": args.chains, "n": 1, "max_len": args.max_len, "max_num_seqs": args.chains}
    plan, engine = load_engine(BenchArguments(args.model_path, args.dummy, **shape))
    problems = make_problems(args.chains)
    prompts = PromptBook(problems, plan.tokenizer)
    roads: dict[str, dict[str, Any]] = {
        UNSAVED: {"saved": False, "segment_len": None},
        SAVED: {"saved": True, "segment_len": None},
        **{f"in segments of {each:,}": {"saved": True, "segment_len": each} for each in args.segment_len},
    }
    generate(engine, problems, prompts, 64, **roads[UNSAVED])  # untimed: what tunes itself on first use

    rounds: list[dict[str, Row]] = []
    for number in range(args.rounds):
        texts, taken = {}, {}
        for road in list(roads)[:: 1 if number % 2 == 0 else -1]:
            texts[road], taken[road] = generate(engine, problems, prompts, args.max_len, **roads[road])
            print(f"round {number + 1}, {road}: {taken[road]}", file=sys.stderr)
        if texts[UNSAVED] != texts[SAVED]:
            raise SystemExit("saving changed samples")
        rounds.append({road: taken[road] for road in roads})
        write(args, rounds, [])
    a_token = statistics.median(each[UNSAVED]["seconds"] for each in rounds) / args.max_len
    readings = []
    for kept in [int(part * args.max_len) for part in PARTS]:
        vocabulary = len(plan.tokenizer)
        seconds = statistics.median(
            read_again(engine, prompts, args.chains, kept, vocabulary) for _ in range(args.rounds)
        )
        rate = args.chains * kept / seconds
        readings.append({"kept": kept, "seconds": seconds, "rate": rate, "ratio": seconds / (a_token * kept)})
    engine.close()
    print("\n\n".join(map(render_record_table, write(args, rounds, readings))))
    return 0


def write(args: ChainArguments, rounds: list[dict[str, Row]], readings: list[Row]) -> list[RecordTable]:
    """The record of what was measured so far; returns its tables."""
    tables = make_tables(args, rounds, readings)
    title = "Sampling: what it costs that chains outlive their machine"
    write_record(args.record, title=title, config=asdict(args), tables=tables, results=[*rounds, *readings])
    return tables


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
