"""The store away as a whole: who is refused, who may pass, and what becomes of the cost of those."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest
from gate_harness import (
    INPUT_NANOS,
    OUTPUT_NANOS,
    Client,
    InlineSpool,
    World,
    chat,
    config_of,
    opened,
    run_frozen,
    spin,
    without_threads,
)
from scripted_upstream import DONE, Play, answer, delta, ended, failing, stream, used

from spendfuse.clock import FrozenClock
from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.reservations import EntryKind
from spendfuse.ledger.memory import open_memory
from spendfuse.ledger.spool_file import SpoolFolder
from spendfuse.ledger.store import Ledger
from spendfuse.ledger.verbs import RELOAD_WAIT_S

RATE = "  rate: {requests: 10, per: hour, on_store_down: admit}"
DAILY = "  daily: {requests: 50, per: day, each: key, on_store_down: admit}"
HEADER = "x-spendfuse-unreserved"
PROBE_MS = 250


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    without_threads(monkeypatch)


def in_a_world(
    *limits: str, folder: Path | None = None
) -> Callable[[Callable[[World], Coroutine[None, None, None]]], None]:
    """Run a test over a world that has these limits only."""

    def run(test: Callable[[World], Coroutine[None, None, None]]) -> None:
        config = config_of("\n".join(limits))
        config = replace(config, limits=tuple(one for one in config.limits if one.name != "everything"))

        async def over_a_world(clock: FrozenClock) -> None:
            async with opened(clock, config, folder=folder) as world:
                await test(world)

        run_frozen(over_a_world)

    return run


async def take_away(world: World) -> None:
    """The store goes, and the process gets to know it."""
    world.ledger.engine.is_away = True
    with pytest.raises(LedgerUnavailable):
        await world.ledger.expire_due()
    await spin()
    assert world.ledger.outage is not None


async def bring_back(world: World) -> None:
    """The store is there again, and has what waited for it."""
    world.ledger.engine.is_away = False
    for _ in range(3):
        await world.later(2_000)
    assert world.ledger.outage is None
    assert world.spool.is_empty


async def answered(world: World, body: dict[str, object]) -> Client:
    """A call up to its answer."""
    task, client = world.begin(body)
    await task
    await spin()
    return client


def test_calls_all_of_whose_limits_allow_it_pass_and_their_charge_is_written_down() -> None:
    @in_a_world(RATE, DAILY)
    async def _(world: World) -> None:
        await world.call(chat())
        await take_away(world)
        world.meets(Play([answer(7, input_tokens=12)]))
        client = await answered(world, chat(max_tokens=100))
        assert (client.status, client.headers[HEADER]) == (200, "store-down")
        assert world.upstream.requests and json.loads(world.upstream.requests[-1].body)["max_tokens"] == 100
        assert len(world.reservations) == 1
        await bring_back(world)
        assert world.last.entry.amounts.cost == 12 * INPUT_NANOS + 7 * OUTPUT_NANOS
        assert (world.last.entry.kind, world.last.entry.estimated) == (EntryKind.SETTLED, False)
        assert await world.committed("daily") == [('["app"]', 2, 0)]
        assert HEADER not in (await world.call(chat())).headers


@pytest.mark.parametrize(
    "limits",
    [
        [],
        ["  rate: {requests: 10, per: hour}"],
        [RATE, "  other: {requests: 10, per: day}"],
        [RATE, "  money: {usd: 1000, per: day}"],
        [RATE, "  money: {usd: 1000, per: day, on_exceed: shadow}"],
        [RATE, "  tokens: {tokens: 1000000, per: day}"],
        [RATE, "  parallel: {concurrent: 10}"],
        ["  rate: {requests: 10, per: hour, match: {key: other}, on_store_down: admit}"],
    ],
    ids=["none", "silent", "one silent", "money", "shadow money", "tokens", "concurrent", "none that covers"],
)
def test_no_other_call_passes(limits: list[str]) -> None:
    @in_a_world(*limits)
    async def _(world: World) -> None:
        await take_away(world)
        client = await answered(world, chat())
        assert (client.status, client.error["code"], HEADER in client.headers) == (503, "store_unavailable", False)
        assert (world.upstream.requests, world.spool.is_empty) == ([], True)


def test_a_limit_that_does_not_cover_the_call_does_not_stand_in_its_way() -> None:
    @in_a_world(RATE, "  money: {usd: 1000, per: day, match: {model: [gpt-4o]}}")
    async def _(world: World) -> None:
        await take_away(world)
        assert (await answered(world, chat())).status == 200
        assert (await answered(world, chat("gpt-4o"))).status == 503
        await bring_back(world)


def test_a_store_that_failed_once_is_not_away() -> None:
    @in_a_world(RATE)
    async def _(world: World) -> None:
        world.ledger.away["reserve"] = 1
        client = await answered(world, chat())
        assert (client.status, world.upstream.requests) == (503, [])


def test_outdated_limits_let_nobody_pass_whether_or_not_the_store_is_away() -> None:
    @in_a_world(RATE)
    async def _(world: World) -> None:
        newer = await open_memory(config_of("  other: {usd: 1, per: day}").limits, world.clock, store=world.store)
        for is_away in (False, True):
            if is_away:
                await take_away(world)
            task, client = world.begin(chat())
            await spin()
            await world.later(int(RELOAD_WAIT_S * 1_000))
            await task
            assert client.status == 503
            assert "newer limits" in client.error["message"]
        assert world.upstream.requests == []
        await newer.close()


def test_what_can_not_be_priced_does_not_pass_either() -> None:
    @in_a_world(RATE)
    async def _(world: World) -> None:
        await take_away(world)
        client = await answered(world, chat("nowhere"))
        assert client.status == 404
        assert world.spool.is_empty


def test_a_call_without_a_reservation_of_which_nothing_was_billed_leaves_no_entry() -> None:
    @in_a_world(RATE)
    async def _(world: World) -> None:
        await take_away(world)
        world.meets(failing(429))
        client = await answered(world, chat())
        assert (client.status, client.headers[HEADER]) == (429, "store-down")
        await bring_back(world)
        assert world.reservations == []


def test_a_stream_without_a_reservation_may_go_on_and_is_charged_in_full() -> None:
    @in_a_world(RATE)
    async def _(world: World) -> None:
        await take_away(world)
        hold = asyncio.Event()
        pieces = [delta("word " * 30) for _ in range(20)]
        world.meets(stream(*pieces, hold, ended(), used(12, 600), DONE))
        task, client = world.begin(chat(max_tokens=10, stream=True))
        await spin()
        await world.later(300_000)
        hold.set()
        await task
        assert client.finish_reasons == ["stop"]
        await bring_back(world)
        assert world.last.entry.amounts.cost == 12 * INPUT_NANOS + 600 * OUTPUT_NANOS


def test_a_client_that_leaves_a_call_without_a_reservation_does_not_leave_its_cost() -> None:
    @in_a_world(RATE)
    async def _(world: World) -> None:
        await take_away(world)
        world.meets(Play([asyncio.Event()]))
        task, _ = world.begin(chat(max_tokens=100))
        await spin()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bring_back(world)
        assert world.last.entry.estimated and world.last.entry.amounts.cost >= INPUT_NANOS


def test_a_call_that_can_not_be_written_down_first_does_not_go_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise OSError("No space left on device")

    @in_a_world(RATE)
    async def _(world: World) -> None:
        await take_away(world)
        monkeypatch.setattr(SpoolFolder, "create", full)
        client = await answered(world, chat())
        assert (client.status, world.upstream.requests) == (503, [])


def test_a_process_that_dies_amid_such_a_call_has_charged_it_at_its_quote(tmp_path: Path) -> None:
    """Invariants 7 and 11. The next process knows no more than that it began."""

    @in_a_world(RATE, folder=tmp_path)
    async def _(world: World) -> None:
        await take_away(world)
        world.meets(Play([asyncio.Event()]))
        task, _ = world.begin(chat(max_tokens=100))
        await spin()
        await world.spool.close()
        ledger: Ledger = await open_memory(world.config.limits, world.clock, store=world.store)
        spool = InlineSpool(ledger, tmp_path, store="simulated")
        spool.start()
        await spin()
        assert spool.is_empty
        entry = world.last.entry
        assert entry.estimated and entry.amounts.output_tokens == 100 and entry.amounts == entry.held
        await spool.close()
        await ledger.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_while_the_store_takes_everything_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened_a_file(_: object) -> None:
        raise AssertionError("a file was opened")

    @in_a_world(RATE)
    async def _(world: World) -> None:
        monkeypatch.setattr(SpoolFolder, "create", opened_a_file)
        for body in (chat(), chat(stream=True)):
            await world.call(body)
        world.meets(failing(429))
        await world.call(chat())
        await world.later(60_000)
        assert world.spool.is_empty and len(world.reservations) == 3


def test_a_store_that_is_back_is_found_within_a_probe() -> None:
    @in_a_world("  money: {usd: 1000, per: day}")
    async def _(world: World) -> None:
        await take_away(world)
        assert (await answered(world, chat())).status == 503
        world.ledger.engine.is_away = False
        await world.later(PROBE_MS)
        assert (await answered(world, chat())).status == 200
        await world.assert_whole()
