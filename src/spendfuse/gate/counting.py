"""A provider's free count of a call's input, asked for where bytes do not fit.

Failure policy: whatever goes wrong, there is no count, and bytes stay the bound. A target whose count failed is left
alone for a while. Nothing is reserved for a count, as nothing can be billed.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

from spendfuse.core.calls import Call
from spendfuse.gate.estimates import ProviderCount
from spendfuse.gate.routes import Route
from spendfuse.upstream.client import UpstreamClient, UpstreamError, UpstreamRequest
from spendfuse.wire.dialect import Exchange, TokenCounter

logger = logging.getLogger("spendfuse.gate")
COUNT_TIMEOUT_S = 5.0
"""A count that takes longer is not worth waiting for: the client waits too."""
PAUSE_S = 2.0
"""How long a target is not asked after a count of it has failed."""
COUNTS_MAX = 2_000
_ANSWER_BYTES_MAX = 64 * 1024


@dataclass(slots=True)
class _Running:
    """A count under way, and how many calls wait for it."""

    task: asyncio.Task[int | None]
    waiting: int = 0


class ProviderCounts:
    """Asks providers to count, once for equal bodies: at the same time, and among the newest that were counted.

    A client that repeats a refused call costs the provider one count. Only a hash of what was counted is kept.
    """

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._running: dict[bytes, _Running] = {}
        self._paused_until_s: dict[str, float] = {}

    def of(self, call: Call, exchange: Exchange, route: Route, headers: Mapping[bytes, bytes]) -> ProviderCount | None:
        """How the provider of a route can be asked about a call with these headers of its client; None if it can't."""
        counter = exchange.counter
        if counter is None:
            return None
        return partial(self._count, call, exchange, route, counter=counter, headers=headers)

    async def _count(
        self, call: Call, exchange: Exchange, route: Route, *, counter: TokenCounter, headers: Mapping[bytes, bytes]
    ) -> int | None:
        body = counter.render(call, route.wire)
        if body is None:
            return None
        passed = exchange.headers_upstream(headers)
        request = route.request(counter.operation, passed, body, timeout_s_max=COUNT_TIMEOUT_S)
        key = _key_of(route.target, passed.get("anthropic-beta", ""), body)
        known = self._known.get(key)
        if known is not None:
            return known
        running = self._running.get(key)
        if running is None:
            if asyncio.get_running_loop().time() < self._paused_until_s.get(route.target, 0.0):
                return None
            task = asyncio.create_task(self._ask(counter, request, target=route.target, key=key))
            running = self._running[key] = _Running(task)
        return await self._wait_for(running)

    async def _wait_for(self, running: _Running) -> int | None:
        """Wait with others; who leaves as the last takes the count along."""
        running.waiting += 1
        try:
            return await asyncio.shield(running.task)
        finally:
            running.waiting -= 1
            if not running.waiting:
                running.task.cancel()

    async def _ask(self, counter: TokenCounter, request: UpstreamRequest, *, target: str, key: bytes) -> int | None:
        try:
            async with self._client.post(request) as response:
                answer = await response.read(_ANSWER_BYTES_MAX)
                count = counter.read(answer) if response.status == 200 else None
                failure = f"status {response.status}"
        except UpstreamError as error:
            count, failure = None, str(error)
        finally:
            del self._running[key]
        if count is None:
            logger.warning("count_failed target=%s error=%s", target, failure)
            self._paused_until_s[target] = asyncio.get_running_loop().time() + PAUSE_S
        else:
            self._known[key] = count
            if len(self._known) > COUNTS_MAX:
                self._known.popitem(last=False)
        return count


def _key_of(*parts: str | bytes) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode() + b"\0")
    return digest.digest()
