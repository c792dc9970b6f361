"""infer_longcot.py as its users meet it: flags, bad input, the plan, the tables; without an engine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import infer_longcot
from promptcot_mamba.chat_format import CHAT_TEMPLATE
from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl
from promptcot_mamba.sampling import prompts
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.plan import make_plan
from tests.sampling.conftest import ROOT, write_problems
from tests.sampling.scripted import ScriptedBackend, write_chain
from tests.tiny import make_checkpoint

PUBLISHED = (
    "--data_path {data} --output_path {output} --model_path {model} --n_gpus 1 --temperature 0.8 "
    "--repetition_penalty 1.1 --max_len 65536 --n 16 --max_retries 1 --use_mamba2 True"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny-mamba2")


@pytest.fixture
def flags(checkpoint: Path, tmp_path: Path):
    problems = write_problems(tmp_path / "problems.jsonl", 5)

    def make(**changed: object) -> list[str]:
        values = {"data_path": problems, "output_path": tmp_path / "x.jsonl", "model_path": checkpoint}
        return [f"--{name}={value}" for name, value in (values | changed).items() if value is not None]

    return make


def run(flags: list[str], **backend: object) -> int:
    return infer_longcot.main(flags, make_backend=lambda plan: ScriptedBackend(8, **backend))


def test_the_published_line_parses_as_published(tmp_path: Path, checkpoint: Path):
    problems = write_problems(tmp_path / "problems.jsonl", 3)
    line = PUBLISHED.format(data=problems, output=tmp_path / "x.jsonl", model=checkpoint).split()
    assert run(line) == 0
    assert len(read_jsonl(tmp_path / "x.jsonl")) == 48
    args = parse_args(SamplingArguments, line)
    assert (args.top_p, args.context, args.use_mamba2, args.replicas) == (0.95, 69632, True, 1)


def test_a_recipe_and_flags_end_in_run_json(flags, tmp_path: Path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("n: 3\ntemperature: 0.6\nmax_len: 300\n", encoding="utf-8")
    assert run([*flags(temperature=0.7), "--config", str(recipe)]) == 0
    written = json.loads((tmp_path / "x.run.json").read_text())
    assert (written["config"]["n"], written["config"]["temperature"]) == (3, 0.7)
    assert written["complete"]
    assert written["results"]["made"]["samples"] == 15
    table = capsys.readouterr().out
    assert "made" in table
    assert "truncated" in table


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 0}, "--n 0: must be at least 1"),
        ({"max_retries": 0}, "--max_retries 0"),
        ({"top_p": 0}, "--top_p 0"),
        ({"temperature": -1}, "--temperature -1"),
        ({"n_gpus": 3, "tensor_parallel_size": 2}, "--n_gpus 3: is not a multiple"),
        ({"tensor_parallel_size": 3, "n_gpus": 3}, "num_heads of"),
        ({"use_mamba2": False}, "holds a 'mamba2' model"),
        ({"data_path": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"model_path": "nowhere"}, "--model_path nowhere: no such folder"),
        ({"output_path": "/proc/x.jsonl"}, "cannot write here"),
        ({"output_path": "x.json"}, "must end in .jsonl"),
        ({"format": "csv"}, "--format csv"),
        ({"dtype": "int8"}, "--dtype int8"),
        ({"n_gpu": 2}, r"--n_gpu: no such flag; did you mean --n_gpus\?"),
        ({"prompt_from": "question"}, "has no 'question'"),
        ({"top_k": -1}, "--top_k -1"),
        ({"min_p": 2}, "--min_p 2"),
        ({"api": "responses"}, "--api responses: must be one of completions, chat"),
        ({"api": "chat"}, "is asked of servers; give --base_url"),
        ({"system_prompt": "Be brief."}, "add --use_chat_template True"),
        ({"chat_template_kwargs": "{"}, "--chat_template_kwargs {: not JSON"),
        ({"rope_scaling": "4"}, "--rope_scaling 4: must be a JSON object"),
        ({"extra_body": '{"top_a": 1}'}, "--extra_body: is sent to servers; give --base_url"),
        ({"extra_body": '{"seed": 1}', "base_url": "http://127.0.0.1:9"}, "'seed' is this program's to say"),
        ({"extra_body": '{"top_p": 1}', "base_url": "http://127.0.0.1:9"}, "'top_p' is a flag; say --top_p"),
        ({"segment_len": 0}, "--segment_len 0: must be at least 1"),
        ({"thinking_budget": 0}, "--thinking_budget 0"),
        ({"patience": 0}, "--patience 0"),
        ({"base_url": "http://127.0.0.1:9", "model_path": "name", "use_mamba2": True}, "cannot be checked"),
    ],
)
def test_bad_flags_are_named(flags, changed: dict, message: str):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        run(flags(**changed))


def test_flags_for_servers_are_not_taken_without_a_word(flags, caplog):
    assert run(flags(concurrency=3, ca_file="/nowhere", n=1)) == 0
    said = [record.getMessage() for record in caplog.records]
    assert "--ca_file: is for servers (--base_url), and changes nothing here" in said
    assert any(line.endswith("nothing here; --max_num_seqs says how many chains run here") for line in said)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "file is empty"),
        ('{"idx": 1, "prompt": "a"}\n{"idx": 2, "prompt"\n', "problems.jsonl:2: malformed JSON"),
        (
            '{"idx": 1, "prompt": "a"}\n{"idx": 1, "prompt": "b"}\n',
            "problems.jsonl:2: id '1' was already used",
        ),
        ('{"idx": 1, "text": "a"}\n', "problems.jsonl:1: missing key 'prompt'"),
        ('{"idx": 1, "prompt": " "}\n', "problems.jsonl:1: 'prompt' must be a non-empty text"),
        ('{"prompt": "a"}\n', "problems.jsonl:1: no id"),
        ("[1]\n", "problems.jsonl:1: expected a JSON object"),
    ],
)
def test_bad_rows_are_named_by_line(flags, tmp_path: Path, lines: str, message: str):
    arguments = flags()
    (tmp_path / "problems.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        run(arguments)
    assert not (tmp_path / "x.jsonl").exists()
    assert not (tmp_path / "x.attempts.jsonl").exists()


def test_a_length_beyond_the_models_context(flags, checkpoint: Path, tmp_path: Path, caplog):
    other = tmp_path / "attention"
    other.mkdir()
    for file in checkpoint.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "config.json").write_text('{"model_type": "qwen2", "max_position_embeddings": 32768}')
    plan = make_plan(parse_args(SamplingArguments, flags(model_path=other)))  # the recipes' 65,536
    assert "the model's context is 32,768 tokens: chains end there" in caplog.text
    assert plan.context == 32768
    rope = '{"rope_type": "yarn", "factor": 4.0}'
    assert make_plan(parse_args(SamplingArguments, flags(model_path=other, rope_scaling=rope))).context == 69632
    with pytest.raises(InputError, match="holds a 'qwen2' model"):
        run(flags(model_path=other, use_mamba2=True))


def test_greedy_with_many_samples_warns(caplog, flags):
    make_plan(parse_args(SamplingArguments, flags(temperature=0, n=4)))
    assert "all samples of a problem will be identical" in caplog.text


def test_flags_of_loading_are_said_to_change_nothing_at_a_server(caplog, flags):
    said = "--dtype, --max_num_seqs: with --base_url the servers decide that"
    parse_args(SamplingArguments, flags(dtype="float32", max_num_seqs=8))
    assert said not in caplog.text
    parse_args(SamplingArguments, flags(dtype="float32", max_num_seqs=8, base_url="http://127.0.0.1:9"))
    assert said in caplog.text


def test_a_server_that_does_not_sample_is_noticed(flags, capsys, tmp_path: Path):
    """`transformers serve` decodes greedily, whatever temperature is sent, unless the model's own config samples."""
    run(flags(n=4), write=lambda request: (f"always this after {request.prompt}", "stop", 30))
    assert "ALL SAMPLES OF A PROBLEM ARE THE SAME TEXT" in capsys.readouterr().out
    run(flags(n=4, output_path=tmp_path / "y.jsonl"))
    assert "THE SAME TEXT" not in capsys.readouterr().out


