"""Stopwatch of the data preparation: a corpus made to size, its shards, the tokenizer alone, and memory.

    python -m scripts.bench.prepare --work_dir /tmp/bench_prepare --gigabytes 2 --record docs/records/prepare.json

Prints, and appends to the record, for each size: seconds of every step, tokens per second against the tokenizer's own
batch call, and the peak memory of all processes together (sum of their proportional set sizes).
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from promptcot_mamba.bench_record import report_record, tabulate
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger

COLUMNS = (
    ("GB", "{gigabytes:g}"),
    ("rows", "{rows:,}"),
    ("wall s", "{seconds:.0f}"),
    ("M tokens/s in the tokenizer", "{millions:.2f}"),
    ("of encode_batch alone", "{tokenising_over_encode_batch:.2f}"),
    ("everything, in times of it", "{everything_over_encode_batch_seconds:.2f}"),
    ("peak MiB", "{peak:,.0f}"),
    ("rows full %", "{full:.2f}"),
)
VOCABULARY = 32_768
PARAGRAPHS = 20_000
WORDS_PER_PARAGRAPH = 60
ROWS_PER_GROUP = 256
MEDIAN_PARAGRAPHS = 45  # of one trace: a median of about 6,000 tokens, long-tailed as published traces are
SPREAD = 0.75
PROBE_ROWS = 1500  # for the tokenizer alone


@dataclass
class BenchArguments:
    work_dir: str = flag("Corpus, tokenizer and shards go here.", default="outputs/bench_prepare")
    gigabytes: list[float] = flag("Sizes of the corpus to measure.", factory=lambda: [0.25])
    workers: int = flag("Processes. Default: one a core.", default=0)
    max_length: int = flag("Tokens of a packed row.", default=16384)
    record: str | None = flag("JSON file that the figures are written to.", default=None)
    seed: int = flag("Of the corpus.", default=0)


def make_paragraphs(rng: random.Random) -> list[str]:
    """Paragraphs of Zipf-distributed words, numbers, formulas and line ends: what a trace looks like to a tokenizer."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    weights = [1 / (rank + 1) for rank in range(len(letters))]
    lexicon = ["".join(rng.choices(letters, weights, k=min(2 + int(rng.expovariate(0.35)), 12))) for _ in range(40_000)]
    frequencies = np.cumsum(1 / np.arange(2, len(lexicon) + 2))
    extras = (
        lambda: str(rng.randrange(10_000)),
        lambda: f"${rng.choice('xyzabn')}_{rng.randrange(9)} = {rng.randrange(99)}$",
        lambda: f"\\frac{{{rng.randrange(99)}}}{{{rng.randrange(99)}}}",
        lambda: rng.choice(["Wait,", "So", "Hmm.", "Let me check:", "Therefore", "\n\n", "\n- "]),
    )
    paragraphs = []
    for _ in range(PARAGRAPHS):
        words = rng.choices(lexicon, cum_weights=frequencies.tolist(), k=WORDS_PER_PARAGRAPH)
        for position in range(0, len(words), 5):
            words[position] = rng.choice(extras)()
        paragraphs.append(" ".join(words) + ".\n")
    return paragraphs


