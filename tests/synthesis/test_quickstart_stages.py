"""The quickstart family's stages: seeds read exactly, every flaw found, and a real engine whose words decide."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path

import pytest

from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.quickstart.arithmetic import make_chain
from promptcot_mamba.quickstart.solver import solve
from promptcot_mamba.quickstart.splits import draw_training_rows, is_held_out
from promptcot_mamba.quickstart.synthesis import CONCEPT_NAMES, FLAWS, LEVEL, find_flaw, name_concepts
from promptcot_mamba.synthesis import STAGES
from promptcot_mamba.synthesis.models import ModelBook
from promptcot_mamba.synthesis.replies import read_pair
from promptcot_mamba.synthesis.stage import Context, settings_from
from promptcot_mamba.synthesis.templates import load_format, mark_up

GOOD = "Let A be 47 plus 38. Let B be A minus 5. Find B."


def run(folder: Path, stages: dict, open_model=lambda name: None, seed: int = 0) -> None:
    context = Context(folder, seed, open_model)
    for name, values in stages.items():
        settings_class, function = STAGES[name].load()
        function(settings_from(settings_class, values, name), context)


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    rows = draw_training_rows({"quickstart_composed": 60}, "phase2", seed=1)
    questions = dict.fromkeys(extract_question(row["prompt"]) for row in rows)
    path = tmp_path / "seeds.jsonl"
    write_jsonl(path, ({"problem": question} for question in questions))
    return path


def test_seeds_become_concepts_rationales_and_generator_rows(tmp_path: Path, seeds: Path):
    work = tmp_path / "work"
    run(work, {"quickstart_seeds": {"seeds": str(seeds)}, "generator_data": {}})
    problems = [row["problem"] for row in read_jsonl(seeds)]
    rows = read_jsonl(work / "concepts.jsonl")
    assert [row["problem"] for row in rows] == problems
    for row, written in zip(rows, read_jsonl(work / "generator_sft.jsonl"), strict=True):
        chain = solve(row["problem"])
        assert len(row["concepts"]) == len(chain.steps)
        rationale, problem = read_pair(written["completion"])
        assert (rationale, problem) == (chain.thought, row["problem"])
        assert all(concept in written["prompt"] for concept in row["concepts"])
        # no seed has a flaw but that of being one
        assert find_flaw(problem, rationale, row["concepts"], set()) is None
        assert find_flaw(problem, rationale, row["concepts"], set(problems)) == "copy"


def test_a_seed_of_another_family_is_refused_by_its_line(tmp_path: Path):
    path = tmp_path / "seeds.jsonl"
    write_jsonl(path, [{"problem": GOOD}, {"problem": "What is 2 + 2?"}])
    with pytest.raises(InputError, match=r"seeds\.jsonl:2: not a problem of the quickstart's maths family"):
        run(tmp_path / "work", {"quickstart_seeds": {"seeds": str(path)}})


def test_concept_sets_of_both_sizes_hold_no_concept_twice(tmp_path: Path, seeds: Path):
    work = tmp_path / "work"
    run(work, {"quickstart_seeds": {"seeds": str(seeds)}, "quickstart_concept_sets": {"count": 30}})
    rows = read_jsonl(work / "concept_sets.jsonl")
    assert len({row["key"] for row in rows}) == len(rows)
    sizes = [len(row["concepts"]) for row in rows]
    assert {size: sizes.count(size) for size in sizes} == {2: 30, 3: 30}
    assert all(len(set(row["concepts"])) == len(row["concepts"]) for row in rows)
    assert json.loads((work / "concept_sets.run.json").read_text())["unlike_the_seeds"] > 0


def reserved_question() -> str:
    """The first question of this form that is on the test's side by its hash."""
    questions = (f"Let A be {n} plus 38. Let B be A minus 5. Find B." for n in range(60))
    return next(question for question in questions if is_held_out(question))


FLAWED = {
    "format": ["", "Find B.", GOOD.replace("minus", "less"), f"{GOOD} Find A."],
    "solvability": [GOOD.replace("minus 5", "minus 99"), GOOD.replace("A minus", "C minus")],
    "difficulty": [
        GOOD.replace("47 plus", "470 plus"),
        GOOD.replace("A minus 5", "9 minus 5"),
        GOOD.replace("Find B", "Find A"),
    ],
    "coverage": ["Let A be 47 plus 38. Let B be A plus 5. Find B.", "Let A be 47 plus 38. Find A."],
    "reserved": [reserved_question()],
    "copy": ["Let A be 47 plus 38. Let B be A minus 7. Find B."],
}


@pytest.mark.parametrize(("flaw", "problem"), [(flaw, problem) for flaw, group in FLAWED.items() for problem in group])
def test_the_judge_names_the_flaw(flaw: str, problem: str):
    seeds = set(FLAWED["copy"])
    rationale = solve(problem).thought if flaw in ("reserved", "copy") else ""
    assert find_flaw(problem, rationale, ["subtraction", "addition"], seeds) == flaw
    assert set(FLAWED) | {"accuracy"} == set(FLAWS)


def test_the_judge_works_out_the_rationale_and_refuses_pairs_kept_for_the_test():
    concepts, thought = ["addition", "subtraction"], solve(GOOD).thought
    assert find_flaw(GOOD, thought, concepts, ()) is None
    assert find_flaw(GOOD, thought.replace("80", "81"), concepts, ()) == "accuracy"
    for n in range(10, 20):  # addition, then a digit sum: never shown in training
        problem = f"Let A be {n} plus 38. Let B be the digit sum of A. Find B."
        assert find_flaw(problem, solve(problem).thought, name_concepts(solve(problem)), ()) == "reserved"


