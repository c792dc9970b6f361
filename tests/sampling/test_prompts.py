r"""What is sent: the row's prompt, its question in our format, or a model's own template; no `\boxed{}` on code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from promptcot_mamba.benchmarks import BENCHMARKS
from promptcot_mamba.benchmarks.humaneval import INSTRUCTION
from promptcot_mamba.chat_format import MATH_INSTRUCTION, render_prompt
from promptcot_mamba.checkpoint import load_tokenizer
from promptcot_mamba.data.encode import encode_examples
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, write_jsonl
from promptcot_mamba.records import Problem
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.decode import special_tokens
from promptcot_mamba.sampling.plan import make_plan
from promptcot_mamba.sampling.prompts import PromptBook, user_message
from tests.tiny import make_tokenizer

HEAD = '\n\ndef double(x):\n    """Twice x."""\n'
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ messages[-1]['content'] }}"
)


def problem(**row: object) -> Problem:
    return Problem("p/1", row.get("prompt"), {"idx": 1, "source": "math", **row})


def asked(name: str, raw: Row) -> Problem:
    """A problem as `scripts.prepare_problems` writes it from a publisher's row."""
    row = BENCHMARKS[name].publisher.forms[0].convert(raw, 0)
    return Problem("p", row["prompt"], row)


MATHS = asked("math500", {"problem": "What is $1+1$?", "solution": "Add.", "answer": "2"})
FUNCTION = asked(
    "humaneval",
    {"task_id": "HumanEval/0", "prompt": HEAD, "entry_point": "double", "canonical_solution": "", "test": ""},
)
# Rows of earlier versions and of the release: no instruction, the words stand in the prompt alone.
OLD_FUNCTION = problem(
    source="humaneval", prompt=FUNCTION.prompt, question=HEAD, entry_point="double", task_id="HumanEval/0"
)
FOREIGN = (
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>Please reason step by step, and put your final answer within \\boxed{{}}."
    "<\uff5cUser\uff5c>What is $1+1$?<\uff5cAssistant\uff5c>"
)
LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
    f"<|end_header_id|>\n\nWhat is $1+1$?\n{MATH_INSTRUCTION}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


@pytest.mark.parametrize(
    ("one", "source", "said"),
    [
        (MATHS, "auto", f"What is $1+1$?\n{MATH_INSTRUCTION}"),
        (MATHS, "question", f"What is $1+1$?\n{MATH_INSTRUCTION}"),
        (MATHS, "prompt", f"What is $1+1$?\n{MATH_INSTRUCTION}"),
        (problem(prompt=render_prompt("What is $1+1$?")), "auto", f"What is $1+1$?\n{MATH_INSTRUCTION}"),
        (problem(prompt=FOREIGN), "auto", f"What is $1+1$?\n{MATH_INSTRUCTION}"),
        (problem(prompt=LLAMA), "auto", f"What is $1+1$?\n{MATH_INSTRUCTION}"),
        (problem(prompt="<s>[INST] Say hello. [/INST]"), "auto", "Say hello."),
        (problem(question="What is $1+1$?"), "auto", f"What is $1+1$?\n{MATH_INSTRUCTION}"),
        (problem(question="1+1", instruction="Say only the number."), "auto", "1+1\nSay only the number."),
        (problem(prompt="Say hello."), "auto", "Say hello."),
        (FUNCTION, "auto", INSTRUCTION.replace("{question}", HEAD.strip("\n"))),
        (FUNCTION, "question", INSTRUCTION.replace("{question}", HEAD.strip("\n"))),
        (FUNCTION, "prompt", INSTRUCTION.replace("{question}", HEAD.strip("\n"))),
        (OLD_FUNCTION, "auto", INSTRUCTION.replace("{question}", HEAD.strip("\n"))),
        (problem(prompt=HEAD, entry_point="double"), "auto", INSTRUCTION.replace("{question}", HEAD.strip("\n"))),
        (problem(prompt=f"Write it.{HEAD}", entry_point="double"), "auto", f"Write it.{HEAD}".strip()),
        (OLD_FUNCTION, "question", INSTRUCTION.replace("{question}", HEAD.strip("\n"))),
    ],
)
def test_what_the_user_says(one: Problem, source: str, said: str):
    assert user_message(one, source) == said
    if "entry_point" in one.fields:
        assert "boxed" not in said


