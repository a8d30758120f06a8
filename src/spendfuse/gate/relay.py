"""One attempt at an upstream: send, relay what comes back, and learn what the reservation has to be ended at.

Bytes go to the client as they came; reading the upstream waits for the client, so neither is outrun. Whatever
interrupts the attempt, leaving it closes the upstream's connection, and the reservation is ended by the policy of
`gate.endings`.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from spendfuse.clock import Clock
from spendfuse.core.calls import Call
from spendfuse.core.money import format_usd
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.reservations import Charge, reservation_text
from spendfuse.core.usage import AtLeast, Exact, Usage
from spendfuse.gate.endings import (
    VOID_STATUSES,
    Seen,
    charge_seen,
    charge_unknown,
    tail_tokens,
)
from spendfuse.gate.requests import Downstream
from spendfuse.gate.reservations import OpenReservation
from spendfuse.gate.routes import Route
from spendfuse.gate.watches import AttemptWatch
from spendfuse.upstream.client import (
    FateUnknown,
    NeverSent,
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTimeout,
)
from spendfuse.wire.dialect import Answer, Exchange, StreamMeter, Visible

logger = logging.getLogger("spendfuse.gate")

ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""A whole answer is held in memory to learn its cost before it goes out; a larger one is refused and charged."""
RECHECK_TOKENS_MIN = 64
SUSPECT_BYTES_PER_TOKEN = 4
"""Visible bytes per reserved token from which a stream's tokens are counted: ordinary text has about as many."""
EXTENSION_TOKENS = 256
"""How much further, beside a quarter of what was seen, an outrun reservation is extended, for each choice."""
_DROPPED_HEADERS = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding",
        "upgrade", "content-length", "set-cookie", "date", "server", "alt-svc", "location",
        "strict-transport-security",
    }
)  # fmt: skip
"""Of one connection only, or about the provider's own site."""
_BODY_HEADERS = frozenset({"content-type", "content-encoding", "etag", "digest", "content-language"})
"""About the bytes of a body."""


