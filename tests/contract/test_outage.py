"""A store that is away: known as soon as it shows, told to everybody at once, and over as soon as it is back."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from ledger_harness import NOON_NS, StoreHarness, admitted, back, charge, claim, demand, limit, rid

from spendfuse.clock import FrozenClock
from spendfuse.core.decisions import Admitted
from spendfuse.core.errors import LedgerClosed, LedgerUnavailable, LimitsOutdated
from spendfuse.ledger import batching
from spendfuse.ledger.memory import MemoryEngine
from spendfuse.ledger.memory_store import MemoryStore
from spendfuse.ledger.operations import Operation, Outcome
from spendfuse.ledger.verbs import BatchingLedger

TOTAL = limit("total", 100)
LONG_S = 30.0


class Engine(MemoryEngine):
    """Away, or silent, as a test says; it remembers what it was asked."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__((TOTAL,), FrozenClock(NOON_NS), store)
        self.is_away = False
        self.fails_next = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.tries = 0
        self.batches: list[Sequence[Operation]] = []

    async def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        self.tries += not operations
        self.batches.append(operations)
        await self.answers.wait()
        if self.is_away or self.fails_next:
            self.fails_next = max(0, self.fails_next - 1)
            raise LedgerUnavailable("gone")
        return await super().run(operations)


async def opened(*, timeout_s: float = LONG_S) -> tuple[Engine, BatchingLedger]:
    engine = Engine(MemoryStore())
    ledger = BatchingLedger(engine, timeout_s=timeout_s)
    ledger.start()
    return engine, ledger


async def away(ledger: BatchingLedger) -> None:
    """Wait until the process knows it."""
    async with asyncio.timeout(10):
        while ledger.outage is None:
            await asyncio.sleep(0)


@claim
async def test_during_an_outage_no_verb_is_brought_to_the_store() -> None:
    engine, ledger = await opened()
    await admitted(ledger, 1, 10)
    engine.is_away = True
    with pytest.raises(LedgerUnavailable, match="gone"):
        await ledger.reserve(demand(2, 10))
    await away(ledger)
    engine.batches.clear()
    verbs = [
        ledger.reserve(demand(2, 10), wait_s=LONG_S),
        ledger.settle(rid(1), charge(5)),
        ledger.void(rid(1)),
        ledger.expire_due(),
        ledger.record(demand(3, 10), charge(5), at_ms=0),
        ledger.extend(rid(1), quote=demand(1, 10).quote, cap=20, deadline_s=60),
    ]
    outcomes = await asyncio.gather(*verbs, return_exceptions=True)
    assert [type(one) for one in outcomes] == [LedgerUnavailable] * len(verbs)
    assert not any(engine.batches)
    engine.is_away = False
    await back(ledger)
    assert (await ledger.settle(rid(1), charge(5))).amounts.cost == 5
    await ledger.close()


@claim
async def test_those_who_wait_for_room_are_told_too() -> None:
    engine, ledger = await opened()
    await admitted(ledger, 1, 100)
    waiter = asyncio.create_task(ledger.reserve(demand(2, 10), wait_s=LONG_S))
    await asyncio.sleep(0)
    engine.is_away = True
    with pytest.raises(LedgerUnavailable):
        await ledger.expire_due()
    with pytest.raises(LedgerUnavailable):
        await waiter
    await ledger.close()


@claim
async def test_a_store_that_failed_once_and_takes_the_next_batch_is_not_away() -> None:
    engine, ledger = await opened()
    engine.fails_next = 1
    with pytest.raises(LedgerUnavailable):
        await ledger.reserve(demand(1, 10))
    assert ledger.outage is None
    await admitted(ledger, 2, 10)
    assert (ledger.outage, engine.tries) == (None, 1)
    await ledger.close()


@claim
async def test_one_try_at_a_time_looks_for_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "PROBE_INTERVAL_S", 0.01)
    engine, ledger = await opened()
    engine.is_away = True
    with pytest.raises(LedgerUnavailable):
        await ledger.expire_due()
    async with asyncio.timeout(10):
        while engine.tries < 5:
            with pytest.raises(LedgerUnavailable):
                await ledger.reserve(demand(1, 10))
            await asyncio.sleep(0.001)
    engine.answers.clear()
    tries = engine.tries
    for _ in range(20):
        with pytest.raises(LedgerUnavailable):
            await ledger.reserve(demand(1, 10))
        await asyncio.sleep(0.002)
    assert engine.tries <= tries + 1
    engine.is_away = False
    engine.answers.set()
    await back(ledger)
    await ledger.close()


@claim
async def test_a_store_that_falls_silent_is_away_until_the_batch_it_has_comes_back() -> None:
    engine, ledger = await opened(timeout_s=0.05)
    engine.answers.clear()
    reserving = asyncio.create_task(ledger.reserve(demand(1, 10)))
    with pytest.raises(LedgerUnavailable, match="no answer"):
        await reserving
    assert ledger.outage is not None
    with pytest.raises(LedgerUnavailable, match="no answer"):
        await ledger.reserve(demand(2, 10))
    assert len(engine.batches) == 1
    engine.answers.set()
    await back(ledger)
    # What nobody awaits any more holds nothing.
    assert isinstance(await ledger.reserve(demand(3, 100), wait_s=LONG_S), Admitted)
    await ledger.close()


@claim
async def test_a_store_that_falls_silent_after_a_failure_is_away_before_anybody_has_waited_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "PROBE_INTERVAL_S", 0.01)
    engine, ledger = await opened()
    engine.is_away = True
    failing = asyncio.create_task(ledger.expire_due())
    async with asyncio.timeout(10):
        while not engine.batches:
            await asyncio.sleep(0)
        engine.answers.clear()
        with pytest.raises(LedgerUnavailable):
            await failing
        await away(ledger)
    engine.answers.set()
    await ledger.close()


@claim
async def test_a_ledger_that_is_closed_is_away_for_good() -> None:
    _, ledger = await opened()
    await ledger.close()
    assert isinstance(ledger.outage, LedgerClosed)
    with pytest.raises(LedgerClosed):
        await ledger.reserve(demand(1, 10))


@claim
async def test_limits_that_were_outdated_are_so_during_an_outage_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spendfuse.ledger.verbs.RELOAD_WAIT_S", 0.01)
    store = MemoryStore()
    engine = Engine(store)
    ledger = BatchingLedger(engine)
    ledger.start()
    MemoryEngine((limit("newer", 1),), FrozenClock(NOON_NS), store)
    with pytest.raises(LimitsOutdated):
        await ledger.reserve(demand(1, 10))
    engine.is_away = True
    for _ in range(2):
        with pytest.raises(LimitsOutdated):
            await ledger.reserve(demand(1, 10))
    await ledger.close()


@claim
async def test_a_batch_of_nothing_writes_to_the_store(store_harness: StoreHarness) -> None:
    """A store that can be read and not be written to is away."""
    ledger = await store_harness.open(TOTAL)
    engine: Any = cast("BatchingLedger", ledger)._engine
    leases = "SELECT lease_until_ms FROM owner"
    before = await store_harness.rows(leases)
    store_harness.clock.advance(ms=1_000)
    await asyncio.sleep(0.002)  # PostgreSQL's leases follow its own clock.
    assert await engine.run(()) == []
    assert await store_harness.rows(leases) > before
    await store_harness.close()
