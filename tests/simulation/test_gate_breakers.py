"""Breakers at the gate, by a frozen clock: what opens one, what a call meets of it, and what its probe decides."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest
from gate_harness import Client, World, chat, gate_over, gate_test, spin
from scripted_upstream import DONE, Play, Step, answer, delta, ended, event, failing, stream, used

from spendfuse.core.breakers import PAUSE, Breaker, ErrorRate, Phase, State
from spendfuse.core.errors import LedgerUnavailable
from spendfuse.gate.watches import PAUSE_MS_MAX, retry_after_ms
from spendfuse.upstream.client import FateUnknown, NeverSent, UpstreamTimeout

ERRORS = """
breakers:
  errors: {error_rate: 10%, over: 5m, min_calls: 4, min_errors: 2, each: target, cooldown: 30s}
"""
SLOW = """
breakers:
  slow: {mean_latency: 30s, over: 5m, min_calls: 4, each: target, cooldown: 60s}
"""
FIRST_TOKEN = """
breakers:
  first: {mean_latency: 2s, ttft: true, min_calls: 4, each: target}
"""
SPEND = """
  day: {usd: '0.01', per: day, each: user}
breakers:
  spend: {limit: day}
"""
BURN = """
breakers:
  burn: {usd: '0.00005', over: 10m, each: user, cooldown: 60s}
"""
BUSY = """
  narrow: {usd: '0.0003', per: lifetime, match: {user: [queued]}, fit: false}
breakers:
  errors: {error_rate: 10%, min_calls: 4, min_errors: 2, each: target}
