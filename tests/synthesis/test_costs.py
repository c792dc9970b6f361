"""Requests, tokens and money are counted as they were; a budget is never exceeded, and more of it goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.run_info import write_run_info
from promptcot_mamba.sampling.decode import count_by_bytes
from promptcot_mamba.synthesis import STAGES
from promptcot_mamba.synthesis.cost_report import count_kept, describe_cost
from promptcot_mamba.synthesis.dry_run import Asked, count_done, describe_plan, plan_run
from promptcot_mamba.synthesis.spending import TEACHER, BudgetSpentError, Price, Spending, read_prices, read_usage
from promptcot_mamba.synthesis.stage import Context, settings_from
from promptcot_mamba.synthesis.teacher import ChainSettings, run_chains
from promptcot_mamba.synthesis.templates import Format, load_format
from tests.synthesis.scripted import SETTINGS, ScriptedModel, answer, likelihood

ROOT = Path(__file__).resolve().parents[2]


def load(name: str, seeds: Path):
    settings_class, function = STAGES[name].load()
    values = {**SETTINGS[name], **({"seeds": str(seeds)} if name == "concepts" else {})}
    return settings_from(settings_class, values, name), function


def run(folder: Path, seeds: Path, budget: int | None = None, reply=answer, stages=tuple(SETTINGS)) -> Context:
    model = ScriptedModel(reply, likelihood)
    context = Context(folder, 0, lambda name: model, spending=Spending(folder, budget))
    for name in stages:
        own, function = load(name, seeds)
        function(own, context)
    return context


def files(folder: Path) -> dict[str, list]:
    return {path.name: read_jsonl(path) for path in sorted(folder.glob("*.jsonl")) if path.stat().st_size}


def test_usage_has_every_request(tmp_path, seeds):
    context = run(tmp_path / "work", seeds)
    asked = context.model("m").backend.asked
    usage = read_usage(tmp_path / "work")
    drawn = {name: used for name, models in usage.items() for used in models.values() if name != "chosen_rationales"}
    assert sum(used.requests for used in drawn.values()) == len(asked)
    assert sum(used.again for used in drawn.values()) == sum(request.attempt > 0 for request in asked) > 0
    assert usage["chosen_rationales"]["m"].requests == 30, "likelihoods are asked for too"
    assert set(usage["judgements_a"]) == {"a"}
    replies = sum(len(answer(request.prompt, request.seed)) for request in asked)
    assert sum(used.completion_tokens for used in drawn.values()) == replies, "the script counts letters"


@settings(deadline=None, max_examples=8)
@given(budget=st.integers(1000, 4000))
def test_a_budget_is_never_exceeded_and_more_of_it_goes_on_to_the_same_rows(tmp_path_factory, budget):
    folder = tmp_path_factory.mktemp("budget")
    seeds = folder / "seeds.jsonl"
    write_jsonl(seeds, [{"problem": f"Compute number {i}.", "level": "easy"} for i in range(10)])
    some = ("concepts", "rationales")
    run(folder / "whole", seeds, stages=some)
    try:
        run(folder / "torn", seeds, budget, stages=some)
    except (BudgetSpentError, InputError):
        stopped = True
    else:
        stopped = False
    spent = sum(used.tokens for models in read_usage(folder / "torn").values() for used in models.values())
    assert spent <= budget
    assert stopped or files(folder / "torn") == files(folder / "whole")
    run(folder / "torn", seeds, 10**9, stages=some)
    assert files(folder / "torn") == files(folder / "whole")


def test_what_is_under_way_is_waited_for_and_kept(tmp_path, seeds):
    with pytest.raises(BudgetSpentError):
        run(tmp_path / "work", seeds, budget=1250, stages=("concepts",))
    rows = read_jsonl(tmp_path / "work" / "concepts.jsonl")
    usage = read_jsonl(tmp_path / "work" / "usage" / "concepts.jsonl")
    assert 0 < len(rows) < 10
    assert sum(line["outcome"] == "used" for line in usage) == len(rows)
    assert not json.loads((tmp_path / "work" / "concepts.run.json").read_text())["complete"]


def test_a_budget_already_spent_is_refused_before_anything_is_asked(tmp_path, seeds):
    run(tmp_path / "work", seeds, stages=("concepts",))
    with pytest.raises(InputError, match=r"--budget_tokens 100: \d+ of 100 tokens are spent .* raise it"):
        run(tmp_path / "work", seeds, budget=100, stages=("rationales",))
    run(tmp_path / "work", seeds, budget=100, stages=("concepts",))  # complete: nothing to ask, nothing to refuse


def test_the_plan_is_what_is_asked_where_every_first_reply_serves(tmp_path, seeds):
    def serves(prompt: str, seed: int) -> str:
        return "Final Judgement: perfect" if prompt.startswith("You are a strict") else answer(prompt, seed * 35 + 1)

    names = ("concepts", "rationales", "choose_rationales", "generator_data", "concept_sampling", "problems", "judge")
    model = ScriptedModel(serves, likelihood)
    context = Context(tmp_path / "work", 0, lambda name: model)
    planned = {each.output: each for each in plan_run({name: load(name, seeds)[0] for name in names}, context)}
    assert not (tmp_path / "work").exists(), "a dry run writes nothing"
    assert not model.backend.asked
    usage = read_usage(run(tmp_path / "work", seeds, reply=serves, stages=names).work_dir)
    assert {name: each.tasks for name, each in planned.items()} == {
        name: used.requests for name, models in usage.items() for used in models.values()
    }


def test_a_plan_counts_what_is_there_and_expects_what_was_seen(tmp_path, seeds):
    names = ("concepts", "rationales", "concept_sampling", "problems", "judge")
    work = tmp_path / "work"
    run(work, seeds, stages=("concepts",))
    with pytest.raises(BudgetSpentError):
        run(work, seeds, budget=Spending(work).spent + 2500, stages=("rationales",))
    model = ScriptedModel(answer, likelihood)
    context = Context(work, 0, lambda name: model, prices={"m": Price(1.0, 2.0)})
    text = describe_plan(plan_run({name: load(name, seeds)[0] for name in names}, context), context, budget=50_000)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    left = 30 - len(read_jsonl(work / "rationales.jsonl"))
    assert re.match(r"\| concepts \| m \| 0 \|", rows["concepts"])
    assert f"| rationales | m | {left} |" in rows["rationales"]
    assert "tokens, 0.0" in rows["rationales"], "money to expect, from the mean of what was asked"
    assert "no price for: a, b" in text
    assert "--budget_tokens 50,000: may be" in text
    context = Context(tmp_path / "new", 0, lambda name: model)
    without = describe_plan(plan_run({"concepts": load("concepts", seeds)[0]}, context), context, budget=None)
    assert re.search(r"\| all \|.*\| – \|", without), "without any price nothing is free"


class Book:
    """One model, which is asked to repair."""

    def __init__(self, model: ScriptedModel):
        self.model = model

    def __call__(self, name: str) -> ScriptedModel:
        return self.model

    def format(self, name: str) -> Format:
        return replace(load_format(), repairs=True)


def test_a_plans_figures_are_bounds(tmp_path, seeds):
    """Whatever is asked twice and repaired, in vain."""
    model = ScriptedModel(lambda prompt, seed: "no list today, nor at any time")
    context = Context(tmp_path / "work", 0, Book(model))
    own, function = load("concepts", seeds)
    (planned,) = plan_run({"concepts": own}, context)
    with pytest.raises(InputError, match="no rows survived"):
        function(own, context)
    used = read_usage(tmp_path / "work")["concepts"]["m"]
    assert (used.requests, used.repairs) == (planned.tasks * planned.most, planned.tasks) == (30, 10)
    prompts = [count_by_bytes(request.prompt) for request in model.backend.asked]
    prompt, completion = planned.at_most(planned.tasks)
    assert (sum(prompts) <= prompt, used.completion_tokens <= completion) == (True, True)
    assert max(prompts) > planned.prompt, "a repair shows more than its question"


def test_what_a_thousand_judgements_may_take_is_said_in_full(tmp_path):
    context = Context(tmp_path, 0, lambda name: None, prices={"a": Price(1.0, 2.0)})
    text = describe_plan([Asked("judgements_a", "a", 1000, 500.0, 1000, most=3, repair=1100.0)], context, 1_000_000)
    assert "| judgements_a | a | 1,000 | 3,000 | 2,600,000 | 3,000,000 | 8.60 |" in text
    assert "these at most 5,600,000\n" in text
    assert "--budget_tokens 1,000,000: may be 4,600,000 short" in text


FLAGS = {"n": 32, "max_len": "32768", "max_retries": 4}


def test_chains_are_planned_and_held_to_the_budget_by_what_the_sampler_is_given(tmp_path):
    write_jsonl(tmp_path / "teacher_problems.jsonl", [{"key": f"k{i}"} for i in range(10)])
    write_run_info(tmp_path / "teacher_problems.jsonl", {"seed": 0}, complete=True)
    context = Context(tmp_path, 0, lambda name: None, spending=Spending(tmp_path, 20_000))
    chains = settings_from(ChainSettings, {"model_path": "t", "flags": FLAGS}, "chains")
    (planned,) = plan_run({"chains": chains}, context)
    assert (planned.tasks, planned.completion, planned.most) == (320, 32768, 4)
    with pytest.raises(InputError, match="the next request may take 32,768"):
        run_chains(chains, context)
    (planned,) = plan_run({"chains": ChainSettings("t", n=4, max_len=500)}, context)
    assert (planned.tasks, planned.completion, planned.most) == (40, 500, 1)


def test_a_teacher_is_not_penalised_for_what_its_prompt_says():
    """infer_longcot.py's own penalty is the paper's, for its own models."""
    assert ChainSettings("t").given["repetition_penalty"] == 1.0
    assert ChainSettings("t", flags={"repetition_penalty": 1.1}).given["repetition_penalty"] == 1.1


def test_chains_of_a_raised_number_are_still_to_be_asked(tmp_path):
    write_jsonl(tmp_path / "chains.jsonl", [{"id": f"p{i}"} for i in range(8)])
    write_run_info(tmp_path / "chains.jsonl", {}, complete=True)
    context = Context(tmp_path, 0, lambda name: None)
    assert count_done(context, Asked("chains", TEACHER, 32, 1.0, 500)) == 8


@pytest.mark.parametrize("flags", [{"n": "many"}, {"max_len": 0}, {"max_retries": True}, {"n": [8]}])
def test_a_number_of_chains_that_is_none_is_named(flags):
    (name,) = flags
    with pytest.raises(InputError, match=f"stages: chains: {name} .*: expected a whole number of 1 or more"):
        settings_from(ChainSettings, {"model_path": "t", "flags": flags}, "stages: chains")


def test_the_report_has_the_cost_of_a_kept_problem_by_stage(tmp_path, seeds):
    work = tmp_path / "work"
    context = run(work, seeds)
    usage = read_usage(work)
    kept, what = count_kept({"kept_problems": read_jsonl(work / "kept_problems.jsonl")})
    section = describe_cost(usage, kept, what, {"m": Price(3.0, 5.0)})
    table = section.blocks[1]
    assert kept == len(read_jsonl(work / "kept_problems.jsonl"))
    line = dict(zip(table.header, next(row for row in table.rows if row[0] == "problems"), strict=True))
    used = usage["problems"]["m"]
    assert line["requests"] == str(used.requests)
    money = (3 * used.prompt_tokens + 5 * used.completion_tokens) / 1e6
    assert line["money"] == f"{money:.4f}"
    assert line["money a kept problem"] == f"{money / kept:,.6f}"
    assert line["tokens a kept problem"] == f"{used.tokens / kept:,.0f}"
    assert table.rows[-1][0] == "all"
    assert "Without a price, so not in the money: a, b" in section.blocks[0].text
    settings_class, report = STAGES["report"].load()
    report(settings_class(), context)
    text = (work / "report.md").read_text()
    assert "## Cost" in text
    assert "not one rationale and one problem" in text
    assert describe_cost({}, 0, "", {}) is None


def test_chains_are_counted_from_their_journal(tmp_path):
    attempts = [
        {"id": "p", "run": 0, "attempt": 0, "prompt_tokens": 10, "completion_tokens": 90, "format_valid": False,
         "finish_reason": "length"},
        {"id": "p", "run": 0, "attempt": 1, "prompt_tokens": 10, "completion_tokens": 40, "format_valid": True,
         "finish_reason": "stop"},
    ]  # fmt: skip
    write_jsonl(tmp_path / "chains.attempts.jsonl", attempts)
    used = read_usage(tmp_path)["chains"]["teacher"]
    assert (used.requests, used.again, used.tokens, dict(used.outcomes)) == (2, 1, 150, {"length": 1, "used": 1})
    assert Spending(tmp_path, 1000).spent == 150


def test_likelihoods_keep_to_the_budget_too(tmp_path, seeds):
    some = ("concepts", "rationales")
    work = tmp_path / "work"
    run(tmp_path / "whole", seeds, stages=(*some, "choose_rationales"))
    run(work, seeds, stages=some)
    budget = Spending(work).spent + 1000
    with pytest.raises(BudgetSpentError):
        run(work, seeds, budget=budget, stages=("choose_rationales",))
    assert 0 < len(read_jsonl(work / "chosen_rationales.jsonl")) < 30
    assert budget - 300 < Spending(work).spent <= budget
    with pytest.raises(InputError, match="raise it"):
        run(work, seeds, budget=budget, stages=("choose_rationales",))
    run(work, seeds, budget=10**6, stages=("choose_rationales",))
    assert files(work) == files(tmp_path / "whole")


class Lettered(ScriptedModel):
    """Letters are tokens, after one that begins a text and within a template; some pairs are over the context."""

    def __init__(self, context: int | None):
        super().__init__(answer)
        self.context, self.sent = context, []

    def render(self, prompt):
        return f"[{prompt}]"

    def encode(self, text):
        return [0, *map(ord, text)]

    def score(self, pairs):
        for prompt, continuation in pairs:
            length = len(self.encode(self.render(prompt))) + len(continuation) + 1
            is_long = self.context is not None and length >= self.context
            if not is_long:
                self.sent.append(length)
            yield None if is_long else -float(length)


def test_likelihoods_are_counted_as_they_are_asked_and_those_over_the_context_are_free(tmp_path, seeds):
    run(tmp_path, seeds, stages=("concepts", "rationales"))
    rows = read_jsonl(tmp_path / "rationales.jsonl")
    for row, more in zip(rows, (0, 5000, 0) * len(rows), strict=False):
        row["rationale"] += "." * more
    write_jsonl(tmp_path / "rationales.jsonl", rows)
    model = Lettered(4000)
    spending = Spending(tmp_path, 10**6)
    own, function = load("choose_rationales", seeds)
    before = spending.spent
    function(own, Context(tmp_path, 0, lambda name: model, spending=spending))
    used = read_usage(tmp_path)["chosen_rationales"]["m"]
    assert len(model.sent) == used.outcomes["used"] == 20
    assert used.outcomes["over the context"] == 10
    assert used.tokens == sum(model.sent) == spending.spent - before
    assert spending.under_way == 0


def test_a_torn_line_of_a_killed_run_does_not_stop_the_next(tmp_path, seeds):
    work = tmp_path / "work"
    run(work, seeds, stages=("concepts",))
    spent = Spending(work).spent
    with (work / "usage" / "concepts.jsonl").open("ab") as file:
        file.write(b'{"key": "x", "attem')
    (work / "chains.attempts.jsonl").write_bytes(b'{"broken\n{"id": "p", "run": 0, "prompt_tokens": 5}\n{"id"')
    assert Spending(work).spent == spent + 5
    run(work, seeds, stages=("concepts", "rationales"))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"m": {"input": 1}}, "prices: m: unknown 'input'; known: prompt, completion"),
        ({"m": {"prompt": -1}}, "prices: m: prompt -1"),
        ({"m": {"completion": "2"}}, "prices: m: completion '2'"),
        ({"m": {"prompt": float("nan")}}, "prices: m: prompt nan"),
        ({"m": {"prompt": None, "completion": 1}}, "prices: m: prompt None"),
        ({"m": {"prompt": 0.15}}, "prices: m: no completion; give prompt and completion, 0 for what costs nothing"),
        ({"m": {"completion": 0.6}}, "prices: m: no prompt"),
        ({"m": {"prompt": 1, "completion": 2}, "teacher": {}}, "prices: teacher: no prompt"),
    ],
)
def test_a_wrong_price_is_named(table, said):
    with pytest.raises(InputError, match=said):
        read_prices(table)


# -- the program ----------------------------------------------------------------------------------------------------


def synthesize(folder: Path, *flags: str, models: dict, stages: dict) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.synthesize", "--work_dir", str(folder), "--models", json.dumps(models)]
    command += ["--stages", json.dumps(stages), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=120)


def test_the_program_plans_stops_at_its_budget_and_goes_on(tmp_path, seeds, start_server):
    server = start_server()
    models = {"m": {"base_url": server.url, "served_model_name": "tiny", "context": 4096, "concurrency": 2}}
    stages = {"concepts": {"seeds": str(seeds), "model": "m", "k": 2, "max_tokens": 64}}
    prices = json.dumps({"m": {"prompt": 1, "completion": 2}})
    planned = synthesize(tmp_path / "w", "--dry_run", "True", "--prices", prices, models=models, stages=stages)
    assert planned.returncode == 0, planned.stderr
    assert "| concepts | m | 10 | 30 |" in planned.stdout
    assert not (tmp_path / "w").exists()

    stopped = synthesize(tmp_path / "w", "--budget_tokens", "700", models=models, stages=stages)
    assert stopped.returncode == 1
    assert "of 700 tokens are spent" in stopped.stderr
    assert "run the same command again" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    done = len(read_jsonl(tmp_path / "w" / "concepts.jsonl"))
    assert 0 < done < 10

    refused = synthesize(tmp_path / "w", "--budget_tokens", "700", models=models, stages=stages)
    assert refused.returncode == 2
    assert refused.stderr.count("error: --budget_tokens 700: ") == 1
    assert len(read_jsonl(tmp_path / "w" / "concepts.jsonl")) == done

    whole = synthesize(tmp_path / "w", "--budget_tokens", "100000", models=models, stages=stages)
    assert whole.returncode == 0, whole.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--budget_tokens", "0"], "--budget_tokens 0: must be at least 1"),
        (["--prices", '{"n": {"prompt": 1}}'], "prices: n: no such model; known: m, teacher"),
        (["--prices", "[]"], "--prices: expected a mapping"),
        (["--prices", '{"m": {"prompt": 0.15}}'], "prices: m: no completion"),
        (["--prices", '{"teacher": null}'], "prices: teacher: no prompt"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, seeds, flags, said):
    done = synthesize(
        tmp_path / "w", *flags, models={"m": {"base_url": "x", "served_model_name": "y"}}, stages={"report": {}}
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_samplers_chains_stop_at_the_budget(tmp_path, monkeypatch):
    """A stand-in for the sampling program writes its journal until it is told to stop."""
    from promptcot_mamba.synthesis import teacher

    program = tmp_path / "infer_longcot.py"
    program.write_text(
        "import json, signal, sys, time\n"
        "flags = dict(flag[2:].split('=', 1) for flag in sys.argv[1:])\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "for run in range(10_000):\n"
        "    row = dict(id='p', run=run, attempt=0, prompt_tokens=10, completion_tokens=90, format_valid=True)\n"
        "    with open(flags['output_path'].replace('.jsonl', '.attempts.jsonl'), 'a') as file:\n"
        "        file.write(json.dumps(row) + '\\n')\n"
        "    time.sleep(0.02)\n"
    )
    monkeypatch.setattr(teacher, "ROOT", tmp_path)
    monkeypatch.setattr(teacher, "WATCH_SECONDS", 0.2)
    work = tmp_path / "work"
    write_jsonl(work / "teacher_problems.jsonl", [{"id": "p", "prompt": "q"}])
    write_run_info(work / "teacher_problems.jsonl", {"seed": 0}, complete=True)
    context = Context(work, 0, lambda name: None, spending=Spending(work, 2000))
    chains = teacher.ChainSettings("t", max_len=500)
    with pytest.raises(BudgetSpentError, match="--budget_tokens 2000"):
        teacher.run_chains(chains, context)
    lines = len(read_jsonl(work / "chains.attempts.jsonl"))
    assert 20 <= lines < 1000
    assert context.spending.spent == 100 * lines
    with pytest.raises(InputError, match="--budget_tokens 2000"):
        teacher.run_chains(chains, Context(work, 0, lambda name: None, spending=Spending(work, 2000)))
