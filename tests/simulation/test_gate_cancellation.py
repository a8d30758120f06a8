"""A client may leave at any moment: wherever its call is then, its reservation ends once, and nothing stays open."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from gate_harness import Client, World, chat, gate_test, spin, without_threads
from scripted_upstream import DONE, Play, answer, delta, ended, failing, stream, used, words

from spendfuse.core.reservations import EntryKind
from spendfuse.upstream.client import FateUnknown, NeverSent

STEPS_MAX = 2_000
WHOLE = chat(max_tokens=100)
STREAM = chat(max_tokens=100, stream=True)
COUNTED = chat("gpt-4o-mini", words(300), max_tokens=100)


LIMITS = """
  counted: {usd: '0.0002', per: lifetime, match: {model: [gpt-4o-mini]}, each: user, fit: false}
  narrow: {output_tokens: 15, per: lifetime, match: {model: [gpt-4o]}, each: user}
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """A call that comes to its end by itself, in a number of steps that is the same each time."""

    body: dict[str, object]
    play: Callable[[], Play]
    told: bytes
    """What the client who stays is told, among other things."""
    may_void: bool = False
    """The provider proves that nothing was billed, so a call that was sent may be void."""


SCENES = {
    "whole": Scene(WHOLE, lambda: Play([answer()]), b"Hello."),
    "broken whole": Scene(WHOLE, lambda: Play([answer()[:9], FateUnknown("reset")]), b"upstream_failed"),
    "never sent": Scene(WHOLE, lambda: Play(before_head=[NeverSent("refused")]), b"unreachable", may_void=True),
    "voided error": Scene(WHOLE, lambda: failing(429), b'"no"', may_void=True),
    "charged error": Scene(WHOLE, lambda: failing(504), b'"no"'),
    "stream": Scene(STREAM, lambda: stream(delta("a"), delta("b"), ended(), used(10, 2), DONE), DONE),
    "broken stream": Scene(STREAM, lambda: stream(delta("a"), delta("b"), FateUnknown("reset")), delta("b")),
    "outrun stream": Scene(
        chat("gpt-4o", max_tokens=10, stream=True), lambda: stream(*[delta(words(1))] * 20), b'"length"'
    ),
    "counted": Scene(COUNTED, lambda: Play([answer()]), b"Hello."),
}


async def _steps(task: "asyncio.Task[None]", count: int) -> None:
    for _ in range(count):
        if task.done():
            return
        await asyncio.sleep(0)


async def _cancelled_after(world: World, scene: Scene, steps: int) -> bool:
    """Play the scene, leave after so many steps of the event loop, and check; True when it was over by then."""
    world.meets(scene.play())
    reservations, sent = len(world.reservations), len(world.upstream.requests)
    task, client = world.begin(scene.body, claimed={"user": str(reservations)})
    await _steps(task, steps)
    was_over = task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await world.settled()
    await spin()
    for one in world.reservations[reservations:]:
        assert len(one.entries) == 1, f"step {steps}: open, or ended twice"
        was_sent = len(world.upstream.requests) > sent
        # What reached the provider is charged, and what never did is not.
        assert one.is_void <= (not was_sent or scene.may_void), f"step {steps}"
        assert one.is_void or was_sent, f"step {steps}"
    assert world.upstream.open == 0
    assert not was_over or scene.told in client.body
    return was_over


async def _sweep(world: World, scene: Scene) -> None:
    for steps in range(STEPS_MAX):
        if await _cancelled_after(world, scene, steps):
            return
    raise AssertionError("the scene never came to its end")


@pytest.mark.parametrize("name", SCENES)
@gate_test(limits=LIMITS)
async def test_leaving_at_any_step_ends_the_reservation_once(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_threads(monkeypatch)
    await _sweep(world, SCENES[name])


@gate_test(more="on_disconnect: finish")
async def test_leaving_at_any_step_of_a_call_that_goes_on_ends_it_exactly(world: World) -> None:
    scene = SCENES["whole"]
    for steps in range(STEPS_MAX):
        if await _cancelled_after(world, scene, steps):
            break
        await world.shared.drain(5)
    charged = [one.entry for one in world.reservations if one.entry.kind is EntryKind.SETTLED]
    assert charged
    assert not any(entry.estimated for entry in charged)


@gate_test(limits="  room: {usd: '0.0005', per: lifetime}", more="busy_wait: 10s")
async def test_leaving_at_any_step_of_a_wait_ends_the_reservation_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room is held by a call that ends while another waits for it, and leaves around that very moment."""
    without_threads(monkeypatch)
    for steps in range(STEPS_MAX):
        release, sent = asyncio.Event(), len(world.upstream.requests)
        world.meets(failing(429, before_head=[release]), failing(429))
        holder, _ = world.begin(WHOLE)
        await spin()
        waiter, _ = world.begin(WHOLE)
        await spin()
        assert len(world.upstream.requests) == sent + 1, "the second one does not wait"
        release.set()
        await _steps(waiter, steps)
        was_over = waiter.done()
        waiter.cancel()
        await asyncio.gather(waiter, holder, return_exceptions=True)
        await world.settled()
        await spin()
        assert all(len(one.entries) == 1 for one in world.reservations), f"step {steps}: open, or ended twice"
        if was_over:
            return
    raise AssertionError("the wait never came to its end")


@pytest.mark.parametrize("code", ["store", "spent"])
@gate_test(limits="  none: {usd: 0, per: lifetime, match: {model: [frugal]}}")
async def test_leaving_at_any_step_of_a_refusal_leaves_nothing(world: World, code: str) -> None:
    for steps in range(STEPS_MAX):
        world.ledger.away["reserve"] = int(code == "store")
        task, _ = world.begin(chat("frugal"))
        await _steps(task, steps)
        was_over = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await spin()
        assert world.reservations == []
        if was_over:
            return


@gate_test()
async def test_leaving_while_the_client_does_not_read_closes_the_upstream(world: World) -> None:
    world.meets(stream(delta("a"), delta("b"), asyncio.Event()))
    task, client = world.begin(STREAM)
    client.reading.clear()
    await world.later(0)
    assert isinstance(client, Client) and world.upstream.open == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.upstream.open == 0
