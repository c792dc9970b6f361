r"""Judges' replies whose ratings stand elsewhere than in our form, or are none of its words, under a last line that
says perfect. `None`: unusable, so the judge is asked again; never perfect.
"""

from __future__ import annotations

from tests.synthesis.replies_others import ALL, A, B, P, judged

PERFECT = "Final Judgement: perfect"
WRONG = "9 is said to be prime"

# What stands for one criterion, the other four being perfect in our form; what the reply then comes to.
ONE: list[tuple[str, str | None]] = [
    # no rating: never perfect
    ("5. **Solvability**: Not perfect; the answer is not unique.", None),
    ("5. Solvability: imperfect - two answers.", None),
    ("5. Solvability: less than perfect.", None),
    ("5. Solvability: a less-than-perfect - wording", None),
    ("5. Solvability: near-perfect.", None),
    ("5. Solvability: almost perfect", None),
    ("5. Solvability: far from perfect.", None),
    ("5. Solvability: Hardly perfect.", None),
    ("5. Solvability: *im*perfect", None),
    ("5. Solvability: this isn't perfect.", None),
    ("5. Solvability: I would not call it perfect", None),
    ("5. Solvability: unacceptable, no answer", None),
    ("5. Solvability: poor. There is no answer.", None),
    ("5. Solvability: 2/5", None),
    ("5. Solvability: Good.", None),
    ("5. Solvability: ❌", None),
    ("5. Solvability:", None),
    ("5. Solvability", None),
    ("5. Solvability: acceptable/bad", None),
    ("5. Solvability: perfect/bad", None),
    ("5. Solvability: perfect or bad", None),
    ("5. Solvability: perfect to acceptable", None),
    ("5. Solvability: perfect -> bad, at a second look", None),
    ("5. Solvability: [perfect | acceptable | bad]", None),
    ("5. Solvability: (perfect; acceptable; bad)", None),
    ("5. Solvability: [perfect] [acceptable] [bad]?", None),
    ("5. Solvability: <perfect|acceptable|bad>", None),
    ("5. Solvability: the perfect squares below 50 are given.", None),
    ("5. Solvability: Perfect squares are left undefined.", None),
    ("5. Solvability: perfectly vague", None),
    ("5. Solvability: perfect?", None),
    ("5. Solvability: Is it perfect? Not bad.", None),
    ("5. Solvability: no answer.\n\nOverall: perfect", None),
    ("5. Solvability: no answer.\nOverall: perfect", None),
    ("5. Solvability\nRating: not perfect", None),
    ("5. Solvability\nRating: poor\nJustification: none", None),
    ("5. Solvability\nVerdict: unsolvable", None),
    # a rating that stands at the end
    ("5. Solvability: perfect? No: bad", B),
    ("5. Solvability: there is no answer. (bad)", B),
    ("5. Solvability: there is no answer (Bad).", B),
    ("5. Solvability: there is no answer. [bad]", B),
    ("5. Solvability: there is no answer. **Bad**", B),
    ("5. Solvability: there is no answer. **Bad.**", B),
    ("5. Solvability: there is no answer - bad", B),
    ("5. Solvability: there is no answer -- Bad.", B),
    ("5. Solvability: there is no answer — *bad*", B),
    ("5. Solvability: there is no answer -> bad", B),
    ("5. Solvability: there is no answer → bad", B),
    ("5. Solvability: there is no answer => `bad`", B),
    ("5. Solvability: there is no answer, so: bad", B),
    ("5. Solvability: there is no answer ❌ bad", B),
    ("5. Solvability: two answers. Acceptable.", A),
    ("5. Solvability: all is given. (perfect)", P),
    ("5. Solvability: all is given, one answer. Perfect.", P),
    ("5. Solvability: all is given — **Perfect**", P),
    ("5. Solvability: all is given; nothing is bad. Perfect!", P),
    ("5. Solvability: all is given ✅ perfect", P),
    ("5. Solvability: all is given. (perfect)\n6. Originality: bad", P),
    ("### 5. Solvability\nThere is no answer. (bad)", B),
    ("### 5. Solvability\n\nThere is no answer. Bad.", B),
    ("### 5. Solvability\n- What is given: perfect\n- The answer: bad", B),
    ("### 5. Solvability\n\nThere is no answer.\n\n**Bad**", B),
    ("### 5. Solvability\n\nThere is no answer.\n- Bad", B),
    ("### 5. Solvability\n\nAll is given.\n\n**Perfect**", P),
    # under another label
    ("5. Solvability: no answer. Judgement: bad", B),
    ("5. Solvability\nJudgement: bad", B),
    ("5. Solvability\n- Judgment: **bad**\n- Reason: no answer", B),
    ("5. Solvability\nVerdict: bad", B),
    ("5. Solvability\n**Verdict:** Bad — no answer", B),
    ("5. Solvability\nReason: no answer\nVerdict: bad", B),
    ("5. Solvability\nScore: bad", B),
    ("5. Solvability\nReason: all is given\nVerdict: perfect", P),
    ("5. Solvability: all is given. Judgement: perfect.", P),
    # struck out, and twice
    ("5. Solvability: ~~perfect~~ bad", B),
    ("5. Solvability: perfect\n\n5. Solvability (again): there is no answer. (bad)", B),
    ("5. Solvability: all is given.\n5. Solvability: perfect", P),
    # under another name
    ("5. Solvable: bad", B),
    # as in the form
    ("5. Solvability: perfect. It is so.", P),
    ("5. Solvability: **Perfect** – a definite answer; the perfect squares are listed.", P),
    ("5. Solvability: perfect (5/5)", P),
    ("5. Solvability: ⭐ Perfect", P),
    ("5. Solvability = perfect", P),
    ("5. Solvability: It is perfect.", P),
    ("5. Solvability: The solvability is perfect, since all is given.", P),
    ("5. Solvability: This is bad: two answers.", B),
    ("5. Solvability: This is not perfect.", None),
    ("5. Solvability: The perfect play is never said.", None),
    ("5. Solvability: Perfect play is never said.", None),
    ("5. Solvability: Perfect, and no part of it is bad.", P),
]

