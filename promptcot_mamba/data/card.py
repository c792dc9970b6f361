"""The data card beside the shards (`README.md`): counts, filters, licences, what was kept out; the way to the hub."""

import json
from pathlib import Path
from typing import Any

from promptcot_mamba.data.filters import REASONS
from promptcot_mamba.data.prepare import CONTAMINATED_FILE, DROPPED_FILE, WORK_FOLDER, Result
from promptcot_mamba.data.report import REPORT_FILE, count_shared, number_text, table
from promptcot_mamba.errors import InputError
from promptcot_mamba.hub import describe, transport_error
from promptcot_mamba.jsonl import replace_atomically

CARD_FILE = "README.md"


def _front_matter(licences: dict[str, Any]) -> str:
    """The YAML that a hub reads; several licences are `other`, and all of them are named below."""
    known = {name.lower() for name in licences}
    licence = known.pop() if len(known) == 1 and all(" " not in name and "," not in name for name in known) else "other"
    lines = [f"license: {licence}", "task_categories: [text-generation]", "tags: [sft, reasoning, packed-tokens]"]
    return "\n".join(["---", *lines, "---"])


def _amounts(name: str, counts: dict[str, dict[str, int]]) -> str:
    rows = [[one, number_text(held["documents"]), number_text(held["tokens"])] for one, held in counts.items()]
    return table((name, "examples", "tokens"), rows)


def render_card(result: Result, output: Path) -> str:
    """The card's text, from the manifest and the files beside it."""
    manifest, counts = result.manifest, result.manifest["counts"]
    recipe = manifest["recipe"]
    dropped: dict[str, int] = {}
    for entry in counts["sources"].values():
        for reason, count in entry["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + count
    hits = count_shared(output / CONTAMINATED_FILE)
    kept_out = [
        [name, number_text(size), number_text(len(hits.get(name, {}).get("rows", ())))]
        for name, size in manifest["benchmarks"]["problems"].items()
    ]
    repos = [f"- `{name}`: {', '.join(one['file'] for one in files)}" for name, files in manifest["inputs"].items()]
    parts = [
        _front_matter(counts["licences"]),
        f"# {output.resolve().name}",
        f"{number_text(counts['documents'])} examples, {number_text(counts['tokens'])} tokens "
        f"({number_text(counts['labels'])} under the loss), packed into {number_text(counts['rows'])} rows of "
        f"{recipe['max_length']:,} tokens for `train.py --data_path`. Tokenizer {manifest['tokenizer_hash']}, key "
        f"{manifest['key']}: the same inputs and recipe give the same bytes.",
        "## Where it comes from",
        *(["\n".join(repos)] if repos else []),
        _amounts("origin", counts["origins"]),
        "## Licences",
        "As each row says, else as its publisher says of the whole set.",
        _amounts("licence", counts["licences"]),
        "## Left out",
        f"Row by row, with the reason, in `{DROPPED_FILE}`; with plots in `{REPORT_FILE}`.",
        table(
            ("reason", "rows"),
            [
                [f"`{reason}`: {REASONS[reason]}", number_text(dropped[reason])]
                for reason in REASONS
                if reason in dropped
            ],
        ),
        "## Benchmarks kept out",
        table(("benchmark", "problems", "rows removed"), kept_out)
        if kept_out
        else "None: no benchmark was given to compare with.",
        "## Recipe",
        f"```json\n{json.dumps(recipe, indent=1, ensure_ascii=False)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def write_card(result: Result, output: Path) -> Path:
    """Write `README.md` beside the shards."""
    path = output / CARD_FILE
    with replace_atomically(path) as file:
        file.write(render_card(result, output))
    return path


def push_to_hub(output: Path, repo: str) -> str:
    """Upload the shards, their manifest, card and reports; returns where they lie.

    Raises InputError if the hub cannot be reached or refuses, saying how to go on by hand.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=output, ignore_patterns=[f"{WORK_FOLDER}/*"])
    except (OSError, transport_error(), ValueError) as error:
        raise InputError(
            f"--push_to_hub {repo}: {describe(error)}; the shards are whole in {output}: upload them with "
            f"hf upload {repo} {output} --repo-type dataset"
        ) from None
    return f"datasets/{repo}"