def test_a_problem_of_the_cold_start_is_a_copy_too(tmp_path: Path, seeds: Path):
    """A study's generator has seen problems beside those whose concepts it is asked for."""
    work, known = tmp_path / "work", tmp_path / "known.jsonl"
    run(work, {"quickstart_seeds": {"seeds": str(seeds)}})
    row = {"key": "a", "problem": GOOD, "rationale": solve(GOOD).thought, "concepts": name_concepts(solve(GOOD))}
    write_jsonl(work / "problems.jsonl", [row])
    write_jsonl(known, [{"problem": GOOD}])
    for settings, flaw in (({}, None), ({"known": str(known)}, "copy")):
        run(work, {"quickstart_judge": settings})
        assert read_jsonl(work / "judgements.jsonl")[0]["flaw"] == flaw
        for path in work.glob("judgements*"):
            path.unlink()


def write_as_an_author(concepts: list[str]) -> str | None:
    """A problem of these concepts without flaw; None where tries find none (a pair kept for the test)."""
    rng = random.Random(len(concepts))
    kinds = [
        next(kind for kind, name in CONCEPT_NAMES.items() if concept.startswith(name[:-2])) for concept in concepts
    ]
    tries = (make_chain(rng, tuple(kinds)) for _ in range(1000))
    for exercise in filter(None, tries):
        if find_flaw(exercise.question, exercise.thought, concepts, ()) is None:
            return exercise.question
    return None


def memorise(pairs: list[tuple[str, str]], folder: Path) -> Path:
    """A checkpoint that answers these prompts with these completions, greedily."""
    import torch
    from transformers import Mamba2Config

    from promptcot_mamba.data.encode import encode_examples
    from promptcot_mamba.model import Mamba2ForCausalLM
    from promptcot_mamba.quickstart.base import train_tokenizer

    tokenizer = train_tokenizer([text for pair in pairs for text in pair], 700)
    config = Mamba2Config(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, head_dim=32, num_heads=4, state_size=16,
        n_groups=1, chunk_size=32, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Mamba2ForCausalLM(config)
    documents = encode_examples(tokenizer, pairs)
    lengths = [len(document.input_ids) for document in documents]
    batch = {
        "input_ids": torch.tensor([[token for document in documents for token in document.input_ids]]),
        "labels": torch.tensor([[label for document in documents for label in document.labels]]),
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(400):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.005:
            break
    assert loss.item() < 0.02, "the test's model has not memorised its replies"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_engine_that_writes_problems_is_judged_and_filtered_exactly(tmp_path: Path, seeds: Path):
    """The generator knows a good problem for some sets, a flawed one for others: vLLM's words decide what is kept."""
    work = tmp_path / "work"
    run(work, {"quickstart_seeds": {"seeds": str(seeds)}, "quickstart_concept_sets": {"count": 12}})
    written = {}
    for row in read_jsonl(work / "concept_sets.jsonl"):
        problem = write_as_an_author(row["concepts"])
        if problem is not None:
            written[tuple(row["concepts"])] = problem
    written = dict(islice(written.items(), 8))
    assert len(written) == 8
    rows = [row for row in read_jsonl(work / "concept_sets.jsonl") if tuple(row["concepts"]) in written]
    write_jsonl(work / "concept_sets.jsonl", rows)

    replies, expected = [], {}
    for number, (concepts, problem) in enumerate(written.items()):
        thought = solve(problem).thought
        reply, flaw = [
            (mark_up(thought, problem), None),
            (mark_up(thought, problem.replace("Let", "Set")), "format"),
            (mark_up(thought.replace("=", ">"), problem), "accuracy"),
            (mark_up(thought, problem).removesuffix("</problem>"), "no markup"),
        ][number % 4]
        replies.append((load_format().render_problem(concepts, LEVEL), reply))
        expected[concepts] = flaw
    generator = memorise(replies, tmp_path / "generator")
    settings = {"model_path": str(generator), "temperature": 0.0, "chat_template": False, "context": 512}
    book = ModelBook({"generator": {**settings, "dtype": "float32", "max_num_seqs": 8}})
    stages = {
        "problems": {"model": "generator", "max_tokens": 256},
        "quickstart_judge": {},
        "filter": {"allow_no_benchmarks": True, "near_duplicates": 1.0},
        "teacher_problems": {},
    }
    try:
        run(work, stages, book)
    finally:
        book.close()

    judged = {tuple(row["concepts"]): row["flaw"] for row in read_jsonl(work / "judgements.jsonl")}
    assert judged == {concepts: flaw for concepts, flaw in expected.items() if flaw != "no markup"}
    refused = read_jsonl(work / "problems.rejected.jsonl")
    assert {tuple(row["concepts"]) for row in refused} == {key for key, flaw in expected.items() if flaw == "no markup"}
    kept = {tuple(row["concepts"]): row["question"] for row in read_jsonl(work / "teacher_problems.jsonl")}
    assert kept == {concepts: written[concepts] for concepts, flaw in expected.items() if flaw is None}
    info = json.loads((work / "judgements.run.json").read_text())
    assert info["flaws"] == {"format": 2, "accuracy": 2}
