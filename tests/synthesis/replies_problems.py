r"""How models reply when asked for a rationale and a problem: written down before the parser that reads them.

Shapes were collected from the released generator (`<!-- BEGIN RATIONALE -->`), from published re-implementations'
outputs, and from what chat models do to any requested form; each is put around several bodies. `RIGHT` shapes must
give exactly the body's rationale and problem, `WRONG` ones the words of the reason in their name's place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

BODIES = [
    (
        "Step 1: start from the sum of divisors and ask when a running total is odd.\n\nStep 2: only squares and twice "
        "squares contribute, so the bound 2005 makes the count long but finite.",
        "For any positive integer $n$, let $f(n)$ be the sum of its divisors and $F(n) = \\sum_{k=1}^n f(k)$. Find the "
        "number of positive integers $n \\leq 2005$ with $F(n)$ odd.",
    ),
    (
        "**Concepts.** Cross-sections of a cube and perimeters fit together: a plane gives 3 to 6 sides.\n"
        "**Difficulty.** Maximising over all planes needs an unfolding argument, which suits AIME.",
        "A plane intersects a cube with edge length 1 and passes through none of its vertices. What is the maximum "
        "possible perimeter of the polygon formed by the intersection?",
    ),
    (
        "Nested loops over pairs are too slow, so the digit-wise view is what the solver has to find; I fix 10^5 as "
        "the bound to rule the loops out.",
        "Tot adds numbers digit by digit without carrying. Given an array, compute the total over all pairs i <= j.\n\n"
        "Input\nThe first line holds n (1 <= n <= 100000), the second n integers.\n\nOutput\nPrint one integer.\n\n"
        "Example\n```\n3\n8 5 7\n```\n```\n41\n```",
    ),
    (
        "We couple congruences with different moduli so that the Chinese remainder theorem is needed, and choose small "
        "coefficients to keep the inverses by hand.",
        "Solve the system\n\\begin{align*}\n2x &\\equiv 5 \\pmod{11}\\\\\n3x &\\equiv 7 \\pmod{13}\n\\end{align*}\nand "
        "determine the least positive integer $x$.",
    ),
    (
        "An incline with friction and a spring: energy goes into three places, so the student must set up one balance "
        "and solve a quadratic. Numbers are chosen so that the compression is near 0.3 m.",
        'A 2.0 kg block is released from rest on a 30° incline ("rough", $\\mu_k = 0.20$), 1.5 m above a spring with '
        "$k = 400\\ \\mathrm{N/m}$. Calculate the maximum compression of the spring, in metres.",
    ),
    (
        "先选取组合计数与奇偶性两个概念,再用棋盘染色把它们联系起来,使题目达到竞赛难度。",
        "在 $8\\times 8$ 的棋盘上放置 $k$ 个互不攻击的象,求 $k$ 的最大值。",
    ),
]
Pair = Callable[[str, str], str]


def in_tags(r: str, p: str) -> str:
    return f"<rationale>\n{r}\n</rationale>\n<problem>\n{p}\n</problem>"


def released(r: str, p: str) -> str:
    return f"<!-- BEGIN RATIONALE -->{r}<!-- END RATIONALE --><!-- BEGIN PROBLEM -->{p}<!-- END PROBLEM -->"


def in_json(r: str, p: str) -> str:
    return json.dumps({"rationale": r, "problem": p})


def fenced(text: str, word: str = "") -> str:
    return f"````{word}\n{text}\n````" if "```" in text else f"```{word}\n{text}\n```"


RIGHT: dict[str, Pair] = {
    "as asked": in_tags,
    "as asked, one line": lambda r, p: f"<rationale>{r}</rationale><problem>{p}</problem>",
    "blank lines around": lambda r, p: (
        f"\n\n<rationale>\n\n{r}\n\n</rationale>\n\n\n<problem>\n\n{p}\n\n</problem>\n\n"
    ),
    "windows lines": lambda r, p: in_tags(r, p).replace("\n</", "\r\n</").replace(">\n", ">\r\n"),
    "sure": lambda r, p: f"Sure, here it is:\n\n{in_tags(r, p)}",
    "certainly": lambda r, p: f"Certainly! Here's a problem that meets your requirements:\n\n{in_tags(r, p)}",
    "of course, and a rule": lambda r, p: f"Of course. Below is my proposal.\n\n---\n\n{in_tags(r, p)}\n\n---",
    "okay, thinking aloud": lambda r, p: f"Okay, let me design this step by step and then state it.\n{in_tags(r, p)}",
    "hope": lambda r, p: f"{in_tags(r, p)}\n\nI hope this helps! Let me know if you'd like a harder variation.",
    "closing question": lambda r, p: f"{in_tags(r, p)}\n\nWould you like me to provide a solution?",
    "note after": lambda r, p: f"{in_tags(r, p)}\n\n(Note: the problem requires all of the given concepts.)",
    "answer after": lambda r, p: f"{in_tags(r, p)}\n\n**Answer:** 42",
    "boxed answer after": lambda r, p: f"{in_tags(r, p)}\n\nFinal Answer: $\\boxed{{42}}$",
    "solution after": lambda r, p: f"{in_tags(r, p)}\n\n<solution>\nSquares only; the answer is 1018.\n</solution>",
    "heading solution after": lambda r, p: (
        f"{in_tags(r, p)}\n\n### Solution\n\nWe count intervals...\n\n$\\boxed{{7}}$"
    ),
    "answer tag after": lambda r, p: f"{in_tags(r, p)}\n<answer>1018</answer>",
    "answer at its end": lambda r, p: in_tags(r, f"{p}\n\n**Answer:** 42"),
    "plain answer at its end": lambda r, p: in_tags(r, f"{p}\n\nAnswer: 42"),
    "answer on the next line": lambda r, p: in_tags(r, f"{p}\n\n**Final Answer**\n\n$\\boxed{{42}}$"),
    "solution at its end": lambda r, p: in_tags(r, f"{p}\n\nSolution:\n\nTo solve it, we need to determine the total."),
    "heading answer at its end": lambda r, p: in_tags(r, f"{p}\n\n### Answer\n42"),
    "hash answer at its end": lambda r, p: in_tags(r, f"{p}\n#### 42"),
    "in a fence": lambda r, p: fenced(in_tags(r, p)),
    "in an xml fence": lambda r, p: fenced(in_tags(r, p), "xml"),
    "in an html fence": lambda r, p: fenced(in_tags(r, p), "html"),
    "in a markdown fence, sure": lambda r, p: f"Sure, here it is:\n\n{fenced(in_tags(r, p), 'markdown')}\n\nEnjoy!",
    "two fences": lambda r, p: (
        f"{fenced(f'<rationale>{chr(10)}{r}{chr(10)}</rationale>')}\n{fenced(f'<problem>{chr(10)}{p}{chr(10)}</problem>')}"
    ),
    "thought": lambda r, p: f"<think>\nMaybe <problem>2+2?</problem>. No, too easy.\n</think>\n\n{in_tags(r, p)}",
    "thought closed only": lambda r, p: f"Let me think about parity first.\n</think>\n{in_tags(r, p)}",
    "empty thought": lambda r, p: f"<think>\n\n</think>\n\n{in_tags(r, p)}",
    "upper case": lambda r, p: f"<RATIONALE>\n{r}\n</RATIONALE>\n<PROBLEM>\n{p}\n</PROBLEM>",
    "title case": lambda r, p: f"<Rationale>\n{r}\n</Rationale>\n\n<Problem>\n{p}\n</Problem>",
    "spaces in tags": lambda r, p: f"< rationale >\n{r}\n</ rationale >\n< problem >\n{p}\n</ problem >",
    "attributes": lambda r, p: f'<rationale id="1">{r}</rationale>\n<problem level="hard">{p}</problem>',
    "bold tags": lambda r, p: f"**<rationale>**\n{r}\n**</rationale>**\n\n**<problem>**\n{p}\n**</problem>**",
    "ticked tags": lambda r, p: f"`<rationale>`\n{r}\n`</rationale>`\n`<problem>`\n{p}\n`</problem>`",
    "escaped tags": lambda r, p: f"\\<rationale\\>\n{r}\n\\</rationale\\>\n\\<problem\\>\n{p}\n\\</problem\\>",
    "entities": lambda r, p: f"&lt;rationale&gt;\n{r}\n&lt;/rationale&gt;\n&lt;problem&gt;\n{p}\n&lt;/problem&gt;",
    "square brackets": lambda r, p: f"[RATIONALE]\n{r}\n[/RATIONALE]\n[PROBLEM]\n{p}\n[/PROBLEM]",
    "root element": lambda r, p: f"<response>\n{in_tags(r, p)}\n</response>",
    "rationale not closed": lambda r, p: f"<rationale>\n{r}\n\n<problem>\n{p}\n</problem>",
    "rationale not opened": lambda r, p: f"{r}\n</rationale>\n<problem>\n{p}\n</problem>",
    "said twice alike": lambda r, p: f"{in_tags(r, p)}\n\nFinal version:\n\n<problem>\n{p}\n</problem>",
    "problem first": lambda r, p: f"<problem>\n{p}\n</problem>\n<rationale>\n{r}\n</rationale>",
    "label inside": lambda r, p: (
        f"<rationale>\n**Rationale:**\n{r}\n</rationale>\n<problem>\n**Problem:**\n{p}\n</problem>"
    ),
    "end token": lambda r, p: f"{in_tags(r, p)}<|im_end|>",
    "llama's end token": lambda r, p: f"{in_tags(r, p)}<|eot_id|>",
    "deepseek's end token": lambda r, p: f"{in_tags(r, p)}<｜end▁of▁sentence｜>",
    "sentence tokens": lambda r, p: f"<s> {in_tags(r, p)} </s>",
    "header token first": lambda r, p: f"<|start_header_id|>assistant<|end_header_id|>\n\n{in_tags(r, p)}",
    "thinking aloud": lambda r, p: (
        f"{r} And that is how the author came to ask what follows.\n\n<problem>\n{p}\n</problem>"
    ),
    "own words kept": lambda r, p: in_tags(f"Okay, let us begin.\n{r}\n\nThis problem requires all of it.", p),
    "longer tags": lambda r, p: f"<rationale>{r}</rationale>\n<problem_statement>\n{p}\n</problem_statement>",
    "signs before labels": lambda r, p: f"🧠 **Rationale:**\n{r}\n\n📝 **Problem:**\n{p}\n\n✅ **Answer:** 42",
    "levels beside labels": lambda r, p: f"### Rationale\n{r}\n\n### Problem (AIME level)\n{p}",
    "json, other keys": lambda r, p: json.dumps({"reasoning": r, "problem_statement": p, "difficulty": "AIME"}),
    "channels": lambda r, p: f"<|channel|>final<|message|>{in_tags(r, p)}<|return|>",
    "released": released,
    "released, lines": lambda r, p: released(f"\n{r}\n", f"\n{p}\n"),
    "released, lines between": lambda r, p: released(r, p).replace("--><!--", "-->\n\n<!--"),
    "released, no spaces": lambda r, p: released(r, p).replace("<!-- ", "<!--").replace(" -->", "-->"),
    "released, lower case": lambda r, p: (
        f"<!-- begin rationale -->\n{r}\n<!-- end rationale -->\n<!-- begin problem -->\n{p}\n<!-- end problem -->"
    ),
    "released, a dash short": lambda r, p: released(r, p).replace("<!--", "<--"),
    "released, rationale not closed": lambda r, p: released(r, p).replace("<!-- END RATIONALE -->", "\n"),
    "released, chat": lambda r, p: (
        f"Here is the designed problem:\n\n{released(r, p)}\n\nThis integrates all concepts."
    ),
    "released, answer after": lambda r, p: f"{released(r, p)}\n\n**Answer:** $\\frac{{2}}{{3}}$",
    "released, solution in it": lambda r, p: released(r, f"{p}\n\nSolution: \n\nTo solve the problem, we count."),
    "released, in a fence": lambda r, p: fenced(released(f"\n{r}\n", f"\n{p}\n"), "html"),
    "released, bold": lambda r, p: released(f"**Rationale:** {r}", f"**Problem:** {p}"),
    "released, end token": lambda r, p: f"{released(r, p)}<|end_of_text|>",
    "released, prompt repeated": lambda r, p: (
        "Given foundational concepts and difficulty level, identify connections.\n\nFoundational Concepts:\n1. Parity"
        f"\n\nDifficulty Level: HMMT-Feb{released(r, p)}"
    ),
    "bold labels": lambda r, p: f"**Rationale:**\n{r}\n\n**Problem:**\n{p}",
    "bold labels, colon outside": lambda r, p: f"**Rationale**: {r}\n\n**Problem**: {p}",
    "plain labels": lambda r, p: f"Rationale: {r}\n\nProblem: {p}",
    "labels after sure": lambda r, p: (
        f"Sure, here it is:\n\n**Rationale:**\n\n{r}\n\n**Problem:**\n\n{p}\n\n**Answer:** 42"
    ),
    "headings": lambda r, p: f"# Rationale\n\n{r}\n\n# Problem\n\n{p}",
    "headings of level three": lambda r, p: f"### Rationale\n{r}\n\n### Problem\n{p}\n\n### Solution\nBy counting.",
    "bold headings": lambda r, p: f"## **Rationale**\n\n{r}\n\n---\n\n## **Problem**\n\n{p}",
    "numbered headings": lambda r, p: f"## 1. Rationale\n{r}\n\n## 2. Problem\n{p}",
    "numbered bold": lambda r, p: f"**1. Rationale:**\n{r}\n\n**2. Problem:**\n{p}",
    "lettered": lambda r, p: f"A. Rationale\n{r}\n\nB. Problem\n{p}",
    "thinking process": lambda r, p: f"**Thinking Process:**\n{r}\n\n**Problem Statement:**\n{p}",
    "design rationale": lambda r, p: f"### Design Rationale\n{r}\n\n### Final Problem\n{p}",
    "concepts first": lambda r, p: f"Concepts: parity | divisors\nRationale: {r}\nProblem: {p}",
    "upper case labels": lambda r, p: f"RATIONALE:\n{r}\n\nPROBLEM:\n{p}",
    "problem 1 alone": lambda r, p: f"**Rationale:**\n{r}\n\n**Problem 1:**\n{p}",
    "chinese labels": lambda r, p: f"**设计思路:**\n{r}\n\n**题目:**\n{p}\n\n**答案:** 42",
    "german labels": lambda r, p: f"**Begründung:**\n{r}\n\n**Aufgabe:**\n{p}",
    "french labels": lambda r, p: f"**Justification :**\n{r}\n\n**Problème :**\n{p}",
    "spanish labels": lambda r, p: f"**Justificación:**\n{r}\n\n**Problema:**\n{p}",
    "quoted labels": lambda r, p: "\n".join(
        f"> {line}" for line in f"**Rationale:**\n{r}\n\n**Problem:**\n{p}".split("\n")
    ),
    "json": in_json,
    "json, fence": lambda r, p: f"```json\n{in_json(r, p)}\n```",
    "json, indented, sure": lambda r, p: (
        f"Here you go:\n```json\n{json.dumps({'rationale': r, 'problem': p}, indent=2, ensure_ascii=False)}\n```\nDone."
    ),
    "json, more keys": lambda r, p: json.dumps({"concepts": ["parity"], "Rationale": r, "Problem": p, "answer": "42"}),
    "json, nested": lambda r, p: json.dumps({"result": {"rationale": r, "problem": p}}),
    "json, lines as they are": lambda r, p: in_json(r, p).replace("\\n", "\n"),
    "json, comma at the end": lambda r, p: in_json(r, p)[:-1] + ",}",
}

# Reason -> shapes. The reason's words must occur in what the parser says.
WRONG: dict[str, dict[str, Pair]] = {
    "refused": {
        "sorry": lambda r, p: "I'm sorry, but I can't help with that.",
        "as an AI": lambda r, p: "As an AI language model, I am unable to create competition problems.",
        "cannot": lambda r, p: "I cannot fulfill this request. Generating exam questions may enable cheating.",
        "curly": lambda r, p: "I’m sorry, I can’t assist with that request.",
        "chinese": lambda r, p: "抱歉,我无法完成这个请求。",
    },
    "not one rationale and one problem": {
        "nothing": lambda r, p: "nothing",
        "bare problem": lambda r, p: p,
        "question back": lambda r, p: "Could you clarify which difficulty level you mean?",
        "chatter": lambda r, p: "Sure! I will design a problem that combines these concepts.",
        "other tags": lambda r, p: f"<design>{r}</design><task>{p}</task>",
    },
    "no rationale": {
        "problem only": lambda r, p: f"<problem>\n{p}\n</problem>",
        "released problem only": lambda r, p: f"<!-- BEGIN PROBLEM -->{p}<!-- END PROBLEM -->",
        "label only": lambda r, p: f"**Problem:**\n{p}",
        "json problem only": lambda r, p: json.dumps({"problem": p}),
        "empty rationale": lambda r, p: in_tags("", p),
        "empty label": lambda r, p: f"**Rationale:**\n\n**Problem:**\n{p}",
    },
    "no problem": {
        "rationale only": lambda r, p: f"<rationale>\n{r}\n</rationale>",
        "released rationale only": lambda r, p: f"<!-- BEGIN RATIONALE -->{r}<!-- END RATIONALE -->",
        "label only": lambda r, p: f"**Rationale:**\n{r}",
        "empty problem": lambda r, p: in_tags(r, ""),
        "nothing but a label": lambda r, p: in_tags(r, "**Problem:**"),
        "nothing but an answer": lambda r, p: in_tags(r, "**Answer:** 42"),
        "empty json": lambda r, p: json.dumps({"rationale": r, "problem": ""}),
    },
    "more than one problem": {
        "two": lambda r, p: f"{in_tags(r, p)}\n<problem>\nFind the sum of all such $n$ instead.\n</problem>",
        "draft and final": lambda r, p: (
            f"<rationale>{r}</rationale><problem>Draft: find x.</problem><problem>{p}</problem>"
        ),
        "two whole": lambda r, p: (
            f"{in_tags(r, p)}\n\n{in_tags('Another design, by colouring.', 'How many colourings are there?')}"
        ),
        "released two": lambda r, p: f"{released(r, p)}{released('Once more.', 'Find another one.')}",
        "numbered labels": lambda r, p: (
            f"**Rationale:** {r}\n\n**Problem 1:** {p}\n\n**Problem 2:** How many are even?"
        ),
        "json list": lambda r, p: json.dumps(
            [{"rationale": r, "problem": p}, {"rationale": r, "problem": "What is n?"}]
        ),
    },
    "not closed": {
        "cut in the problem": lambda r, p: f"<rationale>\n{r}\n</rationale>\n<problem>\n{p[:40]}",
        "released, cut": lambda r, p: released(r, p).removesuffix("<!-- END PROBLEM -->"),
        "half a tag": lambda r, p: in_tags(r, p).removesuffix("oblem>"),
    },
    "repeats the form": {
        "ours": lambda r, p: in_tags("how the problem is designed", "the problem, complete in itself"),
        "brackets": lambda r, p: in_tags(
            "[Your construction thought process goes here]", "[Your final math problem goes here]"
        ),
        "dots": lambda r, p: in_tags("...", "..."),
        "braces": lambda r, p: released("{rationale}", "{problem}"),
    },
    "thought": {
        "never ends": lambda r, p: f"<think>\nLet me see. {r}\n\nWait, that can't be right.",
        "holds it all": lambda r, p: f"<think>\n{in_tags(r, p)}",
    },
    "nothing after": {
        "thought alone": lambda r, p: f"<think>\n{in_tags(r, p)}\n</think>\n",
    },
}


# Shapes whose rationale is more than the body's: what stands before and after it.
ADDED = {
    "thinking aloud": ("", " And that is how the author came to ask what follows."),
    "own words kept": ("Okay, let us begin.\n", "\n\nThis problem requires all of it."),
}


def all_replies() -> Iterator[tuple[str, str, tuple[str, str] | str]]:
    """(what it is, reply, the pair it holds or the words of why it holds none)."""
    for number, (name, shape) in enumerate(RIGHT.items()):
        for step in range(3):
            body = BODIES[(number + 2 * step) % len(BODIES)]
            r, p = body
            r += ADDED.get(name, ("", ""))[1]
            yield (
                f"{name}, body {(number + 2 * step) % len(BODIES)}",
                shape(*body),
                (ADDED.get(name, ("", ""))[0] + r, p),
            )
    for reason, shapes in WRONG.items():
        for number, (name, shape) in enumerate(shapes.items()):
            for step in range(2):
                body = BODIES[(number + 3 * step) % len(BODIES)]
                yield f"{reason}: {name}, body {step}", shape(*body), reason
