"""The provider's own bill: what every call cost, running calls included."""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spendfuse.simulator.models import Endpoint, Model
from spendfuse.simulator.pace import Now, Pace

Outcome = Literal["completed", "cancelled", "errored", "disconnected", "running"]
OUTCOMES: tuple[Outcome, ...] = ("completed", "cancelled", "errored", "disconnected", "running")

RECORDS_MAX = 10_000
NANOS_PER_DOLLAR = 1_000_000_000


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call on the bill. Times are seconds since the epoch; header names are in lower case, without values."""

    id: str
    endpoint: str
    model: str
    outcome: Outcome
    status: int
    """Of the answer; 0 while there is none."""
    started_at: float
    ended_at: float | None
    cancelled_at: float | None
    stream: bool = False
    stream_options: Mapping[str, object] | None = None
    cap: int | None = None
    choices: int = 1
    input_tokens: int = 0
    """All of it: the tokens read from the cache and written to it too."""
    cached_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    cost_nanos: int = 0
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCall:
    """A call that was taken: what it will cost follows from how it ends."""

    id: str
    endpoint: Endpoint
    model: Model
    started_at: float
    pace: Pace
    headers: tuple[str, ...]
    input_tokens: int
    cached_tokens: int
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    choices: int = 1
    cap: int | None = None
    stream: bool = False
    stream_options: Mapping[str, object] | None = None

    @property
    def total_tokens(self) -> int:
        return self.choices * self.pace.total_tokens

    def generated_tokens(self, now: Now) -> int:
        return self.choices * self.pace.generated(now.monotonic_s)

    def record(
        self, outcome: Outcome, now: Now, *, status: int, output_tokens: int, input_billed: bool = True
    ) -> CallRecord:
        billed = {
            "input_tokens": self.input_tokens if input_billed else 0,
            "cached_tokens": self.cached_tokens if input_billed else 0,
            "cache_write_5m_tokens": self.cache_write_5m_tokens if input_billed else 0,
            "cache_write_1h_tokens": self.cache_write_1h_tokens if input_billed else 0,
            "output_tokens": output_tokens,
        }
        return CallRecord(
            id=self.id,
            endpoint=self.endpoint,
            model=self.model.name,
            outcome=outcome,
            status=status,
            started_at=self.started_at,
            ended_at=None if outcome == "running" else now.epoch_s,
            cancelled_at=now.epoch_s if outcome == "cancelled" else None,
            stream=self.stream,
            stream_options=self.stream_options,
            cap=self.cap,
            choices=self.choices,
            cost_nanos=self.model.cost_nanos(**billed),
            **billed,
            headers=self.headers,
        )


@dataclass(frozen=True, slots=True)
class BillReport:
    """Totals at one moment; the records are the newest 10,000 calls, or none if they were not asked for."""

    dollars: str
    nanos: int
    input_tokens: int
    cached_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    calls: dict[Outcome, int]
    records: tuple[CallRecord, ...] = ()


class Bill:
    """All calls since the start. A call is closed once; closing it again changes nothing."""

    def __init__(self) -> None:
        self._running: dict[str, OpenCall] = {}
        self._closed: deque[CallRecord] = deque(maxlen=RECORDS_MAX)
        self._calls: Counter[Outcome] = Counter()
        self._sums: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self, call: OpenCall) -> None:
        self._running[call.id] = call
        self._idle.clear()

    def complete(self, call: OpenCall, now: Now) -> None:
        self._close(call, call.record("completed", now, status=200, output_tokens=call.total_tokens))

    def disconnect(self, call: OpenCall, now: Now, *, output_tokens: int) -> None:
        """The provider dropped the connection and bills what it had generated."""
        self._close(call, call.record("disconnected", now, status=200, output_tokens=output_tokens))

    def break_off(self, call: OpenCall, now: Now, *, output_tokens: int) -> None:
        """The provider met an error amid a stream and bills what it had generated."""
        self._close(call, call.record("errored", now, status=200, output_tokens=output_tokens))

    def cancel(self, call: OpenCall, now: Now, *, output_tokens: int) -> None:
        """The client left."""
        self._close(call, call.record("cancelled", now, status=0, output_tokens=output_tokens))

    def fail(self, call: OpenCall, now: Now, *, status: int) -> None:
        """The call met an error before any output, which costs nothing."""
        self._close(call, call.record("errored", now, status=status, output_tokens=0, input_billed=False))

    def refuse(self, path: str, now: Now, *, status: int, headers: tuple[str, ...]) -> None:
        """A request that never became a call, as it was wrong in itself."""
        record = CallRecord(
            id="",
            endpoint=path,
            model="",
            outcome="errored",
            status=status,
            started_at=now.epoch_s,
            ended_at=now.epoch_s,
            cancelled_at=None,
            headers=headers,
        )
        self._add(record)

    async def wait_until_idle(self, timeout_s: float) -> None:
        """Until no call is running, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return

    def report(self, now: Now, *, with_records: bool = False) -> BillReport:
        running = [
            call.record("running", now, status=0, output_tokens=call.generated_tokens(now))
            for call in self._running.values()
        ]
        sums = Counter(self._sums)
        for record in running:
            _add_to(sums, record)
        calls: dict[Outcome, int] = {outcome: self._calls[outcome] for outcome in OUTCOMES}
        calls["running"] = len(running)
        nanos = sums["cost_nanos"]
        return BillReport(
            dollars=f"{nanos // NANOS_PER_DOLLAR}.{nanos % NANOS_PER_DOLLAR:09d}",
            nanos=nanos,
            input_tokens=sums["input_tokens"],
            cached_tokens=sums["cached_tokens"],
            cache_write_5m_tokens=sums["cache_write_5m_tokens"],
            cache_write_1h_tokens=sums["cache_write_1h_tokens"],
            output_tokens=sums["output_tokens"],
            calls=calls,
            records=tuple((*self._closed, *running)[-RECORDS_MAX:]) if with_records else (),
        )

    def _close(self, call: OpenCall, record: CallRecord) -> None:
        if self._running.pop(call.id, None) is None:
            return
        self._add(record)
        if not self._running:
            self._idle.set()

    def _add(self, record: CallRecord) -> None:
        self._closed.append(record)
        self._calls[record.outcome] += 1
        _add_to(self._sums, record)


def _add_to(sums: Counter[str], record: CallRecord) -> None:
    sums["input_tokens"] += record.input_tokens
    sums["cached_tokens"] += record.cached_tokens
    sums["cache_write_5m_tokens"] += record.cache_write_5m_tokens
    sums["cache_write_1h_tokens"] += record.cache_write_1h_tokens
    sums["output_tokens"] += record.output_tokens
    sums["cost_nanos"] += record.cost_nanos
