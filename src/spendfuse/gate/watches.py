"""One attempt as breakers see it: whether it was an error, how long it took, what it cost, whether it is a probe.

What counts as an error: an answer of 5xx or 408, a timeout, a connection that fails or breaks, a stream that breaks or
reports an error, a 429 that does not say when to come again. A client's own 4xx is none. An attempt whose client leaves
says nothing, and one whose provider says when to come again pauses its target for as long.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from spendfuse.core.breakers import Breaker, MeanLatency
from spendfuse.core.labels import Labels
from spendfuse.core.reservations import Charge
from spendfuse.core.windows import MS_PER_S
from spendfuse.gate.breaker_states import Probing

if TYPE_CHECKING:
    from spendfuse.gate.breakers import Breakers

PAUSE_MS_MAX = 3_600_000
"""A provider that asks to be left alone for longer is tried again after an hour."""
_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS = 408, 429


def retry_after_ms(header: str | None, now_ms: int) -> int | None:
    """How long a provider asks to be left alone by its `Retry-After`: seconds or a date; None where it doesn't say."""
    if not header:
        return None
    try:
        seconds = float(header)
        ms = seconds * MS_PER_S if math.isfinite(seconds) else None
    except ValueError:
        try:
            at = parsedate_to_datetime(header)
        except ValueError:
            return None
        ms = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * MS_PER_S - now_ms
    return None if ms is None or ms < 0 else min(PAUSE_MS_MAX, int(ms))


class AttemptWatch:
    """From admission to the attempt's end. Of what is said of the end the first counts; `left` is what remains."""

    # Defaults of the class: most calls set none of them, and making a watch is on the way of each.
    client_wait_s: float = 0.0
    """For so long a stream has waited for its client, which says nothing of its target."""
    _sent_at_s: float = 0.0
    _first_token_s: float | None = None
    _is_success: bool = False
    _is_over: bool = False
    _pending: Sequence[tuple[Breaker, str]] = ()
    _timers: Sequence[asyncio.TimerHandle] = ()
    _probe_id: int = 0

    def __init__(self, breakers: "Breakers", labels: Labels, *, is_stream: bool) -> None:
        self._breakers = breakers
        self.labels = labels
        self._is_stream = is_stream
        self._closings = breakers.copy.closings

    def become_probe(self, probing: Probing, probe_id: int) -> None:
        """The store has made it the probe of these."""
        self._pending = probing
        self._probe_id = probe_id

    def sent(self, now_s: float) -> None:
        """It begins."""
        self._sent_at_s = now_s
        for breaker, subject in self._pending:
            if isinstance(breaker.trigger, MeanLatency):
                # Slower than this it fails, whenever it ends.
                timer = asyncio.get_running_loop().call_later(
                    breaker.trigger.ms / MS_PER_S, self._end_probe, breaker, subject, False
                )
                self._timers = (*self._timers, timer)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """The first byte of an answer has come."""
        if status < 400 and not self._pending:
            self._is_success = True
            return
        if status == _TOO_MANY_REQUESTS:
            ms = retry_after_ms(headers.get("retry-after"), self._breakers.now_ms())
            if ms is None:
                self.failed()
            else:
                self._breakers.pause(self.labels["target"], ms)
        elif status >= 500 or status == _REQUEST_TIMEOUT:
            self.failed()
        self._is_success = status < 400
        if not self._is_over:
            for breaker, subject in self._pending:
                if not isinstance(breaker.trigger, MeanLatency):
                    self._end_probe(breaker, subject, True)
        if status == _TOO_MANY_REQUESTS:
            self.left()

    def first_token(self, now_s: float) -> None:
        """The first piece of a stream's output has come."""
        if self._first_token_s is None:
            self._first_token_s = now_s
            for breaker, subject in self._pending:
                if isinstance(breaker.trigger, MeanLatency) and breaker.trigger.to_first_token:
                    self._end_probe(breaker, subject, True)

    def answered(self, now_s: float) -> None:
        """The answer has come whole."""
        if self._is_over:
            return
        self._is_over = True
        whole_ms = first_token_ms = None
        if self._is_success:
            whole_ms = int((now_s - self._sent_at_s - self.client_wait_s) * MS_PER_S + 0.5)
            if self._is_stream and self._first_token_s is not None:
                first_token_ms = round((self._first_token_s - self._sent_at_s) * MS_PER_S)
        self._breakers.count(
            self.labels, self._closings, is_error=False, whole_ms=whole_ms, first_token_ms=first_token_ms
        )
        # A client's own error says nothing of how fast answers are.
        self._end_probes(True if self._is_success else None)

    def failed(self) -> None:
        """It was an error."""
        if self._is_over:
            return
        self._is_over = True
        self._breakers.count(self.labels, self._closings, is_error=True, whole_ms=None, first_token_ms=None)
        self._end_probes(False)

    def left(self) -> None:
        """Nothing can be told of it: its client left, or it never came about."""
        if self._is_over and not self._pending:
            return
        self._is_over = True
        self._end_probes(None)

    def charged(self, charge: Charge) -> None:
        """What it cost."""
        self._breakers.count_charge(
            self.labels, self._closings, cost=charge.cost, output_tokens=charge.usage.output_tokens
        )

    def _end_probes(self, succeeded: bool | None) -> None:
        for breaker, subject in self._pending:
            self._end_probe(breaker, subject, succeeded)
        for timer in self._timers:
            timer.cancel()

    def _end_probe(self, breaker: Breaker, subject: str, succeeded: bool | None) -> None:
        """Of one breaker; once."""
        left = [one for one in self._pending if one[0].name != breaker.name]
        if len(left) < len(self._pending):
            self._pending = left
            self._breakers.end_probe(breaker, subject, self._probe_id, succeeded)
