"""Rows as published sets and other trainers' users have them -> what is trained of each, the same on both roads."""

from __future__ import annotations

import json

import pytest

from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.chat_markup import whole_text
from promptcot_mamba.data.adapters import get_adapter
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import Reading, render_row
from promptcot_mamba.data.rows import iter_examples
from promptcot_mamba.errors import InputError

THOUGHT, ANSWER, SYSTEM = "2 and 2 make 4", "It is 4.", "Be brief."
WHOLE = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
BARE = f"<think>\n\n</think>\n\n{ANSWER}"  # trained under an empty thought
USER, GPT = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": WHOLE}
SHORT = {"role": "assistant", "content": ANSWER}
HUMAN = {"from": "human", "value": "2+2?"}
INFO = {"source": None, "think_content": THOUGHT, "answer_content": ANSWER}


def chatml(*turns: tuple[str, str]) -> str:
    text = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return f"{text}<|im_start|>assistant\n<think>\n"


ASKED = chatml(("user", "2+2?"))
TOLD = chatml(("system", SYSTEM), ("user", "2+2?"))
AGAIN = chatml(("user", "2+2?"), ("assistant", "5"), ("user", "Sure?"))
# Columns and nesting as on the cards of the sets, or in the documents of the trainers, that give them their names.
ROWS = {
    "OpenThoughts-114k": ({"system": SYSTEM, "conversations": [HUMAN, {"from": "assistant", "value": (
        f"<|begin_of_thought|>\n\n{THOUGHT}\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n{ANSWER}\n\n"
        "<|end_of_solution|>")}]}, TOLD, WHOLE),
    "OpenR1-Math-220k": ({"problem": "2+2?", "solution": "4", "answer": "4", "generations": [WHOLE, "x"],
                          "correctness_math_verify": [True, False], "messages": [USER, GPT]}, ASKED, WHOLE),
    "Dolphin-R1": ({"messages": [{"role": "system", "content": SYSTEM}, USER], "reasoning": THOUGHT, "answer": ANSWER,
                    "model": "deepseek-reasoner"}, TOLD, WHOLE),
    "Llama-Nemotron": ({"input": [USER], "output": WHOLE, "reasoning": "on", "system_prompt": SYSTEM,
                        "used_in_training": "Ultra"}, TOLD, WHOLE),
    "Nemotron v2": ({"reasoning": "on", "category": "math",
                     "messages": [{"role": "system", "content": ""}, USER, {**GPT, "tool_calls": []}]},
                    ASKED, WHOLE),
    "AM-R1-Distilled": ({"messages": [{**USER, "info": INFO}, {"role": "assistant", "info": INFO, "content":
                         f"<think>{THOUGHT}</think><answer>{ANSWER}</answer>"}]},
                        ASKED, f"<think>{THOUGHT}</think>\n\n{ANSWER}"),
    "rStar-Coder": ({"question_id": "s1", "question": "2+2?", "response": WHOLE, "code": "4", "verified": True},
                    ASKED, WHOLE),
    "AceReason": ({"category": "math", "source": "x", "input": "2+2?", "output": WHOLE}, ASKED, WHOLE),
    "OpenOrca": ({"id": "1", "system_prompt": SYSTEM, "question": "2+2?", "response": ANSWER}, TOLD, BARE),
    "MetaMathQA": ({"type": "x", "query": "2+2?", "original_question": "2 plus 2?", "response": ANSWER}, ASKED, BARE),
    "Dolly": ({"instruction": "Add.", "context": "2, 2", "response": ANSWER, "category": "qa"},
              chatml(("user", "Add.\n\n2, 2")), BARE),
    "Magpie": ({"instruction": "2+2?", "response": "x", "conversations": [HUMAN, {"from": "gpt", "value": WHOLE}]},
               ASKED, WHOLE),
    "distilabel": ({"instruction": "2+2?", "generation": WHOLE, "model_name": "r1"}, ASKED, WHOLE),
    "UltraChat": ({"prompt": "2+2?", "prompt_id": "p", "messages": [USER, SHORT]}, ASKED, BARE),
    "Multilingual-Thinking": ({"developer": "d", "user": "u", "analysis": "a", "final": "f", "messages": [
        {"role": "system", "content": SYSTEM, "thinking": None}, {**USER, "thinking": None},
        {**SHORT, "thinking": THOUGHT}]}, TOLD, WHOLE),
    "Capybara": ({"source": "x", "conversation": [{"input": "2+2?", "output": ANSWER}]}, ASKED, BARE),
    "XTuner": ({"conversation": [{"system": SYSTEM, "input": "2+2?", "output": ANSWER}]}, TOLD, BARE),
    "Ultra-Innerthought": ({"conversations": [{"user": "2+2?", "inner_thought": THOUGHT, "assistant": ANSWER}]},
                           ASKED, WHOLE),
    "ms-swift, ShareGPT": ({"system": SYSTEM, "conversation": [{"human": "2+2?", "assistant": ANSWER}]}, TOLD, BARE),
    "ms-swift, query": ({"query": "Sure?", "response": ANSWER, "history": [["2+2?", "5"]]}, AGAIN, BARE),
    "ms-swift, loss": ({"messages": [USER, {"role": "assistant", "content": "5", "loss": False},
                                     {"role": "user", "content": "Sure?"}, SHORT]}, AGAIN, BARE),
    "axolotl, train": ({"messages": [USER, {"role": "assistant", "content": "5", "train": False},
                                     {"role": "user", "content": "Sure?"}, SHORT]}, AGAIN, BARE),
    "torchtune, masked": ({"messages": [USER, {"role": "assistant", "content": "5", "masked": True},
                                        {"role": "user", "content": "Sure?", "masked": True}, SHORT]}, AGAIN, BARE),
    "history as messages": ({"prompt": "Sure?", "completion": ANSWER,
                             "history": [USER, {"role": "assistant", "content": "5"}]}, AGAIN, BARE),
    "Anthropic": ({"system": [{"type": "text", "text": SYSTEM}], "messages": [USER, {"role": "assistant", "content": [
        {"type": "thinking", "thinking": THOUGHT, "signature": "s"}, {"type": "text", "text": ANSWER}]}]}, TOLD, WHOLE),
    "Gemini": ({"systemInstruction": {"parts": [{"text": SYSTEM}]}, "contents": [
        {"role": "user", "parts": [{"text": "2+2?"}]}, {"role": "model", "parts": [{"text": ANSWER}]}]}, TOLD, BARE),
    "TRL, text": ({"text": f"{TOLD.removesuffix(chr(10) + '<think>' + chr(10))}\n{WHOLE}<|im_end|>\n"}, TOLD, WHOLE),
    "Llama 2, text": ({"text": f"<s>[INST] 2+2? [/INST] {ANSWER} </s>"}, ASKED, BARE),
    "role and value": ({"messages": [{"from": "human", "content": "2+2?"}, {"role": "Assistant", "value": ANSWER}]},
                       ASKED, BARE),
    "JSON in a cell": ({"messages": json.dumps([USER, GPT])}, ASKED, WHOLE),
    "JSON in every turn": ({"messages": [json.dumps(USER), json.dumps(GPT)]}, ASKED, WHOLE),
    "Qwen3's empty thought": ({"messages": [USER, {"role": "assistant", "content": BARE}]}, ASKED, BARE),
    "a thought beside the turns": ({"conversations": [HUMAN, {"from": "gpt", "value": ANSWER}], "reasoning": THOUGHT},
                                   ASKED, WHOLE),
    "a thought twice": ({"messages": [USER, {**GPT, "reasoning_content": THOUGHT}]}, ASKED, WHOLE),
    "thought marks": ({"prompt": "2+2?", "completion": f"<thought>\n{THOUGHT}\n</thought>\n{ANSWER}"}, ASKED, WHOLE),
    "thought and answer marks": ({"messages": [USER, {"role": "assistant", "content":
                                  f"<reasoning>\n{THOUGHT}\n</reasoning>\n<answer>\n{ANSWER}\n</answer>"}]},
                                 ASKED, WHOLE),
    "the answer's marks asked for": ({"prompt": "2+2? Answer in <answer></answer>.", "completion":
                                      f"<think>\n{THOUGHT}\n</think>\n\n<answer>{ANSWER}</answer>"},
                                     chatml(("user", "2+2? Answer in <answer></answer>.")),
                                     f"<think>\n{THOUGHT}\n</think>\n\n<answer>{ANSWER}</answer>"),
    "the same turns twice": ({"messages": [USER, GPT], "conversations": [HUMAN, {"from": "gpt", "value": WHOLE}]},
                             ASKED, WHOLE),
}  # fmt: skip


