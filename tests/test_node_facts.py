"""What tells one node from another, in words, and whether both see one folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from promptcot_mamba import node_facts as nodes
from promptcot_mamba.errors import InputError
from promptcot_mamba.training.nodes import PACKAGES


def facts_of(host: str, **changes: str) -> list[str]:
    """This node's facts as another's, with other values."""
    found = [line.split("\t") for line in nodes.describe_node(PACKAGES)]
    return [f"{host}\t{name}\t{changes.get(name.replace(' ', '_'), value)}" for _, name, value in found]


def test_a_difference_is_named():
    alike = [*facts_of("node-a"), *facts_of("node-b"), *facts_of("node-c")]
    assert nodes.find_difference(alike) == ""
    other = [*alike, *facts_of("node-d", torch="2.12.1")]
    torch = next(line.split("\t")[2] for line in alike if "\ttorch\t" in line)
    assert nodes.find_difference(other).startswith(f"node-d: torch is 2.12.1, on node-a it is {torch}; run scripts/")
    changed = [*alike, *facts_of("node-e", this_repository="00000000")]
    assert nodes.find_difference(changed).startswith("node-e: this repository is 00000000, on node-a it is ")


def test_any_line_of_the_sources_counts(tmp_path: Path):
    shutil.copytree(nodes.ROOT / "promptcot_mamba" / "training", tmp_path / "promptcot_mamba" / "training")
    (tmp_path / "train.py").write_text("main()\n")
    before = nodes.hash_programs(tmp_path)
    assert nodes.hash_programs(tmp_path) == before
    file = tmp_path / "promptcot_mamba" / "training" / "nodes.py"
    file.write_text(file.read_text() + "\n")
    assert nodes.hash_programs(tmp_path) != before


def test_a_token_is_seen_where_it_is_written(tmp_path: Path, monkeypatch):
    """The folder is not there yet: the nearest above it tells."""
    folder = tmp_path / "runs" / "phase1"
    token = Path(nodes.write_token(folder))
    assert token.parent == tmp_path
    nodes.await_token("--output_dir", folder, token)
    monkeypatch.setattr(nodes, "SEEN_WITHIN_SECONDS", 0.0)
    with pytest.raises(InputError, match=r"^--output_dir .*phase1: .* does not see in .* what the first node writes"):
        nodes.await_token("--output_dir", folder, tmp_path / "elsewhere" / token.name)
