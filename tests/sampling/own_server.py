"""An OpenAI-compatible server inside a test, which says what the test tells it to: each request is handed to it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
PATHS = ("completions", "chat/completions")
CARD = {"id": "tiny", "owned_by": "vllm", "max_model_len": 100_000}


class OwnServer:
    """`url` is its base URL, `bodies` are the completion requests that came."""

    def __init__(self, answer: Answer):
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self._answer = answer

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.add_routes(
            [web.get("/v1/models", self._models), *(web.post(f"/v1/{path}", self._complete) for path in PATHS)]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [CARD]})

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        self.bodies.append(body)
        return await self._answer(http, body)


@contextmanager
def serving(answer: Answer) -> Iterator[OwnServer]:
    """Serve in a thread of this process until the block ends."""
    server = OwnServer(answer)
    loop = asyncio.new_event_loop()
    runner = loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def refusal(status: int, message: str, **headers: str) -> web.Response:
    """vLLM's error body."""
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return web.json_response({"error": error}, status=status, headers=headers)


async def begin(http: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(http)
    return response


async def say(response: web.StreamResponse, text: str, ids: Sequence[int], reason: str | None = None) -> None:
    """One event of vLLM's stream."""
    choice = {"index": 0, "text": text, "token_ids": list(ids), "finish_reason": reason}
    await response.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())


async def fail(response: web.StreamResponse, message: str, code: int) -> web.StreamResponse:
    """The error that vLLM sends in a stream under way."""
    await response.write(f"data: {json.dumps({'error': {'message': message, 'code': code}})}\n\n".encode())
    return response
