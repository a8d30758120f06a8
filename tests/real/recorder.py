"""A pass-through before the model's server that keeps what went either way: the server's own report of each call."""

import asyncio
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import aiohttp
from aiohttp import web
from real_model import Tokens

OF_A_CONNECTION = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


@dataclass(slots=True)
class Exchange:
    """One call as the server saw it. `answer` grows as bytes pass, before they are passed on."""

    path: str
    request: dict[str, object]
    answer: bytearray = field(default_factory=bytearray)
    is_complete: bool = False

    def events(self) -> list[dict[str, object]]:
        """The JSON of each `data:` line, or the one of a whole answer."""
        body = bytes(self.answer)
        if not self.request.get("stream"):
            return [json.loads(body)]
        lines = [line[6:] for line in body.splitlines() if line.startswith(b"data: ")]
        return [json.loads(line) for line in lines if line != b"[DONE]"]

    def reported(self) -> Tokens:
        """The usage that the server told, in the words of the dialect it was asked in."""
        usage: dict[str, object] = {}
        for event in self.events():
            # Messages begin with the input's usage inside `message` and end with the output's.
            for holder in (event, event.get("message")):
                told = cast("dict[str, object]", holder).get("usage") if isinstance(holder, dict) else None
                if isinstance(told, dict):
                    usage |= cast("dict[str, object]", told)
        if self.path.endswith("/messages"):
            return tokens_of_messages(usage)
        return tokens_of_chat(usage)


def tokens_of_chat(usage: dict[str, object]) -> Tokens:
    details = usage["prompt_tokens_details"]
    assert isinstance(details, dict)
    return _tokens(usage["prompt_tokens"], details["cached_tokens"], usage["completion_tokens"])


def tokens_of_messages(usage: dict[str, object]) -> Tokens:
    cached, rest = usage["cache_read_input_tokens"], usage["input_tokens"]
    assert isinstance(cached, int)
    assert isinstance(rest, int)
    return _tokens(rest + cached, cached, usage["output_tokens"])


def _tokens(*counts: object) -> Tokens:
    whole = [count for count in counts if isinstance(count, int)]
    assert len(whole) == len(counts)
    return Tokens(*whole)


class Recorder:
    """The exchanges so far, in the order in which they began."""

    def __init__(self, upstream_url: str) -> None:
        self._upstream_url = upstream_url
        self._exchanges: list[Exchange] = []

    def exchange_of(self, answer_id: str) -> Exchange:
        """The exchange whose answer has this id."""
        (found,) = [one for one in self._exchanges if answer_id.encode() in one.answer]
        return found

    def last(self) -> Exchange:
        return self._exchanges[-1]

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        exchange = Exchange(request.path, json.loads(body) if body else {})
        self._exchanges.append(exchange)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in OF_A_CONNECTION}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, self._upstream_url + request.path, data=body, headers=headers) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in OF_A_CONNECTION}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                exchange.answer += piece
                await response.write(piece)
            exchange.is_complete = True
            await response.write_eof()
        return response


@contextmanager
def recording(upstream_url: str) -> Generator[tuple[str, Recorder]]:
    """The URL of a pass-through to `upstream_url`, and what it records."""
    recorder = Recorder(upstream_url)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    # A client that leaves ends the call at the server: what a cut stream costs depends on it.
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", recorder.pass_on)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    try:
        port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        yield f"http://127.0.0.1:{port}", recorder
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
