"""Breakers of a store in memory, by which those of the databases are judged. Nothing here waits."""

from collections.abc import Iterator, Mapping, Sequence

from spendfuse.core.breakers import NOTHING_COUNTED, Breaker, Counts, State
from spendfuse.ledger.baselines import Spent, baseline_of, baseline_spans
from spendfuse.ledger.breakers import BreakerChange, BreakerStates, CountRow, Key, StateChange
from spendfuse.ledger.memory_store import MemoryStore
from spendfuse.ledger.spent import SpentLine
from spendfuse.ledger.store import Topic


class MemoryBreakers:
    """A `BreakerStore`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def states(self, keys: Sequence[Key]) -> Mapping[Key, State]:
        """See `BreakerStore`."""
        lines = self._store.breaker_lines
        return {key: lines[key].state for key in keys if key in lines}

    async def states_of(self, breaker: str) -> Mapping[Key, State]:
        """See `BreakerStore`."""
        return {key: line.state for key, line in self._store.breaker_lines.items() if line.breaker == breaker}

    async def add_counts(self, rows: Sequence[CountRow], now_ms: int) -> None:
        """See `BreakerStore`."""
        self._store.breaker_rows = [row for row in (*self._store.breaker_rows, *rows) if row.until_ms > now_ms]

    async def counts(self, windows: Sequence[tuple[str, str, int]]) -> Sequence[Counts]:
        """See `BreakerStore`."""
        return [self._sum(window) for window in windows]

    def _sum(self, window: tuple[str, str, int]) -> Counts:
        breaker, subject, from_ms = window
        total = NOTHING_COUNTED
        for row in self._store.breaker_rows:
            if row.breaker == breaker and row.subject == subject and row.bucket_ms >= from_ms:
                total += row.counts
        return total

    async def clear_counts(self, key: Key) -> None:
        """See `BreakerStore`."""
        self._store.breaker_rows = [row for row in self._store.breaker_rows if (row.breaker, row.subject) != key]

    async def spent(self, now_ms: int) -> Sequence[SpentLine]:
        """See `BreakerStore`."""
        return self._store.spent_now(now_ms)

    async def write_state(self, change: StateChange, now_ms: int) -> None:
        """See `BreakerStore`."""
        line, state, log = change.line, change.line.state, self._store.breaker_changes
        self._store.breaker_lines[line.key] = line
        if change.is_logged:
            of = (line.breaker, line.subject, line.each, change.before.phase, state.phase, state.why, state.who)
            log.append(BreakerChange(len(log) + 1, now_ms, *of))

    async def grow_revision(self) -> None:
        """See `BreakerStore`."""
        self._store.revisions[Topic.BREAKERS] += 1

    async def revision(self) -> int:
        """See `BreakerStore`."""
        return self._store.revisions[Topic.BREAKERS]


def breaker_states(store: MemoryStore, now_ms: int) -> BreakerStates:
    """See `BreakerLedger.breakers`."""
    lines = tuple(line for _, line in sorted(store.breaker_lines.items()))
    return BreakerStates(store.revisions[Topic.BREAKERS], now_ms, lines)


def breaker_changes(store: MemoryStore, *, after: int, newest: int | None) -> Sequence[BreakerChange]:
    """See `BreakerLedger.breaker_changes`."""
    found = [one for one in store.breaker_changes if one.number > after]
    return found if newest is None else found[-newest:]


def baseline(store: MemoryStore, breaker: Breaker, now_ms: int) -> dict[str, Counts]:
    """See `BreakerLedger.baseline`."""
    spans = baseline_spans(breaker, now_ms)
    return baseline_of(breaker, [list(_spent(store, *span)) for span in spans], now_ms)


def _spent(store: MemoryStore, from_ms: int, until_ms: int) -> Iterator[Spent]:
    for one in store.reservations.values():
        if from_ms <= one.reserved_at_ms < until_ms:
            for ending in one.endings:
                amounts = ending.entry.amounts
                yield one.labels, Counts(ending.calls, cost=amounts.cost, output_tokens=amounts.output_tokens)
