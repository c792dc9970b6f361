"""The judge parser: a closed set from the last line, or nothing; a rating that is none is not perfect."""

from __future__ import annotations

import pytest

from promptcot_mamba.synthesis.judgement import parse_judgement, parse_verdict
from promptcot_mamba.synthesis.replies import Rejected
from tests.synthesis.replies_judges import ONE, WHOLE
from tests.synthesis.replies_others import ALL, judged

REPLIES = [
    ("Final Judgement: perfect", "perfect"),
    ("Final Judgement: Perfect", "perfect"),
    ("FINAL JUDGEMENT: PERFECT", "perfect"),
    ("Final Judgement: Perfect!", "perfect"),
    ("Final Judgement: perfect.", "perfect"),
    ("Final Judgment: perfect", "perfect"),
    ("**Final Judgement: perfect**", "perfect"),
    ("**Final Judgement:** perfect", "perfect"),
    ("**Final Judgement**: *perfect*", "perfect"),
    ("### Final Judgement: `perfect`", "perfect"),
    ("Final Judgement: [perfect]", "perfect"),
    ("Final Judgement: 'perfect'", "perfect"),
    ("Final Judgement: “Perfect”", "perfect"),
    ("Final Judgement - acceptable", "acceptable"),
    ("Final Judgement is bad", "bad"),
    ("The final verdict is: bad".replace(":", ""), "bad"),
    ("Overall rating: acceptable", "acceptable"),
    ("Verdict: bad", "bad"),
    ("> Final Judgement: bad", "bad"),
    ("- Final Judgement: acceptable", "acceptable"),
    ("perfect", "perfect"),
    ("Perfect!", "perfect"),
    ("1. FORMAT: Perfect\n2. SOLVABILITY: Bad\n\nFinal Judgement: bad", "bad"),
    ("1. FORMAT: Bad\nFinal Judgement: perfect", "perfect"),
    ("Final Judgement: acceptable\n\n", "acceptable"),
    ("Final Judgement: acceptable\n```", "acceptable"),
    ("Final Judgement: acceptable\n---", "acceptable"),
    ("Final Judgement:   bad  \r\n", "bad"),
    ("<think>\nthis is bad\n</think>\nFinal Judgement: perfect", "perfect"),
    ("Final Judgement: imperfect", None),
    ("Final Judgement: Imperfect!", None),
    ("Final Judgement: not perfect", None),
    ("Final Judgement: not bad", None),
    ("Final Judgement: unacceptable", None),
    ("Final Judgement: perfect or acceptable", None),
    ("Final Judgement: [perfect | acceptable | bad]", None),
    ("Final Judgement: perfect/acceptable", None),
    ("Final Judgement: nearly perfect", None),
    ("Final Judgement: perfect, because it is solvable", None),
    ("Final Judgement: perfect\nFinal Judgement: bad", "bad"),
    ("Final Judgement: bad\nI hope this helps!", None),
    ("Everything is perfect about this problem.", None),
    ("Final Judgement:", None),
    ("Final Judgement: perfectly", None),
    ("Final Judgement: good", None),
    ("Final Judgement: 5", None),
    ("", None),
    ("\n\n", None),
    ("123", None),
    ("<think>\nFinal Judgement: perfect", None),
    ("<think>\nFinal Judgement: perfect\n</think>\n", None),
    ("<think>\nFinal Judgement: perfect\n</think>\nI cannot decide.", None),
]


@pytest.mark.parametrize(("reply", "verdict"), REPLIES)
def test_verdicts(reply, verdict):
    assert parse_verdict(reply) == verdict


def in_form(solvability: str) -> str:
    return judged(*ALL, final="perfect").replace("5. Solvability: perfect. It is so.", solvability)


@pytest.mark.parametrize(("reply", "verdict"), [(in_form(own), verdict) for own, verdict in ONE] + WHOLE)
def test_a_rating_that_cannot_be_read_is_not_perfect(reply, verdict):
    got = parse_judgement(reply)
    if isinstance(got, Rejected):
        assert (verdict, got.reparable) == (None, True)
    else:
        assert got.verdict == verdict
        assert got.contradicts or got.stated == verdict
