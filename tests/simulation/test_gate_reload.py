"""Another config takes the place of the last one: calls in flight keep theirs, and it comes whole or not at all."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from gate_harness import Client, World, chat, config_of, gate_over, gate_test, request, spin
from scripted_upstream import Play, answer

from spendfuse.alerting.outbox import Outbox
from spendfuse.alerting.senders import AppriseSender
from spendfuse.config import Config, ConfiguredKey, LabelSource
from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.limits import Limit
from spendfuse.server.auth import Keyring, digest_of
from spendfuse.server.cycle import CALL
from spendfuse.server.gateway import Gateway

CHEAP = "  priced: {targets: [plain/any], prices: {input: 1, output: 1}}"
DEAR = "  priced: {targets: [plain/any], prices: {input: 5, output: 5}}"
SMALL = "  small: {usd: '0.000001', per: lifetime}"


async def begun(world: World, gate: Any, body: dict[str, object]) -> tuple["asyncio.Task[None]", Client]:
    client = Client(world.log)
    task = asyncio.create_task(gate.serve(request(body), client))
    await spin()
    return task, client


@gate_test(more=CHEAP)
async def test_a_call_in_flight_keeps_the_prices_it_began_with_and_calls_after_it_have_the_new_ones(
    world: World,
) -> None:
    release = asyncio.Event()
    world.meets(Play([answer(7, input_tokens=12)], before_head=[release]), Play([answer(7, input_tokens=12)]))
    first, _ = await begun(world, world.gate, chat("priced"))
    newer = config_of(more=DEAR)
    await world.ledger.apply(newer.limits)
    second, _ = await begun(world, gate_over(newer, world.shared), chat("priced"))
    release.set()
    await asyncio.gather(first, second)
    await world.settled()
    assert [one.entry.amounts.cost for one in world.reservations] == [19_000, 95_000]


@gate_test(more=CHEAP)
async def test_a_call_in_flight_is_not_stopped_by_a_limit_that_it_does_not_fit(world: World) -> None:
    release = asyncio.Event()
    world.meets(Play([answer(7, input_tokens=12)], before_head=[release]), Play([answer(7)]))
    first, client = await begun(world, world.gate, chat("priced"))
    newer = config_of(limits=SMALL, more=CHEAP)
    await world.ledger.apply(newer.limits)
    second, refused = await begun(world, gate_over(newer, world.shared), chat("priced"))
    await second
    assert refused.status == 400
    release.set()
    await first
    await world.settled()
    assert client.status == 200
    assert await world.committed("small") == [("[]", 19_000, 0)]
    await world.ledger.apply(world.config.limits)


@gate_test(more="on_disconnect: finish")
async def test_a_call_of_the_former_gate_that_goes_on_without_its_client_is_drained(world: World) -> None:
    release = asyncio.Event()
    world.meets(Play([answer(7, input_tokens=12)], before_head=[release]))
    task, _ = await begun(world, world.gate, chat())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gate_over(config_of(), world.shared)
    release.set()
    await world.shared.drain(5)
    assert not world.last.entry.estimated


@gate_test()
async def test_outputs_learned_under_one_config_are_known_under_the_next(world: World) -> None:
    world.meets(Play([answer(2_000)]))
    await world.call(chat())
    later, _ = await begun(world, gate_over(config_of(), world.shared), chat())
    await later
    assert world.ledger.demands[-1].caps.modest == 2_500


# The whole gateway


def key(name: str) -> ConfiguredKey:
    return ConfiguredKey(name, digest_of(f"sk-{name}".encode()), {}, (LabelSource.HEADERS,), 10)


class Asked:
    """A gateway over a world, asked for its models with a key."""

    def __init__(self, world: World, config: Config) -> None:
        keyring = Keyring(config.keys, world.ledger, new_subjects_per_hour=10)
        outbox = Outbox(world.ledger, config, AppriseSender, world.clock)
        self.gateway = Gateway(config, shared=world.shared, keyring=keyring, outbox=outbox)

    async def models(self, name: str) -> str | None:
        """The body of the answer; None for a key that is not valid."""
        answered = _Answered()
        headers = [(b"x-api-key", f"sk-{name}".encode())]
        scope = {"type": "http", "path": "/v1/models", "method": "GET", "headers": headers, CALL: answered}
        await self.gateway(scope, _unused, _unused)
        return None if answered.status == 401 else answered.body.decode()


class _Answered:
    """Stands in for the cycle of a connection."""

    status = 0
    body = b""

    async def answer(self, status: int, headers: object, body: bytes) -> None:
        self.status, self.body = status, body


async def _unused(*message: Any) -> Any:
    raise AssertionError("neither is a body read, nor a stream sent")


def two_configs() -> tuple[Config, Config]:
    older = replace(config_of(), keys=(key("older"),))
    return older, replace(config_of(limits=SMALL, more="  newest: plain/any"), keys=(key("newer"),))


@gate_test()
async def test_a_reload_brings_models_keys_and_limits_at_once(world: World) -> None:
    older, newer = two_configs()
    asked = Asked(world, older)
    assert "newest" not in (await asked.models("older") or "")
    await asked.gateway.reload(newer)
    assert await asked.models("older") is None
    assert "newest" in (await asked.models("newer") or "")
    assert {one.limit_name for one in await world.ledger.balances()} == {"everything", "small"}
    await asked.gateway.reload(older)


@pytest.mark.parametrize("how", ["the store is away", "cancelled"])
@gate_test()
async def test_a_reload_that_fails_changes_nothing(world: World, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    older, newer = two_configs()
    asked = Asked(world, older)
    if how == "cancelled":
        hangs = asyncio.Event()

        async def hang(limits: tuple[Limit, ...]) -> None:
            hangs.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(world.ledger, "apply", hang)
        reloading = asyncio.create_task(asked.gateway.reload(newer))
        await hangs.wait()
        reloading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reloading
    else:
        world.ledger.away["apply"] = 1
        with pytest.raises(LedgerUnavailable):
            await asked.gateway.reload(newer)
    assert await asked.models("newer") is None
    assert "newest" not in (await asked.models("older") or "newest")
    assert {one.limit_name for one in await world.ledger.balances()} == {"everything"}
