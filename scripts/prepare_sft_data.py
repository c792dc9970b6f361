"""Published data sets -> filtered, decontaminated, deduplicated, packed token shards for `train.py`, with a report.

    python -m scripts.prepare_sft_data --config configs/data/phase1.yaml --tokenizer_path /models/Mamba-Codestral-7B \
        --output_dir outputs/data/phase1

Sources come from the hub, or with `--source_dir DIR` from `DIR/<owner>/<name>/`. The same command continues a killed
run; the shards do not depend on the number of workers. Training refuses shards of another tokenizer or length.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from promptcot_mamba.errors import InputError

# Workers import this file too: what only the program itself needs is imported where it runs.


@dataclass
class PrepareArguments:
    sources: str = field(
        default="", metadata={"help": "JSON, or in a recipe a mapping: name -> {adapter, path, epochs, ...}."}
    )
    drop_sources: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of the recipe's sources to leave out; what an ablation differs in."},
    )
    output_dir: str | None = field(default=None, metadata={"help": "Where the shards go."})
    tokenizer_path: str | None = field(
        default=None, metadata={"help": "Folder of the tokenizer, or its name on the hub."}
    )
    source_dir: str | None = field(
        default=None, metadata={"help": "Folder of downloaded data sets, as <owner>/<name>/...; without it the hub."}
    )
    max_length: int = field(default=20480, metadata={"help": "Tokens of a packed row, as train.py is told."})
    min_tokens: int = field(default=16, metadata={"help": "Shorter examples are dropped."})
    max_tokens: int | None = field(default=None, metadata={"help": "Longer examples are dropped. Default: max_length."})
    near_duplicate_threshold: float = field(
        default=0.8, metadata={"help": "Jaccard index from which two prompts are near-duplicates; 0 keeps them all."}
    )
    total_examples: int | None = field(
        default=None, metadata={"help": "Examples of a mixture by weights. Default: the most that repeats none."}
    )
    benchmarks: str = field(default="all", metadata={"help": "Keep these out: all, none, or names with commas."})
    benchmark_dir: str = field(default="data", metadata={"help": "Folder of the files of scripts.prepare_problems."})
    allow_missing_benchmark: bool = field(
        default=False, metadata={"help": "Go on without a benchmark whose file is missing."}
    )
    shard_tokens: int = field(default=1 << 24, metadata={"help": "Tokens of one shard, about."})
    seed: int = field(default=0, metadata={"help": "Of the mixture, its order and the packing."})
    workers: int = field(default=0, metadata={"help": "Processes. Default: one a core."})
    overwrite: bool = field(default=False, metadata={"help": "Replace shards of another recipe in output_dir."})
    keep_work: bool = field(
        default=False, metadata={"help": "Keep the tokenised rows, so that another mixture of them is quick."}
    )

    def __post_init__(self) -> None:
        for name in ("output_dir", "tokenizer_path", "sources"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is required")
        if self.max_tokens is None:
            self.max_tokens = self.max_length
        if not 2 <= self.max_tokens <= self.max_length:
            raise ValueError(f"--max_tokens {self.max_tokens}: expected 2 to --max_length ({self.max_length})")
        if not 0 <= self.near_duplicate_threshold <= 1:
            raise ValueError(f"--near_duplicate_threshold {self.near_duplicate_threshold}: expected 0 to 1")
        if self.shard_tokens < self.max_length:
            raise ValueError(f"--shard_tokens {self.shard_tokens}: expected at least --max_length ({self.max_length})")


def choose_sources(args: PrepareArguments) -> list:
    """The recipe's sources less those dropped. Raises InputError for malformed ones and for names it does not have."""
    from promptcot_mamba.data.sources import parse_sources

    try:
        entries = json.loads(args.sources)
    except json.JSONDecodeError as error:
        raise InputError(f"--sources: malformed JSON ({error.msg})") from None
    for name in args.drop_sources:
        if name not in entries:
            raise InputError(f"--drop_sources: no source {name!r} in this recipe; it has {', '.join(entries)}")
    return parse_sources({name: entry for name, entry in entries.items() if name not in args.drop_sources})


