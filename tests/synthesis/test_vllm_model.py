"""Stages on a real engine: log-probabilities equal transformers', every model stage runs with random weights."""

from __future__ import annotations

import pytest
import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.synthesis import STAGES
from promptcot_mamba.synthesis.models import ModelBook
from promptcot_mamba.synthesis.stage import Context, read_run_info
from promptcot_mamba.synthesis.templates import load_format, mark_up
from tests.tiny import make_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
def models(folder):
    settings = {"model_path": str(folder), "chat_template": False, "context": 1024, "dtype": "float32"}
    book = ModelBook({"generator": {**settings, "max_num_seqs": 4}})
    yield book
    book.close()


def test_log_likelihoods_equal_transformers(folder, models):
    from transformers import AutoTokenizer, Mamba2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    reference = Mamba2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    pairs = [
        (load_format().render_problem(["gcd"] * i, "easy"), mark_up("why " * 5 * i, f"find {i}")) for i in range(1, 12)
    ]
    scores = list(models("generator").score(pairs))
    for (prompt, continuation), score in zip(pairs, scores, strict=True):
        start = tokenizer(prompt)["input_ids"]
        ids = [*start, *tokenizer(continuation, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            log_p = reference(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(float(log_p[i - 1, ids[i]]) for i in range(len(start), len(ids)))
        assert score == pytest.approx(expected, abs=1e-3)


def run_stage(context: Context, stage: str, **values) -> None:
    settings_class, function = STAGES[stage].load()
    function(settings_class(**values), context)


def test_every_model_stage_runs_on_the_engine(tmp_path, models):
    """A random model writes noise that seldom ends: it is refused and counted; what is scored or judged is kept."""
    context = Context(tmp_path, 0, models)
    count = 3
    problems = [
        {"problem": f"Find {i}.", "concepts": ["digit sum", f"remainder by {i}"], "level": "easy", "key": f"k{i}"}
        for i in range(count)
    ]
    write_jsonl(tmp_path / "seeds.jsonl", problems)
    short = {"max_tokens": 40, "attempts": 1}
    for stage, values, made in (
        ("concepts", {"seeds": str(tmp_path / "seeds.jsonl")}, "concepts"),
        ("problems", {}, "problems"),
        ("code_inputs", {}, "code_inputs"),
        ("rationales", {"candidates": 1, "min_words": 1000}, "rationales"),
    ):
        for name in {"concepts", "concept_sets", "kept_problems"} - {made}:
            write_jsonl(tmp_path / f"{name}.jsonl", problems)
        with pytest.raises(InputError, match=rf"{made}\.jsonl: no rows survived this stage \(tasks {count}"):
            run_stage(context, stage, model="generator", **values, **short)
        rejected = read_jsonl(tmp_path / f"{made}.rejected.jsonl")
        assert len(rejected) == count
        assert len({row["reply"] for row in rejected}) == count  # each drawn apart
        for path in (*tmp_path.glob(f"{made}.*"), tmp_path / "concepts.jsonl"):
            path.unlink(missing_ok=True)

    thoughts = ["Take digits and divide.", "the quick brown fox"]
    rationales = [
        {**row, "key": f"{row['key']}/{i}", "problem_key": row["key"], "rationale": text}
        for row in problems
        for i, text in enumerate(thoughts)
    ]
    write_jsonl(tmp_path / "rationales.jsonl", rationales)
    run_stage(context, "choose_rationales", model="generator")
    chosen = context.read("chosen_rationales")
    assert {row["problem_key"] for row in chosen} == {row["problem_key"] for row in rationales}
    pairs = [
        (load_format().render_problem(row["concepts"], "easy"), mark_up(row["rationale"], row["problem"]))
        for row in rationales
    ]
    scores = list(models("generator").score(pairs))
    assert [row["log_likelihood"] for row in chosen] == pytest.approx(
        [max(scores[2 * i : 2 * i + 2]) for i in range(count)], abs=1e-4
    )

    texts = [{**row, "text": mark_up("because", row["problem"])} for row in problems]
    write_jsonl(tmp_path / "problems.jsonl", texts)
    run_stage(context, "judge", models=["generator"], **short)
    assert [row["verdicts"] for row in context.read("judgements")] == [{"generator": "unparseable"}] * count
    assert read_run_info(tmp_path / "judgements.jsonl")["complete"]
