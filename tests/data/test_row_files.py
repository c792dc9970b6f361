"""Chunks cover every row of a file exactly once, wherever they are cut."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptcot_mamba.data.row_files import Chunk, iter_rows, plan_chunks, read_columns, unpack
from promptcot_mamba.data.rows import find_row_files
from promptcot_mamba.errors import InputError


def read_all(path, chunk_bytes: int) -> list[dict]:
    return [row for chunk in plan_chunks(path, chunk_bytes) for _, row in iter_rows(chunk)]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 50, 64, 1000, 1 << 20])
def test_jsonl_chunks_of_any_size(tmp_path, chunk_bytes):
    rows = [{"prompt": "é" * (number % 30), "number": number} for number in range(60)]
    path = tmp_path / "a.jsonl"
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for ending in ("", "\n"):
        path.write_text(text + ending, encoding="utf-8")
        assert read_all(path, chunk_bytes) == rows


@pytest.mark.parametrize("chunk_bytes", [1, 3000, 1 << 30])
def test_parquet_row_groups_and_columns(tmp_path, chunk_bytes):
    rows = [{"prompt": f"p{number}", "extra": "x" * 50} for number in range(1000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=90)
    assert read_all(tmp_path / "a.parquet", chunk_bytes) == rows
    chunk = plan_chunks(tmp_path / "a.parquet", 1 << 30)[0]
    assert [row for _, row in iter_rows(chunk, columns=("prompt", "missing"))][5] == {"prompt": "p5"}


def test_gzip_and_both_kinds_of_arrow(tmp_path):
    rows = [{"prompt": f"p{number}"} for number in range(100)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    table = pa.Table.from_pylist(rows)
    for name, open_writer in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with pa.OSFile(str(tmp_path / name), "wb") as sink, open_writer(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=30)
    for name in ("a.jsonl.gz", "file.arrow", "stream.arrow"):
        assert read_all(tmp_path / name, 10) == rows
        assert read_columns(tmp_path / name) == ["prompt"]


def test_every_line_is_named_by_its_number(tmp_path):
    """Whatever the chunks: blank lines count, as an editor counts them."""
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(["", '{"n": 2}', "", '{"n": 4}', "", "", '{"n": 7}', '{"n": 8}']))
    for chunk_bytes in range(1, 40):
        places = [(where, row["n"]) for chunk in plan_chunks(path, chunk_bytes) for where, row in iter_rows(chunk)]
        assert places == [(f"{path}:{number}", number) for number in (2, 4, 7, 8)]


@pytest.mark.parametrize("text", ['[{"n": 0}, {"n": 1, "t": "]é[,"}]', ' [\n{"n": 0},\n{"n": 1, "t": "]é[,"}\n]\n'])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.json.zst"])
def test_json_arrays_packed_or_not(tmp_path, monkeypatch, text, name):
    rows = [{"n": 0}, {"n": 1, "t": "]é[,"}]
    monkeypatch.setattr("promptcot_mamba.data.row_streams.READ_BUFFER", 3)  # items begin and end anywhere in a block
    with open_packed(tmp_path / name) as file:
        file.write(text.encode())
    assert read_all(tmp_path / name, 10) == rows
    unpack(tmp_path / name, tmp_path / "rows.jsonl")
    assert read_all(tmp_path / "rows.jsonl", 10) == rows


DOCUMENTS = [
    '{"data": [{"n": 0}, {"n": 1, "t": "]é[,"}]}',
    '{\n "version": "1.0",\n "about": {"data": [1, 2]},\n "data": [\n  {"n": 0}, {"n": 1, "t": "]é[,"}\n ]\n}\n',
    '\ufeff{"type": "text2text", "instances": [{"n": 0}, {"n": 1, "t": "]é[,"}]}',
    '{"train": [{"n": 0}, {"n": 1, "t": "]é[,"}], "test": [{"n": 2}]}',
    '{"features": [], "rows": [{"row_idx": 0, "row": {"n": 0}}, {"row_idx": 1, "row": {"n": 1, "t": "]é[,"}}]}',
    '{\n  "n": 0\n}\n{\n  "n": 1,\n  "t": "]é[,"\n}\n',
]


@pytest.mark.parametrize("text", DOCUMENTS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
def test_objects_around_the_rows_and_over_several_lines(tmp_path, text, name):
    rows = [{"n": 0}, {"n": 1, "t": "]é[,"}]
    with open_packed(tmp_path / name) as file:
        file.write(text.encode())
    assert read_all(tmp_path / name, 10) == rows
    unpack(tmp_path / name, tmp_path / "rows.jsonl")
    assert read_all(tmp_path / "rows.jsonl", 10) == rows


@pytest.mark.parametrize(
    "rows",
    [
        [{"n": 0, "data": [{"n": 5}]}, {"n": 1, "data": [{"n": 6}]}],  # a column that is called so
        [{"prompt": "x", "examples": [{"input": "1", "output": "2"}]}],
        [{"data": ["a", "b"]}],
    ],
)
def test_a_column_of_objects_is_no_document(tmp_path, rows):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_all(tmp_path / "a.jsonl", 10) == rows


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'prompt,completion\n"a, ""b""\nc",d\ne,f\n'),
        ("a.csv", '\ufeffprompt,completion\r\n"a, ""b""\nc",d\r\n\r\ne,f\r\n'),
        ("a.tsv", 'prompt\tcompletion\n"a, ""b""\nc"\td\ne\tf'),
        ("a.csv", 'prompt;completion\n"a, ""b""\nc";d\ne;f\n'),
        ("a.csv.gz", 'prompt,completion\n"a, ""b""\nc",d\ne,f\n'),
    ],
)
def test_tables(tmp_path, name, text):
    rows = [{"prompt": 'a, "b"\nc', "completion": "d"}, {"prompt": "e", "completion": "f"}]
    with open_packed(tmp_path / name) as file:
        file.write(text.encode())
    assert read_all(tmp_path / name, 10) == rows
    assert read_columns(tmp_path / name) == ["prompt", "completion"]
    unpack(tmp_path / name, tmp_path / "rows.jsonl")
    assert read_all(tmp_path / "rows.jsonl", 10) == rows


def test_long_cells_and_broken_tables(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,completion\na,{'x' * 200_000}\n")
    assert len(read_all(path, 10)[0]["completion"]) == 200_000
    for text, complaint in (
        ("prompt,completion\na,b\nc,d,e\n", r"a\.csv:3: 3 cells, but the first line names 2 columns"),
        ('prompt,completion\na,b\n"c,d\n', r"a\.csv:3: not a readable table \(unexpected end of data\)"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=complaint):
            read_all(path, 10)
    path.write_bytes("prompt,completion\né,b\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.csv: not UTF-8 .*iconv"):
        read_all(path, 10)


def test_a_damaged_compressed_file_is_told(tmp_path):
    whole = bytearray(gzip.compress(b'{"prompt": "x"}\n'))
    whole[10] |= 6  # a block of no known type
    (tmp_path / "a.jsonl.gz").write_bytes(whole)
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: not a readable gzip file, download it again"):
        read_all(tmp_path / "a.jsonl.gz", 10)


def open_packed(path):
    kind = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    return pa.output_stream(str(path), compression=kind)


def test_compressed_lines(tmp_path):
    rows = [{"prompt": f"p{number}"} for number in range(100)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for name in ("a.jsonl.zst", "b.jsonl.gz"):
        with open_packed(tmp_path / name) as file:
            file.write(text)
        assert read_all(tmp_path / name, 10) == rows
        unpack(tmp_path / name, tmp_path / f"{name}.jsonl")
        assert (tmp_path / f"{name}.jsonl").read_bytes() == text
    whole = (tmp_path / "a.jsonl.zst").read_bytes()
    (tmp_path / "two.jsonl.zst").write_bytes(whole + whole)  # frames end to end, as `cat` joins them
    assert read_all(tmp_path / "two.jsonl.zst", 10) == rows + rows
    (tmp_path / "cut.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.jsonl\.zst: not a readable zstd file, download it again"):
        read_all(tmp_path / "cut.jsonl.zst", 10)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[{"n": 1}, {"n": 2', "item 2: malformed JSON"),
        ('[{"n": 1}', "item 2: malformed JSON"),
        ("[[1]]", "item 1: expected a JSON object, found list"),
    ],
)
def test_broken_arrays(tmp_path, text, complaint):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_all(tmp_path / "a.json", 10)


def test_a_large_row_group_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("promptcot_mamba.data.row_files.PIECE_BYTES", 1000)
    rows = [{"prompt": f"p{number}"} for number in range(1000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=700)
    assert len(plan_chunks(tmp_path / "a.parquet", 10)) == 6 + 2
    assert read_all(tmp_path / "a.parquet", 10) == rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "é"}\n'.encode("utf-16"), "not UTF-8 .*iconv"),
        ('{"prompt": "é"}\n'.encode("latin-1"), "not UTF-8 .*iconv"),
        (b'{"prompt": ' + b"[" * 100_000 + b"\n", "malformed JSON|nested too deeply"),
        (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "nested too deeply"),
    ],
)
def test_lines_that_are_no_rows_are_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "x"}\n' + line if not line.startswith(b"\xff") else line)
    with pytest.raises(InputError, match=rf"a\.jsonl:[12]: ({message})"):
        read_all(path, 1 << 20)


def test_a_mark_of_byte_order_and_carriage_returns_are_read_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "x"}\r\n{"prompt": "y"}\r\n')
    assert read_all(path, 1 << 20) == [{"prompt": "x"}, {"prompt": "y"}]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.jsonl.zst", "a.arrow"])
def test_a_clone_without_lfs_is_told(tmp_path, name):
    """What `git clone` leaves in the place of a large file where Git LFS is not installed."""
    digest = "69d7e94225272a0b3a5760cf0a8ae9c4a6ed040498817fb4a5919594a917cc65"
    path = tmp_path / name
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 2862405050\n")
    for read in (plan_chunks, read_columns, lambda path: list(iter_rows(Chunk(path)))):
        with pytest.raises(InputError, match=r"a Git LFS pointer, not the data.*git lfs pull") as told:
            read(path)
        assert name in str(told.value)


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (
            ["data/test-0.parquet", "data/train-0.parquet", "data/train-1.parquet"],
            ["train-0.parquet", "train-1.parquet"],
        ),
        (["a/test/x.jsonl", "a/train/x.jsonl", "a/train/y.jsonl"], ["x.jsonl", "y.jsonl"]),
        (["train_sft.jsonl", "test_sft.jsonl", "valid.jsonl"], ["train_sft.jsonl"]),
        (["my-train.json", "my.dev.json", "more.json"], ["more.json", "my-train.json"]),
        (["test.jsonl", "validation.jsonl"], ["test.jsonl", "validation.jsonl"]),  # nothing is named for training
        (["latest.jsonl", "contest.jsonl", "train.jsonl"], ["contest.jsonl", "latest.jsonl", "train.jsonl"]),
        (["train/test_cases.jsonl", "train/a.jsonl"], ["a.jsonl"]),
        (["train.jsonl", "dataset_infos.json"], ["train.jsonl"]),
    ],
)
def test_a_folder_gives_its_training_split(tmp_path, caplog, names, kept):
    """As a downloaded data set lies on disk; the folders above it have no say."""
    folder = tmp_path / "test"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"prompt": "p", "completion": "c"}\n')
    assert [path.name for path in find_row_files(folder)] == kept
    left_out = len(names) - len(kept) - ("dataset_infos.json" in names)
    assert (f"{left_out} files of other splits are left out" in caplog.text) == bool(left_out)
