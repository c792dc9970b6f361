"""Published data sets -> packed shards, in two passes over files that can be killed and continued at any point.

Pass 1 takes raw files chunk by chunk: adapt, filter, compare with the benchmarks, tokenise. Then, over columns of
numbers: duplicates out, mixture drawn, order shuffled. Pass 2 packs and writes shard by shard. What a finished chunk
or shard holds depends on inputs, recipe and seed, never on the number of workers, their nodes or what was interrupted.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_mamba.chat_format import CHAT_TEMPLATE, MATH_INSTRUCTION
from promptcot_mamba.data.accounts import count_by, count_rows, log_drops, sum_formats, sum_tallies, write_dropped
from promptcot_mamba.data.chunk_work import ChunkContext, ChunkWorker, read_hits
from promptcot_mamba.data.conversation import Reading
from promptcot_mamba.data.decontaminate import BenchmarkText, Decontaminator
from promptcot_mamba.data.inputs import digest, hash_sources, plan_jobs, sample_questions, save_tokenizer
from promptcot_mamba.data.mixture import MixturePlan
from promptcot_mamba.data.reread import ROWS_FILE, iter_texts, reread
from promptcot_mamba.data.row_files import Chunk
from promptcot_mamba.data.selection import RowTable, Selection, load_rows, select_rows
from promptcot_mamba.data.shard_work import PLAN_FILE, ShardContext, make_shard, write_plan
from promptcot_mamba.data.shards import INDEX_FILE, MANIFEST_FILE, shard_name
from promptcot_mamba.data.similar import SIMILAR_FILE, find_similar, iter_questions, load_embedder
from promptcot_mamba.data.sources import FoundSource, SourceSpec, find_repo_files, find_source
from promptcot_mamba.data.workers import do_all, one_thread_each
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import write_json, write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.ray_jobs import RayCluster
from promptcot_mamba.run_info import installed_versions

PIPELINE_VERSION = 7  # raise whenever the same inputs would give other shards
WORK_FOLDER = ".work"
CONTAMINATED_FILE = "contaminated.jsonl"
NEAR_FILE = "near_benchmark.jsonl"
DROPPED_FILE = "dropped.parquet"


@dataclass(frozen=True)
class Recipe:
    """All that decides what the shards hold, beside the inputs themselves."""

    sources: list[SourceSpec]
    max_length: int
    min_tokens: int
    max_tokens: int
    near_duplicate_threshold: float
    total_examples: int | None
    shard_tokens: int
    seed: int
    total_tokens: int | None = None
    max_passes: float = 4.0
    order: str = "shuffled"
    prompt_format: str = "auto"
    loss_on: str = "assistant"
    control_text: str = "auto"
    allowed: tuple[str, ...] = ()  # ids of rows to keep, whatever they share with a benchmark

    def first_pass(self) -> dict[str, Any]:
        """What the chunks depend on; the rest only moves rows that are already tokenised."""
        later = {
            "epochs", "examples", "tokens", "weight", "max_passes", "max_answers_per_prompt", "near_duplicates", "path",
        }  # fmt: skip
        sources = [{key: value for key, value in asdict(spec).items() if key not in later} for spec in self.sources]
        return {
            "sources": sources, "min_tokens": self.min_tokens, "max_tokens": self.max_tokens,
            "reading": self.reading.key, "allowed": sorted(self.allowed),
        }  # fmt: skip

    @property
    def reading(self) -> Reading:
        return Reading(self.prompt_format, self.loss_on, self.control_text)

    @property
    def plan(self) -> MixturePlan:
        """What decides the mixture."""
        return MixturePlan(
            self.near_duplicate_threshold, self.total_examples, self.total_tokens, self.max_passes, self.order,
            self.shard_tokens, self.seed,
        )  # fmt: skip


@dataclass
class Result:
    """What a run made, for the manifest and the report."""

    recipe: Recipe
    table: RowTable
    selection: Selection
    tallies: dict[str, dict[str, Any]]  # source -> rows, kept, tokens, dropped, samples...
    shards: list[dict[str, Any]]
    manifest: dict[str, Any]
    seconds: dict[str, float]


def _open_contexts(sources: Sequence[FoundSource], folder: Path, source_dir: str | None) -> dict[str, Path]:
    contexts = {}
    for source in sources:
        adapter = source.spec.make_adapter()
        if adapter.open_context is not None:
            contexts[source.spec.name] = folder / source.spec.name
            adapter.open_context(partial(find_repo_files, source_dir=source_dir), contexts[source.spec.name])
    return contexts


def _make_chunk_runner(context: ChunkContext, agrees: Callable[[str, str], bool] | None) -> Callable[..., Any]:
    return ChunkWorker(context, agrees).run


def prepare_shards(
    recipe: Recipe,
    output: Path,
    *,
    tokenizer: Any,
    tokenizer_path: str,
    problems: Sequence[BenchmarkText],
    source_dir: str | None = None,
    workers: int = 1,
    cluster: RayCluster | None = None,
    overwrite: bool = False,
    agrees: Callable[[str, str], bool] | None = None,
    embedding_model: str | None = None,
    jsonl: bool = False,
    write_notes: Callable[[Result], None] | None = None,
) -> Result | None:
    """Make the shards of a recipe under `output`; None if they are already there.

    `agrees(gold, answer)` serves sources with `check_gold`; it must be importable by workers, which are `cluster`'s
    where there is one. `embedding_model` is a folder that sentence-transformers reads: questions that mean what a
    problem means are reported. `jsonl` writes the mixture's rows as text beside the shards. `write_notes` puts beside
    them what tells of them, before the manifest, written last, declares all of it finished.

    Raises InputError for sources, rows or tokenizers that do not fit, if a source is empty after filtering, or if
    `output` holds other shards and `overwrite` is false.
    """
    one_thread_each()
    clock = _Clock()
    work = _make_work_folder(output)
    sources = [find_source(spec, source_dir) for spec in recipe.sources]
    if cluster:
        cluster.share({"--output_dir": output}, (file for source in sources for file in source.files))
    files = hash_sources(sources, work, workers)
    clock.lap("hash_inputs")
    tokenizer_files, tokenizer_hash = save_tokenizer(tokenizer, tokenizer_path, work)
    made_from = _describe_inputs(tokenizer_hash, problems, files)
    first_key = digest([made_from, recipe.first_pass()])
    key = digest([first_key, asdict(recipe) | {"sources": [asdict(s) | {"path": None} for s in recipe.sources]}])
    wanted = [*([ROWS_FILE] if jsonl else []), *([SIMILAR_FILE] if embedding_model is not None else [])]
    if _is_finished(output, key, overwrite) and all((output / name).is_file() for name in wanted):
        logger.info("%s: these shards are already there; nothing to do", output)
        return None
    folder = work / first_key
    chunks_folder, shards_folder = folder / "chunks", folder / key
    for path in (chunks_folder, shards_folder):
        path.mkdir(parents=True, exist_ok=True)

    jobs = plan_jobs(sources, work / "unpacked", workers, cluster)
    contexts = _open_contexts(sources, folder / "context", source_dir)
    sample = sample_questions(sources, jobs, contexts, recipe.reading) if problems else []
    context = ChunkContext(
        folder=chunks_folder,
        specs={spec.name: spec for spec in recipe.sources},
        contexts=contexts,
        tokenizer=tokenizer_files,
        decontaminator=Decontaminator(problems, sample) if problems else None,
        min_tokens=recipe.min_tokens,
        max_tokens=recipe.max_tokens,
        reading=recipe.reading,
        allowed=frozenset(recipe.allowed),
    )
    clock.lap("open")
    parts = do_all(partial(_make_chunk_runner, context, agrees), jobs, workers, "reading and tokenising", cluster)
    clock.lap("first_pass")
    tallies = sum_tallies([spec.name for spec in recipe.sources], parts)
    log_drops(tallies)

    table, selection = _choose_rows(recipe, chunks_folder, jobs)
    for name, drops in selection.dropped.items():
        tallies[name]["dropped"].update(drops)
    write_plan(shards_folder / PLAN_FILE, table, selection)
    clock.lap("select")

    shard_context = ShardContext(
        chunks=chunks_folder,
        plan=shards_folder / PLAN_FILE,
        output=output,
        state=shards_folder,
        edges=tuple(selection.edges.tolist()),
        dtype=tokenizer_files.dtype,
        max_length=recipe.max_length,
        seed=recipe.seed,
        origins=tuple(table.origins),
        licences=tuple(table.licences),
        ordered=recipe.order != "shuffled",
    )
    shard_jobs = [(number,) for number in range(len(selection.edges) - 1)]
    shards = do_all(partial(partial, make_shard, shard_context), shard_jobs, workers, "packing shards", cluster)
    clock.lap("second_pass")
    clock.seconds["tokenize_in_workers"] = sum(part["seconds"]["tokenize"] for part in parts)
    clock.seconds["chunks_in_workers"] = sum(part["seconds"]["all"] for part in parts)

    write_jsonl(output / CONTAMINATED_FILE, read_hits(chunks_folder, len(jobs), "contaminated"))
    write_jsonl(output / NEAR_FILE, read_hits(chunks_folder, len(jobs), "reported"))
    again = partial(reread, sources, jobs, contexts, recipe.reading)
    if embedding_model is not None:
        questions = iter_questions(again())
        write_jsonl(output / SIMILAR_FILE, find_similar(questions, problems, load_embedder(embedding_model)))
    if jsonl:
        write_jsonl(output / ROWS_FILE, iter_texts(again(), _chosen_ids(recipe, table, selection)))
    write_dropped(output / DROPPED_FILE, chunks_folder, jobs, table, selection)
    counts = {
        **count_rows(tallies, selection, shards),
        "tokens_encoded": sum(part["encoded"] for part in parts),
        "licences": count_by(table.licence, table.licences, table, selection),
        "origins": count_by(table.origin, table.origins, table, selection),
    }
    manifest = _make_manifest(key, recipe, made_from, counts, sum_formats(parts))
    result = Result(recipe, table, selection, tallies, shards, manifest, clock.seconds)
    if write_notes is not None:
        write_notes(result)
    _finish(output, result)
    return result


def _chosen_ids(recipe: Recipe, table: RowTable, selection: Selection) -> dict[str, set[bytes]]:
    """The ids of each source's rows in the mixture."""
    chosen: dict[str, set[bytes]] = {spec.name: set() for spec in recipe.sources}
    for row in np.unique(selection.rows).tolist():
        identity = b"".join(int(half[row]).to_bytes(8, "big") for half in (table.id, table.id_rest))
        chosen[recipe.sources[table.source[row]].name].add(identity)
    return chosen


