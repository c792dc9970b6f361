"""The scripted model behind the fake server, so that programs can be started, killed and started again.

Takes text or token ids (of `tests.tiny`'s tokenizer); log-probabilities of prompts follow from their tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

from aiohttp import web

from promptcot_mamba.sampling.backend import Request
from tests.sampling.fake_server import FakeServer, make_parser, serve
from tests.synthesis.scripted import answer
from tests.tiny import make_tokenizer


class ScriptedServer(FakeServer):
    """Answers as `scripted.answer` says."""

    def __init__(self, options):
        super().__init__(options)
        self.tokenizer = make_tokenizer()

    def choose(self, body: dict) -> tuple[dict, int]:
        if "prompt_logprobs" in body:
            tables = [{str(token): {"logprob": -(token * 31 + i) % 97 / 10}} for i, token in enumerate(body["prompt"])]
            return {"text": "x", "finish_reason": "length", "prompt_logprobs": [None, *tables[1:]]}, 1
        return super().choose(body)

    def write(self, request: Request) -> tuple[str, str, int]:
        if not isinstance(request.prompt, str):
            request = replace(request, prompt=self.tokenizer.decode(request.prompt))
        text = answer(request.prompt, request.seed)
        return text, "stop", len(text)

    async def embeddings(self, http: web.Request) -> web.Response:
        """Eight numbers a text, from its hash; the answers in reverse order, which `index` mends."""
        self.seen += 1
        if self.seen <= self.options.break_first:
            return web.Response(status=500, text="broken")
        texts = (await http.json())["input"]
        vectors = [[byte - 127.5 for byte in hashlib.blake2b(t.encode(), digest_size=8).digest()] for t in texts]
        data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        return web.json_response({"data": data[::-1]})


if __name__ == "__main__":
    asyncio.run(serve(ScriptedServer(make_parser().parse_args())))