def test_a_question_of_code_alone_asks_for_a_program():
    said = user_message(problem(source="livecodebench", question="Add one to N."))
    assert said.startswith("Add one to N.\n\nRead the inputs from stdin")
    assert "boxed" not in said
    assert "boxed" not in user_message(problem(source="mine", question="Add one.", tests=[["1", "2"]]))


def test_a_function_keeps_its_words_whatever_renders_it():
    book = PromptBook([FUNCTION, OLD_FUNCTION], make_tokenizer(), source="question")
    assert book.text(0) == book.text(1) == FUNCTION.prompt
    assert book.describe()["template"] == "promptcot"
    assert PromptBook([FUNCTION], make_tokenizer()).describe()["template"] == "file"


FEW_SHOT = (
    f"<|im_start|>user\nWhat is $1+1$?\n{MATH_INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
    "<|im_start|>user\nWhat is $2+2$?<|im_end|>\n<|im_start|>assistant\n<think>\n"
)
SHOWN = [
    {"role": "user", "content": f"What is $1+1$?\n{MATH_INSTRUCTION}"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "What is $2+2$?"},
]
BRIEF = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": f"What is $1+1$?\n{MATH_INSTRUCTION}"}


@pytest.mark.parametrize(
    ("prompt", "system", "messages"),
    [
        (FEW_SHOT, None, SHOWN),
        (f"<|im_start|>system\nBe brief.<|im_end|>\n{FEW_SHOT}", None, [BRIEF, *SHOWN]),
        (f"<|im_start|>system\nBe long.<|im_end|>\n{FEW_SHOT}", "Be brief.", [BRIEF, *SHOWN]),
        (f"<|im_start|>system\nBe long.<|im_end|>\n{FEW_SHOT}", "", SHOWN),
        (LLAMA, None, [BRIEF, ASKED]),
        (FOREIGN, None, [ASKED]),  # what its system turn says is said in the user's
        (FOREIGN.replace("Please", "Be brief.\nPlease"), None, [BRIEF, ASKED]),
        (f"{LLAMA}<think>\n\n</think>\n\n", None, [BRIEF, ASKED]),
        ("Say hello.", None, [{"role": "user", "content": "Say hello."}]),
    ],
)
def test_what_a_written_prompt_says_before_its_question_is_said(prompt: str, system: str | None, messages: list[dict]):
    """To a server that renders the turns, and in the tokenizer's own template."""
    assert PromptBook([problem(prompt=prompt)], None, system_prompt=system).messages(0) == messages
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML
    book = PromptBook([problem(prompt=prompt)], tokenizer, use_chat_template=True, system_prompt=system)
    turns = "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in messages)
    assert book.text(0) == f"{turns}<|im_start|>assistant\n"


def test_a_question_of_its_own_is_asked_without_the_written_prompts_turns():
    one = problem(prompt=FEW_SHOT, question="3+3?", instruction="")
    asked = [{"role": "user", "content": "3+3?"}]
    assert PromptBook([one], None).messages(0) == asked
    assert (
        PromptBook([problem(prompt=FEW_SHOT, question="3+3?", instruction="")], None, source="prompt").messages(0)
        == SHOWN
    )


def test_a_row_says_all_that_a_chat_server_is_asked():
    book = PromptBook([problem(prompt=FEW_SHOT), problem(prompt=LLAMA), MATHS], None)
    assert book.spoken(0).endswith("assistant: 2\n\nuser: What is $2+2$?")
    assert book.spoken(1) == f"system: Be brief.\n\nuser: {ASKED['content']}"
    assert book.spoken(2) == ASKED["content"]
    told = PromptBook([MATHS], None, system_prompt="Be brief.")
    assert told.spoken(0) == ASKED["content"]  # the row's `sent` has the system prompt