def make_tokenizer(paragraphs: list[str], folder: Path) -> None:
    """A byte-level BPE of VOCABULARY tokens, trained on the paragraphs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(paragraphs, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def make_corpus(path: Path, paragraphs: list[str], size: float, seed: int) -> int:
    """Write rows in OpenCodeReasoning's shape until the text has `size` bytes; return how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.string()) for name in ("id", "input", "output", "dataset", "split", "source")])
    written, rows = 0, 0
    with pq.ParquetWriter(path, schema, compression="snappy") as writer:
        while written < size:
            batch = []
            for _ in range(ROWS_PER_GROUP):
                count = max(4, round(MEDIAN_PARAGRAPHS * rng.lognormvariate(0, SPREAD)))
                question = " ".join(rng.choices(paragraphs, k=2)).strip() + f" Case {rows}."
                answer = f"So:\n```python\nprint({rows})\n```"
                output = f"<think>\n{''.join(rng.choices(paragraphs, k=count))}</think>\n\n{answer}"
                batch.append((str(rows), question, output, "taco", "train", "made"))
                written += len(question) + len(output)
                rows += 1
            columns = [pa.array(column) for column in zip(*batch, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return rows


def held_bytes(process: psutil.Process) -> int:
    """What a process and its descendants hold, shared pages counted once (PSS)."""
    held = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
                held += one.memory_full_info().pss
    return held


def watch(command: list[str]) -> tuple[float, int]:
    """Run a command; return seconds and peak bytes of its process tree."""
    started, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as log:
        process = psutil.Popen(command, stderr=log)
        while process.poll() is None:
            peak = max(peak, held_bytes(process))
            time.sleep(0.5)
        if process.returncode:
            log.seek(0)
            raise InputError(f"{' '.join(command[:4])}: exit {process.returncode}\n{log.read()}")
    return time.monotonic() - started, peak


def time_tokenizer(corpus: Path, tokenizer: Path, workers: int) -> float:
    """Tokens per second of the tokenizers library's `encode_batch` alone, on rows of the corpus, on all cores."""
    script = (
        "import sys, time, pyarrow.parquet as pq\n"
        "from tokenizers import Tokenizer\n"
        "rows = [text.as_py() for text in pq.ParquetFile(sys.argv[1]).read_row_groups(range(int(sys.argv[3])),"
        " columns=['output'])['output']]\n"
        "tokenizer = Tokenizer.from_file(sys.argv[2])\n"
        "tokenizer.encode_batch(rows[:64])\n"
        "started = time.perf_counter()\n"
        "tokens = 0\n"
        "for start in range(0, len(rows), 256):\n"
        "    batch = tokenizer.encode_batch(rows[start:start + 256], add_special_tokens=False)\n"
        "    tokens += sum(len(encoding.ids) for encoding in batch)\n"
        "print(tokens / (time.perf_counter() - started))\n"
    )
    groups = str(max(1, PROBE_ROWS // ROWS_PER_GROUP))
    environment = {**os.environ, "RAYON_NUM_THREADS": str(workers), "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-c", script, str(corpus), str(tokenizer / "tokenizer.json"), groups]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def measure(gigabytes: float, args: BenchArguments, paragraphs: list[str], tokenizer: Path) -> dict:
    folder = Path(args.work_dir) / f"{gigabytes}GB"
    corpus, output = folder / "rows.parquet", folder / "shards"
    workers = args.workers or len(os.sched_getaffinity(0))
    shutil.rmtree(output, ignore_errors=True)  # finished shards would be kept, and their making not be timed
    rows = make_corpus(corpus, paragraphs, gigabytes * 1e9, args.seed)
    alone_before = time_tokenizer(corpus, tokenizer, workers)
    sources = json.dumps({"made": {"adapter": "opencodereasoning_0", "path": str(corpus)}})
    command = [
        sys.executable, "-m", "scripts.prepare_sft_data", "--sources", sources, "--tokenizer_path", str(tokenizer),
        "--output_dir", str(output), "--max_length", str(args.max_length), "--workers", str(workers),
        "--benchmarks", "none", "--overwrite", "True",
    ]  # fmt: skip
    seconds, peak = watch(command)
    alone_after = time_tokenizer(corpus, tokenizer, workers)
    manifest = json.loads((output / "manifest.json").read_text())
    steps = json.loads((output / "run.json").read_text())["seconds"]
    counts = manifest["counts"]
    alone = (alone_before + alone_after) / 2
    read = counts["sources"]["made"]
    tokenised = counts["tokens_encoded"]
    in_tokenizer = steps["tokenize_in_workers"] / workers
    return {
        "gigabytes": gigabytes,
        "rows": rows,
        "tokens_encoded": tokenised,
        "tokens_in_shards": counts["tokens"],
        "dropped": read["dropped"],
        "fill": counts["tokens"] / (counts["rows"] * args.max_length),
        "workers": workers,
        "seconds": seconds,
        "steps": steps,
        "encode_batch_alone_tokens_per_second": alone,
        "tokenising_tokens_per_second": tokenised / in_tokenizer,
        "tokenising_over_encode_batch": tokenised / in_tokenizer / alone,
        "everything_over_encode_batch_seconds": seconds / (tokenised / alone),
        "peak_bytes": peak,
    }


def main() -> None:
    args = parse_args(BenchArguments, description=__doc__)
    paragraphs = make_paragraphs(random.Random(args.seed))
    tokenizer = Path(args.work_dir) / "tokenizer"
    if not (tokenizer / "tokenizer.json").exists():
        make_tokenizer(paragraphs, tokenizer)
    results = []
    for gigabytes in args.gigabytes:
        results.append(measure(gigabytes, args, paragraphs, tokenizer))
        logger.info("%s", results[-1])
    rows = [
        row | {"millions": row["tokenising_tokens_per_second"] / 1e6, "peak": row["peak_bytes"] / 2**20,
               "full": 100 * row["fill"]}
        for row in results
    ]  # fmt: skip
    table = tabulate("Filter, deduplicate, tokenise and pack a made corpus.", COLUMNS, rows)
    report_record(args, title="Preparing SFT data", tables=[table], results=results)


if __name__ == "__main__":
    run_program(main)
