"""Waiting for calls in flight, and callers who leave, on every engine."""

import asyncio
from collections.abc import Sequence

import pytest
from ledger_harness import (
    NOON_NS,
    Harness,
    admitted,
    back,
    charge,
    claim,
    committed,
    contract,
    demand,
    limit,
    refused,
    rid,
)

from spendfuse.clock import FrozenClock
from spendfuse.core.decisions import Admitted, Fit, Refused, Shortfall
from spendfuse.core.errors import LedgerClosed, LedgerError, LedgerUnavailable
from spendfuse.ledger import batching, waiting
from spendfuse.ledger.memory import MemoryEngine
from spendfuse.ledger.memory_store import MemoryStore
from spendfuse.ledger.operations import Operation, Outcome, Reserve
from spendfuse.ledger.store import Demand, Ledger
from spendfuse.ledger.verbs import BatchingLedger

LONG_S = 30.0


def _start(ledger: Ledger, one: Demand, wait_s: float = LONG_S) -> "asyncio.Task[Admitted | Refused]":
    return asyncio.get_running_loop().create_task(ledger.reserve(one, wait_s=wait_s))


async def _until_waiting(ledger: Ledger, count: int) -> None:
    while len(ledger._room) < count:  # type: ignore[attr-defined]
        await asyncio.sleep(0.001)


@contract
async def test_a_settle_wakes_who_waits_at_once(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 100)
    waiter = _start(ledger, demand(2, 60))
    await _until_waiting(ledger, 1)
    await ledger.settle(rid(1), charge(30))
    # The settle and the waiter's reserve were one batch.
    assert await committed(ledger, "l") == (30, 60)
    assert isinstance(await waiter, Admitted)


@contract
async def test_the_head_of_the_queue_is_served_first_and_who_still_fits_after_it(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 100)
    waiters: list[asyncio.Task[Admitted | Refused]] = []
    for number, cap in ((2, 50), (3, 40), (4, 30), (5, 10)):
        waiters.append(_start(ledger, demand(number, cap)))
        await _until_waiting(ledger, len(waiters))
    await ledger.void(rid(1))
    for waiter in (waiters[0], waiters[1], waiters[3]):
        assert isinstance(await waiter, Admitted)
    assert not waiters[2].done()
    await ledger.void(rid(5))
    assert not waiters[2].done()
    await ledger.void(rid(3))
    assert isinstance(await waiters[2], Admitted)


@contract
async def test_who_waits_comes_before_new_calls_of_the_same_batch(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 100)
    waiter = _start(ledger, demand(2, 80))
    await _until_waiting(ledger, 1)
    newcomer = _start(ledger, demand(3, 80), wait_s=0)
    await asyncio.gather(ledger.void(rid(1)), newcomer)
    assert isinstance(await waiter, Admitted)
    assert isinstance(newcomer.result(), Refused)


@contract
async def test_at_the_end_of_the_wait_whatever_useful_cap_is_free_is_taken(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 70)
    outcome = await admitted(ledger, 2, 50, useful=20, wait_s=0.02)
    assert outcome.cap == 30
    assert (await refused(ledger, 3, 50, useful=20, wait_s=0.02)).shortfall is Shortfall.BUSY


@contract
async def test_a_demand_for_the_whole_never_waits(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 70)
    assert (await refused(ledger, 2, 50, fit=Fit.WHOLE, wait_s=LONG_S)).can_wait


@contract
async def test_what_turns_out_spent_ends_the_wait(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 70)
    waiter = _start(ledger, demand(2, 50))
    await _until_waiting(ledger, 1)
    await ledger.settle(rid(1), charge(70))
    outcome = await waiter
    assert isinstance(outcome, Refused)
    assert outcome.shortfall is Shortfall.SPENT


@contract
async def test_what_another_process_frees_is_noticed_within_100_ms(harness: Harness) -> None:
    limits = (limit("l", 100),)
    one, two = await harness.open(*limits), await harness.open(*limits)
    await admitted(one, 1, 100)
    waiter = _start(two, demand(2, 100))
    await _until_waiting(two, 1)
    loop = asyncio.get_running_loop()
    await one.void(rid(1))
    freed_at = loop.time()
    assert isinstance(await waiter, Admitted)
    assert loop.time() - freed_at < 0.1 + 0.1  # as much again for a busy machine


@contract
async def test_a_full_room_answers_busy_at_once(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WAITERS_MAX", 2)
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 100)
    waiters = [_start(ledger, demand(number, 10)) for number in (2, 3)]
    await _until_waiting(ledger, 2)
    assert (await refused(ledger, 4, 10, wait_s=LONG_S)).can_wait
    await ledger.void(rid(1))
    assert all(isinstance(one, Admitted) for one in await asyncio.gather(*waiters))


@contract
async def test_a_cancelled_waiter_leaves_the_queue_and_no_reservation(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 100)
    waiter = _start(ledger, demand(2, 100))
    await _until_waiting(ledger, 1)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    await ledger.void(rid(1))
    assert await committed(ledger, "l") == (0, 0)


