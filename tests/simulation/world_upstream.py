"""A provider that keeps its own bill, and the way to it of each gateway process, which tells when it is left.

Every answer is a scripted play: exact, without usage, broken, an error, silent, streamed, cut, beyond its cap.
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from scripted_upstream import (
    DONE,
    Play,
    Step,
    Upstream,
    answer,
    claude_answer,
    claude_delta,
    claude_end,
    claude_start,
    counted,
    delta,
    ended,
    failing,
    is_count,
    stream,
    used,
    words,
)

from spendfuse.clock import FrozenClock
from spendfuse.upstream.client import FateUnknown, NeverSent, UpstreamRequest, UpstreamResponse, UpstreamTimeout

INPUT_TOKENS = 8
GENERATED_PER_S = 1_000
CLAUDE = "claude-3-haiku-20240307"
PRICES = {"llama": (1_000, 2_000), "tiny": (100, 200), "gpt-4o-mini": (150, 600), CLAUDE: (250, 1_250)}
"""Nano-dollars a token, by the provider's names: input, output."""
KINDS = ("exact", "null usage", "broken", "voided", "charged", "never sent", "stream", "open stream", "cut stream")
SILENCE_NS = 120 * 10**9
"""After so long without a byte the gateway's client gives up."""


@dataclass(slots=True)
class Exchange:
    """One call as its provider sees it, and what it bills."""

    model: str
    wanted: int
    started_ns: int
    is_stream: bool
    delivered: int = 0
    billed_nanos: int = 0
    is_over: bool = False
    said: bytes = b""
    """Its whole answer."""
    usage_chunk: bytes = b""
    """The part of a stream that only the gateway asked for."""

    @property
    def is_claude(self) -> bool:
        return self.model == CLAUDE


