"""What the gate goes by in the store: whose quotes are multiplied, what a key may open, which owner it is."""

import pytest
from gate_harness import APP, OUTPUT_NANOS, World, chat, gate_test
from scripted_upstream import Play, answer

from spendfuse.gate.requests import Caller
from spendfuse.ledger.following import Follower
from spendfuse.ledger.store import Topic

CAPPED = chat(max_tokens=100)
ELSEWHERE = chat("frugal", max_tokens=100)


async def follow(world: World) -> None:
    """What every process does twice a second."""
    await Follower(world.ledger, {Topic.OVERRUNS: world.shared.overruns.load}).refresh()


async def quoted(world: World, body: dict[str, object]) -> tuple[int, int]:
    """The input and the output part of the quote of a call, in pico-dollars."""
    await world.call(body)
    quote = world.ledger.demands[-1].quote
    return quote.fixed_picos, quote.output_picos


@gate_test()
async def test_an_overrun_multiplies_the_later_quotes_of_its_target_until_it_is_cleared(world: World) -> None:
    before, elsewhere = await quoted(world, CAPPED), await quoted(world, ELSEWHERE)
    world.meets(Play([answer(1_000)]), Play([answer(5)]))
    await world.call(CAPPED)
    held, charged = world.last.held.cost, world.last.entry.amounts.cost
    percent = -(-100 * charged // held)
    assert charged > 1_000 * OUTPUT_NANOS > held
    await follow(world)
    assert await quoted(world, CAPPED) == tuple(-(-one * percent // 100) for one in before)
    assert world.last.held.cost >= charged
    assert await quoted(world, ELSEWHERE) == elsewhere
    assert await world.ledger.clear_overrun("plain/llama")
    await follow(world)
    assert await quoted(world, CAPPED) == before


@gate_test(limits="  user: {usd: 10, per: month, each: user}")
async def test_a_key_that_opened_all_its_subjects_is_told_when_it_may_open_more(world: World) -> None:
    caller = Caller("app", {"key": "app"}, new_subjects_per_hour=2)
    world.clock.advance(ms=90_500)
    for user in ("u1", "u2", "u1"):
        assert (await world.call(CAPPED, caller=caller, claimed={"user": user})).status == 200
    refused = await world.call(CAPPED, caller=caller, claimed={"user": "u3"})
    assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (
        429,
        "rate_limit_exceeded",
        "3510",
    )
    assert refused.error["message"] == (
        'limit "new_subjects" (key=app): 2 per 1h, 0 left, call opens 1: user=u3; '
        "resets 2026-11-21 13:00 UTC. Retry later."
    )
    assert len(world.upstream.requests) == 3
    assert (await world.call(CAPPED, caller=APP, claimed={"user": "u3"})).status == 200


@pytest.mark.parametrize("number", [1, 50])
@gate_test(limits="  user: {usd: 10, per: month, each: user}")
async def test_refusals_of_made_up_users_are_counted_as_one_kind(world: World, number: int) -> None:
    caller = Caller("app", {"key": "app"}, new_subjects_per_hour=1)
    await world.call(CAPPED, caller=caller, claimed={"user": "known"})
    for user in range(number):
        await world.call(CAPPED, caller=caller, claimed={"user": f"u{user}", "feature": "search"})
    await world.gate.refusals.flush()
    (counted,) = world.store.refusals
    assert (counted.code, counted.limit_name, counted.user, counted.feature, counted.count) == (
        "rate_limit_exceeded",
        "new_subjects",
        "",
        "",
        number,
    )


@gate_test()
async def test_a_call_has_the_number_of_the_owner_that_the_process_is_now(world: World) -> None:
    """An owner that lost its lease goes on as another one, and its former number may be given to somebody else."""
    await world.call(CAPPED)
    first = world.ledger.owner_id
    world.ledger._engine.owner_id = 7  # type: ignore[misc]
    await world.call(CAPPED)
    assert [one.reservation_id >> 12 & 1_023 for one in world.ledger.demands] == [first, 7]
