"""Files that were damaged, edited, lost or made for other problems: named, healed, never thrown away."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from pathlib import Path

import pytest

import infer_longcot
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.run_info import read_sampling, side_path
from promptcot_mamba.sampling.backend import Request
from tests.sampling.conftest import comparable, write_problems
from tests.sampling.families import make_family
from tests.sampling.scripted import ScriptedBackend


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "x.jsonl"


@pytest.fixture
def flags(checkpoint: Path, tmp_path: Path, output: Path):
    problems = write_problems(tmp_path / "problems.jsonl", 8)

    def make(**changed: object) -> list[str]:
        values = {"data_path": problems, "output_path": output, "model_path": checkpoint, "n": 4, "max_retries": 3}
        return [f"--{name}={value}" for name, value in (values | changed).items()]

    return make


def run(flags: list[str]) -> ScriptedBackend:
    backend = ScriptedBackend(8)
    assert infer_longcot.main(flags, make_backend=lambda plan: backend) == 0
    return backend


DAMAGE = {
    "torn": lambda line, _: line[: len(line) // 2] + b"\n",
    "blank": lambda line, _: b"\n",
    "spaces": lambda line, _: b"   \n",
    "zeros": lambda line, _: b"\x00" * (len(line) - 1) + b"\n",  # what a file system may leave after a power cut
    "not UTF-8": lambda line, _: line[:20] + b"\xff\xfe" + line[20:],
    "a list": lambda line, _: b"[1, 2]\n",
    "two in one": lambda line, _: line.rstrip(b"\n") + line,
    "binary": lambda line, numbers: numbers.randbytes(50).replace(b"\n", b" ") + b"\n",
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("file", ["samples", "journal"])
def test_a_damaged_line_is_named_moved_aside_and_healed(flags, output: Path, file: str, kind: str, caplog):
    run(flags())
    whole = comparable(output)
    attempts = len(read_jsonl(side_path(output, "attempts.jsonl")))
    path = output if file == "samples" else side_path(output, "attempts.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    settled = [place for place, line in enumerate(lines) if json.loads(line)["format_valid"]]
    place = settled[len(settled) // 2]
    lines[place] = DAMAGE[kind](lines[place], random.Random(kind))
    path.write_bytes(b"".join(lines))
    backend = run(flags())
    assert f"{path}:{place + 1}: unreadable" in caplog.text
    assert backend.submitted == (1 if file == "samples" else 0)  # a lost text is drawn again, a lost note is not
    assert comparable(output) == whole
    assert len(read_jsonl(side_path(output, "attempts.jsonl"))) == attempts
    assert side_path(path, "damaged.jsonl").read_bytes() == lines[place].rstrip(b"\n") + b"\n"
    assert run(flags()).submitted == 0


@pytest.mark.parametrize("file", ["samples", "journal"])
def test_a_torn_last_line_is_moved_aside_too(flags, output: Path, file: str, caplog):
    run(flags())
    whole = comparable(output)
    path = output if file == "samples" else side_path(output, "attempts.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines)[:-30])
    run(flags())
    assert f"{path}:{len(lines)}: unreadable (torn off)" in caplog.text
    assert side_path(path, "damaged.jsonl").read_bytes() == lines[-1][:-30] + b"\n"
    assert comparable(output) == whole


ODD = [
    *(("run", value) for value in ("0", None, [0], 0.5, True)),
    *(("completion", None), ("attempt", None), ("attempt", "0"), ("finish_reason", None), ("seed", "x")),
    *(("completion_tokens", None), ("completion_tokens", "46"), ("continued", 5), ("format_valid", None)),
    *(("seconds", "1"), ("problem_id", ["a"]), ("problem_id", 3), ("completion_crc", "x"), ("completion_crc", None)),
]


@pytest.mark.parametrize(("name", "value"), ODD)
def test_a_value_of_another_kind_is_named(flags, output: Path, name: str, value: object):
    """As pandas and hands write them; a dry run says so too."""
    run(flags())
    for path in (output, side_path(output, "attempts.jsonl")):
        rows = read_jsonl(path)
        place = next(place for place, row in enumerate(rows) if row.get("format_valid"))
        if name in rows[place]:
            before = path.read_bytes()
            write_jsonl(path, [*rows[:place], rows[place] | {name: value}, *rows[place + 1 :]])
            for how in ({}, {"dry_run": True}):
                with pytest.raises(InputError, match=rf"{path.name}:{place + 1}: '{name}' is .*; move the line out"):
                    run(flags(**how))
            path.write_bytes(before)
    if name == "continued":
        write_jsonl(output, [row | {name: value} for row in read_jsonl(output)])
        with pytest.raises(InputError, match=r"x\.jsonl:1: 'continued' is 5"):
            run(flags())


def test_whole_numbers_that_pandas_wrote_with_a_point_are_read(flags, output: Path):
    run(flags())
    numbers = ("run", "attempt", "seed", "completion_tokens", "prompt_tokens")
    for path in (output, side_path(output, "attempts.jsonl")):
        odd = [row | {name: float(row[name]) for name in numbers} | {"thinking": None} for row in read_jsonl(path)]
        write_jsonl(path, odd)
    assert run(flags()).submitted == 0


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("sessions", 5, "'sessions' is 5"),
        ("sessions", None, "'sessions' is None"),
        ("sessions", [{"seconds": 1}], "sessions: no 'tokens'"),
        ("sessions", [3], "sessions: 3 instead of an object"),
        ("template_time", 3, "'template_time' is 3"),
        ("samples", {"n": None}, "samples: 'n' is None"),
        ("samples", [], r"'samples' is \[\]"),
        ("spared", "8", "'spared' is '8'"),
        ("config", 1, "'config' is 1"),
        (None, [], "list instead of an object"),
    ],
)
def test_a_field_of_another_kind_in_run_json_is_named(
    flags, output: Path, field: str | None, value: object, named: str
):
    run(flags())
    path = side_path(output, "run.json")
    found = json.loads(path.read_text())
    path.write_text(json.dumps(value if field is None else found | {field: value}))
    for read in (lambda: run(flags()), lambda: read_sampling(output)):
        with pytest.raises(
            InputError, match=rf"x\.run\.json: not what infer_longcot\.py wrote \({named}\); put its own"
        ):
            read()
    path.write_text(json.dumps(found | {"template_time": "yesterday"}))
    with pytest.raises(InputError, match=r"x\.run\.json: not what infer_longcot\.py wrote \('template_time' is 'yest"):
        run(flags())


@pytest.mark.parametrize(("changed", "said"), [({"temperature": 0.1}, r"temperature 0\.1, here 0\.8"),
                                               ({"top_k": 20}, "top_k 20, here 0"),
                                               ({"seed": 5}, r"seed \d+, here \d+")])  # fmt: skip
def test_rows_of_another_run_are_named(flags, output: Path, tmp_path: Path, changed: dict, said: str):
    """Also where no journal is there to tell them."""
    run(flags())
    run(flags(output_path=tmp_path / "y.jsonl", **changed))
    (tmp_path / "y.jsonl").rename(output)
    side_path(output, "attempts.jsonl").unlink()
    with pytest.raises(InputError, match=rf"x\.jsonl:1: a sample of another run \({said}\); move the line out"):
        run(flags())


def test_a_row_has_the_room_that_its_prompt_left(flags, output: Path, tmp_path: Path, capsys):
    """What every request asked for was less than --max_len, and rows and the dry run's cost said --max_len."""
    short = flags(model_path=make_family("qwen2", tmp_path / "qwen2"))  # its context: 8,192
    run([*short, "--dry_run", "True"])
    asked = {}

    def write(request: Request) -> tuple[str, str, int]:
        asked[request.seed] = request.max_tokens
        return "<think>\nso\n</think>\n2", "stop", 9

    assert infer_longcot.main(short, make_backend=lambda plan: ScriptedBackend(8, write=write)) == 0
    rows = read_jsonl(output)
    assert all(row["sent"]["max_tokens"] == asked[row["seed"]] == 8192 - row["prompt_tokens"] for row in rows)
    run(short)
    write_jsonl(output, [row | {"sent": row["sent"] | {"max_tokens": 65536}} for row in rows])  # as it used to be
    run(short)
    rows[0]["sent"]["max_tokens"] -= 1
    write_jsonl(output, rows)
    with pytest.raises(InputError, match=r"x\.jsonl:1: a sample of another run \(max_tokens 8\d+, here 8\d+\)"):
        run(short)
    said = capsys.readouterr().out
    total = sum(8192 - row["prompt_tokens"] for row in rows)
    assert f"cost        {total:,} tokens" in said
    assert "device-hours if every chain fills the context" in said


