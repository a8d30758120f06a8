"""A provider's free count of a call's input, asked for where bytes do not fit.

Failure policy: whatever goes wrong, there is no count, and bytes stay the bound. Nothing is reserved for it, as nothing
can be billed.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from hashlib import blake2b

from spendfuse.core.calls import Call
from spendfuse.gate.estimates import ProviderCount
from spendfuse.gate.routes import Route
from spendfuse.upstream.client import UpstreamClient, UpstreamError
from spendfuse.wire.dialect import Exchange, TokenCounter

logger = logging.getLogger("spendfuse.gate")
COUNT_TIMEOUT_S = 5.0
"""A count that takes longer is not worth waiting for: the client waits too."""
COUNTS_MAX = 2_000
_ANSWER_BYTES_MAX = 64 * 1024


class ProviderCounts:
    """Asks providers to count, and remembers the newest answers: a client that repeats a refused call costs them one.

    Only a hash of what was counted is kept.
    """

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client
        self._known: OrderedDict[bytes, int] = OrderedDict()

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
        key = blake2b(body, digest_size=16, key=route.target.encode()[:64]).digest()
        count = self._known.get(key)
        if count is None:
            request = route.request(
                counter.operation, exchange.headers_upstream(headers), body, timeout_s_max=COUNT_TIMEOUT_S
            )
            try:
                async with self._client.post(request) as response:
                    answer = await response.read(_ANSWER_BYTES_MAX)
                    count = counter.read(answer) if response.status == 200 else None
            except UpstreamError as error:
                logger.warning("count_failed target=%s error=%s", route.target, error)
                return None
            if count is None:
                logger.warning("count_failed target=%s status=%s", route.target, response.status)
                return None
            self._remember(key, count)
        return count

    def _remember(self, key: bytes, count: int) -> None:
        self._known[key] = count
        if len(self._known) > COUNTS_MAX:
            self._known.popitem(last=False)
