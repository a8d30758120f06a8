"""Streams that outrun their reservation or outlive its deadline, and what the client sees of that."""

import asyncio
import gzip
import json

import pytest
from gate_harness import Client, World, chat, gate_test
from scripted_upstream import DONE, SSE_HEADERS, Play, Step, delta, ended, event, stream, used, words

from spendfuse.core.reservations import EntryKind
from spendfuse.gate import relay
from spendfuse.upstream.client import FateUnknown

CAP = 50
ROOM = "  room: {output_tokens: 400, per: lifetime, each: user}"
NO_ROOM = "  room: {output_tokens: 60, per: lifetime, each: user}"
OUTPUT_NANOS = 600  # of gpt-4o-mini
BODY = chat("gpt-4o-mini", max_tokens=CAP, stream=True)
ASKS_USAGE = {**BODY, "stream_options": {"include_usage": True}}


def _tokens(count: int) -> list[Step]:
    """So many tokens, ten to an event."""
    return [delta(words(10))] * (count // 10)


def _assert_well_formed(client: Client, *, choices: int = 1) -> None:
    """What any client needs to take a stream for a whole one that reached its cap."""
    assert client.is_finished and not client.is_aborted
    assert client.events[-1] == "[DONE]"
    assert client.events.count("[DONE]") == 1
    assert client.finish_reasons == ["length"] * choices


@gate_test(limits=NO_ROOM)
async def test_a_stream_that_obeys_its_cap_to_the_last_token_is_not_touched(world: World) -> None:
    world.meets(stream(*_tokens(CAP), ended("length"), used(10, CAP), DONE))
    client = await world.call(BODY)
    assert client.body == b"".join([delta(words(10))] * 5) + ended("length") + DONE
    assert not world.last.entry.estimated


@gate_test(limits=ROOM)
async def test_a_stream_that_outruns_its_reservation_goes_on_while_there_is_room(world: World) -> None:
    forever = asyncio.Event()
    world.meets(stream(*_tokens(200), forever, *_tokens(100), ended(), used(10, 300), DONE))
    task, client = world.begin(BODY, claimed={"user": "u1"})
    await asyncio.sleep(0)
    while client.text != words(200):
        await asyncio.sleep(0)
    assert world.last.held.output_tokens >= 200
    forever.set()
    await task
    await world.settled()
    assert client.text == words(300)
    assert client.finish_reasons == ["stop"]
    entry = world.last.entry
    assert (entry.estimated, entry.amounts.output_tokens, entry.overrun_cost) == (False, 300, 0)


@pytest.mark.parametrize("asks_usage", [False, True])
@gate_test(limits=NO_ROOM)
async def test_a_stream_that_outruns_its_reservation_without_room_is_cut_well_formed(
    world: World, asks_usage: bool, caplog: pytest.LogCaptureFixture
) -> None:
    world.meets(stream(*_tokens(1_000), ended(), used(10, 1_000), DONE))
    client = await world.call(ASKS_USAGE if asks_usage else BODY)
    _assert_well_formed(client)
    assert client.text == words(CAP + 10)
    told = [one["usage"] for one in client.events[:-1] if one["choices"] == []]
    entry = world.last.entry
    charged = {"prompt_tokens": entry.amounts.input_tokens, "completion_tokens": CAP + 10}
    assert [{name: one[name] for name in charged} for one in told] == [charged] * asks_usage
    # What was seen is charged in full; the ten tokens above the reservation are overrun.
    assert (entry.estimated, entry.amounts.output_tokens) == (True, CAP + 10)
    assert entry.overrun_cost == 10 * OUTPUT_NANOS
    assert "stream_cut" in caplog.text and "overrun_recorded" in caplog.text


@gate_test(limits="  room: {output_tokens: 70, per: lifetime}")
async def test_every_choice_that_a_cut_leaves_open_is_ended(world: World) -> None:
    both: list[Step] = [delta(words(10)), delta(words(10), 1)]
    world.meets(stream(*both * 2, *[delta(words(10), 1)] * 20))
    client = await world.call({**BODY, "max_tokens": 25, "n": 2})
    _assert_well_formed(client, choices=2)
    assert world.last.output_tokens == 60


@gate_test(limits=NO_ROOM)
async def test_a_choice_that_ended_before_the_cut_is_not_ended_twice(world: World) -> None:
    world.meets(stream(*[delta(words(5))] * 2, ended("stop"), *[delta(words(10), 1)] * 20))
    client = await world.call({**BODY, "max_tokens": 25, "n": 2})
    assert client.events[-1] == "[DONE]"
    assert client.finish_reasons == ["stop", "length"]


@gate_test(limits=NO_ROOM)
async def test_a_whole_stream_in_one_piece_is_well_formed_and_exact_although_it_outran(world: World) -> None:
    piece = b"".join([delta(words(10))] * 100 + [ended("stop"), used(10, 1_000), DONE])
    world.meets(stream(piece))
    client = await world.call(BODY)
    assert client.is_finished
    assert client.events[-1] == "[DONE]"
    assert client.finish_reasons == ["stop"]
    entry = world.last.entry
    assert (entry.estimated, entry.amounts.output_tokens) == (False, 1_000)
    assert entry.overrun_cost > 0


@gate_test(limits=NO_ROOM)
async def test_the_upstream_is_closed_before_a_client_who_does_not_read_is_waited_for(world: World) -> None:
    clients: list[Client] = []

    def stop_reading() -> None:
        clients[0].reading.clear()

    world.meets(stream(*_tokens(CAP), stop_reading, *_tokens(100), asyncio.Event()))
    task, client = world.begin(BODY)
    clients.append(client)
    while client.reading.is_set() or world.upstream.open:
        await asyncio.sleep(0)
    assert not task.done()
    await world.settled()
    assert world.last.output_tokens == CAP + 10
    client.reading.set()
    await task
    _assert_well_formed(client)


@gate_test(limits=ROOM)
async def test_a_stream_that_outruns_its_reservation_is_cut_when_the_store_is_away(world: World) -> None:
    world.ledger.away["extend"] = 1
    world.meets(stream(*_tokens(100), asyncio.Event()))
    client = await world.call(BODY)
    _assert_well_formed(client)
    assert world.last.output_tokens == CAP + 10


@gate_test(limits=NO_ROOM)
async def test_tokens_are_counted_only_for_suspicious_streams(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(watch: object) -> bool:
        raise AssertionError("counted")

    monkeypatch.setattr(relay.OutrunWatch, "has_outrun", refuse)
    world.meets(stream(*[delta(words(1))] * 30, ended(), used(10, 30), DONE))
    assert (await world.call(BODY)).is_finished


@gate_test()
async def test_a_stream_without_a_reservation_of_output_is_never_suspicious(world: World) -> None:
    world.meets(stream(*_tokens(1_000), ended(), used(10, 1_000), DONE))
    client = await world.call(chat("free", stream=True))
    assert client.finish_reasons == ["stop"]
    assert (world.last.held.output_tokens, world.last.output_tokens) == (0, 1_000)


@gate_test(more="reservation_deadline: 10m")
async def test_the_deadline_moves_on_while_a_stream_lives(world: World) -> None:
    ticks = [asyncio.Event() for _ in range(8)]
    world.meets(stream(*[step for tick in ticks for step in (tick, delta(" hello"))], ended(), used(10, 8), DONE))
    task, client = world.begin(BODY)
    await world.later(0)
    for tick in ticks:
        await world.later(201_000)
        assert await world.ledger.expire_due() == ()
        tick.set()
        await world.later(0)
    await task
    assert client.text == words(8)
    await world.settled()
    assert (world.last.entry.kind, world.last.output_tokens) == (EntryKind.SETTLED, 8)


@gate_test(more="reservation_deadline: 10m")
async def test_a_store_that_is_away_does_not_cut_a_stream_whose_deadline_should_move(world: World) -> None:
    tick = asyncio.Event()
    world.ledger.away["extend"] = 1
    world.meets(stream(tick, delta(" hello"), delta(" hello"), ended(), used(10, 2), DONE))
    task, client = world.begin(BODY)
    await world.later(0)
    await world.later(201_000)
    tick.set()
    await task
    assert client.finish_reasons == ["stop"]
    assert world.ledger.away["extend"] == 0


@gate_test(more="reservation_deadline: 10m")
async def test_a_stream_whose_reservation_a_keeper_ended_is_cut_and_settled_late(world: World) -> None:
    tick = asyncio.Event()
    world.meets(stream(delta(" hello"), tick, delta(" hello"), asyncio.Event()))
    task, client = world.begin(ASKS_USAGE)
    await world.later(0)
    await world.later(601_000)
    (expired,) = await world.ledger.expire_due()
    tick.set()
    await task
    _assert_well_formed(client)
    assert client.text == words(2)
    await world.settled()
    closing, late = world.last.entries
    assert (closing, late.kind) == (expired, EntryKind.LATE)
    assert closing.amounts.output_tokens + late.amounts.output_tokens < closing.amounts.output_tokens == CAP


@gate_test()
async def test_a_stream_that_came_compressed_is_relayed_and_charged_as_of_unknown_fate(world: World) -> None:
    body = gzip.compress(b"".join([*[delta(" hello")] * 100, DONE]))
    headers = {**SSE_HEADERS, "Content-Encoding": "gzip"}
    world.meets(Play([body, lambda: world.clock.advance(ms=60_000)], headers=headers))
    client = await world.call(BODY)
    assert (client.body, client.headers["content-encoding"]) == (body, "gzip")
    assert (world.last.entry.estimated, world.last.output_tokens) == (True, CAP)


@gate_test()
async def test_bytes_pass_unaltered_however_they_arrive(world: World) -> None:
    chunks = [delta("Grüße"), b": ping\n\n", event([], note="kept"), delta("!"), ended(), DONE]
    whole = b"".join(chunks)
    for size in (1, 7, len(whole)):
        world.meets(stream(*[whole[at : at + size] for at in range(0, len(whole), size)]))
        assert (await world.call(BODY)).body == whole


@gate_test()
async def test_a_broken_stream_does_not_hold_back_what_came_before(world: World) -> None:
    forever = asyncio.Event()
    world.meets(stream(delta("a"), forever, FateUnknown("reset")))
    task, client = world.begin(BODY)
    await world.later(0)
    assert client.text == "a"
    assert json.loads(client.body[6:])["object"] == "chat.completion.chunk"
    forever.set()
    await task
    assert client.is_aborted