@dataclass(slots=True)
class Attempt:
    """One call at one target, under one open reservation."""

    call: Call
    exchange: Exchange
    route: Route
    reservation: OpenReservation
    down: Downstream
    client: UpstreamClient
    clock: Clock
    headers: tuple[tuple[str, str], ...]
    """Our own headers of the answer."""
    deadline_s: float
    observe_output: Callable[[int], None]
    watch: AttemptWatch
    _sent_at_s: float = field(default=0.0, init=False)
    _first_byte_at_s: float = field(default=0.0, init=False)

    async def run(self, request: UpstreamRequest) -> Deny | None:
        """Carry the call out; a `Deny` is for the client when nothing was sent to it yet.

        On return, and on any exception, cancellation included, the reservation has been ended.
        """
        self._sent_at_s = self.clock.monotonic_s()
        self.watch.sent(self._sent_at_s)
        try:
            async with self.client.post(request) as response:
                cut = await self._relay(response)
                self.watch.answered(self.clock.monotonic_s())
            # Only now, so that the provider stops before a slow client is waited for.
            if isinstance(cut, Deny):
                return cut
            if cut is not None:
                await self._send_cut(cut)
            return None
        except NeverSent as error:
            self.watch.failed()
            self.reservation.void()
            return Deny(Code.UPSTREAM_UNREACHABLE, f"The provider could not be reached: {error}. Nothing was charged.")
        except UpstreamTimeout as error:
            self.watch.failed()
            return Deny(Code.UPSTREAM_TIMEOUT, f"The provider did not answer in time: {error}.{self._settle_unknown()}")
        except FateUnknown as error:
            self.watch.failed()
            return Deny(Code.UPSTREAM_FAILED, f"The provider's connection broke: {error}.{self._settle_unknown()}")
        finally:
            self._settle_unknown()
            self.watch.left()

    def _settle_unknown(self) -> str:
        """Charge a call of unknown fate, unless it has ended; returns what the client is told of it."""
        if self.reservation.is_ended:
            return ""
        charge = self._charge_unknown()
        self.reservation.settle(charge)
        return f" Its outcome is unknown, so it is charged at up to ${format_usd(charge.cost)}."

    async def _relay(self, response: UpstreamResponse) -> "_Cut | Deny | None":
        """Relay an answer; returns what is left to send of a stream that has to be cut."""
        self._first_byte_at_s = self.clock.monotonic_s()
        self.watch.head(response.status, response.headers)
        if 300 <= response.status < 400:
            # Nobody has made an answer, and the way to another host is not ours to take with the provider's key.
            self.reservation.void()
            return Deny(
                Code.UPSTREAM_FAILED,
                f"The provider answered with a redirect ({response.status}): correct the base_url of provider "
                f'"{self.route.labels["provider"]}" in the config. Nothing was charged.',
            )
        if response.status >= 400:
            await self._relay_error(response)
        elif self.call.stream and response.headers.get("content-type", "").startswith("text/event-stream"):
            return await self._relay_stream(response)
        else:
            return await self._relay_whole(response)
        return None

    async def _relay_error(self, response: UpstreamResponse) -> None:
        if response.status in VOID_STATUSES:
            self.reservation.void()
        else:
            self._settle_unknown()
        body = await response.read(ANSWER_BYTES_MAX)
        told = self.exchange.error(response.status, body)
        passed = _passed_headers(response, is_ours=told is not body)
        await self.down.answer(Answer(response.status, (*self.headers, *passed), told))

    async def _relay_whole(self, response: UpstreamResponse) -> Deny | None:
        body = await response.read(ANSWER_BYTES_MAX)
        answer = self.exchange.read(body)
        match answer.metered:
            case Exact(usage):
                charge = self._charge_exact(usage)
            case AtLeast(usage):
                charge = self._charge_unknown(output_tokens_min=usage.output_tokens)
            case None:
                charge = self._charge_unknown()
        self.reservation.settle(charge)
        if answer.told is None:
            return Deny(
                Code.UPSTREAM_FAILED,
                f"The provider's answer could not be translated. It was charged with ${format_usd(charge.cost)}.",
            )
        cost = ("x-spendfuse-cost-usd", format_usd(charge.cost))
        passed = _passed_headers(response, is_ours=answer.told is not body)
        await self.down.answer(Answer(response.status, (*self.headers, cost, *passed), answer.told))
        return None

    async def _relay_stream(self, response: UpstreamResponse) -> "_Cut | None":
        meter = self.exchange.stream_meter(self.call)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            # Compressed, although it was asked not to be.
            meter.has_unread = True
        try:
            await self.down.start(response.status, (*self.headers, *_passed_headers(response)))
            self.watch.client_wait_s = self.clock.monotonic_s() - self._first_byte_at_s
            unsent = await self._pump(response, meter)
            if meter.error_seen:
                self.watch.failed()
            if unsent is not None:
                return _Cut(meter, unsent)
            await self.down.finish()
        except FateUnknown as error:
            self.watch.failed()
            logger.warning("stream_broken reservation_id=%s error=%s", reservation_text(self.reservation.id), error)
            # Nothing well-formed: the client must see a broken stream as broken.
            await self.down.abort()
        finally:
            self._settle_stream(meter)
        return None

    async def _pump(self, response: UpstreamResponse, meter: StreamMeter) -> bytes | None:
        """Relay to the upstream's end; returns bytes, read but not sent, when the stream has to be cut behind them: it
        has outrun a reservation that can't be extended, or the reservation was ended by a keeper.
        """
        watch = OutrunWatch(self.route, self.reservation, meter.visible, self.deadline_s)
        extend_at_s = self._sent_at_s + self.deadline_s / 3
        async for chunk in response.chunks():
            relayed = meter.feed(chunk)
            if watch.is_suspect() and await watch.has_outrun():
                return relayed
            now_s = self.clock.monotonic_s()
            if meter.visible.deltas:
                self.watch.first_token(now_s)
            if relayed:
                await self.down.send(relayed)
                waited_until_s = self.clock.monotonic_s()
                self.watch.client_wait_s += waited_until_s - now_s
                now_s = waited_until_s
            if now_s > extend_at_s:
                if not await self.reservation.renew(deadline_s=self.deadline_s):
                    logger.warning("stream_cut reservation_id=%s reason=ended", reservation_text(self.reservation.id))
                    return b""
                extend_at_s = self.clock.monotonic_s() + self.deadline_s / 3
        rest = meter.finish()
        if rest:
            await self.down.send(rest)
        return None

    async def _send_cut(self, cut: "_Cut") -> None:
        held, meter = self.reservation.held, cut.meter
        seen_tokens = await asyncio.to_thread(self.route.count_at_least, meter.visible.texts)
        end = meter.cut(Usage(held.quote.input_tokens, max(seen_tokens, held.output_tokens)))
        await self.down.send(cut.unsent + end)
        await self.down.finish()

    def _charge_exact(self, usage: Usage) -> Charge:
        self.observe_output(usage.output_tokens // self.reservation.held.quote.choices)
        return Charge(usage, self.route.charge(self.call, usage))

    def _charge_unknown(self, *, until_s: float | None = None, output_tokens_min: int = 0) -> Charge:
        until_s = self.clock.monotonic_s() if until_s is None else until_s
        return charge_unknown(
            self.reservation.held,
            elapsed_s=until_s - self._sent_at_s,
            output_tokens_per_s_max=self.route.output_tokens_per_s_max,
            output_tokens_min=output_tokens_min,
        )

    def _settle_stream(self, meter: StreamMeter) -> None:
        if meter.usage is not None:
            self.reservation.settle(self._charge_exact(meter.usage))
            return
        has_hidden = meter.visible.has_hidden or meter.has_unread or self.route.reasons
        is_complete = meter.is_complete
        tail_s = 0.0 if is_complete else self.route.cut_tail_s
        # Taken now: the tokens are counted later, in a thread.
        now_s, texts, route = self.clock.monotonic_s(), meter.visible.texts, self.route

        def charge() -> Charge:
            at_least = route.count_at_least(texts)
            if has_hidden or (at_least == 0 and not is_complete):
                return self._charge_unknown(until_s=now_s, output_tokens_min=at_least)
            seen = Seen(at_least, route.count_at_most(texts))
            tail = tail_tokens(seen_tokens=seen.at_most, streamed_s=now_s - self._first_byte_at_s, tail_s=tail_s)
            return charge_seen(self.reservation.held, seen, tail_tokens=tail)

        self.reservation.settle(charge)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A stream that ends here: what was read of it and not sent yet, and the meter that can end it well-formed."""

    meter: StreamMeter
    unsent: bytes


class OutrunWatch:
    """Notices a stream that goes past its reservation, because its target ignores the cap.

    Tokens are counted only once a stream is suspect, and then again only when it can have outrun since.
    """

    def __init__(self, route: Route, reservation: OpenReservation, visible: Visible, deadline_s: float) -> None:
        self._route = route
        self._reservation = reservation
        self._visible = visible
        self._deadline_s = deadline_s
        output_tokens = reservation.held.output_tokens
        # A reservation without output holds nothing that could be outrun: its target is free, and no limit counts.
        self._deltas_max = output_tokens or sys.maxsize
        self._bytes_max = output_tokens * SUSPECT_BYTES_PER_TOKEN or sys.maxsize

    def is_suspect(self) -> bool:
        """Whether it is worth counting."""
        return self._visible.text_bytes > self._bytes_max or self._visible.deltas > self._deltas_max

    async def has_outrun(self) -> bool:
        """Count; extend the reservation when it was outrun. True when the stream has to be cut."""
        seen_tokens = await asyncio.to_thread(self._route.count_at_least, self._visible.texts)
        held = self._reservation.held
        if seen_tokens > held.output_tokens:
            # A share of what was seen, so that a long stream is not counted anew every few tokens.
            cap = -(-seen_tokens * 5 // (4 * held.quote.choices)) + EXTENSION_TOKENS
            if not await self._reservation.extend(cap=cap, deadline_s=self._deadline_s):
                logger.warning("stream_cut reservation_id=%s reason=outrun", reservation_text(self._reservation.id))
                return True
        room_tokens = max(RECHECK_TOKENS_MIN, self._reservation.held.output_tokens - seen_tokens)
        # A token has at least a byte, and a delta at least a token.
        self._bytes_max = self._visible.text_bytes + room_tokens
        self._deltas_max = self._visible.deltas + room_tokens
        return False


def _passes(name: str) -> bool:
    """Whether a provider's header of this (lower case) name is for the client. Ours are ours to say."""
    return name not in _DROPPED_HEADERS and not name.startswith("x-spendfuse-")


def _passed_headers(response: UpstreamResponse, *, is_ours: bool = False) -> tuple[tuple[str, str], ...]:
    """The provider's headers for the client; `is_ours`: the body is not the provider's but our JSON."""
    if is_ours:
        ours = [(name, value) for name, value in _passed_headers(response) if name.lower() not in _BODY_HEADERS]
        return (("content-type", "application/json"), *ours)
    return tuple([(name, value) for name, value in response.headers.items() if _passes(name.lower())])