@pytest.mark.parametrize("begun", ["It is", "<|im_end|>\n<|im_start|>tool\n{}"])
@pytest.mark.parametrize("flags", [{"use_chat_template": True}, {"api": "chat", "base_url": ["http://127.0.0.1:1/v1"]}])
def test_a_prompt_that_no_template_can_write_is_named_before_anything_is_sampled(
    begun: str, flags: dict, checkpoint: Path, tmp_path: Path
):
    """A template would drop what the answer begins with."""
    one = problem(prompt=FEW_SHOT + begun)
    write_jsonl(tmp_path / "p.jsonl", [MATHS.fields, {**one.fields, "id": "p/1"}])
    paths = {"data_path": str(tmp_path / "p.jsonl"), "output_path": str(tmp_path / "x.jsonl")}
    with pytest.raises(InputError, match=r"problem 'p/1': its prompt is no chat .* give its 'question'.* as it stands"):
        make_plan(SamplingArguments(model_path=str(checkpoint), **paths, **flags))
    plan = make_plan(SamplingArguments(model_path=str(checkpoint), **paths))
    assert plan.prompts.text(1) == FEW_SHOT + begun


def test_a_template_that_refuses_a_prompts_own_system_turn_says_whose_it_is():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    book = PromptBook([problem(prompt=LLAMA)], tokenizer, use_chat_template=True)
    with pytest.raises(InputError, match=r"problem 'p/1'.*System role not supported.*its prompt's.*--system_prompt ''"):
        book.text(0)


def with_template(template: str | dict | None, **options: object) -> PromptBook:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return PromptBook([MATHS, FUNCTION], tokenizer, use_chat_template=True, **options)


def test_the_models_own_template_is_used_and_told():
    book = with_template(CHATML, system_prompt="Be brief.")
    said = f"What is $1+1$?\n{MATH_INSTRUCTION}"
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert book.text(0) == f"{system}<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
    assert "boxed" not in book.text(1)
    assert book.messages(0) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": said}]
    described = book.describe()
    assert described["template"].startswith("tokenizer:")
    assert (described["system"], described["template_args"]) == ("Be brief.", {})
    assert book.template_text == CHATML
    text, ids = book.get(0)
    assert ids == make_tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_a_template_is_given_its_arguments():
    book = with_template(CHATML, template_args={"enable_thinking": False})
    assert book.text(0).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert book.describe()["template_args"] == {"enable_thinking": False}
    assert with_template({"default": CHATML, "tool_use": "x"}).template_text == CHATML


@pytest.mark.parametrize(
    ("template", "args", "message"),
    [
        (CHATML, {"thinking": True}, r"does not read thinking; it reads enable_thinking; .*or '\{\}'"),  # DeepSeek's
        (CHATML, {"enable_thinking": True, "think": 1, "a": 1}, "does not read a, think; it reads enable_thinking"),
        (CHATML, {"continue_final_message": True}, "does not read continue_final_message"),
        (CHATML, {"chat_template": "x"}, "does not read chat_template"),
        (CHATML, {"add_generation_prompt": False}, "does not read add_generation_prompt"),
        (NO_SYSTEM, {"enable_thinking": True}, "it reads nothing"),
        ("{% if %}", {"enable_thinking": True}, "the chat template cannot be read"),
    ],
)
def test_arguments_that_a_template_would_drop_are_refused(template: str, args: dict, message: str):
    """Jinja drops them, so that no prompt would have what its row says."""
    with pytest.raises(InputError, match=message):
        with_template(template, template_args=args)


@pytest.mark.parametrize(
    "reads",
    [
        "{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}{{ enable_thinking }}",
        "{% set enable_thinking = enable_thinking | default(true) %}{% generation %}{% endgeneration %}",
        "{% macro end() %}{{ enable_thinking }}{% endmacro %}{% for m in messages %}{% break %}{% endfor %}{{ end() }}",
    ],
)
def test_arguments_are_found_wherever_a_template_reads_them(reads: str):
    asks = CHATML.partition("{{ '<|im_start|>assistant")[0]
    assert "What is $1+1$?" in with_template(reads + asks, template_args={"enable_thinking": True}).text(0)


# As Idefics3's and SmolVLM's.
IN_PARTS = (
    "{% for m in messages %}{{ m['role'] }}: {% for line in m['content'] %}{% if line['type'] == 'text' %}"
    "{{ line['text'] }}{% endif %}{% endfor %}\n{% endfor %}Assistant:"
)


