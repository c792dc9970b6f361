"""`--data_path` and `--eval_data_path` as rows: encoded once for all processes, or opened as prepared shards."""

from pathlib import Path
from typing import Any

from promptcot_mamba.data.conversation import Reading, own_template
from promptcot_mamba.data.dataset import TokenRows, UnpackedRows, make_rows
from promptcot_mamba.data.encode import hash_tokenizer
from promptcot_mamba.data.preferences import iter_preferences, make_pair_rows
from promptcot_mamba.data.rows import find_row_files, hash_files, iter_examples
from promptcot_mamba.data.shards import INDEX_FILE, ShardRows, is_shard_folder
from promptcot_mamba.data.tokens import STORE_VERSION, Reader, TokenStore, build_store, open_store
from promptcot_mamba.errors import InputError
from promptcot_mamba.training.arguments import DataArguments
from promptcot_mamba.training.ranks import first_does, local_rank, together

Rows = TokenRows | ShardRows | UnpackedRows  # PairRows are TokenRows


def decide_packing(wanted: bool | None, is_mamba2: bool, model_path: str) -> bool:
    """Packed rows where the model keeps documents apart. Raises InputError where they would leak but were asked for."""
    if wanted and not is_mamba2:
        raise InputError(
            f"--packing True: documents of one row would see one another in the model of {model_path}; "
            "only this project's Mamba-2 keeps them apart; leave the flag out"
        )
    return is_mamba2 if wanted is None else wanted


def make_training_rows(
    data_args: DataArguments, tokenizer: Any, packing: bool, seed: int, pairs: bool = False
) -> tuple[str, Rows]:
    """The contents' hash and the rows of `--data_path`: rows of text, prepared shards, or `pairs` of preferences."""
    if pairs:
        contents, store = _encode(data_args.data_path, tokenizer, data_args, iter_preferences)
        return contents, make_pair_rows(store, data_args.max_length, seed)
    shard_folders = [path for path in data_args.data_path if is_shard_folder(path)]
    if shard_folders and len(data_args.data_path) > 1:
        raise InputError(f"--data_path {shard_folders[0]}: prepared shards are one folder; mix sources when preparing")
    if shard_folders:
        return together(lambda: _open_shards(shard_folders[0], tokenizer, data_args, packing))
    contents, store = _encode(data_args.data_path, tokenizer, data_args)
    return contents, make_rows(store, data_args.max_length, packing=packing, overlong=data_args.overlong, seed=seed)


def make_eval_rows(data_args: DataArguments, tokenizer: Any) -> tuple[str, dict[str, TokenRows]]:
    """The contents' hash of `--eval_data_path`, and source -> its rows, one document each; empty without such data."""
    if not data_args.eval_data_path:
        return "", {}
    contents, store = _encode(data_args.eval_data_path, tokenizer, data_args)
    rows = make_rows(store, data_args.max_length, packing=False, overlong=data_args.overlong)
    return contents, rows.split_by_source()


def _encode(
    data_path: list[str], tokenizer: Any, data_args: DataArguments, read: Reader = iter_examples
) -> tuple[str, TokenStore]:
    """The contents' hash and the encoded documents of a data path; the first process encodes, the others wait."""
    flags = (data_args.prompt_format, data_args.loss_on, data_args.control_text)
    reading = together(lambda: Reading(*flags, own=own_template(tokenizer)))
    files = together(lambda: find_row_files(data_path))
    contents = first_does(lambda: hash_files(files))
    if flags != (Reading.prompt_format, Reading.loss_on, Reading.control_text):
        contents = f"{contents}-{'-'.join(flags)}"  # another reading of the same rows is other data
    if read is iter_preferences:
        contents = f"{contents}-pairs"
    folder = Path(data_args.token_cache) / f"{contents}-{hash_tokenizer(tokenizer)}-{reading.key}-v{STORE_VERSION}"
    first_does(lambda: build_store(folder, files, tokenizer, reading, read))
    # Where the cache is a node's own disk, the first process of every other node encodes for its neighbours.
    together(lambda: build_store(folder, files, tokenizer, reading, read), only_if=local_rank() == 0)
    return contents, open_store(folder)


def _open_shards(folder: str, tokenizer: Any, data_args: DataArguments, packing: bool) -> tuple[str, Rows]:
    """The contents' hash and the rows of prepared shards, taken apart into documents where rows are not packed."""
    shards = ShardRows(folder)
    shards.check(max_length=data_args.max_length, tokenizer_hash=hash_tokenizer(tokenizer))
    return hash_files([shards.folder / INDEX_FILE]), shards if packing else UnpackedRows(shards)