@contract
async def test_closing_sends_away_who_waits(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 100))
    await admitted(ledger, 1, 100)
    waiter = _start(ledger, demand(2, 100))
    await _until_waiting(ledger, 1)
    await ledger.close()
    with pytest.raises(LedgerClosed):
        await waiter


class _HeldEngine(MemoryEngine):
    """Commits only once it is released, so that a test can act while a batch is under way."""

    def __init__(self) -> None:
        super().__init__((limit("l", 100),), FrozenClock(NOON_NS), MemoryStore())
        self.release = asyncio.Event()
        self.started = asyncio.Event()
        self.batches: list[list[Operation]] = []

    async def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        self.batches.append(list(operations))
        self.started.set()
        await self.release.wait()
        return await super().run(operations)


async def _held(timeout_s: float = 5.0) -> tuple[_HeldEngine, BatchingLedger]:
    engine = _HeldEngine()
    ledger = BatchingLedger(engine, timeout_s=timeout_s)
    ledger.start()
    return engine, ledger


@claim
async def test_a_reserve_cancelled_while_it_commits_is_voided() -> None:
    engine, ledger = await _held()
    caller = _start(ledger, demand(1, 100))
    await engine.started.wait()
    caller.cancel()
    engine.release.set()
    await asyncio.gather(caller, return_exceptions=True)
    assert isinstance(await ledger.reserve(demand(2, 100), wait_s=LONG_S), Admitted)
    await ledger.close()


@claim
async def test_a_reserve_cancelled_before_its_batch_is_never_sent() -> None:
    engine, ledger = await _held()
    first = _start(ledger, demand(1, 10))
    await engine.started.wait()
    second = _start(ledger, demand(2, 10))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    engine.release.set()
    await first
    await ledger.close()
    sent = [one.reservation_id for batch in engine.batches for one in batch if isinstance(one, Reserve)]
    assert sent == [1]


@claim
async def test_a_store_that_hangs_fails_every_verb_within_the_bound_and_keeps_nothing() -> None:
    engine, ledger = await _held(timeout_s=0.05)
    callers = [_start(ledger, demand(number, 10)) for number in (1, 2)]
    await engine.started.wait()
    callers.append(_start(ledger, demand(3, 10)))
    for outcome in await asyncio.gather(*callers, return_exceptions=True):
        assert isinstance(outcome, LedgerUnavailable)
    engine.release.set()
    await back(ledger)
    assert isinstance(await ledger.reserve(demand(4, 100), wait_s=LONG_S), Admitted)
    await ledger.close()


@claim
async def test_what_arrives_during_a_commit_becomes_one_batch_with_settles_first() -> None:
    engine, ledger = await _held()
    first = _start(ledger, demand(1, 100))
    await engine.started.wait()
    late = [_start(ledger, demand(2, 100)), asyncio.create_task(ledger.void(rid(1)))]
    await asyncio.sleep(0)
    engine.release.set()
    await first
    assert isinstance((await asyncio.gather(*late))[0], Admitted)
    assert [[type(one).__name__ for one in batch] for batch in engine.batches] == [["Reserve"], ["Void", "Reserve"]]
    await ledger.close()


@claim
async def test_batches_and_queues_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_MAX", 4)
    monkeypatch.setattr(batching, "QUEUE_MAX", 6)
    engine, ledger = await _held()
    first = _start(ledger, demand(1, 1))
    await engine.started.wait()
    queued = [_start(ledger, demand(number, 1)) for number in range(2, 8)]
    await asyncio.sleep(0)
    with pytest.raises(LedgerUnavailable, match="wait for the store"):
        await ledger.reserve(demand(9, 1))
    engine.release.set()
    await asyncio.gather(first, *queued)
    assert [len(batch) for batch in engine.batches] == [1, 4, 2]
    await ledger.close()


@claim
async def test_an_engine_that_fails_on_one_operation_fails_only_that_one() -> None:
    class Poisoned(_HeldEngine):
        async def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
            if any(isinstance(one, Reserve) and one.reservation_id == 2 for one in operations):
                raise OverflowError("too large")
            return await super().run(operations)

    engine = Poisoned()
    ledger = BatchingLedger(engine)
    ledger.start()
    engine.release.set()
    outcomes = await asyncio.gather(*[ledger.reserve(demand(n, 1)) for n in (1, 2, 3)], return_exceptions=True)
    assert [type(one) for one in outcomes] == [Admitted, LedgerError, Admitted]
    await ledger.close()


@claim
async def test_a_wait_that_ends_while_its_retry_commits_still_gets_its_last_try() -> None:
    engine, ledger = await _held()
    engine.release.set()
    await admitted(ledger, 1, 60)
    await admitted(ledger, 2, 40)
    waiter = _start(ledger, demand(3, 90, useful=20), wait_s=0.06)
    await _until_waiting(ledger, 1)
    engine.release.clear()
    engine.started.clear()
    voided = asyncio.create_task(ledger.void(rid(2)))  # frees 40: too little for 90, enough for the last try
    await engine.started.wait()
    while not ledger._reserves:
        await asyncio.sleep(0.005)
    engine.release.set()
    outcome = await waiter
    assert isinstance(outcome, Admitted)
    assert outcome.cap == 40
    await voided
    await ledger.close()
