"""One call from its arrival to its line on the bill, whatever it asks for.

Failure policy: whatever ends a call (the end of its answer, an injected error,
a client that left, the end of the process) closes it on the bill exactly once.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from spendfuse.clock import Clock
from spendfuse.simulator.asgi import HttpRequest, Receive, Send, run_while_connected, send_body
from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.bill import Bill, OpenCall
from spendfuse.simulator.errors import injected_error
from spendfuse.simulator.messages_cache import PromptCache
from spendfuse.simulator.pace import Now, Pace, now_of, sleep_until

# Counting a larger body takes long enough to hold up other streams: it goes to a thread.
COUNTED_INLINE_BYTES = 100_000
# What is due is sent in pieces of this size, so that a reader who stalls stalls us too.
TOKENS_PER_SEND = 1_000

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it came in, with the behaviour, bill and cache of that moment. Numbers count from 1."""

    http: HttpRequest
    behaviour: Behaviour
    bill: Bill
    number: int
    clock: Clock
    received: Now
    cache: PromptCache
    request_id: str

    def pace(self, tokens: int) -> Pace:
        """The timeline of `tokens`, begun at the arrival."""
        behaviour = self.behaviour
        latency_s = math.inf if behaviour.hang else behaviour.latency_s_of(self.number)
        starts_at_s = self.received.monotonic_s + latency_s
        return Pace(starts_at_s, tokens, behaviour.chunk_tokens, behaviour.chunk_interval_s)

    def now(self) -> Now:
        return now_of(self.clock)

    async def counted(self, count: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of counting this request's tokens."""
        if len(self.http.body) <= COUNTED_INLINE_BYTES:
            return count(*args, **kwargs)
        return await asyncio.to_thread(count, *args, **kwargs)


async def run_call(call: OpenCall, arrival: Arrival, receive: Receive, answering: Coroutine[Any, Any, None]) -> None:
    """Bill the call and answer it, until that is done or the client leaves.

    Raises:
        InjectedError: the behaviour meets this call with an error.
    """
    arrival.bill.open(call)
    try:
        await run_while_connected(receive, answering)
    finally:
        now = arrival.now()
        full = not call.stream and arrival.behaviour.bill_abandoned == "full"
        arrival.bill.cancel(call, now, output_tokens=call.total_tokens if full else call.generated_tokens(now))


async def first_token(call: OpenCall, arrival: Arrival) -> None:
    """Wait for it, or for the injected error (raised) that comes in its place."""
    await sleep_until(call.pace.starts_at_s, arrival.clock)
    status = arrival.behaviour.error_status_of(arrival.number)
    if status is not None:
        arrival.bill.fail(call, arrival.now(), status=status)
        raise injected_error(status, arrival.behaviour.retry_after)


async def send_generated(
    call: OpenCall,
    arrival: Arrival,
    send: Send,
    render: Callable[[int, int, int], bytes],
    *,
    start: int,
    stop: int,
) -> None:
    """Send the tokens `start` to `stop` as they come into being; what a slow reader missed comes in larger pieces.

    `render` makes the bytes of a first token, the one behind the last, and how
    many of them to put into a chunk.
    """
    pace, sent = call.pace, start
    while sent < stop:
        await sleep_until(pace.due_at_s(sent), arrival.clock)
        upto = min(pace.generated(arrival.clock.monotonic_s()), stop, sent + TOKENS_PER_SEND)
        if upto > sent:
            await send_body(send, render(sent, upto, pace.chunk_tokens), more=True)
            sent = upto


def fault_at(after_visible_tokens: int | None, *, hidden_tokens: int, tokens: int) -> int | None:
    """After how many of an answer's tokens a fault comes, if the answer gets that far; hidden tokens are its first."""
    if after_visible_tokens is None or hidden_tokens + after_visible_tokens > tokens:
        return None
    return hidden_tokens + after_visible_tokens
