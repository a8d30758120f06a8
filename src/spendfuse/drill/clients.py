"""Who calls in a drill: programs behind an SDK, or scripts without one.

A client goes one of two ways: through the gateway, or straight to the provider, as it would without Spendfuse.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import orjson

from spendfuse.core.labels import Labels
from spendfuse.drill.prompts import prompt, tokens_of
from spendfuse.drill.provider import Asked, SimulatedProviders
from spendfuse.drill.refusals import PASSED, Heard, heard
from spendfuse.gate.gate import Gate
from spendfuse.gate.requests import Caller, Request
from spendfuse.upstream.client import UpstreamError
from spendfuse.wire.dialect import Answer, Dialect

SDK_RETRIES = 2
SDK_TIMEOUT_S = 600.0
_SDK_WAIT_S_FIRST, _SDK_WAIT_S_MAX = 0.5, 8.0
_SDK_RETRY_AFTER_S_MAX = 60.0
"""The vendors' SDKs obey a longer `Retry-After` no more."""
_REPEATED_STATUSES = frozenset({408, 409, 429})
TIMED_OUT = Heard(0)
FINAL_REFUSALS = 3
"""So many refusals that no repetition can change, and nothing that got through between, and a client is done."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A call as a client makes it. `cap` is the client's own."""

    model: str
    target: str
    number: int
    prompt_tokens: int
    cap: int | None = None

    def asked(self) -> Asked:
        """As its provider gets it where nothing stands between."""
        return Asked(self.target, self.number, tokens_of(self.prompt_tokens), self.cap)


@dataclass(slots=True)
class Source:
    """Whom calls come from: a key, the labels it claims, and an address."""

    caller: Caller
    claimed: Labels
    ip: str
    timeout_s: float = SDK_TIMEOUT_S
    retries: int = SDK_RETRIES
    final_refusals: int = field(default=0, init=False)

    @property
    def is_done(self) -> bool:
        """Nothing of it can get through any more."""
        return self.final_refusals >= FINAL_REFUSALS


class Way(Protocol):
    """The way of a call to its provider."""

    async def send(self, source: Source, ask: Ask) -> Heard:
        """Make one attempt."""
        ...


class Straight:
    """To the provider, which answers everything."""

    def __init__(self, providers: SimulatedProviders) -> None:
        self._providers = providers

    async def send(self, source: Source, ask: Ask) -> Heard:
        """See `Way`."""
        try:
            return Heard((await self._providers.take(ask.asked(), timeout_s=SDK_TIMEOUT_S)).status)
        except UpstreamError:
            return TIMED_OUT


class Gated:
    """Through the gate."""

    def __init__(self, gate: Gate, dialect: Dialect, *, ends_at_s: float) -> None:
        self._gate = gate
        self._dialect = dialect
        self._ends_at_s = ends_at_s

    async def send(self, source: Source, ask: Ask) -> Heard:
        """See `Way`."""
        down = _Down()
        await self._gate.serve(Request(self._dialect, source.caller, source.claimed, source.ip, {}, _body(ask)), down)
        return heard(down.told, ends_at_s=self._ends_at_s)


class _Down:
    """The `Downstream` of a client that reads at once. Whole answers only, as no drill streams."""

    def __init__(self) -> None:
        self.told = Answer(0, (), b"")

    async def answer(self, answer: Answer) -> None:
        """See `Downstream`."""
        self.told = answer

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        """See `Downstream`."""
        self.told = Answer(status, headers, b"")

    async def send(self, chunk: bytes) -> None:
        """See `Downstream`."""
        self.told = replace(self.told, body=self.told.body + chunk)

    async def finish(self) -> None:
        """See `Downstream`."""

    async def abort(self) -> None:
        """See `Downstream`."""


@lru_cache(32)
def _body(ask: Ask) -> bytes:
    """Clients ask in OpenAI's words; those who retry ask in the same bytes."""
    body: dict[str, object] = {
        "model": ask.model,
        "messages": [{"role": "user", "content": prompt(ask.number, ask.prompt_tokens)}],
    }
    if ask.cap is not None:
        body["max_tokens"] = ask.cap
    return orjson.dumps(body)


def _ignore(ask: Ask, answer: Heard) -> None:
    """Nobody looks."""


class Clients:
    """Makes calls as SDKs do. `on_attempt` is told of every attempt and what came back."""

    def __init__(self, way: Way, rng: random.Random) -> None:
        self._way = way
        self._rng = rng
        self.on_attempt: Callable[[Ask, Heard], None] = _ignore

    async def call(self, source: Source, ask: Ask) -> Heard:
        """One call with its retries; what came back last."""
        for retried in range(source.retries + 1):
            answer = await self._attempt(source, ask)
            wait_s = self._wait_s(answer, retried)
            if wait_s is None or retried == source.retries or source.is_done:
                return answer
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt returns")

    async def _attempt(self, source: Source, ask: Ask) -> Heard:
        try:
            async with asyncio.timeout(source.timeout_s):
                answer = await self._way.send(source, ask)
        except TimeoutError:
            answer = TIMED_OUT
        if answer.is_final:
            source.final_refusals += 1
        elif not answer.refused_by:
            source.final_refusals = 0
        self.on_attempt(ask, answer)
        return answer

    def _wait_s(self, answer: Heard, retried: int) -> float | None:
        """How long an SDK waits before it repeats a call; None when it does not."""
        if answer.status in PASSED or answer.should_retry is False:
            return None
        is_repeated = answer.status in _REPEATED_STATUSES or answer.status >= 500 or answer is TIMED_OUT
        if not is_repeated and not answer.should_retry:
            return None
        if answer.retry_after_s is not None and 0 < answer.retry_after_s <= _SDK_RETRY_AFTER_S_MAX:
            return answer.retry_after_s
        wait_s = min(_SDK_WAIT_S_FIRST * 2**retried, _SDK_WAIT_S_MAX)
        return wait_s * (1 - self._rng.random() / 4)