def test_what_leaves_samples_out_is_named(flags, output: Path):
    run(flags())
    with pytest.raises(InputError, match=r"x\.attempts\.jsonl:\d+: .* which --limit 2 leaves out, .*; drop --limit"):
        run(flags(limit=2))
    rows = read_jsonl(output)
    write_jsonl(output, [rows[0] | {"run": 7}, *rows[1:]])
    with pytest.raises(InputError, match=r"holds run 7 of .*, which --n 4 excludes; raise --n to 8, or use another"):
        run(flags())


def test_a_changed_chat_template_is_named(flags, output: Path, tmp_path: Path, checkpoint: Path):
    own = shutil.copytree(checkpoint, tmp_path / "model")
    how = {"model_path": own, "use_chat_template": True}
    run(flags(**how))
    [template] = own.glob("chat_template*")
    template.write_text("{{- '# v2' }}" + template.read_text())
    with pytest.raises(
        InputError, match=r"x\.jsonl:1: .* chat template tokenizer:\w+, now tokenizer:\w+; put that back"
    ):
        run(flags(**how))


@pytest.mark.parametrize("lost", ["jsonl", "attempts.jsonl"])
def test_a_dry_run_counts_what_a_rerun_would_find(flags, output: Path, lost: str, capsys):
    run(flags())
    (output if lost == "jsonl" else side_path(output, lost)).unlink()
    run(flags(dry_run=True))
    assert f"= 32, {0 if lost == 'jsonl' else 32} done" in capsys.readouterr().out


