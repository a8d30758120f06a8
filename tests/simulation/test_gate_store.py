"""The store away: no call is admitted, and no end of a reservation is lost."""

import asyncio
from pathlib import Path

import pytest
from gate_harness import (
    INPUT_NANOS,
    OUTPUT_NANOS,
    InlineSpool,
    World,
    chat,
    config_of,
    gate_test,
    opened,
    run_frozen,
    spin,
)
from scripted_upstream import Play, answer, failing

from spendfuse.clock import FrozenClock
from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.core.reservations import EntryKind
from spendfuse.ledger.memory import open_memory
from spendfuse.ledger.store import RefusalCount
from spendfuse.ledger.verbs import RELOAD_WAIT_S

FOREVER = 10**9


@pytest.mark.parametrize("body", [chat(), chat("gpt-4o-mini")], ids=["at once", "to be counted"])
@gate_test()
async def test_no_call_is_admitted_while_the_store_is_away(world: World, body: dict[str, object]) -> None:
    world.ledger.away["reserve"] = 1
    client = await world.call(body)
    assert (client.status, client.error["code"]) == (503, "store_unavailable")
    assert client.headers["retry-after"] == "2"
    assert (world.upstream.requests, world.reservations) == ([], [])
    assert (await world.call(body)).status == 200


@gate_test()
async def test_a_process_with_outdated_limits_admits_no_call(world: World) -> None:
    newer = await open_memory(config_of("  other: {usd: 1, per: day}").limits, world.clock, store=world.store)
    task, client = world.begin(chat())
    await spin()
    await world.later(int(RELOAD_WAIT_S * 1_000))
    await task
    assert client.status == 503
    assert "newer limits" in client.error["message"]
    await newer.close()


@pytest.mark.parametrize("verb", ["settle", "void"])
@gate_test()
async def test_an_end_is_repeated_with_the_same_id_until_the_store_takes_it(
    world: World, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.ledger.away[verb] = 4
    world.meets(Play([answer(7, input_tokens=12)]) if verb == "settle" else failing(429))
    task, client = world.begin(chat())
    await task
    assert client.status == (200 if verb == "settle" else 429), "the answer does not wait for the store"
    await spin()
    assert not world.spool.is_empty
    for _ in range(3):
        assert world.last.entries == ()
        await world.later(2_000)
    assert world.last.entry.kind is (EntryKind.SETTLED if verb == "settle" else EntryKind.VOIDED)
    assert len(set(world.ledger.settled)) == (verb == "settle")
    assert caplog.text.count("ending_postponed") == 1
    assert world.spool.is_empty


def test_what_the_store_does_not_take_until_the_end_is_corrected_by_the_next_process(tmp_path: Path) -> None:
    config = config_of()

    async def run(clock: FrozenClock) -> None:
        async with opened(clock, config, folder=tmp_path) as world:
            world.ledger.away["settle"] = FOREVER
            world.meets(Play([answer(7, input_tokens=12)]))
            task, _ = world.begin(chat(max_tokens=100))
            await task
            draining = asyncio.create_task(world.shared.drain(3))
            while not draining.done():
                await world.later(500)
            assert world.last.entries == ()
        # Closing ends the owner's lease, and with it what it left open.
        assert (world.last.entry.kind, world.last.entry.amounts) == (EntryKind.EXPIRED, world.last.held)
        ledger = await open_memory(config.limits, clock, store=world.store)
        spool = InlineSpool(ledger, tmp_path, store="simulated")
        spool.start()
        await spin()
        expired, late = world.last.entries
        assert late.kind is EntryKind.LATE and late.amounts.cost < 0
        assert expired.amounts.cost + late.amounts.cost == 12 * INPUT_NANOS + 7 * OUTPUT_NANOS
        assert spool.is_empty and list(tmp_path.iterdir()) == []
        await spool.close()
        await ledger.close()

    run_frozen(run)


@gate_test()
async def test_an_end_that_the_ledger_refuses_is_reported_and_left_to_the_keeper(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: object) -> None:
        raise LedgerError("the ledger could not run Settle")

    with monkeypatch.context() as patch:
        patch.setattr(type(world.ledger), "settle", refuse)
        await world.call(chat())
        await spin()
    assert world.last.entries == ()
    assert "ending_left_to_keeper reservation_id=" in caplog.text
    await world.later(600_000)
    await world.ledger.expire_due()


@gate_test()
async def test_readiness_follows_the_store(world: World) -> None:
    assert world.ledger.outage is None
    world.ledger.engine.is_away = True
    with pytest.raises(LedgerUnavailable):
        await world.ledger.expire_due()
    await spin()
    assert "away" in str(world.ledger.outage)
    world.ledger.engine.is_away = False
    await world.later(250)
    assert world.ledger.outage is None
    assert world.reservations == []


@gate_test(limits="  few: {requests: 0, per: day}")
async def test_counts_of_refusals_outlast_a_store_that_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise LedgerUnavailable("away")

    await world.call(chat())
    with monkeypatch.context() as patch:
        patch.setattr(type(world.ledger), "count_refusals", away)
        await world.gate.refusals.flush()
    await world.call(chat())
    await world.gate.refusals.flush()
    assert world.store.refusals == [RefusalCount("budget_exceeded", "few", "", "", 2)]


@gate_test(limits="  few: {requests: 0, per: day}")
async def test_counts_that_the_store_refuses_do_not_end_the_counting(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: object) -> None:
        raise LedgerError("poison")

    counting = asyncio.create_task(world.gate.refusals.run())
    await spin()
    await world.call(chat())
    with monkeypatch.context() as patch:
        patch.setattr(type(world.ledger), "count_refusals", refuse)
        await world.later(1_001)
    assert "refusal_counts_dropped" in caplog.text
    await world.call(chat())
    await world.later(1_001)
    assert [one.count for one in world.store.refusals] == [1]
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)