def test_a_prompt_beyond_the_context_is_reported_and_not_lost(flags, tmp_path: Path, capsys, caplog):
    arguments = flags(n=2, max_retries=3, max_len=100)
    with (tmp_path / "problems.jsonl").open("a") as file:
        file.write(json.dumps({"idx": 9, "source": "long", "prompt": "fox " * 9000}) + "\n")
    assert run(arguments) == 0
    rows = [row for row in read_jsonl(tmp_path / "x.jsonl") if row["idx"] == 9]
    assert [(row["completion"], row["finish_reason"], row["attempt"]) for row in rows] == [("", "length", 0)] * 2
    assert "long/9" in caplog.text
    assert run([*arguments, "--dry_run"]) == 0
    assert "1 exceed the context" in capsys.readouterr().out


def test_a_dry_run_writes_nothing_and_tells_the_plan(flags, tmp_path: Path, capsys):
    assert run(flags(n=4, dry_run=True)) == 0
    plan = capsys.readouterr().out
    assert "5 problems x 4 = 20, 0 done, 20 to make" in plan
    assert "device-hours" in plan
    assert sorted(path.name for path in tmp_path.glob("x*")) == []
    run(flags(n=2))
    run(flags(n=4, dry_run=True))
    plan = capsys.readouterr().out
    assert "10 done, 10 to make" in plan
    assert "in the runs so far" in plan
    assert "if chains stay as long as those done" in plan
    with pytest.raises(InputError, match="temperature was"):
        run(flags(n=4, temperature=0.1, dry_run=True))


