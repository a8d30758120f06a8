"""`kill -9` in the middle of everything: the ledger is never below the provider's bill, and never above the limit."""

import asyncio
from pathlib import Path

import aiohttp
import pytest
from gateway import RunningGateway, config_text, running_gateway, totals, wait_until
from ways import WAYS, Way

from spendfuse.core.money import format_usd
from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

FINISHED, IN_FLIGHT = 30, 20
LIMIT_CALLS = 120
"""Of about 310 tokens each: more than a test finishes and holds, in calls of its way."""
KEEPER_INTERVAL_S = 1.0


async def _finish_some_and_kill_with_others_in_flight(
    gateway: RunningGateway, simulator: RunningSimulator, way: Way
) -> None:
    body = way.body("Count.", max_tokens=400)
    async with aiohttp.ClientSession(headers=way.headers) as session:

        async def call() -> None:
            async with session.post(f"{gateway.base_url}/{way.path}", json=body) as response:
                await response.read()

        simulator.set_behaviour(Behaviour(output_tokens=300))
        await asyncio.gather(*(call() for _ in range(FINISHED)))
        simulator.set_behaviour(Behaviour(output_tokens=300, latency_s=20))
        in_flight = [asyncio.create_task(call()) for _ in range(IN_FLIGHT)]
        while simulator.bill().calls.get("running", 0) < IN_FLIGHT:
            await asyncio.sleep(0.02)
        gateway.kill()
        await asyncio.gather(*in_flight, return_exceptions=True)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_killed_gateway_has_charged_at_least_the_bill_and_at_most_the_limit(
    way: Way, workers: int, tmp_path: Path
) -> None:
    limit_nanos = LIMIT_CALLS * 400 * way.output_nanos
    limits = f"limits: {{company: {{usd: '{format_usd(limit_nanos)}', per: month}}}}"
    with running_simulator() as simulator:
        config = config_text(simulator, limits=limits)
        with running_gateway(config, tmp_path, workers=workers) as gateway:
            asyncio.run(_finish_some_and_kill_with_others_in_flight(gateway, simulator, way))
            database = gateway.database
        after_kill = totals(database)
        billed = simulator.bill(wait_idle_s=5)
        assert after_kill.entries + after_kill.open_reservations == FINISHED + IN_FLIGHT
        assert after_kill.open_reservations >= IN_FLIGHT
        assert billed.nanos <= after_kill.committed <= limit_nanos

        with running_gateway(config, tmp_path, workers=workers) as gateway:
            wait_until(
                lambda: gateway.totals().open_reservations == 0,
                timeout_s=KEEPER_INTERVAL_S + 2,
                what="reservations of the dead owner are charged",
            )
            assert gateway.totals().settled == after_kill.committed
            gateway.run("audit")
            asyncio.run(_spend_the_rest(gateway.base_url, simulator, way))
            assert gateway.totals().committed <= limit_nanos
            assert simulator.bill(wait_idle_s=5).nanos <= limit_nanos
            gateway.run("audit")


async def _spend_the_rest(base_url: str, simulator: RunningSimulator, way: Way) -> None:
    simulator.set_behaviour(Behaviour(output_tokens=2_000))
    statuses: set[int] = set()
    async with aiohttp.ClientSession(headers=way.headers) as session:
        for _ in range(20):
            body = way.body("Count.", max_tokens=2_000)
            calls = [session.post(f"{base_url}/{way.path}", json=body) for _ in range(20)]
            for response in await asyncio.gather(*calls):
                statuses.add(response.status)
                await response.read()
            if 402 in statuses:
                return
    raise AssertionError(f"never refused as spent: {statuses}")
