"""A small OpenAI-compatible server whose completions follow from the seed, as a program tests can start and kill.

Prints its port once it listens. `--break_first N` answers the first N completions with status 500, `--busy_first N`
with 429, `--hang_after N` stops answering anything after N completions.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from aiohttp import web

from promptcot_mamba.sampling.backend import Request
from tests.sampling.scripted import write_chain


class FakeServer:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.seen = 0
        self.running = 0
        self.most_running = 0

    async def models(self, _: web.Request) -> web.Response:
        await self._hang_if_asked()
        card = {"id": self.options.model, "root": self.options.model, "owned_by": self.options.owner}
        return web.json_response({"data": [{**card, "max_model_len": self.options.max_model_len}]})

    async def completions(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        self.seen += 1
        await self._hang_if_asked()
        if self.seen <= self.options.break_first:
            return web.Response(status=500, text="broken")
        if self.seen <= self.options.busy_first:
            return web.Response(status=429, text="busy")
        if body["model"] != self.options.model:  # as vLLM does
            return web.Response(status=404, text=f"The model {body['model']} does not exist")
        if len(self.prompt_of(body)) > self.options.max_model_len:
            return web.Response(status=400, text="This model's maximum context length is smaller")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(self.options.seconds)
        self.running -= 1
        choice, length = self.choose(body)
        if body.get("stream"):
            return await self._stream(http, choice["text"], choice["finish_reason"])
        usage = {"prompt_tokens": len(self.prompt_of(body)), "completion_tokens": length}
        return web.json_response({"choices": [choice], "usage": usage})

    def prompt_of(self, body: dict) -> str | list[int]:
        return body["messages"][0]["content"] if "messages" in body else body["prompt"]

    def choose(self, body: dict) -> tuple[dict, int]:
        """The choice to answer with, and its tokens."""
        if "prompt_logprobs" in body:  # of token i: -i; as in vLLM, none for the first
            tables = [None, *({str(token): {"logprob": -i}} for i, token in enumerate(body["prompt"]) if i)]
            given = {"prompt_logprobs": tables} if self.options.owner == "vllm" else {}
            return {"text": "x", "finish_reason": "length", **given}, 1
        text, reason, length = self.write(Request(0, 0, body["seed"], self.prompt_of(body), None, body["max_tokens"]))
        said = {"message": {"content": text}} if "messages" in body else {"text": text}
        return {**said, "finish_reason": reason}, length

    def write(self, request: Request) -> tuple[str, str, int]:
        """Text, finish reason and token count."""
        return write_chain(request)

    async def _stream(self, http: web.Request, text: str, reason: str) -> web.StreamResponse:
        """Say the text, then the same two tokens for ever."""
        answer = web.StreamResponse()
        await answer.prepare(http)
        events = [{"text": text, "token_ids": list(range(1000, 1000 + len(text))), "finish_reason": None}]
        events += [{"text": "la", "token_ids": [7, 8], "finish_reason": None}] * self.options.stream_loop
        events += [{"text": "", "token_ids": [], "finish_reason": reason}]
        for event in events:
            await answer.write(f"data: {json.dumps({'choices': [event]})}\n\n".encode())
        await answer.write(b"data: [DONE]\n\n")
        return answer

    async def embeddings(self, http: web.Request) -> web.Response:
        return web.Response(status=404, text="no embeddings here")

    async def stats(self, _: web.Request) -> web.Response:
        return web.json_response({"seen": self.seen, "most_running": self.most_running})

    async def _hang_if_asked(self) -> None:
        if 0 <= self.options.hang_after <= self.seen:
            await asyncio.sleep(3600)


async def serve(server: FakeServer) -> None:
    app, options = web.Application(), server.options
    app.add_routes(
        [
            web.get("/v1/models", server.models),
            web.post("/v1/completions", server.completions),
            web.post("/v1/chat/completions", server.completions),
            web.post("/v1/embeddings", server.embeddings),
            web.get("/stats", server.stats),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", options.port)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--owner", default="vllm")
    parser.add_argument("--max_model_len", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--break_first", type=int, default=0)
    parser.add_argument("--busy_first", type=int, default=0)
    parser.add_argument("--hang_after", type=int, default=-1)
    parser.add_argument("--stream_loop", type=int, default=0)
    return parser


if __name__ == "__main__":
    asyncio.run(serve(FakeServer(make_parser().parse_args())))