def _make_work_folder(output: Path) -> Path:
    work = output / WORK_FOLDER
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {output}: cannot write here ({error.strerror})") from None
    return work


def _describe_inputs(tokenizer_hash: str, problems: Sequence[BenchmarkText], files: dict[str, Any]) -> dict[str, Any]:
    """What the shards are made from, beside the recipe."""
    return {
        "pipeline_version": PIPELINE_VERSION,
        "chat_format": digest([CHAT_TEMPLATE, MATH_INSTRUCTION]),
        "tokenizer_hash": tokenizer_hash,
        "benchmarks": {
            "problems": dict(sorted(Counter(problem.benchmark for problem in problems).items())),
            "hash": digest([asdict(problem) for problem in problems]),
        },
        "inputs": files,
    }


def _choose_rows(recipe: Recipe, chunks: Path, jobs: Sequence[tuple[int, str, Chunk]]) -> tuple[RowTable, Selection]:
    """What the first pass left, and which of it the mixture takes in which order."""
    names = [spec.name for spec in recipe.sources]
    table, prompts = load_rows(chunks, [names.index(name) for _, name, _ in jobs])
    selection = select_rows(chunks, table, prompts, recipe.sources, recipe.plan)
    return table, selection


def _make_manifest(
    key: str, recipe: Recipe, made_from: dict[str, Any], counts: dict[str, Any], formats: dict[str, Any]
) -> dict[str, Any]:
    """What training and reruns know the shards by."""
    return {
        "key": key,
        "max_length": recipe.max_length,
        **made_from,
        "recipe": {**asdict(recipe), "sources": [asdict(spec) for spec in recipe.sources]},
        "licences": {spec.name: spec.make_adapter().licence for spec in recipe.sources},
        "versions": installed_versions(("tokenizers", "transformers", "pyarrow", "numpy")),
        "counts": counts,
        "formats": formats,
    }