"""
TWO = "\n  both: {targets: [plain/one, plain/two]}"
BODY = chat(max_tokens=10)
STREAM = chat(max_tokens=10, stream=True)
GATHER_MS = 5
LLAMA, ONE = '["plain/llama"]', '["plain/one"]'


@contextlib.asynccontextmanager
async def telling(*worlds: World) -> AsyncGenerator[None]:
    """What runs beside a gate."""
    tasks = [asyncio.create_task(one) for w in worlds for one in (w.shared.breakers.run(), w.shared.spent.run())]
    await spin()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def told(world: World) -> None:
    """Wait until the store knows all that attempts have met."""
    for _ in range(3):
        await world.later(ms=GATHER_MS)
    await world.shared.breakers.flush()


async def stands(world: World, name: str, subject: str = LLAMA) -> State:
    states = await world.ledger.breakers()
    return next((one.state for one in states.lines if one.key == (name, subject)), State(Phase.CLOSED, 0))


async def tripped(world: World, body: dict[str, object] | None = None) -> None:
    """Four errors, which the store knows of."""
    world.meets(failing(500))
    for _ in range(4):
        assert (await world.call(body or BODY)).status == 500
    await told(world)


def is_open(client: Client, name: str = "errors") -> bool:
    if client.status != 503 or client.error["code"] != "breaker_open":
        return False
    return f'breaker "{name}"' in client.error["message"]


@gate_test(ERRORS)
async def test_an_open_breaker_refuses_without_touching_ledger_or_upstream(world: World) -> None:
    async with telling(world):
        await tripped(world)
        sent, asked = len(world.upstream.requests), len(world.ledger.demands)
        client = await world.call(BODY)
        assert is_open(client)
        assert (client.headers["retry-after"], client.headers["x-should-retry"]) == ("30", "false")
        assert client.error["message"] == (
            'breaker "errors" (target=plain/llama) is open since 2026-11-21 12:00:00 UTC: 4 errors in 4 attempts over '
            "5m, above 10%. It tries again at 2026-11-21 12:00:30 UTC. Nothing was sent."
        )
        assert (len(world.upstream.requests), len(world.ledger.demands)) == (sent, asked)
        assert (await world.call(chat("frugal", max_tokens=10))).status == 500


@gate_test(ERRORS, more=TWO)
async def test_a_call_goes_to_the_next_target_where_the_first_ones_breaker_is_open(world: World) -> None:
    breaker = world.config.breakers[0]
    await world.ledger.force_breaker(breaker, ONE, is_open=True, why="down", who="ana")
    await world.shared.breakers.load()
    for _ in range(4):
        assert (await world.call(chat("both", max_tokens=10))).status == 200
    assert [body["model"] for body in world.upstream.bodies] == ["two"] * 4
    await world.ledger.force_breaker(breaker, '["plain/two"]', is_open=True, why="down too", who="ana")
    await world.shared.breakers.load()
    assert is_open(await world.call(chat("both", max_tokens=10)))


@gate_test(BUSY)
async def test_a_call_that_waited_for_room_is_refused_when_a_breaker_has_opened_meanwhile(world: World) -> None:
    async with telling(world):
        held = asyncio.Event()
        world.meets(Play([answer(1)], before_head=[held]), failing(500))
        holds, _ = world.begin(BODY, claimed={"user": "queued"})
        await spin()
        waits, client = world.begin(BODY, claimed={"user": "queued"})
        await spin()
        await tripped(world)
        held.set()
        await asyncio.gather(holds, waits)
        assert is_open(client), client.body
        assert len(world.upstream.requests) == 5
        await world.settled()
        assert world.last.is_void


@pytest.mark.parametrize(
    "play",
    [
        failing(500),
        failing(529),
        failing(408),
        failing(429),
        Play(before_head=[NeverSent("refused")]),
        Play(before_head=[FateUnknown("reset")]),
        Play(before_head=[UpstreamTimeout("late")]),
        Play([answer()[:9], FateUnknown("reset")]),
    ],
)
@gate_test(ERRORS)
async def test_what_counts_as_an_error(world: World, play: Play) -> None:
    async with telling(world):
        world.upstream.play = lambda _: play
        for _ in range(4):
            await world.call(BODY)
        await told(world)
        assert (await stands(world, "errors")).phase is Phase.OPEN


@pytest.mark.parametrize(
    "play", [stream(delta("a"), FateUnknown("reset")), stream(delta("a"), b'data: {"error": {"message": "no"}}\n\n')]
)
@gate_test(ERRORS)
async def test_a_stream_that_breaks_or_reports_an_error_is_one(world: World, play: Play) -> None:
    async with telling(world):
        world.upstream.play = lambda _: play
        for _ in range(4):
            await world.call(STREAM)
        await told(world)
        assert (await stands(world, "errors")).phase is Phase.OPEN


@pytest.mark.parametrize("play", [failing(400), failing(404), failing(422), Play([answer()])])
@gate_test(ERRORS)
async def test_a_clients_own_error_is_none(world: World, play: Play) -> None:
    async with telling(world):
        world.upstream.play = lambda _: play
        for _ in range(40):
            await world.call(BODY)
        await told(world)
        world.meets(failing(500))
        for _ in range(4):
            await world.call(BODY)
        await told(world)
        # 4 of 44 are below a tenth: the others were counted as attempts that were none.
        assert (await stands(world, "errors")).phase is Phase.CLOSED


@gate_test(ERRORS)
async def test_a_client_that_leaves_is_neither_error_nor_success(world: World) -> None:
    async with telling(world):
        world.meets(Play([asyncio.Event()]))
        for _ in range(6):
            task, _ = world.begin(BODY)
            await spin()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await told(world)
        assert world.store.breaker_rows == []


@pytest.mark.parametrize(("seconds", "phase"), [(29, Phase.CLOSED), (30, Phase.CLOSED), (31, Phase.OPEN)])
@gate_test(SLOW)
async def test_a_mean_latency_of_31_s_opens_and_of_29_s_does_not(world: World, seconds: int, phase: Phase) -> None:
    async with telling(world):
        world.meets(Play([answer()], before_head=[lambda: world.clock.advance(ms=seconds * 1_000)]))
        for _ in range(4):
            assert (await world.call(BODY)).status == 200
        await told(world)
        assert (await stands(world, "slow")).phase is phase


@gate_test(ERRORS)
async def test_an_idle_hour_forgets_old_failures(world: World) -> None:
    async with telling(world):
        world.meets(failing(500))
        for _ in range(3):
            await world.call(BODY)
        await told(world)
        await world.later(ms=3_600_000)
        for _ in range(3):
            await world.call(BODY)
        await told(world)
        assert (await stands(world, "errors")).phase is Phase.CLOSED


@gate_test(SLOW)
async def test_a_client_that_reads_slowly_says_nothing_of_its_target(world: World) -> None:
    async with telling(world):
        for _ in range(4):
            world.meets(stream(delta("a"), ended(), used(10, 1), DONE))
            task, client = world.begin(STREAM)
            client.reading.clear()
            await spin()
            await world.later(ms=100_000)
            client.reading.set()
            await task
        await told(world)
        assert (await stands(world, "slow")).phase is Phase.CLOSED


@pytest.mark.parametrize(("before", "after", "phase"), [(1_000, 90_000, Phase.CLOSED), (2_100, 0, Phase.OPEN)])
@gate_test(FIRST_TOKEN)
async def test_the_time_to_the_first_token_is_that_of_streams(
    world: World, before: int, after: int, phase: Phase
) -> None:
    async with telling(world):
        steps: list[Step] = [lambda: world.clock.advance(ms=before), delta("a"), lambda: world.clock.advance(ms=after)]
        for _ in range(4):
            world.meets(stream(event([]), *steps, ended(), used(10, 1), DONE))
            await world.call(STREAM)
        world.meets(Play([answer()], before_head=[lambda: world.clock.advance(ms=60_000)]))
        for _ in range(4):
            await world.call(BODY)
        await told(world)
        assert (await stands(world, "first")).phase is phase


async def _half_open(world: World) -> None:
    await tripped(world)
    await world.later(ms=30_000)


@gate_test(ERRORS)
async def test_the_first_byte_of_a_probe_closes_its_breaker(world: World) -> None:
    async with telling(world):
        await _half_open(world)
        rest = asyncio.Event()
        world.meets(Play([rest, answer()]))
        probe, client = world.begin(BODY)
        await spin()
        await told(world)
        assert (await stands(world, "errors")).phase is Phase.CLOSED
        world.meets(Play([answer()]))
        assert (await world.call(BODY)).status == 200
        rest.set()
        await probe
        assert client.status == 200


@gate_test(ERRORS)
async def test_one_call_is_the_probe_and_all_others_are_refused_until_it_has_failed_or_succeeded(world: World) -> None:
    """Invariant 15."""
    async with telling(world):
        await _half_open(world)
        head = asyncio.Event()
        world.meets(Play([answer()], before_head=[head], status=500))
        begun = [world.begin(BODY) for _ in range(10)]
        await spin()
        assert len(world.upstream.requests) == 5
        assert sum(is_open(client) for _, client in begun) == 9
        head.set()
        await asyncio.gather(*[task for task, _ in begun])
        await told(world)
        state = await stands(world, "errors")
        assert (state.phase, state.why) == (Phase.OPEN, "the probe failed; 4 errors in 4 attempts over 5m, above 10%")


@gate_test(ERRORS)
async def test_a_probe_that_runs_long_stays_the_only_one(world: World) -> None:
    async with telling(world):
        await _half_open(world)
        head = asyncio.Event()
        world.meets(Play([answer()], before_head=[head]))
        probe, _ = world.begin(BODY)
        await spin()
        for _ in range(60):
            await world.later(ms=1_000)
            assert is_open(await world.call(BODY))
        assert len(world.upstream.requests) == 5
        head.set()
        await probe


@gate_test(ERRORS)
async def test_a_probe_whose_client_leaves_before_anything_came_is_given_up(world: World) -> None:
    async with telling(world):
        await _half_open(world)
        world.meets(Play(before_head=[asyncio.Event()]), Play([answer()]))
        probe, _ = world.begin(BODY)
        await spin()
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        await told(world)
        assert (await stands(world, "errors")).phase is Phase.OPEN
        assert (await world.call(BODY)).status == 200
        await told(world)
        assert (await stands(world, "errors")).phase is Phase.CLOSED


@gate_test("  none: {usd: 0, per: day, match: {user: [poor]}}" + ERRORS)
async def test_a_call_that_a_limit_refuses_is_no_probe(world: World) -> None:
    async with telling(world):
        await _half_open(world)
        assert (await world.call(BODY, claimed={"user": "poor"})).status == 402
        assert (await stands(world, "errors")).phase is Phase.OPEN
        world.meets(Play([answer()]))
        assert (await world.call(BODY)).status == 200


@gate_test(SLOW)
async def test_a_probe_of_a_slow_target_fails_at_the_threshold(world: World) -> None:
    async with telling(world):
        world.meets(Play([answer()], before_head=[lambda: world.clock.advance(ms=31_000)]))
        for _ in range(4):
            await world.call(BODY)
        await told(world)
        await world.later(ms=60_000)
        rest = asyncio.Event()
        world.meets(Play([rest, answer()]))
        probe, client = world.begin(BODY)
        await spin()
        await world.later(ms=29_000)
        assert (await stands(world, "slow")).phase is Phase.HALF_OPEN
        await world.later(ms=1_000)
        await told(world)
        assert (await stands(world, "slow")).phase is Phase.OPEN
        rest.set()
        await probe
        assert client.status == 200


@gate_test(ERRORS)
async def test_attempts_that_began_before_a_breaker_closed_do_not_open_it_again(world: World) -> None:
    async with telling(world):
        heads = asyncio.Event()
        world.meets(Play([answer()], status=500, before_head=[heads]))
        late = [world.begin(BODY)[0] for _ in range(8)]
        await spin()
        await _half_open(world)
        world.meets(Play([answer()]))
        assert (await world.call(BODY)).status == 200
        await told(world)
        heads.set()
        await asyncio.gather(*late)
        await told(world)
        assert (await stands(world, "errors")).phase is Phase.CLOSED


@gate_test(SPEND)
async def test_a_breaker_of_a_limit_opens_for_whom_it_is_spent_and_closes_when_it_is_raised(world: World) -> None:
    async with telling(world):
        world.meets(Play([answer(990, input_tokens=10)]))
        for body in (chat(max_tokens=990), BODY):
            while (await world.call(body, claimed={"user": "u1"})).status == 200:
                pass
        await told(world)
        asked = len(world.ledger.demands)
        client = await world.call(BODY, claimed={"user": "u1"})
        assert is_open(client, "spend")
        assert "It closes at 2026-11-22 00:00:00 UTC" in client.error["message"]
        assert len(world.ledger.demands) == asked
        world.meets(Play([answer()]))
        assert (await world.call(BODY, claimed={"user": "u2"})).status == 200
        await world.ledger.set_amount("day", '["u1"]', 10**9)
        await world.shared.spent_ended()
        await world.later(ms=1_000)
        assert (await world.call(BODY, claimed={"user": "u1"})).status == 200


@gate_test(BURN)
async def test_what_calls_cost_opens_a_breaker_of_money_until_that_is_over(world: World) -> None:
    async with telling(world):
        world.meets(Play([answer(10)]))
        for _ in range(2):
            assert (await world.call(BODY, claimed={"user": "u1"})).status == 200
        await told(world)
        client = await world.call(BODY, claimed={"user": "u1"})
        assert is_open(client, "burn")
        assert "$0.00006 spent over 10m, above $0.00005" in client.error["message"]
        assert (await world.call(BODY, claimed={"user": "u2"})).status == 200
        await world.later(ms=601_000)
        await world.later(ms=11_000)
        await told(world)
        assert (await world.call(BODY, claimed={"user": "u1"})).status == 200


@gate_test(ERRORS)
async def test_a_target_that_says_when_to_come_again_is_paused_until_then(world: World) -> None:
    async with telling(world):
        world.meets(replace(failing(429), headers={"Retry-After": "20"}))
        assert (await world.call(BODY)).status == 429
        await told(world)
        client = await world.call(BODY)
        assert is_open(client, PAUSE.name)
        assert client.headers["retry-after"] == "20"
        assert world.store.breaker_rows == []
        world.meets(Play([answer()]))
        await world.later(ms=20_000)
        assert (await world.call(BODY)).status == 200


@gate_test("\nbreakers: {}")
async def test_without_breakers_nothing_opens(world: World) -> None:
    async with telling(world):
        world.meets(failing(500))
        for _ in range(60):
            assert (await world.call(BODY)).status == 500
        world.meets(replace(failing(429), headers={"Retry-After": "20"}))
        for _ in range(2):
            assert (await world.call(BODY)).status == 429


@gate_test(ERRORS)
async def test_counting_goes_on_when_the_store_was_away(world: World) -> None:
    async with telling(world):
        world.meets(failing(500))
        real, away = world.ledger.count_attempts, 3

        async def count(several: Sequence[object]) -> object:
            nonlocal away
            if away:
                away -= 1
                raise LedgerUnavailable("the store is away")
            return await real(several)  # type: ignore[arg-type]

        world.ledger.count_attempts = count  # type: ignore[method-assign,assignment]
        for _ in range(4):
            await world.call(BODY)
            await world.later(ms=GATHER_MS)
        for _ in range(8):
            await world.later(ms=500)
        assert (await stands(world, "errors")).phase is Phase.OPEN


@gate_test(ERRORS)
async def test_another_config_keeps_what_the_store_knows(world: World) -> None:
    async with telling(world):
        await tripped(world)
        without = replace(world.config, breakers=())
        assert (await _call_at(world, without)).status == 500
        renamed = replace(world.config, breakers=(Breaker("others", ErrorRate(percent=10), each=("target",)),))
        assert (await _call_at(world, renamed)).status == 500
        assert is_open(await _call_at(world, world.config))


async def _call_at(world: World, config: object) -> Client:
    world.gate = gate_over(config, world.shared)  # type: ignore[arg-type]
    return await world.call(BODY)


NOW_MS = 1_795_262_400_000


@pytest.mark.parametrize(
    ("header", "ms"),
    [
        ("20", 20_000),
        ("0.5", 500),
        ("0", 0),
        ("Sat, 21 Nov 2026 12:01:00 GMT", 60_000),
        ("Sat, 21 Nov 2026 11:59:00 GMT", None),
        ("86400", PAUSE_MS_MAX),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, ms: int | None) -> None:
    assert retry_after_ms(header, NOW_MS) == ms
