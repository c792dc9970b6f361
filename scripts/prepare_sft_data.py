r"""Published data sets -> filtered, decontaminated, deduplicated, packed token shards for `train.py`, with a report.

    python -m scripts.prepare_sft_data --config configs/data/phase1.yaml --tokenizer_path /models/Mamba-Codestral-7B \
        --output_dir outputs/data/phase1

Sources come from the hub, or with `--source_dir DIR` from `DIR/<owner>/<name>/`. The same command continues a killed
run; the shards do not depend on the number of workers, nor on whether they are a Ray cluster's (`--ray_address`).
Training refuses shards of another tokenizer or length.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.cli import flag
from promptcot_mamba.data.conversation import Reading
from promptcot_mamba.data.mixture import ORDERS
from promptcot_mamba.errors import InputError

# Workers import this file too: what only the program itself needs is imported where it runs.


@dataclass
class PrepareArguments:
    sources: str = flag("JSON, or in a recipe a mapping: name -> {adapter, path, epochs, ...}.", default="")
    drop_sources: list[str] = flag(
        "Names of the recipe's sources to leave out; what an ablation differs in.", factory=list
    )
    output_dir: str | None = flag("Where the shards go.", default=None, writes="folder")
    tokenizer_path: str | None = flag("Folder of the tokenizer, or its name on the hub.", default=None, elsewhere=True)
    source_dir: str | None = flag(
        "Folder of downloaded data sets, as <owner>/<name>/...; without it the hub.", default=None, reads="folder"
    )
    max_length: int = flag("Tokens of a packed row, as train.py is told.", default=20480, least=2)
    min_tokens: int = flag("Shorter examples are dropped.", default=16, least=0)
    max_tokens: int | None = flag("Longer examples are dropped. Default: max_length.", default=None, least=1)
    near_duplicate_threshold: float = flag(
        "Jaccard index from which two prompts are near-duplicates; 0 keeps them all.", default=0.8, least=0, most=1
    )
    prompt_format: str = flag(
        "Of rows of the generic adapter: rendered chat text, bare questions, or auto by markup.", default="auto"
    )
    loss_on: str = flag("Of a conversation: assistant, each answer is an example, or last.", default="assistant")
    control_text: str = flag(
        "Rows that spell control tokens (they stay text): keep or drop them; auto drops turn markup only.",
        default="auto",
    )
    total_examples: int | None = flag(
        "Examples of a mixture by weights. Default: the most that repeats none.", default=None, least=1
    )
    total_tokens: int | None = flag("The same in tokens: weights are shares of them.", default=None, least=1)
    max_passes: float = flag("Passes over a source that a mixture may ask for.", default=4.0, above=0)
    order: str = flag("short_first: in each pass from short to long.", default="shuffled", choices=ORDERS)
    keep_rows: list[str] = flag(
        "Ids (of contaminated.jsonl) of rows to keep whatever they share, or a file of them.", factory=list
    )
    benchmarks: str = flag("Keep these out: all, none, or names with commas.", default="all")
    benchmark_dir: str = flag("Folder of the files of scripts.prepare_problems.", default="data", elsewhere=True)
    allow_missing_benchmark: bool = flag("Go on without a benchmark whose file is missing.", default=False)
    embedding_model: str | None = flag(
        "Folder of a sentence-transformers model: questions that mean what a problem means are reported.",
        default=None,
        reads="folder",
    )
    shard_tokens: int = flag("Tokens of one shard, about.", default=1 << 24, least=1)
    seed: int = flag("Of the mixture, its order and the packing.", default=0)
    workers: int = flag("Processes. Default: one a core.", default=0, least=0)
    ray_address: str | None = flag(
        "HOST:PORT of a Ray cluster that this machine is a node of, or auto: its CPUs do the work.", default=None
    )
    overwrite: bool = flag("Replace shards of another recipe in output_dir.", default=False)
    jsonl: bool = flag("Also write the mixture's rows as text, rows.jsonl, which train.py reads.", default=False)
    push_to_hub: str | None = flag(
        "owner/name of a private data set on the hub that all of the folder is uploaded to.", default=None
    )
    keep_work: bool = flag("Keep the tokenised rows, so that another mixture of them is quick.", default=False)

    def __post_init__(self) -> None:
        for name in ("output_dir", "tokenizer_path", "sources"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is required")
        if self.max_tokens is None:
            self.max_tokens = self.max_length
        if not 2 <= self.max_tokens <= self.max_length:
            raise ValueError(f"--max_tokens {self.max_tokens}: expected 2 to --max_length ({self.max_length})")
        if self.total_examples is not None and self.total_tokens is not None:
            raise ValueError("--total_examples, --total_tokens: give one of them")
        Reading(self.prompt_format, self.loss_on, self.control_text)
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
    from promptcot_mamba.log import logger
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
            logger.warning("%s: missing; %s is NOT kept out (%s)", path, name, mend)
            continue
        for problem in iter_problems(path):
            if problem.source is None or problem.source in benchmark.sources:
                text = problem.question or extract_question(problem.prompt or "")
                problems.append(BenchmarkText(benchmark.name, problem.id, text))
    return problems


def read_kept_ids(given: list[str]) -> tuple[str, ...]:
    """The row ids of `--keep_rows`: ids, or files of them, one a line, or JSONL rows with an `id`."""
    ids = []
    for one in given:
        if not Path(one).is_file():
            ids.append(one)
            continue
        for number, line in enumerate(Path(one).read_text(encoding="utf-8").splitlines(), start=1):
            try:
                ids.append(json.loads(line)["id"] if line.lstrip().startswith("{") else line.strip())
            except (json.JSONDecodeError, KeyError):
                raise InputError(f"{one}:{number}: expected an id, or a JSON object with an 'id'") from None
    ids = [identity for identity in ids if identity]
    for identity in ids:
        if not re.fullmatch("[0-9a-f]{32}", identity):
            raise InputError(f"--keep_rows {identity}: no row id (32 hexadecimal digits), and no such file")
    return tuple(sorted(set(ids)))


def make_recipe(args: PrepareArguments, sources: list) -> Any:
    from promptcot_mamba.data.prepare import Recipe

    return Recipe(
        sources=sources,
        max_length=args.max_length,
        min_tokens=args.min_tokens,
        max_tokens=args.max_tokens or args.max_length,
        near_duplicate_threshold=args.near_duplicate_threshold,
        total_examples=args.total_examples,
        shard_tokens=args.shard_tokens,
        seed=args.seed,
        total_tokens=args.total_tokens,
        max_passes=args.max_passes,
        order=args.order,
        prompt_format=args.prompt_format,
        loss_on=args.loss_on,
        control_text=args.control_text,
        allowed=read_kept_ids(args.keep_rows),
    )


def _answer_check(sources: list):
    """The grader, where a source asks for it: importing it costs every worker seconds."""
    if not any(spec.check_gold for spec in sources):
        return None
    from promptcot_mamba.data.answer_check import agrees

    return agrees


def main() -> None:
    from promptcot_mamba.cli import parse_args

    args = parse_args(PrepareArguments, description=__doc__)
    from promptcot_mamba.checkpoint import load_tokenizer
    from promptcot_mamba.data.card import push_to_hub, write_card
    from promptcot_mamba.data.prepare import Result, prepare_shards, remove_work
    from promptcot_mamba.data.report import write_report
    from promptcot_mamba.data.similar import require_package
    from promptcot_mamba.jsonl import write_json
    from promptcot_mamba.log import logger
    from promptcot_mamba.ray_jobs import open_cluster
    from promptcot_mamba.run_info import describe_run

    if args.embedding_model:
        require_package()
    sources = choose_sources(args)
    tokenizer = load_tokenizer(args.tokenizer_path, "--tokenizer_path")
    recipe = make_recipe(args, sources)
    output = Path(args.output_dir)
    problems = read_benchmarks(args)

    def write_notes(result: Result) -> None:
        report = write_report(result, output)
        write_card(result, output)
        write_json(output / "run.json", {**describe_run(asdict(args)), "seconds": result.seconds})
        counts = result.manifest["counts"]
        logger.info("%s examples, %s tokens, %s rows", *(f"{counts[key]:,}" for key in ("documents", "tokens", "rows")))
        logger.info("read %s", report)

    with open_cluster(args.ray_address, args.workers or None) as cluster:
        prepare_shards(
            recipe,
            output,
            tokenizer=tokenizer,
            tokenizer_path=args.tokenizer_path,
            problems=problems,
            source_dir=args.source_dir,
            workers=args.workers or len(os.sched_getaffinity(0)),
            cluster=cluster,
            overwrite=args.overwrite,
            agrees=_answer_check(sources),
            embedding_model=args.embedding_model,
            jsonl=args.jsonl,
            write_notes=write_notes,
        )
    if not args.keep_work:
        remove_work(output)
    if args.push_to_hub:
        logger.info("uploaded to %s", push_to_hub(output, args.push_to_hub))


if __name__ == "__main__":
    from promptcot_mamba.cli import run_program

    run_program(main)
