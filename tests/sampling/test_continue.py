"""Chains that outlive what samples them: killed anywhere, they go on; in segments, to the letter."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from scipy.stats import chi2_contingency

import infer_longcot
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import dump_row, read_jsonl, write_jsonl
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling import scheduler
from promptcot_mamba.sampling.backend import CUT, Generated
from promptcot_mamba.sampling.partial import PartialFile, read_partial
from promptcot_mamba.token_scores import TokenScores
from tests.sampling.conftest import comparable, kill_when_grown, write_problems
from tests.sampling.scripted import FIRST_TOKEN, LAST_TOKEN, TokenBackend, draw_tokens
from tests.tiny import make_tokenizer

TOKENIZER = make_tokenizer()


@pytest.fixture
def flags(checkpoint: Path, tmp_path: Path):
    problems = write_problems(tmp_path / "problems.jsonl", 5)

    def make(output: Path, **changed: object) -> list[str]:
        values = {"data_path": problems, "output_path": output, "model_path": checkpoint, "n": 4, "max_len": 900}
        return [f"--{name}={value}" for name, value in (values | changed).items()]

    return make


def run(flags: list[str], backend: TokenBackend | None = None) -> int:
    return infer_longcot.main(flags, make_backend=lambda plan: backend or TokenBackend(TOKENIZER))


def run_slowly(flags: list[str]) -> None:
    os._exit(run(flags, TokenBackend(TOKENIZER, step_seconds=0.001)))


def test_ten_kills_in_segments_change_no_letter(flags, tmp_path: Path):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    how = {"segment_len": 64, "stop_on_loop": True, "max_retries": 2, "thinking_budget": 150, "n": 12}
    engine = TokenBackend(TOKENIZER)
    assert run(flags(whole, **how), engine) == 0
    assert max(request.max_tokens for request in engine.submitted) == 64
    numbers = random.Random(5)
    for _ in range(10):
        saved = side_path(killed, "partial.jsonl")
        kill_when_grown(partial(run_slowly, flags(killed, **how)), saved, numbers.randrange(1, 3000))
    last = TokenBackend(TOKENIZER)
    assert run(flags(killed, **how), last) == 0
    assert len(last.submitted) > 10  # the kills came before its end
    assert any(len(request.kept) for request in last.submitted[:8])
    assert comparable(killed) == comparable(whole)
    assert not side_path(killed, "partial.jsonl").exists()


def test_kills_of_a_stream_lose_only_what_is_younger_than_a_save(flags, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(scheduler, "SAVE_SECONDS", 0.02)
    output = tmp_path / "x.jsonl"
    numbers, kept_before = random.Random(1), {}
    for _ in range(10):
        saved = side_path(output, "partial.jsonl")
        kill_when_grown(partial(run_slowly, flags(output)), saved, numbers.randrange(1, 3000))
        found = read_partial(saved)
        assert all(chain.seconds > 0 for chain in found.values())  # also of a first request, which had not ended
        kept = {key: chain.ids for key, chain in found.items()}
        for key, ids in kept_before.items():  # what was safe once stays safe, and stays what it was
            if key in kept:
                assert kept[key][: len(ids)] == ids
        kept_before = kept
    engine = TokenBackend(TOKENIZER)
    settled = len(output.read_bytes().splitlines()) if output.exists() else 0
    assert run(flags(output), engine) == 0
    begun = [request for request in engine.submitted if len(request.kept)]
    assert [len(request.kept) for request in begun] == sorted((len(r.kept) for r in begun), reverse=True)
    rows = read_jsonl(output)
    assert len(rows) == 20
    assert len({(row["idx"], row["run"]) for row in rows}) == 20
    continued = [row for row in rows if row.get("continued")]
    assert len(continued) >= len(begun) > 0 or settled == 20
    assert all(0 < at < row["completion_tokens"] for row in continued for at in row["continued"])


class OnAServerThatDies(TokenBackend):
    """Cuts every chain once, `after` tokens into it."""

    def __init__(self, after: int):
        super().__init__(TOKENIZER)
        self._after, self._cut = after, set()

    def poll(self, timeout: float) -> list[Generated]:
        finished = super().poll(timeout)
        for unit, ids in list(self.growing().items()):
            if len(ids) >= self._after and unit not in self._cut:
                self._cut.add(unit)
                del self._running[unit]
                finished.append(Generated(unit, "", CUT, 0, len(ids), 0.0, token_ids=ids))
        return finished


def test_a_chain_whose_server_dies_goes_on_elsewhere(flags, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(scheduler, "SAVE_SECONDS", 0.0)
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run(flags(whole))
    engine = OnAServerThatDies(100)
    run(flags(cut), engine)
    longer = 0
    for row, other in zip(comparable(cut), comparable(whole), strict=True):
        if other["completion_tokens"] > 100:
            longer += 1
            assert row["continued"] == [100]
            assert row["completion"][:90] == other["completion"][:90]
            assert row["completion"] != other["completion"]
        else:
            assert row == other
    assert longer > 5
    segments, plain = tmp_path / "segments.jsonl", tmp_path / "plain.jsonl"
    run(flags(segments, segment_len=64), OnAServerThatDies(100))
    run(flags(plain, segment_len=64))
    assert comparable(segments) == comparable(plain)


def test_what_follows_a_continuation_is_drawn_as_in_uncut_chains(tmp_path: Path):
    """2,000 chains: the token after a cut, given the one before it, against the same place of chains that were not."""

    def successors(continued: bool) -> list[int]:
        counts: Counter[int] = Counter()
        for chain in range(2000):
            seed = scheduler.derive_seed(3 if continued else 4, "p", chain, 0)
            tokens = draw_tokens(seed, 5, 2, 10**9)
            kept = [next(tokens) for _ in range(30)]
            after = scheduler.derive_seed(seed, "after", 30)
            more = draw_tokens(after, kept[-1], 2, 10**9) if continued else tokens
            counts[(next(more) - kept[-1]) % (LAST_TOKEN - FIRST_TOKEN + 1)] += 1
        return [counts[step] for step in range(LAST_TOKEN - FIRST_TOKEN + 1)]

    assert chi2_contingency([successors(True), successors(False)]).pvalue > 0.01


def test_a_thought_without_end_is_closed_and_answered(flags, tmp_path: Path):
    output = tmp_path / "x.jsonl"
    assert run(flags(output, thinking_budget=50)) == 0
    rows = read_jsonl(output)
    closed = [row for row in rows if row.get("thought_closed")]
    assert len(closed) > 10
    for row in closed:
        assert row["thought_closed"] == 50
        assert row["completion"].count("</think>") == 1
    assert all(row["completion_tokens"] <= 50 for row in rows if row not in closed)


class TellsNoIds(TokenBackend):
    """A server too old to return token ids."""

    def poll(self, timeout: float) -> list[Generated]:
        return [replace(generated, token_ids=None) for generated in super().poll(timeout)]


@pytest.mark.parametrize("how", [{"thinking_budget": 50}, {"segment_len": 50, "save_partial": False}])
def test_a_chain_that_cannot_go_on_from_its_cut_is_no_sample(flags, tmp_path: Path, how: dict):
    output = tmp_path / "x.jsonl"
    with pytest.raises(InputError, match="returns no token ids, so a chain cannot go on where it was cut"):
        run(flags(output, **how), TellsNoIds(TOKENIZER))
    assert all(row["completion_tokens"] < 50 for row in read_jsonl(output))
    assert run(flags(output, **how)) == 0
    assert max(row["completion_tokens"] for row in read_jsonl(output)) > 50


def test_a_damaged_partial_file_is_read_as_far_as_it_goes(flags, tmp_path: Path, caplog):
    output = tmp_path / "x.jsonl"
    path = side_path(output, "partial.jsonl")
    kill_when_grown(partial(run_slowly, flags(output, segment_len=16)), path, 6000)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) > 4
    path.write_bytes(b"".join([lines[0], b"\n", lines[1][:20] + b"\n", *lines[2:], b'{"torn']))
    assert run(flags(output, segment_len=16)) == 0
    assert f"{path}:2: unreadable (blank)" in caplog.text
    assert f"{path}:3: unreadable" in caplog.text
    assert caplog.text.count("unreadable") == 2
    assert caplog.text.count("removed a torn last line") == 1
    run(flags(tmp_path / "whole.jsonl", segment_len=16))
    assert comparable(output) == comparable(tmp_path / "whole.jsonl")


def test_a_chain_that_lacks_a_line_is_told_of_in_one(tmp_path: Path, caplog):
    """A long chain has hundreds of lines, of which each told once more what the first had."""
    path = tmp_path / "x.partial.jsonl"
    named = {"run": 0, "attempt": 0, "seed": 1, "prompt_crc": 2, "seconds": 1.0, "continued": [], "closed": None}
    rows = [named | {"problem_id": name, "at": at, "ids": [7]} for at in range(9) for name in ("p", "q")]
    path.write_bytes(b"".join(dump_row(row) if row != rows[4] else b"\x00" * 40 + b"\n" for row in rows) + b"[1]\n")
    assert {key[0]: len(each.ids) for key, each in read_partial(path).items()} == {"p": 2, "q": 9}
    told = [record.getMessage().removeprefix(f"{path}:") for record in caplog.records]
    before = "its chain is continued from before"
    assert told == [
        f"5: unreadable (NUL bytes, as a power loss leaves them); {before}",
        f"19: unreadable (list instead of an object); {before}",
        "7: lines before it are missing; left out with 5 more of its chain",
    ]


def test_a_partial_file_of_an_earlier_version_is_read(tmp_path: Path):
    """Ids as a list, where they are packed now, and one chain in both forms."""
    path = tmp_path / "x.partial.jsonl"
    chain = scheduler.Chain(0, "p", 0, 0, 1, "prompt", [1], 100)
    named = {"problem_id": "p", "run": 0, "attempt": 0, "seed": 1, "prompt_crc": chain.prompt_crc}
    write_jsonl(path, [named | {"continued": [], "closed": None, "at": 0, "ids": [5, 6, 7], "seconds": 1.0}])
    file = PartialFile(path)
    file.save(chain, [5, 6, 7, 8, 70_000], 2.0)
    file.close()
    assert list(read_partial(path)["p", 0, 0].ids) == [5, 6, 7, 8, 70_000]
    assert list(PartialFile(path, "of any settings").found["p", 0, 0].ids) == [5, 6, 7, 8, 70_000]


@pytest.mark.parametrize("lost", [("run.json",), ("run.json", "attempts.jsonl", "jsonl")])
def test_chains_of_other_settings_are_never_continued(flags, tmp_path: Path, lost: tuple[str, ...], caplog):
    """A run that was killed before any sample had settled: only the file of chains under way holds anything."""
    output = tmp_path / "x.jsonl"
    info, kept = side_path(output, "run.json"), side_path(output, "partial.jsonl")
    kill_when_grown(partial(run_slowly, flags(output, segment_len=16)), kept, 2000)
    samples = json.loads(info.read_text())
    for kind in ("attempts.jsonl", "jsonl"):
        side_path(output, kind).write_bytes(b"")
    for kind in lost:
        side_path(output, kind).unlink()
    other = {"segment_len": 16, "temperature": 0.1}
    with pytest.raises(InputError, match=r"x\.partial\.jsonl: exists, but not the run\.json that says how it was made"):
        run(flags(output, **other))
    samples["samples"]["temperature"] = 0.1
    info.write_text(json.dumps(samples))  # another run's
    engine = TokenBackend(TOKENIZER)
    assert run(flags(output, **other), engine) == 0
    assert "are of a run with other settings; left out" in caplog.text
    assert not any(request.kept for request in engine.submitted[: engine.window])


def test_what_was_saved_is_continued_where_nothing_more_is_to_be_saved(flags, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(scheduler, "SAVE_SECONDS", 0.02)
    output = tmp_path / "x.jsonl"
    kept = side_path(output, "partial.jsonl")
    kill_when_grown(partial(run_slowly, flags(output)), kept, 2000)
    before, engine = kept.read_bytes(), TokenBackend(TOKENIZER)
    monkeypatch.setattr(PartialFile, "close", lambda file: kept.rename(tmp_path / "kept"))
    assert run(flags(output, save_partial=False), engine) == 0
    assert any(len(request.kept) for request in engine.submitted)
    assert (tmp_path / "kept").read_bytes() == before


def test_a_rerun_does_not_write_the_file_anew_while_all_of_it_lives(tmp_path: Path, monkeypatch):
    """Lines of 63 tokens with their log-probabilities, as saves of 4.5 s leave them: 15 bytes a token and more."""
    monkeypatch.setattr("promptcot_mamba.sampling.partial.DEAD_BYTES", 0)
    path, numbers = tmp_path / "x.partial.jsonl", random.Random(2)
    chains = [scheduler.Chain(unit, f"p{unit}", 0, 0, unit, "prompt", [1], 10_000) for unit in range(6)]
    file = PartialFile(path)
    for chain in chains:
        chain.scores = TokenScores()
        for length in range(63, 1000, 63):
            chain.scores.add(*([numbers.uniform(-8, 0) for _ in range(63)] for _ in range(2)))
            file.save(chain, range(length))
    file.close()
    again, written = PartialFile(path), []
    compact = PartialFile._compact
    monkeypatch.setattr(PartialFile, "_compact", lambda self: (written.append(1), compact(self)))
    for length in range(1008, 1300, 63):
        again.save(chains[0], range(length))
        again.sync()
    assert not written
    for chain in chains[1:]:
        again.forget(chain.key)
    for length in range(1300, 1800, 63):
        again.save(chains[0], range(length))
        again.sync()
    again.close()
    assert len(written) == 1
    assert {row["problem_id"] for row in read_jsonl(path)} == {"p0"}


def test_lines_of_another_seed_begin_a_chain_or_are_left_out(tmp_path: Path, caplog):
    path = tmp_path / "x.partial.jsonl"
    line = {"problem_id": "p", "run": 0, "attempt": 0, "prompt_crc": 2, "seconds": 1.0, "continued": [], "closed": None}
    write_jsonl(
        path,
        [
            line | {"seed": 1, "at": 0, "ids": [5, 6, 7]},
            line | {"seed": 9, "at": 2, "ids": [70]},  # of a chain whose beginning is nowhere
            line | {"seed": 1, "at": 3, "ids": [8]},
            line | {"problem_id": "q", "seed": 1, "at": 0, "ids": [1, 2]},
            line | {"problem_id": "q", "seed": 1, "prompt_crc": 3, "at": 0, "ids": [3]},
            line | {"problem_id": "q", "seed": 1, "prompt_crc": 3, "at": 1, "ids": [4]},
        ],
    )
    chains = read_partial(path)
    assert (list(chains["p", 0, 0].ids), chains["p", 0, 0].seed) == ([5, 6, 7, 8], 1)
    assert (list(chains["q", 0, 0].ids), chains["q", 0, 0].prompt_crc) == ([3, 4], 3)
    assert "x.partial.jsonl:2: lines before it are missing; left out" in caplog.text


def test_a_partial_file_that_outlived_its_run_is_removed(flags, tmp_path: Path):
    """As a kill between the last row and the end leaves it."""
    output = tmp_path / "x.jsonl"
    assert run(flags(output)) == 0
    left = side_path(output, "partial.jsonl")
    left.write_text('{"problem_id": "made/0"}\n')
    assert run(flags(output)) == 0
    assert not left.exists()


def test_the_file_is_written_anew_once_most_of_it_is_dead(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("promptcot_mamba.sampling.partial.DEAD_BYTES", 2000)
    file = PartialFile(tmp_path / "x.partial.jsonl")
    chains = [scheduler.Chain(unit, f"p{unit}", 0, 0, unit, "prompt", [1], 10_000) for unit in range(40)]
    for length in range(10, 200, 10):
        for chain in chains:
            file.save(chain, range(length), 1.5)
        file.sync()
    for chain in chains[1:]:
        file.forget(chain.key)
    file.sync()
    assert {row["problem_id"] for row in read_jsonl(tmp_path / "x.partial.jsonl")} == {"p0"}
    file.save(chains[0], range(200), 2.5)
    file.close()
    [saved] = read_partial(tmp_path / "x.partial.jsonl").values()
    assert (list(saved.ids), saved.seconds, saved.seed) == (list(range(200)), 2.5, 0)
    assert json.loads((tmp_path / "x.partial.jsonl").read_bytes().splitlines()[-1])["at"] == 190