def test_attempts_at_an_edited_prompt_do_not_count(flags, output: Path, tmp_path: Path, caplog):
    """Of a run that was killed before any was valid, so that no row tells the prompt."""

    def stop(_: object) -> tuple[str, str, int]:
        raise KeyboardInterrupt

    def bad_once(request: Request) -> tuple[str, str, int]:
        return ("no answer", "stop", 3) if request.attempt == 0 else stop(request)

    with pytest.raises(KeyboardInterrupt):
        infer_longcot.main(flags(n=1), make_backend=lambda plan: ScriptedBackend(4, write=bad_once))
    assert read_jsonl(side_path(output, "attempts.jsonl"))
    problems = tmp_path / "problems.jsonl"
    problems.write_text(problems.read_text().replace("Find", "Seek"))
    run(flags(n=1))
    assert "attempt(s) were sent another prompt; not counted" in caplog.text
    run(flags(n=1, output_path=tmp_path / "y.jsonl"))
    assert comparable(output) == comparable(tmp_path / "y.jsonl")


def test_a_character_streamed_in_halves_is_one(flags, output: Path):
    """Two events, "\\ud83d" and "\\ude00", as servers of UTF-16 strings send them; the row gives back one emoji."""

    def in_halves(request: Request) -> tuple[str, str, int]:
        return "so \ud83d\ude00 and \ud83d\n</think>\n\\boxed{1}", "stop", 9

    assert infer_longcot.main(flags(), make_backend=lambda plan: ScriptedBackend(8, write=in_halves)) == 0
    path = side_path(output, "attempts.jsonl")
    old = zlib.crc32("<think>\nso \ud83d\ude00 and \ud83d\n</think>\n\\boxed{1}".encode("utf-8", "surrogatepass"))
    for changed in ({}, {"completion_crc": old}):  # what earlier versions summed
        write_jsonl(path, [row | changed for row in read_jsonl(path)])
        assert run(flags()).submitted == 0


def test_problems_may_be_reordered_and_added(flags, output: Path, tmp_path: Path):
    run(flags())
    before = {(row["run"], row["idx"]): row for row in comparable(output)}
    rows = read_jsonl(tmp_path / "problems.jsonl")
    random.Random(3).shuffle(rows)
    rows.insert(2, {"idx": 99, "source": "made", "prompt": "Find 99.\n<think>\n", "answer": 99})
    write_jsonl(tmp_path / "problems.jsonl", rows)
    backend = run(flags())
    after = comparable(output)
    assert [row["idx"] for row in after] == [row["idx"] for row in rows] * 4
    assert {(row["run"], row["idx"]): row for row in after if row["idx"] != 99} == before
    assert backend.submitted < 4 * 3 + 1
    run(flags(output_path=tmp_path / "y.jsonl"))
    assert comparable(tmp_path / "y.jsonl") == after  # seeds follow ids


def test_problems_may_gain_keys_but_not_lose_or_change(flags, output: Path, tmp_path: Path):
    run(flags())
    rows = read_jsonl(tmp_path / "problems.jsonl")
    write_jsonl(tmp_path / "problems.jsonl", [row | {"level": 5} for row in rows])
    assert run(flags()).submitted == 0
    write_jsonl(tmp_path / "problems.jsonl", [rows[0] | {"prompt": "Find 1.\n<think>\n"}, *rows[1:]])
    with pytest.raises(InputError, match=r"x\.jsonl:1: problem 'made/0' had another 'prompt' when it was sampled"):
        run(flags())
    write_jsonl(tmp_path / "problems.jsonl", rows[1:])
    with pytest.raises(InputError, match=r"run \d of problem 'made/0', which --data_path no longer holds; put it back"):
        run(flags())