def read_benchmarks(args: PrepareArguments) -> list:
    """The problems to keep out of training: of every benchmark that is fetched, or of those named.

    Raises InputError for an unknown name, and for a missing file unless `--allow_missing_benchmark`; of `all`, one that
    is in no table of the paper may be missing too, with a warning.
    """
    from promptcot_mamba.benchmarks import fetched, get_benchmark
    from promptcot_mamba.chat_format import extract_question
    from promptcot_mamba.data.decontaminate import BenchmarkText
    from promptcot_mamba.log import get_logger
    from promptcot_mamba.records import iter_problems

    if args.benchmarks == "none":
        return []
    names = fetched() if args.benchmarks == "all" else [name.strip() for name in args.benchmarks.split(",")]
    problems = []
    for name in names:
        benchmark = get_benchmark(name)
        path = Path(args.benchmark_dir) / benchmark.problem_file
        if not path.exists():
            maker = f"prepare_problems --benchmark {name} --output_dir {args.benchmark_dir}"
            mend = f"run python -m scripts.{maker if benchmark.publisher else 'quickstart.make_data'}"
            optional = args.benchmarks == "all" and not benchmark.published
            if not args.allow_missing_benchmark and not optional:
                raise InputError(
                    f"{path}: missing, {name} cannot be kept out; {mend}, or --allow_missing_benchmark True"
                )
            get_logger(__name__).warning("%s: missing; %s is NOT kept out (%s)", path, name, mend)
            continue
        for problem in iter_problems(path):
            if problem.source is None or problem.source in benchmark.sources:
                text = problem.question or extract_question(problem.prompt)
                problems.append(BenchmarkText(benchmark.name, problem.id, text))
    return problems


def _answer_check(sources: list):
    """The grader, where a source asks for it: importing it costs every worker seconds."""
    if not any(spec.check_gold for spec in sources):
        return None
    from promptcot_mamba.data.answer_check import agrees

    return agrees


def main() -> None:
    from transformers import AutoTokenizer

    from promptcot_mamba.cli import parse_args
    from promptcot_mamba.data.prepare import Recipe, prepare_shards, remove_work
    from promptcot_mamba.data.report import write_report
    from promptcot_mamba.jsonl import write_json
    from promptcot_mamba.log import get_logger
    from promptcot_mamba.run_info import describe_run

    args = parse_args(PrepareArguments, description=__doc__)
    sources = choose_sources(args)
    try:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--tokenizer_path {args.tokenizer_path}: no tokenizer here ({reason})") from None
    recipe = Recipe(
        sources=sources,
        max_length=args.max_length,
        min_tokens=args.min_tokens,
        max_tokens=args.max_tokens,
        near_duplicate_threshold=args.near_duplicate_threshold,
        total_examples=args.total_examples,
        shard_tokens=args.shard_tokens,
        seed=args.seed,
    )
    output = Path(args.output_dir)
    result = prepare_shards(
        recipe,
        output,
        tokenizer=tokenizer,
        tokenizer_path=args.tokenizer_path,
        problems=read_benchmarks(args),
        source_dir=args.source_dir,
        workers=args.workers or len(os.sched_getaffinity(0)),
        overwrite=args.overwrite,
        agrees=_answer_check(sources),
    )
    if result is None:
        return
    report = write_report(result, output)
    write_json(output / "run.json", {**describe_run(asdict(args)), "seconds": result.seconds})
    if not args.keep_work:
        remove_work(output)
    counts = result.manifest["counts"]
    logger = get_logger(__name__)
    logger.info("%s examples, %s tokens, %s rows", *(f"{counts[key]:,}" for key in ("documents", "tokens", "rows")))
    logger.info("read %s", report)


if __name__ == "__main__":
    from promptcot_mamba.cli import run_program

    run_program(main)