TABLE = "| Criterion | Justification | Rating |\n|---|---|---|\n"
ROWS = (
    "| Format | as asked | perfect |\n| Factual accuracy | {accuracy} |\n| Difficulty alignment | fits | perfect |\n"
    "| Concept coverage | Perfect squares are needed | perfect |\n| Solvability | one answer | perfect |\n\n"
)
JSON = (
    '{"format": "perfect", "factual_accuracy": "perfect", "difficulty_alignment": "perfect", "concept_coverage": '
    '"perfect", "solvability": %s, "final_judgement": "perfect"}'
)

# reply, verdict
WHOLE: list[tuple[str, str | None]] = [
    (f"2. **Factual accuracy**: imperfect - {WRONG}\n\n{PERFECT}", None),
    (f"2. **Factual accuracy**: poor. {WRONG}\n\n{PERFECT}", None),
    (f"2. Factual accuracy: it is wrong. (bad)\n\n{PERFECT}", B),
    (f"2. Factual accuracy: it is wrong - bad\n\n{PERFECT}", B),
    (f"2. Factual correctness: bad\n\n{PERFECT}", B),
    (f"1. Formatting: acceptable\n2. Correctness: bad\n\n{PERFECT}", B),
    # tables
    (TABLE + ROWS.format(accuracy=f"{WRONG} | bad") + PERFECT, B),
    (TABLE + ROWS.format(accuracy=f"{WRONG} | ❌ **Bad**") + PERFECT, B),
    (TABLE + ROWS.format(accuracy="Perfect squares are misused | Bad.") + PERFECT, B),
    (TABLE + ROWS.format(accuracy=f"{WRONG} | poor") + PERFECT, None),
    (TABLE + ROWS.format(accuracy="nothing false | acceptable") + PERFECT, A),
    (TABLE + ROWS.format(accuracy="nothing false | **Perfect**") + PERFECT, P),
    (TABLE + ROWS.format(accuracy="nothing false, nothing bad | ✅ Perfect") + PERFECT, P),
    (ROWS.format(accuracy=f"{WRONG} | bad").replace("| Fa", "Fa") + PERFECT, B),
    ("| Criterion | Perfect | Acceptable | Bad |\n|---|---|---|---|\n| Solvability | | | ✗ |\n\n" + PERFECT, None),
    ("| Solvability | perfect | acceptable | bad |\n\n" + PERFECT, None),
    ("| Format | Factual accuracy |\n|---|---|\n| perfect | bad |\n\n" + PERFECT, None),
    # JSON
    (JSON % '"perfect"', P),
    (JSON % '"Perfect - one answer"', P),
    (JSON % '"perfect: all is given"', P),
    (JSON % '{"rating": "perfect", "justification": "not bad at all"}', P),
    (JSON % '{"score": "perfect"}', P),
    (JSON % '{"verdict": "perfect"}', P),
    (JSON % '{"justification": "one answer", "mark": "perfect"}', P),
    (JSON % '"bad - no definite answer"', B),
    (JSON % '"Bad. There is no answer."', B),
    (JSON % '"there is no answer (bad)"', B),
    (JSON % '{"score": "bad"}', B),
    (JSON % '{"judgement": "bad"}', B),
    (JSON % '{"verdict": "Bad", "reason": "no answer"}', B),
    (JSON % '{"value": "bad"}', B),
    (JSON % '{"reason": "no answer", "rating": "bad: two answers"}', B),
    (JSON % '{"reason": "no answer", "mark": "bad"}', B),
    (JSON % '"acceptable; wordy"', A),
    (JSON % '"not perfect"', None),
    (JSON % '"imperfect"', None),
    (JSON % '"perfect|acceptable|bad"', None),
    (JSON % '"poor"', None),
    (JSON % "2", None),
    (JSON % "null", None),
    (JSON % '{"score": 1}', None),
    (JSON % '{"rating": "none"}', None),
    (f'{{"factual_accuracy": {{"score": "bad"}}}}\n\n{PERFECT}', B),
    (f'{{"factual_accuracy": "bad", "format": "perfect"}}\n\n{PERFECT}', B),
    (f'{{"solvability": {{"judgement": "bad"}}}}\n\n{PERFECT}', B),
    (f'{{"solvability": {{"judgement": "perfect"}}}}\n\n{PERFECT}', P),
    ('{"format_rating": "perfect", "solvability_rating": "bad", "final_judgement": "perfect"}', B),
    ('{"1. Format": "perfect", "5. Solvability": "bad", "final_judgement": "perfect"}', B),
    ('{"criteria": [{"name": "Factual accuracy", "rating": "bad"}], "final_judgement": "perfect"}', B),
    ('{"criteria": [{"criterion": "Solvability", "verdict": "bad"}], "final_judgement": "perfect"}', B),
    ('{"criteria": [{"criterion": "Solvability", "verdict": "perfect"}], "final_judgement": "perfect"}', P),
    ('{"criteria": [{"criterion": "Originality", "verdict": "bad"}], "final_judgement": "perfect"}', P),
    ('{"criteria": [{"aspect": "Solvability", "comment": "open"}], "final_judgement": "perfect"}', None),
    ('{"final_judgement": "perfect", "solvability": {"judgement": "bad"}}', B),
    ('{"title": "Review", "final_judgement": {"verdict": "perfect"}}', P),
    ('{"verdict": "perfect", "final_judgement": "bad"}', B),
    ('It quotes {"name": "Ann", "difficulty": 3}.\n' + JSON % '"bad"', B),
    ('It quotes {"name": "Ann", "difficulty": 3}.\n' + JSON % '"perfect"', P),
    (f'It quotes {{"title": "AIME"}}.\n\n{judged(*ALL, final=P)}', P),
    # five numbers without names
    (f"1. perfect\n2. bad\n3. perfect\n4. perfect\n5. perfect\n\n{PERFECT}", B),
    (f"1) Perfect.\n2) Acceptable: wordy.\n3) Perfect.\n4) Perfect.\n5) Perfect.\n\n{PERFECT}", A),
    (f"1. perfect\n2. not perfect\n3. perfect\n4. perfect\n5. perfect\n\n{PERFECT}", None),
    (f"1. perfect\n2. perfect\n3. acceptable\n4. perfect\n5. perfect\n\n{PERFECT}", P),
    (f"1. As asked.\n2. Nothing is false.\n3. It fits.\n4. All five.\n5. One answer.\n\n{PERFECT}", P),
    # a label of the whole is no criterion's
    ("5. Solvability: no answer.\n\nVerdict: perfect", None),
    ("5. Solvability: no answer.\n\nJudgement: perfect", None),
    ("5. Solvability: no answer.\n\nperfect", None),
    ("5. Solvability: perfect\n\nVerdict: perfect", P),
    # a word of the whole that is worse than what was said of a criterion counts as it did
    ("5. Solvability: not acceptable.\nFinal Judgement: bad", B),
    ("5. Solvability: good.\nFinal Judgement: acceptable", A),
    # no criterion is named at all
    (PERFECT, P),
    (f"A fine problem, well made.\n\n{PERFECT}", P),
    # praise that names criteria once more
    (f"{judged(*ALL, final=None)}\n\nAccuracy and solvability make it sound.\n\n{PERFECT}", P),
    (f"Accuracy comes first.\n\n{judged(*ALL, final=P)}", P),
    (f"Format is looked at first, then the rest.\n{judged(*ALL, final=P)}", P),
]
