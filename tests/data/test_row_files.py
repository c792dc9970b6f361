"""Chunks cover every row of a file exactly once, wherever they are cut."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptcot_mamba.data.row_files import iter_rows, plan_chunks, read_columns


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