def test_a_template_that_leaves_the_question_out_is_refused(checkpoint: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"problem 'p': the chat template leaves its question out.*--chat_template"):
        with_template(IN_PARTS).text(0)
    write_jsonl(tmp_path / "p.jsonl", [MATHS.fields])
    paths = {"data_path": str(tmp_path / "p.jsonl"), "output_path": str(tmp_path / "x.jsonl")}
    with pytest.raises(InputError, match="the chat template leaves its question out"):
        make_plan(
            SamplingArguments(model_path=str(checkpoint), use_chat_template=True, chat_template=IN_PARTS, **paths)
        )


# microsoft/Phi-3-mini-4k-instruct's as first published: it writes user's and assistant's turns alone.
PHI3 = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\n' + "
    "message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}{% elif (message['role'] == 'assistant') %}"
    "{{message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}"
)
# Qwen2.5's, which says words of its own where there is no system turn; Nemotron-Nano-v2's, to which one is a switch.
OWN_WORDS = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}" + CHATML
SWITCHED = (
    "{% set on = not (messages[0].role == 'system' and '/no_think' in messages[0].content) %}{% for m in messages %}"
    "[{{ m.role }}]{{ m.content | replace('/no_think', '') | replace('/think', '') }}{% endfor %}"
    "{{ '<think>' if on else '<think></think>' }}"
)
SWITCHED = SWITCHED.replace("{% for", "{% if messages[0].role != 'system' %}[system]{% endif %}{% for", 1)
WANTED = "{% if messages[0].role != 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + PHI3


@pytest.mark.parametrize("template", [PHI3, PHI3 + "{{ '<think>' }}"])
def test_a_template_that_drops_system_turns_is_refused(template: str, checkpoint: Path, tmp_path: Path):
    """The row would say that it was sent."""
    with pytest.raises(InputError, match=r"'p': the chat template leaves --system_prompt out; .*--chat_template"):
        with_template(template, system_prompt="Be brief.").text(0)
    told = problem(prompt=LLAMA)
    write_jsonl(tmp_path / "p.jsonl", [MATHS.fields, {**told.fields, "id": "p/1"}])
    flags = {"data_path": str(tmp_path / "p.jsonl"), "output_path": str(tmp_path / "x.jsonl")}
    flags |= {"model_path": str(checkpoint), "use_chat_template": True, "chat_template": template}
    with pytest.raises(InputError, match=r"'p/1': the chat template leaves its prompt's own system turn out; .* ''"):
        make_plan(SamplingArguments(**flags))
    assert "Be brief" not in make_plan(SamplingArguments(**flags, system_prompt="")).prompts.text(1)


@pytest.mark.parametrize(
    ("template", "system"),
    [(OWN_WORDS, "You are Qwen."), (SWITCHED, "/think"), (SWITCHED, "/no_think"), (WANTED, "Be brief.")],
)
def test_a_system_turn_that_a_template_reads_is_sent(template: str, system: str):
    with_template(template, system_prompt=system).text(0)


def test_a_template_that_is_given_is_used_and_told(checkpoint: Path, tmp_path: Path):
    """As a text or as a file; the row says that it is not the tokenizer's own."""
    mine = "Q: {{ messages[-1]['content'] }}\nA:"
    (tmp_path / "mine.jinja").write_text(mine)
    # As older multimodal repositories ship it (llava-hf/llava-1.5-7b-hf).
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": mine}))
    (tmp_path / "other.json").write_text(json.dumps({"processor_class": "LlavaProcessor"}))
    write_jsonl(tmp_path / "p.jsonl", [MATHS.fields])
    flags = {"data_path": str(tmp_path / "p.jsonl"), "output_path": str(tmp_path / "x.jsonl")}
    flags |= {"model_path": str(checkpoint), "use_chat_template": True}
    ways = (mine, *(str(tmp_path / name) for name in ("mine.jinja", "chat_template.json")))
    plans = [make_plan(SamplingArguments(**flags, chat_template=told)) for told in ways]
    for plan in plans:
        assert plan.prompts.text(0) == f"Q: What is $1+1$?\n{MATH_INSTRUCTION}\nA:"
        assert plan.prompts.template_text == plan.sample_settings["chat_template"] == mine
        assert plan.sent()["template"] == f"given:{hashlib.sha256(mine.encode()).hexdigest()[:12]}"
    assert make_plan(SamplingArguments(**flags, chat_template="")).sent()["template"].startswith("tokenizer:")
    flags |= {"base_url": ["http://127.0.0.1:9"], "extra_body": '{"temperature": null, "top_p": null}'}
    sent = make_plan(SamplingArguments(**flags)).sent()  # what null takes out of a request is not in the row either
    assert not {"temperature", "top_p"} & set(sent)
    assert sent["repetition_penalty"] == 1.1
    endless = make_plan(SamplingArguments(**flags | {"extra_body": '{"ignore_eos": true}'})).sampling()
    assert endless.ignore_eos
    assert not endless.stop_token_ids  # by which vLLM ended every chain all the same
    assert with_template(None, chat_template=mine).text(0).startswith("Q: ")
    for how, message in (
        ({"chat_template": str(tmp_path / "none.jinja")}, "--chat_template .*none.jinja: neither a file"),
        ({"chat_template": str(tmp_path / "other.json")}, "--chat_template .*other.json: JSON without a text"),
        ({"chat_template": mine, "use_chat_template": False}, "--chat_template_kwargs: are written by a chat template"),
        ({"chat_template": mine, "api": "chat", "base_url": ["http://127.0.0.1:1/v1"]}, "start it with this one"),
    ):
        with pytest.raises(InputError, match=message):
            make_plan(SamplingArguments(**flags | how))


