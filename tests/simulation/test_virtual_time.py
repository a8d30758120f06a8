"""The event loop whose waiting takes no time."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from spendfuse.clock import FrozenClock
from spendfuse.simulator.virtual_time import TimeStandsStill, VirtualLoop

START_NS = 1_795_262_400 * 10**9


def run(test: Callable[[FrozenClock], Coroutine[Any, Any, None]]) -> FrozenClock:
    """Run a coroutine in virtual time; the clock as it was left."""
    clock = FrozenClock(START_NS)
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(test(clock))
    return clock


def elapsed_s(clock: FrozenClock) -> float:
    return (clock.now_ns() - START_NS) / 1e9


def test_hours_pass_at_once_and_to_the_nanosecond() -> None:
    async def sleeps(_: FrozenClock) -> None:
        await asyncio.sleep(8 * 3_600)
        await asyncio.sleep(0.25)

    assert run(sleeps).now_ns() - START_NS == pytest.approx(28_800_250_000_000, abs=2)


def test_timers_fire_in_order_each_at_its_own_time() -> None:
    fired: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float, clock: FrozenClock) -> None:
        await asyncio.sleep(seconds)
        fired.append((name, round(elapsed_s(clock), 6)))

    async def three(clock: FrozenClock) -> None:
        await asyncio.gather(*(sleeper(name, s, clock) for name, s in (("c", 3.0), ("a", 0.001), ("b", 2.5))))

    run(three)
    assert fired == [("a", 0.001), ("b", 2.5), ("c", 3.0)]


def test_time_stands_while_anything_can_run() -> None:
    async def spins(clock: FrozenClock) -> None:
        timer = asyncio.get_running_loop().call_later(1, lambda: None)
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert elapsed_s(clock) == 0
        timer.cancel()

    run(spins)


def test_a_timeout_cuts_what_would_take_longer() -> None:
    async def waits(clock: FrozenClock) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.sleep(3_600)
        assert elapsed_s(clock) == pytest.approx(30, abs=1e-6)

    run(waits)


def test_time_never_jumps_past_the_work_of_a_thread() -> None:
    async def works(clock: FrozenClock) -> None:
        ticking = asyncio.create_task(asyncio.sleep(1))
        assert await asyncio.to_thread(lambda: sum(range(100_000))) == 4_999_950_000
        assert elapsed_s(clock) == 0 and not ticking.done()
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        await ticking

    run(works)


def test_waiting_for_what_can_never_come_is_an_error_and_no_hang() -> None:
    async def waits(_: FrozenClock) -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(TimeStandsStill):
        run(waits)


def test_it_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "socketpair", refuse)

    async def sleeps(_: FrozenClock) -> None:
        await asyncio.sleep(1)

    run(sleeps)
