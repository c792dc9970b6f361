r"""The published sampling loop against ours: same engine, same requests, same seeds, same samples.

    python -m scripts.bench.sampling --model_path /path/to/model --max_num_seqs 64 --pairs 3
    python -m scripts.bench.sampling --dummy 7b --max_num_seqs 256 --median_len 100 --max_len 1024   # no checkpoint

The published loop goes over the data set n times; each pass waits for its slowest chain, then retries what came out
invalid in further waves. It is written anew here. Ours submits everything at once. Chain lengths are made heavy-tailed
and 15 % of the chains invalid by rule, the same for both: each request's `max_tokens` is drawn from its seed, so that
any model, random or trained, does the same work. Writes docs/records/sampling_<seqs>.json after every pair.

On a CPU both loops give the same samples, or the run fails. On CUDA a sample's last bits depend on what it is batched
with, so that samples drift apart; their number is reported, their lengths and validity are the same by rule.
"""

import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from promptcot_mamba.bench_record import RecordTable, device_name, render_record_table, write_record
from promptcot_mamba.chat_format import is_format_valid, render_prompt, with_open_thought
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, read_jsonl
from promptcot_mamba.records import Problem, derive_seed
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.backend import Backend, Generated, Request
from promptcot_mamba.sampling.ledger import Ledger
from promptcot_mamba.sampling.plan import Plan, make_plan
from promptcot_mamba.sampling.prompts import PromptBook
from promptcot_mamba.sampling.scheduler import Scheduler
from scripts.bench.dummy_model import DUMMIES, plan_dummy

LENGTH_SIGMA = 1.0  # of the log of a chain's length: 1 % are over 10 times the median


@dataclass
class BenchArguments:
    model_path: str = flag("a checkpoint; a random tiny one will do", default="")
    dummy: str | None = flag("instead of one, random weights", default=None, choices=tuple(DUMMIES))
    problems: int = 60
    n: int = 16
    max_retries: int = 8
    invalid: float = 0.15
    max_len: int = 320
    median_len: float = flag("of the chains' log-normal lengths, in tokens", default=20.0, least=1)
    max_num_seqs: int = 64
    pairs: int = flag("runs of each, in turn; medians are compared", default=3, least=1)
    record: str | None = flag("where to write; default docs/records/sampling_<seqs>.json", default=None)
    resume: bool = flag("keep the pairs that the record holds already", default=False)

    def __post_init__(self) -> None:
        if bool(self.model_path) == bool(self.dummy):
            raise ValueError("give either --model_path or --dummy")


class ShapedBackend:
    """A back end whose chains have drawn lengths and drawn validity: both follow from a request's seed alone."""

    def __init__(self, inner: Backend, max_len: int, median_len: float, invalid: float):
        self.inner = inner
        self.window, self.generated_tokens = inner.window, inner.generated_tokens
        self.drop, self.running, self.growing = inner.drop, inner.running, inner.growing
        self.steps = 0
        self._max_len = max_len
        self._mean_log = math.log(median_len)
        self._invalid = invalid
        self._seeds: dict[int, int] = {}

    def submit(self, request: Request) -> None:
        self._seeds[request.unit] = request.seed
        length = 1 + int(random.Random(request.seed).lognormvariate(self._mean_log, LENGTH_SIGMA))
        self.inner.submit(replace(request, max_tokens=min(length, self._max_len)))

    def poll(self, timeout: float) -> list[Generated]:
        self.steps += 1
        finished = self.inner.poll(timeout)
        self.generated_tokens = self.inner.generated_tokens
        return [self._shape(generated) for generated in finished]

    def _shape(self, generated: Generated) -> Generated:
        invalid = random.Random(~self._seeds.pop(generated.unit)).random() < self._invalid
        text = generated.text.replace("<think>", "").replace("</think>", "")
        return generated if invalid else replace(generated, text=f"{text}.\n</think>\nThe answer is \\boxed{{1}}.")

    def close(self) -> None:
        pass