def test_prompts_by_template_and_from_questions(flags, tmp_path: Path):
    data = tmp_path / "q.jsonl"
    data.write_text('{"id": "a", "question": "1 + 1?"}\n', encoding="utf-8")
    seen = []

    def remember(request):
        seen.append(request.prompt)
        return write_chain(request)

    run(flags(data_path=data), write=remember)
    run(flags(data_path=data, use_chat_template=True, output_path=tmp_path / "y.jsonl"), write=remember)
    assert seen[0] == seen[1]  # the checkpoint's own template is our chat format
    assert seen[0].startswith("<|im_start|>user\n1 + 1?\nPlease reason step by step")
    row = {"id": "b", "prompt": seen[0]}
    data.write_text(json.dumps(row) + "\n", encoding="utf-8")
    run(flags(data_path=data, use_chat_template=True, output_path=tmp_path / "z.jsonl"), write=remember)
    assert seen[2] == seen[0]  # the question is taken out of a prompt that is written already


def test_a_template_that_tells_the_day_tells_a_rerun_the_first_one(flags, checkpoint, tmp_path: Path, monkeypatch):
    """gpt-oss, Llama 3 and Mistral write the date into the prompt: a chain that outlives midnight is one chain."""
    model = shutil.copytree(checkpoint, tmp_path / "model")
    dated = "{{ 'Current date: ' + strftime_now('%Y-%m-%d') + '\n' + messages[0]['content'] }}"
    (model / "chat_template.jinja").write_text(dated, encoding="utf-8")
    arguments = flags(model_path=model, use_chat_template=True)
    assert run(arguments) == 0
    begun = datetime.fromisoformat(json.loads((tmp_path / "x.run.json").read_text())["template_time"])

    class Tomorrow(datetime):
        @classmethod
        def now(cls):
            return begun + timedelta(days=1)

    monkeypatch.setattr(prompts, "datetime", Tomorrow)
    assert run([*arguments, "--n=2"]) == 0
    rows = read_jsonl(tmp_path / "x.jsonl")
    assert [row["prompt"].partition("\n")[0] for row in rows] == [f"Current date: {begun:%Y-%m-%d}"] * 10
    assert run(flags(model_path=model, use_chat_template=True, output_path=tmp_path / "y.jsonl")) == 0
    assert f"{Tomorrow.now():%Y-%m-%d}" in read_jsonl(tmp_path / "y.jsonl")[0]["prompt"]
    assert run(flags(output_path=tmp_path / "z.jsonl")) == 0
    assert "template_time" not in json.loads((tmp_path / "z.run.json").read_text())


def test_a_row_says_what_was_sent(flags, tmp_path: Path):
    data = tmp_path / "q.jsonl"
    data.write_text('{"id": "a", "question": "1 + 1?"}\n', encoding="utf-8")
    how = {"data_path": data, "use_chat_template": True, "system_prompt": "Be brief.", "top_k": 20, "min_p": 0.05}
    how |= {"chat_template": CHAT_TEMPLATE + "{{ '' if enable_thinking else '</think>' }}"}
    how |= {"chat_template_kwargs": '{"enable_thinking": true}'}
    assert run(flags(**how)) == 0
    [row] = read_jsonl(tmp_path / "x.jsonl")
    assert row["prompt"].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?")
    assert (row["sent"]["system"], row["sent"]["template_args"]) == ("Be brief.", {"enable_thinking": True})
    assert (row["sent"]["top_k"], row["sent"]["min_p"], row["sent"]["max_tokens"]) == (20, 0.05, 65536)
    assert row["thinking"] == "think"
    assert run(flags(data_path=data, output_path=tmp_path / "y.jsonl")) == 0
    plain = {"template": "file", "temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1, "max_tokens": 65536}
    assert read_jsonl(tmp_path / "y.jsonl")[0]["sent"] == plain  # what is not named was not sent
    assert json.loads((tmp_path / "x.run.json").read_text())["template_text"].startswith("{% for message")
    with pytest.raises(InputError, match=r"system_prompt was 'Be brief\.', now None"):
        run(flags(**how | {"system_prompt": None}))


def test_bad_input_is_one_line_and_exit_2(tmp_path: Path):
    command = [
        sys.executable,
        "infer_longcot.py",
        "--data_path=none.jsonl",
        "--output_path=x.jsonl",
        "--model_path=none",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "error: none.jsonl: no such file"
    assert "Traceback" not in done.stderr