def _finish(output: Path, result: Result) -> None:
    """Declare the shards finished: their index, then the manifest."""
    _remove_strangers(output, len(result.shards))
    write_json(output / INDEX_FILE, {"shards": result.shards})
    write_json(output / MANIFEST_FILE, result.manifest)


def remove_work(output: Path) -> None:
    """Delete the tokenised chunks; without them the next recipe on the same inputs starts from their text."""
    shutil.rmtree(output / WORK_FOLDER, ignore_errors=True)


def _is_finished(output: Path, key: str, overwrite: bool) -> bool:
    """Whether `output` holds exactly these shards. Raises InputError if it holds others and may not be overwritten."""
    path = output / MANIFEST_FILE
    if not path.exists():
        return False
    if json.loads(path.read_text(encoding="utf-8")).get("key") == key:
        shards = json.loads((output / INDEX_FILE).read_text(encoding="utf-8"))["shards"]
        if all((output / s["file"]).is_file() and (output / s["file"]).stat().st_size == s["bytes"] for s in shards):
            return True
    elif not overwrite:
        raise InputError(
            f"--output_dir {output}: holds shards of another recipe, input or tokenizer; "
            "choose another folder or pass --overwrite True"
        )
    path.unlink()  # from here on the folder is unfinished
    for name in (ROWS_FILE, SIMILAR_FILE):  # written only where asked for: those of other shards must not stay
        (output / name).unlink(missing_ok=True)
    return False


def _remove_strangers(output: Path, count: int) -> None:
    """Shards of an overwritten recipe that had more of them, and what a killed worker left of one."""
    expected = {shard_name(number) for number in range(count)}
    for path in output.glob("shard-*.arrow"):
        if path.name not in expected:
            path.unlink()
    for torn in output.glob(".shard-*.tmp"):
        torn.unlink()


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = now - self._last
        self._last = now


def lengths_by_source(result: Result) -> dict[str, np.ndarray]:
    """Lengths in tokens of the mixture's documents."""
    source, length = result.table.source[result.selection.rows], result.table.length[result.selection.rows]
    return {spec.name: length[source == position] for position, spec in enumerate(result.recipe.sources)}
