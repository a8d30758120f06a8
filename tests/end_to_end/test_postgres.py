"""Several gateways on one PostgreSQL: a limit is one limit, whoever of them serves, and nothing is lost with them."""

import asyncio
from pathlib import Path

import aiohttp
import pytest
from gateway import RunningGateway, config_text, wait_until
from postgres_stores import fetch, gateways, new_database
from ways import CHAT, MESSAGES

from spendfuse.core.money import format_usd
from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

GATEWAYS = 3
CALLS_PER_WAVE = 150
OUTPUT_TOKENS = 500
PROMPT = "Explain how a ledger keeps money safe when many people spend from it at once. " * 12
LIMIT_NANOS = 28 * (207 * CHAT.input_nanos + OUTPUT_TOKENS * CHAT.output_nanos)
USABLE_SHARE = 0.97
FINISHED, IN_FLIGHT = 5, 20


@pytest.fixture
def store(postgres_dsn: str, tmp_path: Path) -> str:
    """A database of the test's own, by its URL."""
    return new_database(postgres_dsn, tmp_path)


def committed_nanos(dsn: str) -> int:
    """What the ledger has charged and holds."""
    query = "SELECT (SELECT coalesce(sum(cost), 0) FROM entry) + (SELECT coalesce(sum(cost), 0) FROM reservation)"
    return int(fetch(dsn, query)[0][0])


def open_reservations(dsn: str) -> int:
    return int(fetch(dsn, "SELECT count(*) FROM reservation")[0][0])


def config_of(simulator: RunningSimulator) -> str:
    return config_text(simulator, limits=f"limits: {{company: {{usd: '{format_usd(LIMIT_NANOS)}', per: month}}}}")


async def _wave(running: list[RunningGateway], codes: dict[str, int], calls: int = CALLS_PER_WAVE) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=CHAT.headers) as session:

        async def call(number: int) -> None:
            gateway = running[number % len(running)]
            body = CHAT.body(PROMPT, max_tokens=OUTPUT_TOKENS, stream=number % 2 == 0)
            async with session.post(f"{gateway.base_url}/{CHAT.path}", json=body) as response:
                if response.status == 200:
                    await response.read()
                    code = "served"
                else:
                    code = (await response.json())["error"]["code"]
                codes[code] = codes.get(code, 0) + 1

        await asyncio.gather(*(call(number) for number in range(calls)))


def test_three_gateways_on_one_database_never_exceed_a_limit_and_use_nearly_all_of_it(
    store: str, tmp_path: Path
) -> None:
    codes: dict[str, int] = {}
    behaviour = Behaviour(latency_s=0.1, output_tokens=OUTPUT_TOKENS)
    with (
        running_simulator(behaviour) as simulator,
        gateways(config_of(simulator), store, tmp_path, count=GATEWAYS) as running,
    ):
        for _ in range(4):
            asyncio.run(_wave(running, codes))
        billed = simulator.bill(wait_idle_s=5).nanos
        print(f"\nbilled {billed / LIMIT_NANOS:.2%}, {codes}")
        assert codes.keys() <= {"served", "budget_exceeded", "budget_busy"}
        assert codes["budget_exceeded"] > 0
        assert USABLE_SHARE * LIMIT_NANOS <= billed <= LIMIT_NANOS
        wait_until(lambda: open_reservations(store) == 0, 5, "all calls are settled")
        assert committed_nanos(store) == billed
        assert "clean" in running[0].run("audit").stdout
        assert "is up to date" in running[0].run("migrate").stdout


def test_killed_gateways_have_charged_or_hold_at_least_the_bill_and_others_go_on(store: str, tmp_path: Path) -> None:
    with running_simulator(Behaviour(output_tokens=100)) as simulator:
        with gateways(config_of(simulator), store, tmp_path, count=2) as running:
            asyncio.run(_wave(running, {}, FINISHED))
            simulator.set_behaviour(Behaviour(output_tokens=100, latency_s=20))
            asyncio.run(_kill_with_calls_in_flight(running, simulator))
        billed = simulator.bill(wait_idle_s=5).nanos
        assert billed <= committed_nanos(store) <= LIMIT_NANOS
        simulator.set_behaviour(Behaviour(output_tokens=10))
        with gateways(config_of(simulator), store, tmp_path / "again", count=1) as running:
            assert running[0].run("audit").stdout.startswith("clean")
            asyncio.run(_wave(running, {}))
            assert simulator.bill(wait_idle_s=5).nanos <= committed_nanos(store) <= LIMIT_NANOS


async def _kill_with_calls_in_flight(running: list[RunningGateway], simulator: RunningSimulator) -> None:
    async with aiohttp.ClientSession(headers=MESSAGES.headers) as session:
        body = MESSAGES.body("Hi.", max_tokens=16)
        calls = [
            asyncio.create_task(session.post(f"{running[at % 2].base_url}/{MESSAGES.path}", json=body).__aenter__())
            for at in range(IN_FLIGHT)
        ]
        async with asyncio.timeout(10):
            while simulator.bill().calls.get("running", 0) < IN_FLIGHT:
                await asyncio.sleep(0.02)
        for gateway in running:
            gateway.kill()
        await asyncio.gather(*calls, return_exceptions=True)
