"""Whose fault it is that a server will not take a request: its own, or the account's, the flags', the server's.

A budget that is spent, a key that ran out, a limit of `max_tokens` and a field that a server does not know come under
the statuses of a prompt it cannot take, and a sample settled as refused is never drawn again. So each such request is
held until the server has answered another one that was sent after it; where nothing else is under way there, or many
are held, that is a request made for it.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from promptcot_mamba.sampling.endpoint_pool import Endpoint
from promptcot_mamba.sampling.endpoint_protocol import CHECK, Pending
from promptcot_mamba.token_scores import TokenScores

MOST_HELD = 8
GREETING = "Hello, how are you?"


def is_in_doubt(endpoint: Endpoint, under_way: Collection[Pending]) -> bool:
    """Whether a request has to be made for those that it holds; `under_way` are those on this server."""
    if not endpoint.held or endpoint.away or any(each.is_check for each in under_way):
        return False
    return len(endpoint.held) >= MOST_HELD or not any(each.sent > endpoint.held[0].since for each in under_way)


def orphans(endpoints: Iterable[Endpoint]) -> list[Pending]:
    """Take their held requests, the last first, from servers that have gone away: they tell nothing, another may."""
    found = []
    for endpoint in endpoints:
        if endpoint.away:
            found += [each.pending for each in endpoint.held]
            endpoint.held = []
    return found[::-1]


def check_of(endpoint: Endpoint, tokenizer: Any) -> Pending:
    """A request like those that are held, but for its prompt: one that this server has answered, or a greeting."""
    request, answered = endpoint.held[0].pending.request, endpoint.answered
    if answered is not None:
        prompt, ids, messages = answered.prompt, answered.prompt_ids, answered.messages
    else:
        ids = tokenizer(GREETING)["input_ids"] if tokenizer is not None else None
        prompt, messages = GREETING, None
    scores = TokenScores() if request.scores is not None else None
    check = replace(request, unit=CHECK, prompt=prompt, prompt_ids=ids, messages=messages, kept=(), scores=scores)
    return Pending(replace(check, score_from=answered.score_from if answered is not None else None), 0.0)
