"""Rows in the shapes people have -> what the model sees: the trained tokens of every shape, decoded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from promptcot_mamba.chat_format import CHAT_TEMPLATE, MATH_INSTRUCTION, render_prompt
from promptcot_mamba.chat_markup import FAMILIES
from promptcot_mamba.data.conversation import Reading, own_template
from promptcot_mamba.data.dataset import make_rows
from promptcot_mamba.data.decontaminate import BenchmarkText
from promptcot_mamba.data.encode import encode_prompt
from promptcot_mamba.data.prepare import prepare_shards
from promptcot_mamba.data.rows import find_row_files, iter_examples
from promptcot_mamba.data.shards import ShardRows
from promptcot_mamba.data.sources import find_source, parse_sources
from promptcot_mamba.data.template import choose_template
from promptcot_mamba.data.tokens import build_store, open_store
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl
from tests.data.test_prepare import make_recipe
from tests.tiny import make_tokenizer

THOUGHT = "<think>\n2 + 2 = 4\n</think>\n\nIt is 4."
CHAT = [("user", "2+2?"), ("assistant", THOUGHT), ("user", "Times ten?"), ("assistant", "<think>\n40\n</think>\n\n40")]
MESSAGES = [{"role": role, "content": text} for role, text in CHAT]
SHAREGPT = [{"from": {"user": "human", "assistant": "gpt"}[role], "value": text} for role, text in CHAT]


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trained(tmp_path: Path, path: Path, tokenizer=None, **reading) -> list[tuple[str, str]]:
    """`(prompt, completion)` of each document as training reads it: decoded, and cut where the loss begins."""
    tokenizer = tokenizer or make_tokenizer()
    build_store(tmp_path / "store", find_row_files(path), tokenizer, Reading(**reading))
    store = open_store(tmp_path / "store")
    documents = []
    for number in range(len(store)):
        ids, cut = store.input_ids(number), store.prompt_lengths[number]
        assert ids[-1] == tokenizer.eos_token_id
        documents.append((tokenizer.decode(ids[:cut]), tokenizer.decode(ids[cut:-1])))
    return documents


def chatml(*turns: tuple[str, str]) -> str:
    text = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return f"{text}<|im_start|>assistant\n<think>\n"


EXPECTED = [
    (chatml(("user", "2+2?")), "2 + 2 = 4\n</think>\n\nIt is 4."),
    (chatml(("user", "2+2?"), ("assistant", "It is 4."), ("user", "Times ten?")), "40\n</think>\n\n40"),
]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": MESSAGES},
        {"conversations": SHAREGPT},
        {"conversations": MESSAGES},
        {"conversation": SHAREGPT},
        {"id": "0", "data": [message["content"] for message in MESSAGES]},  # UltraChat, as it was first published
    ],
)
def test_every_answer_is_an_example_as_sampling_would_meet_it(tmp_path, row):
    """Thoughts of earlier answers are gone, the loss is on one answer, the document ends where it ends."""
    assert trained(tmp_path, write(tmp_path / "a.jsonl", row)) == EXPECTED


def test_loss_on_the_last_answer_alone(tmp_path):
    assert trained(tmp_path, write(tmp_path / "a.jsonl", {"messages": MESSAGES}), loss_on="last") == EXPECTED[1:]


def test_prompt_and_completion_as_messages_train_the_completion_alone(tmp_path):
    row = {"prompt": MESSAGES[:3], "completion": MESSAGES[3:]}
    assert trained(tmp_path, write(tmp_path / "a.jsonl", row)) == EXPECTED[1:]


def test_system_turns_weights_reasoning_and_parts(tmp_path):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "2+2?"}]},
        {"role": "assistant", "content": "5", "weight": 0},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "No: 4", "reasoning_content": "2 + 2 = 4"},
    ]
    [(prompt, completion)] = trained(tmp_path, write(tmp_path / "a.jsonl", {"messages": messages}))
    assert prompt == chatml(("system", "Be brief."), ("user", "2+2?"), ("assistant", "5"), ("user", "Sure?"))
    assert completion == "2 + 2 = 4\n</think>\n\nNo: 4"


APART = {
    "messages": {"messages": [MESSAGES[0], {"role": "assistant", "content": "4", "reasoning": "2 and 2"}]},
    "parts": {"messages": [MESSAGES[0], {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "2 and 2"}, {"type": "text", "text": "4"}]}]},
    "a column": {"prompt": "2+2?", "response": "4", "reasoning_content": "2 and 2"},
    "Alpaca's": {"instruction": "2+2?", "input": "", "output": "4", "reasoning": "2 and 2"},
    "begin_of_thought": {"conversations": [
        {"from": "system", "value": "Think between <|begin_of_thought|> and <|end_of_thought|>."}, SHAREGPT[0],
        {"from": "gpt", "value": "<|begin_of_thought|>\n\n2 and 2\n\n<|end_of_thought|>\n\n"
                                 "<|begin_of_solution|>\n\n4\n\n<|end_of_solution|>"}]},
    "thinking": {"prompt": "2+2?", "completion": "<thinking>\n2 and 2\n</thinking>\n4"},
    "mistral": {"messages": [MESSAGES[0], {"role": "assistant", "content": "[THINK]2 and 2[/THINK]4"}]},
    "harmony": {"prompt": "2+2?", "completion": "<|channel|>analysis<|message|>2 and 2<|end|><|start|>assistant"
                                                "<|channel|>final<|message|>4<|return|>"},
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_a_thought_apart_or_in_other_marks_is_trained_as_a_thought(tmp_path, name):
    assert trained(tmp_path, write(tmp_path / "a.jsonl", APART[name])) == [
        (chatml(("user", "2+2?")), "2 and 2\n</think>\n\n4")
    ]


def test_a_thought_without_end_is_told(tmp_path, caplog):
    rows = [{"prompt": "2+2?", "completion": text} for text in (THOUGHT, THOUGHT.partition("</think>")[0], "4")]
    assert len(trained(tmp_path, write(tmp_path / "a.jsonl", *rows))) == 3
    assert "1 examples open a thought and never close it" in caplog.text


def test_what_is_read_beside_a_shape_is_told(tmp_path, caplog):
    list(iter_examples([write(tmp_path / "a.jsonl", APART["a column"] | {"system": None, "score": 1})]))
    assert "recognised prompt and response ({prompt, response}, and system, reasoning_content beside it)" in caplog.text


def test_a_switch_is_no_thought(tmp_path):
    row = {"prompt": "2+2?", "response": "4", "reasoning": "on"}
    assert trained(tmp_path, write(tmp_path / "a.jsonl", row)) == [(chatml(("user", "2+2?")), "\n</think>\n\n4")]


@pytest.mark.parametrize("row", [{"instruction": "2+2?", "output": THOUGHT}, {"prompt": "2+2?", "completion": THOUGHT}])
def test_a_system_turn_in_a_column_and_earlier_questions_are_kept(tmp_path, row):
    row |= {"system_prompt": "Be brief."}
    [(prompt, _)] = trained(tmp_path, write(tmp_path / "a.jsonl", row))
    assert prompt == chatml(("system", "Be brief."), ("user", "2+2?"))
    if "output" in row:
        (tmp_path / "again").mkdir()
        path = write(tmp_path / "b.jsonl", row | {"history": [["1+1?", "2"]]})
        [(prompt, _)] = trained(tmp_path / "again", path)
        assert prompt == chatml(("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"), ("user", "2+2?"))


def test_a_line_end_between_prompt_and_completion_stays_where_it_was_published(tmp_path):
    """PromptCoT 2.0 publishes ChatML up to `assistant` and completions that begin with the line end."""
    row = {"prompt": render_prompt("2+2?").removesuffix("\n<think>\n"), "completion": f"\n{THOUGHT}"}
    [(prompt, completion)] = trained(tmp_path, write(tmp_path / "a.jsonl", row))
    assert prompt + completion == row["prompt"] + row["completion"]


def test_alpaca_as_lines_and_as_an_array(tmp_path):
    rows = [{"instruction": "Add.", "input": "2, 2", "output": "4"}, {"instruction": "Hi", "input": "", "output": "Ho"}]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2))
    documents = trained(tmp_path, tmp_path / "a.json")
    assert documents == [
        (chatml(("user", "Add.\n\n2, 2")), "\n</think>\n\n4"),
        (chatml(("user", "Hi")), "\n</think>\n\nHo"),
    ]


def test_a_bare_prompt_is_rendered_a_rendered_one_kept(tmp_path):
    answer = "<think>\n10 + 2\n</think>\nIt is \\boxed{12}."
    bare = {"prompt": "Let A be 10 plus 2. Find A.", "completion": answer}
    rendered = bare | {"prompt": render_prompt(bare["prompt"])}
    documents = trained(tmp_path, write(tmp_path / "a.jsonl", bare, rendered))
    assert documents == [(render_prompt(bare["prompt"]), "10 + 2\n</think>\nIt is \\boxed{12}.")] * 2


@pytest.mark.parametrize(
    "said", ["put it in \\boxed{}", f"{MATH_INSTRUCTION}", "Answer as \\boxed{answer}.", "\\boxed{...}"]
)
def test_a_question_gets_no_second_box_instruction(tmp_path, said):
    row = {"prompt": f"Find A. {said}", "completion": "<think>\na\n</think>\n\\boxed{1}"}
    [(prompt, _)] = trained(tmp_path, write(tmp_path / "a.jsonl", row))
    assert prompt == chatml(("user", f"Find A. {said}"))


def test_the_flag_decides_in_doubt(tmp_path):
    row = {"prompt": "<|im_start|>user\nQ<|im_end|>\n", "completion": "A"}
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(InputError, match=r"a\.jsonl:1: the prompt begins as chatml .*--prompt_format rendered"):
        trained(tmp_path, path)
    assert trained(tmp_path, path, prompt_format="rendered") == [(row["prompt"], "A")]
    (tmp_path / "again").mkdir()
    assert trained(tmp_path / "again", path, prompt_format="bare")[0][0] == chatml(("user", row["prompt"].strip()))
    with pytest.raises(InputError, match="--prompt_format raw: expected one of auto, rendered, bare"):
        Reading(prompt_format="raw")


@pytest.mark.parametrize("family", FAMILIES)
def test_markup_of_other_formats_is_recognised_and_kept(tmp_path, family):
    from jinja2 import Template

    prompt = Template(FAMILIES[family].template).render(
        messages=[{"role": role, "content": text} for role, text in CHAT[:3]], add_generation_prompt=True
    )
    path = write(tmp_path / "a.jsonl", {"prompt": prompt, "completion": "40"})
    [example] = iter_examples([path])
    assert (example.prompt, example.completion) == (prompt, "40")
    assert [part.text.strip() for part in example.parts if not part.placed] == ["2+2?", "It is 4.", "Times ten?"]


BAD = [
    ({"messages": [*MESSAGES[:1], *MESSAGES[:1]]}, "turn 2 is user's, expected assistant's"),
    ({"messages": MESSAGES[1:2]}, "turn 1 is assistant's, expected user's"),
    ({"messages": MESSAGES[:1]}, "no turn is the assistant's"),
    ({"messages": []}, "the conversation is empty"),
    ({"messages": [MESSAGES[0], {"role": "tool", "content": "x"}]}, "turn 2: unknown role 'tool'; known: system"),
    ({"messages": [MESSAGES[0], {"role": "assistant", "content": " "}]}, "turn 2, assistant's, is empty"),
    ({"messages": [{"speaker": "me"}]}, "'messages', turn 1: expected {role, content} or {from, value}, found speaker"),
    ({"messages": "hello"}, "'messages' must be a list of"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "turn 1 holds something else than text"),
    ({"messages": [MESSAGES[0], {"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "turn 2 calls tools"),
    ({"conversations": [[SHAREGPT[0]]]}, "'conversations' must be a list of"),
    ({"instruction": "Q", "output": None}, "turn 2, assistant's, is empty"),
    ({"prompt": "q\ud800", "completion": "a"}, "holds lone surrogates"),
    ({"prompt": 5, "completion": "a"}, "'prompt' must be a text or a list of messages, found int"),
    ({"texts": "x", "label": 1}, "found texts, label; expected {prompt, completion}"),
    ({"data": ["q", 5]}, "column 'data' must be a list of texts, question and answer in turn"),
    ({"data": ["q"]}, "no turn is the assistant's"),
    ({"question": "q", "answer": "r"}, "(columns: {prompt: question, completion: answer}"),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "pairs of answers are trained with --objective dpo"),
    ({"instruction": "q", "output": "a", "history": "none"}, "column 'history' must be a list of [question, answer]"),
]


@pytest.mark.parametrize(("row", "complaint"), BAD)
def test_bad_rows_are_named_in_one_line(tmp_path, row, complaint):
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(InputError) as refused:
        trained(tmp_path, path)
    assert str(refused.value).startswith(f"{path}:1: ")
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "store").exists()


def test_a_saved_data_set_is_read_by_its_folder(tmp_path):
    from datasets import Dataset, DatasetDict

    rows = [{"messages": MESSAGES}, {"messages": MESSAGES[:2]}, {"messages": MESSAGES[2:]}]
    data = Dataset.from_list(rows)
    data.select([2, 0]).save_to_disk(tmp_path / "one")
    DatasetDict(train=data, test=data.select([0])).save_to_disk(tmp_path / "two")
    DatasetDict(a=data, b=data).save_to_disk(tmp_path / "three")
    assert len(list(iter_examples(find_row_files(tmp_path / "one")))) == 3
    assert len(list(iter_examples(find_row_files(tmp_path / "two")))) == 4
    with pytest.raises(InputError, match="has the splits a, b; name one of their folders"):
        find_row_files(tmp_path / "three")
    assert len(list(iter_examples(find_row_files(tmp_path / "three" / "b")))) == 4


def test_rows_of_several_shapes_may_share_a_file_in_both_programs(tmp_path):
    columns = {"from": [turn["from"] for turn in SHAREGPT], "value": [turn["value"] for turn in SHAREGPT]}
    rows = ({"messages": MESSAGES}, {"conversations": columns}, {"prompt": "2+2?", "completion": THOUGHT})
    path = write(tmp_path / "a.jsonl", *rows)
    assert trained(tmp_path, path) == [*EXPECTED, *EXPECTED, EXPECTED[0]]
    recipe = make_recipe({"a": {"adapter": "generic", "path": str(path)}}, near_duplicate_threshold=0)
    result = prepare_shards(recipe, tmp_path / "out", tokenizer=make_tokenizer(), tokenizer_path="t", problems=[])
    assert result.manifest["counts"]["documents"] == 2  # the others are equal to one of them
    assert result.tallies["a"]["dropped"] == {"exact_duplicate": 3}


def test_a_problem_is_found_in_a_system_turn_and_in_an_earlier_answer(tmp_path):
    """What is no question and no answer under the loss is trained on all the same, as context."""
    asked = "Find the least number of marbles that Xenia and Sergey can share among seven boxes of different colours."
    turns = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    rows = []
    for at in (None, 0, 2):
        said = [dict(turn) for turn in turns]
        said[-1]["content"] += f" {at}"
        if at is not None:
            said[at]["content"] = f"The task: {asked} Go on."
        rows.append({"messages": said})
    path = write(tmp_path / "a.jsonl", *rows)
    recipe = make_recipe({"a": {"adapter": "generic", "path": str(path)}}, near_duplicate_threshold=0, loss_on="last")
    problems = [BenchmarkText("bench", "7", asked)]
    result = prepare_shards(recipe, tmp_path / "out", tokenizer=make_tokenizer(), tokenizer_path="t", problems=problems)
    assert result.tallies["a"]["dropped"] == {"contaminated": 2}
    found = [(hit["row"], hit["problem"], hit["kind"]) for hit in read_jsonl(tmp_path / "out/contaminated.jsonl")]
    assert found == [("a.jsonl:2", "7", "prompt"), ("a.jsonl:3", "7", "completion")]


def test_preparation_reads_a_saved_data_set_as_training_does(tmp_path):
    from datasets import Dataset, DatasetDict

    data = Dataset.from_list([{"messages": MESSAGES}, {"messages": MESSAGES[:2]}])
    DatasetDict(train=data, test=data.select([0])).save_to_disk(tmp_path / "two")
    DatasetDict(a=data, b=data).save_to_disk(tmp_path / "three")
    assert find_source(spec_of(tmp_path / "two"), None).files == find_row_files(tmp_path / "two")
    with pytest.raises(InputError, match="has the splits a, b; name one of their folders"):
        find_source(spec_of(tmp_path / "three"), None)


def test_preparation_reads_a_downloaded_folder_as_training_does(tmp_path):
    """Split by split as the hub has it, one folder down, beside its notes."""
    for split in ("train", "test"):
        write(tmp_path / f"{split}-00000-of-00001.jsonl", {"messages": MESSAGES})
    (tmp_path / "data").mkdir()
    for path in tmp_path.glob("*.jsonl"):
        path.rename(tmp_path / "data" / path.name)
    (tmp_path / "dataset_infos.json").write_text("{}")
    found = find_row_files(tmp_path)
    assert [path.name for path in found] == ["train-00000-of-00001.jsonl"]
    assert find_source(spec_of(tmp_path), None).files == found


def spec_of(path: Path):
    return parse_sources({"a": {"adapter": "generic", "path": str(path)}})[0]


def test_columns_of_a_published_set_are_told_its_adapter(tmp_path):
    path = write(tmp_path / "a.jsonl", {"problem": "p", "generated_solution": "s"})
    with pytest.raises(InputError, match=r"found problem, generated_solution.*adapter openmathreasoning reads these"):
        find_source(spec_of(path), None)
    told = r"columns: \{prompt: problem, completion: generated_solution\}.*adapter openmathreasoning reads these"
    with pytest.raises(InputError, match=told):
        list(iter_examples([path]))


def test_a_hub_name_without_network_says_how_to_go_on(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"someone/their-data: the hub cannot be reached .*--local-dir"):
        find_row_files("someone/their-data")


FILES = {
    "bare": {"prompt": "Find A.", "completion": "<think>\na\n</think>\nIt is \\boxed{1}."},
    "rendered": {"prompt": render_prompt("Find A."), "completion": "<think>\na\n</think>\nIt is \\boxed{1}."},
    "deepseek": {
        "prompt": "<\uff5cbegin\u2581of\u2581sentence\uff5c>Reason.<\uff5cUser\uff5c>Find A.<\uff5cAssistant\uff5c>",
        "completion": "<think>\na\n</think>\nIt is \\boxed{1}.",
    },
    "messages": {"messages": MESSAGES},
    "alpaca": {"instruction": "Add.", "input": "2, 2", "output": "4"},
}


@pytest.mark.parametrize("name", FILES)
def test_a_row_means_the_same_in_training_and_in_preparing(tmp_path, name):
    tokenizer = make_tokenizer()
    path = write(tmp_path / "a.jsonl", FILES[name])
    build_store(tmp_path / "store", [path], tokenizer)
    store = open_store(tmp_path / "store")
    direct = make_rows(store, 512, packing=False)
    recipe = make_recipe({"a": {"adapter": "generic", "path": str(path)}}, max_length=512, max_tokens=512, min_tokens=2)
    prepare_shards(recipe, tmp_path / "out", tokenizer=tokenizer, tokenizer_path="t", problems=[])
    shards = ShardRows(tmp_path / "out")
    packed = [shards[row] for row in range(len(shards))]
    documents = [
        (ids.tolist(), labels.tolist())
        for row in packed
        for ids, labels in zip(
            np.split(row["input_ids"], np.cumsum(row["lengths"])[:-1]),
            np.split(row["labels"], np.cumsum(row["lengths"])[:-1]),
            strict=True,
        )
    ]
    assert sorted(documents) == sorted((row["input_ids"].tolist(), row["labels"].tolist()) for row in direct)
    assert choose_template(shards, tokenizer) == choose_template(direct, tokenizer)


def test_chat_sampling_and_training_agree(tmp_path):
    """The template that a checkpoint is saved with writes what was trained, and so does what sampling starts from."""
    tokenizer = make_tokenizer()
    build_store(tmp_path / "store", [write(tmp_path / "a.jsonl", FILES["bare"])], tokenizer)
    store = open_store(tmp_path / "store")
    tokenizer.chat_template = choose_template(store, tokenizer)
    question = f"Find A.\n{MATH_INSTRUCTION}"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
    trained_ids = store.input_ids(0)[: store.prompt_lengths[0]].tolist()
    assert trained_ids == list(chat["input_ids"]) == encode_prompt(tokenizer, render_prompt("Find A."))


OWN = (
    "{% for m in messages %}{{ '[[' + m['role'] + ']] ' + m['content'] + ' ;;\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[[bot]] ' }}{% endif %}"
)


def test_a_users_own_template_survives_where_it_was_used(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = OWN
    own = own_template(tokenizer)
    prompt = "[[user]] Find A. ;;\n[[bot]] "
    assert own.find(prompt).turns[0].text == "Find A."
    for name, row, template in (
        ("used", {"prompt": prompt, "completion": "<think>\na\n</think>\n1"}, OWN),
        ("unused", FILES["bare"], CHAT_TEMPLATE),
        ("other", FILES["deepseek"], FAMILIES["deepseek"].template),
    ):
        build_store(tmp_path / name, [write(tmp_path / f"{name}.jsonl", row)], tokenizer)
        store = open_store(tmp_path / name)
        assert choose_template(store, tokenizer) == template
        if name == "used":
            assert tokenizer.decode(store.input_ids(0)[: store.prompt_lengths[0]]) == prompt


def test_a_published_template_is_kept_where_it_writes_these_prompts(tmp_path):
    tokenizer = make_tokenizer()
    published = FAMILIES["deepseek"].template + "{# the publisher's own #}"
    tokenizer.chat_template = published
    build_store(tmp_path / "store", [write(tmp_path / "a.jsonl", FILES["deepseek"])], tokenizer)
    assert choose_template(open_store(tmp_path / "store"), tokenizer) == published


def test_text_of_an_unknown_format_saves_no_template(tmp_path):
    tokenizer = make_tokenizer()
    path = write(tmp_path / "a.jsonl", {"prompt": "Q: Find A. A:", "completion": "1"})
    build_store(tmp_path / "store", [path], tokenizer, Reading(prompt_format="rendered"))
    assert choose_template(open_store(tmp_path / "store"), tokenizer) is None