@dataclass(slots=True)
class Provider:
    """Keeps its own bill: exactly what it generated, which is at most what DESIGN assumes of an honest provider."""

    dice: random.Random
    clock: FrozenClock
    obeys_cap: bool
    exchanges: dict[int, Exchange] = field(default_factory=dict[int, Exchange])
    holds: list[asyncio.Event] = field(default_factory=list[asyncio.Event])
    silences: list[tuple[int, asyncio.Event]] = field(default_factory=list[tuple[int, asyncio.Event]])
    """When somebody gave up waiting, and what lets them."""
    kinds: tuple[str, ...] = KINDS

    @property
    def bill_nanos(self) -> int:
        return sum(one.billed_nanos for one in self.exchanges.values())

    def play(self, request: UpstreamRequest) -> Play:
        """What the next call, or count of one, meets."""
        if is_count(request):
            return failing(529) if self.dice.random() < 0.2 else counted(INPUT_TOKENS)
        body = json.loads(request.body)
        kind, cap = (
            self.dice.choice(self.kinds),
            body["max_completion_tokens" if "gpt" in body["model"] else "max_tokens"],
        )
        wanted = self.dice.randint(0, cap if self.obeys_cap else 3 * cap)
        number = number_of(body)
        is_free = kind in ("never sent", "voided")
        self.exchanges[number] = Exchange(
            body["model"], wanted, self.clock.now_ns(), is_stream=body.get("stream", False), is_over=is_free
        )
        if kind == "silent":
            silent: list[Step] = [self._silence(), lambda: self.end(number), UpstreamTimeout("silent")]
            return Play(before_head=silent)
        if kind == "never sent":
            return Play(before_head=[self._hold(), NeverSent("refused")])
        if kind == "voided":
            return failing(self.dice.choice([400, 429, 500, 503]), before_head=[self._hold()])
        if body.get("stream") and "stream" in kind:
            return self._stream(kind, number, wanted)
        return self._whole(kind, number, wanted)

    def end(self, number: int) -> None:
        """Bill a call for what was made by now; afterwards nothing more."""
        exchange = self.exchanges.get(number)
        if exchange is None or exchange.is_over:
            return
        elapsed_ms = (self.clock.now_ns() - exchange.started_ns) // 10**6
        made = min(exchange.wanted, elapsed_ms * GENERATED_PER_S // 1_000)
        self._bill(exchange, exchange.delivered if exchange.delivered else 0 if exchange.is_stream else made)

    def _bill(self, exchange: Exchange, output_tokens: int) -> None:
        input_nanos, output_nanos = PRICES[exchange.model]
        exchange.billed_nanos = INPUT_TOKENS * input_nanos + output_tokens * output_nanos
        exchange.is_over = True

    def _whole(self, kind: str, number: int, wanted: int) -> Play:
        exchange = self.exchanges[number]
        unknown: list[Step] = [self._hold(), lambda: self.end(number)]
        if kind == "broken":
            return Play(before_head=[*unknown, self.dice.choice([FateUnknown("reset"), UpstreamTimeout("silent")])])
        if kind == "charged":
            return failing(504, before_head=unknown)
        if kind == "null usage" and self.obeys_cap:
            exchange.said = claude_answer(used=None) if exchange.is_claude else answer(used=None)
            return Play([*unknown, exchange.said])
        # Billed in full only once it was read: before, it has made no more than its rate allows.
        exchange.said = (claude_answer if exchange.is_claude else answer)(wanted, input_tokens=INPUT_TOKENS)
        return Play([self._hold(), exchange.said, lambda: self._bill(exchange, wanted)])

    def _stream(self, kind: str, number: int, wanted: int) -> Play:
        exchange = self.exchanges[number]
        is_claude = exchange.is_claude
        steps: list[Step] = []
        left = wanted
        while left:
            piece = min(left, self.dice.randint(1, 100))
            left -= piece
            # Billed only once it was handed over: a client that leaves first has not been served it.
            shown = (claude_delta if is_claude else delta)(words(piece))
            steps += [shown, self._delivery(exchange, piece)]
        for _ in range(3):
            steps.insert(self.dice.randint(0, len(steps)), self._hold())
        if is_claude:
            steps.insert(0, claude_start(INPUT_TOKENS))
        over: Step = lambda: self.end(number)  # noqa: E731
        if kind == "open stream":
            return self._said(exchange, steps, self._silence(), over, UpstreamTimeout("silent"))
        if kind == "cut stream":
            return self._said(exchange, steps, over, FateUnknown("reset"))
        says_usage = self.dice.random() < 0.7
        if is_claude:
            return self._said(exchange, steps, over, claude_end(wanted if says_usage else None))
        usage = [used(INPUT_TOKENS, wanted)] if says_usage else []
        exchange.usage_chunk = b"".join(usage)
        return self._said(exchange, steps, over, ended(), *usage, DONE)

    def _said(self, exchange: Exchange, steps: list[Step], *more: Step) -> Play:
        exchange.said = b"".join(one for one in (*steps, *more) if isinstance(one, bytes))
        return stream(*steps, *more)

    def _delivery(self, exchange: Exchange, tokens: int) -> Callable[[], None]:
        def deliver() -> None:
            exchange.delivered += tokens

        return deliver

    def pass_time(self) -> None:
        """Let those who have waited long enough give up."""
        now_ns = self.clock.now_ns()
        for due_ns, silence in self.silences:
            if due_ns <= now_ns:
                silence.set()
        self.silences = [one for one in self.silences if not one[1].is_set()]

    def _silence(self) -> asyncio.Event:
        silence = asyncio.Event()
        self.silences.append((self.clock.now_ns() + SILENCE_NS, silence))
        return silence

    def _hold(self) -> asyncio.Event:
        hold = asyncio.Event()
        if self.dice.random() < 0.4:
            hold.set()
        self.holds.append(hold)
        return hold


def number_of(body: dict[str, Any]) -> int:
    """The number of a call: its user in the body, over which the header's goes as a label."""
    return int(body["metadata"]["user_id"] if "metadata" in body else body["user"])


class ProcessUpstream:
    """The upstream client of one process: `observe` sees each call at the moment in which it goes up."""

    def __init__(self, provider: Provider, observe: Callable[[int, int], None]) -> None:
        self._provider = provider
        self._observe = observe
        self._upstream = Upstream([])
        self._upstream.play = provider.play

    @asynccontextmanager
    async def post(self, request: UpstreamRequest) -> AsyncGenerator[UpstreamResponse]:
        """See `UpstreamClient`. A provider that is left stops, and bills what it has made."""
        number: int | None = None
        if not is_count(request):
            body = json.loads(request.body)
            number = number_of(body)
            self._observe(number, body.get("max_completion_tokens") or body.get("max_tokens") or 0)
        try:
            async with self._upstream.post(request) as response:
                yield response
        finally:
            if number is not None:
                self._provider.end(number)

    async def close(self) -> None:
        """See `UpstreamClient`."""