def test_a_template_that_is_missing_or_refuses_is_named():
    with pytest.raises(InputError, match="the tokenizer has no chat template"):
        with_template(None)
    with pytest.raises(InputError, match=r"System role not supported.*drop --system_prompt"):
        with_template(NO_SYSTEM, system_prompt="Be brief.").text(0)
    assert with_template(NO_SYSTEM).text(0) == f"What is $1+1$?\n{MATH_INSTRUCTION}"
    with pytest.raises(InputError, match="has no 'question'"):
        PromptBook([problem(prompt="p")], None, source="question").text(0)


@pytest.mark.parametrize("asked_for", ["prompt", "question"])
def test_sampling_starts_from_the_ids_that_training_puts_before_the_loss(asked_for: str):
    """Also where a question spells the tokenizer's control tokens: they stay text in both."""
    tokenizer = make_tokenizer()
    question = f"What does {tokenizer.eos_token} end? And <|im_end|>?"
    row = {asked_for: render_prompt(question) if asked_for == "prompt" else question}
    text, ids = PromptBook([problem(**row)], tokenizer).get(0)
    trained = encode_examples(tokenizer, [(text, "It ends.")])[0]
    assert ids == trained.input_ids[: trained.prompt_length]
    assert tokenizer.eos_token_id not in ids


def test_markup_that_nothing_here_knows_is_sent_as_it_stands():
    tokenizer = make_tokenizer()
    text, ids = PromptBook([problem(prompt=f"[Q] 1+1? {tokenizer.eos_token}[A]")], tokenizer).get(0)
    assert ids == tokenizer(text)["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 1


def test_mistrals_own_tokenizers_write_their_own_turns(tmp_path: Path):
    """Mistral-Small 3.2 comes with tekken.json alone, whose markup no text can spell."""
    data = Path(pytest.importorskip("mistral_common").__file__).parent / "data"
    (tmp_path / "tekken.json").symlink_to(data / "tekken_240911.json")
    tokenizer = load_tokenizer(str(tmp_path))
    one = problem(question="Say [INST].", instruction="")
    book = PromptBook([one], tokenizer, use_chat_template=True, system_prompt="Be brief.")
    text, ids = book.get(0)
    assert text == "<s>[INST]Be brief.\n\nSay [INST].[/INST]"
    marks = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<s>", "[INST]", "[/INST]")}
    assert (ids[0], ids[1], ids[-1]) == tuple(marks.values())
    assert ids.count(marks["[INST]"]) == 1  # the question's is text
    assert book.describe()["template"].startswith("tokenizer:")
    assert PromptBook([problem(prompt="Hi")], tokenizer).get(0) == ("Hi", tokenizer("Hi")["input_ids"])
    with pytest.raises(InputError, match="does not read enable_thinking; it reads reasoning_effort"):
        PromptBook([one], tokenizer, use_chat_template=True, template_args={"enable_thinking": True})
    with pytest.raises(InputError, match="--chat_template: Mistral's own tokenizers"):
        PromptBook([one], tokenizer, use_chat_template=True, chat_template=CHATML)
    assert {"[INST]", "[/INST]"} <= special_tokens(tokenizer)