def test_an_edited_completion_is_noticed(flags, output: Path):
    run(flags())
    rows = read_jsonl(output)
    rows[4]["completion"] = rows[4]["completion"].replace("boxed", "fbox")
    write_jsonl(output, rows)
    with pytest.raises(InputError, match=r"x\.jsonl:5: its completion is not the one that was sampled"):
        run(flags())
    write_jsonl(output, rows[:4] + rows[5:])  # what the message advises
    assert run(flags()).submitted == 1


def test_no_advice_throws_samples_away(flags, output: Path, tmp_path: Path):
    run(flags())
    side_path(output, "run.json").rename(tmp_path / "away.json")
    with pytest.raises(InputError) as caught:
        run(flags())
    assert "put that back" in str(caught.value)
    assert "overwrite" not in str(caught.value)
    (tmp_path / "away.json").rename(side_path(output, "run.json"))
    for changed in ({"temperature": 0.1}, {"n": 2}, {"seed": 4}, {"max_len": 5}):
        with pytest.raises(InputError) as caught:
            run(flags(**changed))
        assert "overwrite" not in str(caught.value)


@pytest.mark.parametrize("format", ["rows", "grouped"])
def test_a_repeated_row_is_dropped(flags, output: Path, format: str):
    run(flags())
    whole = comparable(output)
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join([*lines, lines[3]]))
    assert run(flags(format=format)).submitted == 0
    assert run(flags()).submitted == 0
    assert comparable(output) == whole


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("place", [0, 3])
def test_a_damaged_group_is_moved_aside_and_its_samples_drawn_again(flags, output: Path, kind: str, place: int, caplog):
    run(flags(format="grouped"))
    whole = comparable(output)
    lines = output.read_bytes().splitlines(keepends=True)
    lines[place] = DAMAGE[kind](lines[place], random.Random(kind))
    output.write_bytes(b"".join(lines))
    assert run(flags(format="grouped")).submitted == 4
    assert f"{output}:{place + 1}: unreadable" in caplog.text
    assert side_path(output, "damaged.jsonl").read_bytes() == lines[place].rstrip(b"\n") + b"\n"
    assert [_less(row) for row in comparable(output)] == [_less(row) for row in whole]


def _less(row: dict) -> dict:
    return {key: value for key, value in row.items() if "seconds" not in key}


def test_a_last_row_without_its_newline_is_kept(flags, output: Path):
    run(flags())
    whole = output.read_bytes()
    output.write_bytes(whole.removesuffix(b"\n"))
    assert run(flags()).submitted == 0
    assert output.read_bytes() == whole


def test_a_foreign_journal_is_named_by_a_dry_run_too(flags, output: Path):
    run(flags())
    path = side_path(output, "attempts.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"problem_id": "made/1", "run": 0}\n', *lines[2:]]))
    for how in ({"dry_run": True}, {}):
        with pytest.raises(InputError, match=r"x\.attempts\.jsonl:3: no .*; not written by this program"):
            run(flags(**how))


def test_a_rating_of_pandas_making_is_null_in_the_rows(flags, output: Path, tmp_path: Path, caplog):
    """NaN, once read, could not be written: every finished chain was lost in a traceback."""
    path = tmp_path / "problems.jsonl"
    path.write_text(path.read_text().replace('"answer": 2}', '"answer": 2, "rating": NaN}'))
    assert run(flags()).submitted >= 32
    assert f"{path}:2: NaN is not JSON; it is read as null" in caplog.text
    assert {row.get("rating", "no key") for row in read_jsonl(output) if row["idx"] == 1} == {None}
    assert run(flags()).submitted == 0


def test_a_text_stands_once_on_disk(flags, output: Path):
    def long_chain(request):
        return f"{request.seed} " * 20_000 + "\n</think>\nThe answer is \\boxed{1}.", "stop", 40_000

    assert infer_longcot.main(flags(), make_backend=lambda plan: ScriptedBackend(8, write=long_chain)) == 0
    text = sum(len(row["completion"]) for row in read_jsonl(output))
    assert sum(path.stat().st_size for path in output.parent.glob("x.*")) < 1.01 * text