def published_loop(
    backend: Backend, problems: list[Problem], prompts: PromptBook, *, n: int, max_retries: int, seed: int, max_len: int
) -> dict[tuple[int, str], str]:
    """n passes over the problems, each in up to `max_retries` waves; returns {(run, problem id): completion}."""
    completions = {}
    for run in range(n):
        pending = list(range(len(problems)))
        for attempt in range(max_retries):
            for index in pending:
                prompt, ids = prompts.get(index)
                address = derive_seed(seed, problems[index].id, run, attempt)
                backend.submit(Request(index, attempt, address, prompt, ids, max_len))
            invalid, waiting = [], len(pending)
            while waiting:
                for generated in backend.poll(1.0):
                    waiting -= 1
                    completion = with_open_thought(prompts.get(generated.unit)[0], generated.text)
                    completions[run, problems[generated.unit].id] = completion
                    if not is_format_valid(completion):
                        invalid.append(generated.unit)
            pending = sorted(invalid)
            if not pending:
                break
    return completions


def our_scheduler(
    backend: Backend, problems: list[Problem], prompts: PromptBook, *, n: int, max_retries: int, seed: int, max_len: int
) -> dict[tuple[int, str], str]:
    """The product's own path, files and all; returns {(run, problem id): completion}."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "samples.jsonl"
        with Ledger(output, problems, n, max_retries) as ledger:
            ledger.resume()
            Scheduler(ledger, backend, prompts, base_seed=seed, max_len=max_len, context=max_len + 4096).run()
            ledger.finish()
        return {(row["run"], row["id"]): row["completion"] for row in read_jsonl(output)}


def make_problems(count: int) -> list[Problem]:
    questions = [f"What is the remainder when {i}^{i + 7} is divided by {2 * i + 3}?" for i in range(1, count + 1)]
    rows = [{"id": f"p{i}", "prompt": render_prompt(question)} for i, question in enumerate(questions)]
    return [Problem(row["id"], row["prompt"], row) for row in rows]


def load_engine(args: BenchArguments) -> tuple[Plan, Backend]:
    """One vLLM engine for both loops; its chains end at their drawn lengths alone."""
    from promptcot_mamba.sampling.engines import engine_settings
    from promptcot_mamba.sampling.plan import place
    from promptcot_mamba.sampling.vllm_engine import VllmEngine

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "one.jsonl"
        data.write_text('{"id": 0, "prompt": "x"}\n', encoding="utf-8")
        flags = SamplingArguments(
            str(data), f"{folder}/x.jsonl", args.model_path or folder, max_len=args.max_len,
            max_num_seqs=args.max_num_seqs,
        )  # fmt: skip
        plan = plan_dummy(args.dummy, Path(folder), flags, []) if args.dummy else make_plan(flags)
        place(plan, args.problems * args.n)
        settings = replace(engine_settings(plan), dummy_weights=bool(args.dummy))
        assert plan.checkpoint is not None  # --base_url is not given
        is_mamba2 = plan.checkpoint.is_mamba2
        engine = VllmEngine(settings, plan.sampling(), is_mamba2=is_mamba2, tokenizer=plan.tokenizer)
    engine.set_sampling(replace(plan.sampling(), stop_token_ids=(), ignore_eos=True))
    return plan, engine


MEASURES = ("seconds", "cpu_seconds", "steps")


def ratios(pairs: list[Row]) -> dict[str, float]:
    """Median over pairs of published / ours, by measure."""
    return {
        name: round(statistics.median(pair["published"][name] / pair["ours"][name] for pair in pairs), 3)
        for name in MEASURES
    }


def make_table(pairs: list[Row], max_num_seqs: int) -> RecordTable:
    """Medians of both loops, and of the pairs' ratios of seconds, steps and a step's time."""
    rows = []
    for loop in ("published", "ours"):
        seconds, worked, steps, tokens = (
            statistics.median(pair[loop][name] for pair in pairs) for name in (*MEASURES, "tokens")
        )
        cells = [f"{seconds:.1f}", f"{worked:.1f}", f"{steps:,.0f}", f"{1000 * seconds / steps:.2f}"]
        rows.append([loop, *cells, f"{tokens / steps:.1f}", f"{tokens:,.0f}"])
    found = ratios(pairs)
    a_step = statistics.median(
        pair["published"]["seconds"] / pair["published"]["steps"] * pair["ours"]["steps"] / pair["ours"]["seconds"]
        for pair in pairs
    )
    rows.append(["published / ours", *(f"{found[name]:.2f}" for name in MEASURES), f"{a_step:.2f}", "", ""])
    different = max(pair["different"] for pair in pairs)
    alike = "all samples identical in both loops" if not different else f"at most {different} samples differ in words"
    caption = f"{max_num_seqs} sequences at once, medians of {len(pairs)} pairs; {alike}."
    header = ["loop", "seconds", "CPU seconds", "engine steps", "ms a step", "tokens a step", "tokens"]
    return RecordTable(caption, header, rows)


def earlier_pairs(path: Path, config: dict[str, Any]) -> list[Row]:
    """The pairs of an unfinished record. Raises InputError if they were measured with other flags."""
    if not path.exists():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    free = ("pairs", "record", "resume")
    changed = [name for name in config if name not in free and record["config"].get(name) != config[name]]
    if changed or record["device"] != device_name():
        raise InputError(f"{path}: was measured with another {', '.join(changed) or 'device'}; leave --resume out")
    return record["results"]["pairs"]


def main(argv: list[str] | None = None) -> int:
    args = parse_args(BenchArguments, argv, description=__doc__)
    record = Path(args.record or f"docs/records/sampling_{args.max_num_seqs}.json")
    pairs = earlier_pairs(record, asdict(args)) if args.resume else []
    if len(pairs) >= args.pairs:
        print(f"{record}: holds {len(pairs)} pairs already")
        return 0
    problems = make_problems(args.problems)
    plan, engine = load_engine(args)
    prompts = PromptBook(problems, plan.tokenizer)
    how = {"n": args.n, "max_retries": args.max_retries, "seed": 0, "max_len": args.max_len}

    def measure(loop: Callable[..., dict]) -> tuple[dict, dict[str, Any]]:
        backend = ShapedBackend(engine, args.max_len, args.median_len, args.invalid)
        before, started, worked = engine.generated_tokens, time.perf_counter(), time.process_time()
        completions = loop(backend, problems, prompts, **how)
        times = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - worked}
        tokens = engine.generated_tokens - before
        return completions, {**times, "steps": backend.steps, "tokens": tokens}

    # Untimed: what compiles or tunes itself on first use.
    warm_up = how | {"n": 1, "max_retries": 1, "seed": 1}
    published_loop(ShapedBackend(engine, 16, 8.0, 0.0), problems, prompts, **warm_up)
    on_cuda = plan.device is not None and plan.device.kind == "cuda"
    while len(pairs) < args.pairs:
        theirs, published = measure(published_loop)
        ours, scheduled = measure(our_scheduler)
        different = sum(theirs[key] != ours[key] for key in theirs)
        if different and not on_cuda:
            raise SystemExit(f"{different} of {len(theirs)} samples differ between the two loops")
        if published["tokens"] != scheduled["tokens"]:
            raise SystemExit(f"the loops generated {published['tokens']} and {scheduled['tokens']} tokens")
        pairs.append({"published": published, "ours": scheduled, "different": different})
        print(f"pair {len(pairs)}: published {published}, ours {scheduled}, {different} differ", file=sys.stderr)
        table = make_table(pairs, args.max_num_seqs)
        title = f"Sampling: the published loop against ours, {args.max_num_seqs} sequences"
        results = {"pairs": pairs, "ratios": ratios(pairs)}
        write_record(record, title=title, config=asdict(args), tables=[table], results=results)
    engine.close()
    print(render_record_table(table))
    return 0


if __name__ == "__main__":
    run_program(main)