def prepared(row: dict) -> list[tuple[str, str]]:
    """What preparation's generic adapter makes of a row."""
    found = get_adapter("generic", reading=Reading()).convert(row, None)
    rendered = map(render_row, [found] if isinstance(found, CanonicalRow) else found)
    return [(whole_text(parts), completion) for parts, completion in rendered]


@pytest.mark.parametrize("name", ROWS)
def test_what_is_trained_of_a_published_row(tmp_path, name):
    row, prompt, completion = ROWS[name]
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    direct = [(one.prompt, one.completion) for one in iter_examples([tmp_path / "a.jsonl"])]
    assert direct == prepared(row) == [(prompt, completion)]


BROKEN = {
    "a reference is no answer": ({"messages": [USER], "answer": "4"}, "no turn is the assistant's"),
    "two conversations": ({"messages": [USER, GPT], "conversations": [HUMAN, {"from": "gpt", "value": "5"}]},
                          "columns 'messages' and 'conversations' hold different turns; leave one out"),
    "no question": ({"input": "-", "output": WHOLE}, "'input' is '-', no question (scripts.prepare_sft_data has"),
    "no question in a turn": ({"messages": [{"role": "user", "content": "-"}, GPT]}, "is '-', no question"),
    "plain text": ({"text": "A story."}, "'text' is written in no known chat format (chatml, deepseek"),
    "a thought alone": ({"messages": [USER, {"role": "assistant", "content": "", "reasoning_content": THOUGHT}]},
                        "turn 2, assistant's, is empty"),
    "no answer after it": ({"messages": [USER, {"role": "assistant", "content": f"<think>{THOUGHT}</think>\n"}]},
                           "turn 2 has a thought and no answer"),
    "Granite's prompt": ({"prompt": "<|start_of_role|>user<|end_of_role|>2+2?<|end_of_text|>\n"
                                    "<|start_of_role|>assistant<|end_of_role|>", "completion": ANSWER},
                         "the prompt ends in '>assistant<|end_of_role|>', as chat text of a format that is unknown"),
    "Command's prompt": ({"prompt": "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>2+2?<|END_OF_TURN_TOKEN|>"
                                    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "completion": ANSWER},
                         "the prompt ends in '<|CHATBOT_TOKEN|>'"),
    "R1-Zero's prompt": ({"prompt": "A conversation between User and Assistant. User: 2+2?\nAssistant: <think>\n",
                          "completion": f"{THOUGHT}</think> {ANSWER}"}, "the prompt ends in 'Assistant: <think>'"),
    "gpt-oss's prompt": ({"prompt": "<|start|>user<|message|>2+2?<|end|><|start|>assistant", "completion": ANSWER},
                         "the prompt ends in '>assistant'"),
    "null": ({"messages": None}, "'messages' is null"),
    "no JSON": ({"messages": "[{'role': 'user'}]"}, "'messages' must be a list of {role, content} or {from, value}, "
                "found text that is no JSON"),
    "a file of columns": ({"prompt": ["a", "b"], "completion": ["c", "d"]}, "pandas writes those with to_json(orient="),
    "an index": ({"0": {"prompt": "a"}, "1": {"prompt": "b"}}, "pandas writes those with to_json(orient='records'"),
    "a reference set": ({"data_source": "x", "prompt": [USER], "reward_model": {"ground_truth": "4"}},
                        "missing key 'completion'"),
    "s1K": ({"question": "q", "solution": "4", "thinking_trajectories": ["t"], "attempt": "a"},
            "(columns: {prompt: question, completion: attempt, thought: thinking_trajectories}, or messages: ..."),
    "medical-o1": ({"Question": "q", "Complex_CoT": "t", "Response": "a"},
                   "(columns: {prompt: Question, completion: Response, thought: Complex_CoT}"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_broken_row_is_told(tmp_path, name):
    row, complaint = BROKEN[name]
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError) as refused:
        list(iter_examples([tmp_path / "a.jsonl"]))
    assert str(refused.value).startswith(f"{tmp_path / 'a.jsonl'}:1: ")
    assert complaint in str(refused.value)
    with pytest.raises((InputError, UnusableRowError)):
        prepared(row)


def test_a_recipe_names_the_conversation_or_the_thought():
    row = {"messages": [USER, SHORT], "dialogue": [HUMAN, {"from": "gpt", "value": WHOLE}]}
    [found] = get_adapter("generic", {"messages": "dialogue"}).convert(row, None)
    assert (found.prompt, found.completion) == ("2+2?", WHOLE)
    columns = {"prompt": "question", "completion": "attempt", "thought": "thinking_trajectories"}
    row = {"question": "2+2?", "attempt": ANSWER, "thinking_trajectories": [THOUGHT]}
    assert get_adapter("generic", columns).convert(row, None)[0].completion == WHOLE
    with pytest.raises(InputError, match="'thinking_trajectories' must be one text, found list"):
        get_adapter("generic", columns).convert(row | {"thinking_trajectories": ["a", "b"]}, None)
    with pytest.raises(InputError, match="'messages' is a whole conversation"):
        get_adapter("generic", {"messages": "dialogue", "prompt": "question"})


def test_a_pair_of_our_own_rendering_stays_as_it_is(tmp_path):
    row = {"question": render_prompt("2+2?"), "response": f"{THOUGHT}\n</think>\n\n{ANSWER}"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    [one] = iter_examples([tmp_path / "a.jsonl"])
    assert (one.prompt, one.completion) == (render_prompt("2+2?"), WHOLE)
