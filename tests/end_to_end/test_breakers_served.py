"""Breakers of real gateways: a target that fails is left alone by all processes, and called again when it heals."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from gateway import APP_KEY, RunningGateway, config_text, running_gateway, wait_until
from postgres_stores import gateways, new_database
from ways import CHAT

from spendfuse.simulator.behaviour import Behaviour, Errors
from spendfuse.simulator.process import RunningSimulator, running_simulator

WAVES, CALLS_PER_WAVE = 10, 20
ATTEMPTS_MAX = 40
COOLDOWN_S = 2
FOLLOWED_S = 1.0
FAILING = Behaviour(output_tokens=5, errors=Errors(status=500, probability=1.0))
HEALTHY = Behaviour(output_tokens=5)
ADMIN_KEY = "admin-key-of-at-least-twenty"
BREAKERS = f"""
admin_key: {ADMIN_KEY}
breakers:
  errors: {{error_rate: 10%, over: 5m, each: target, cooldown: {COOLDOWN_S}s}}
"""
TARGET = "openai/gpt-4o-mini"
BODY = CHAT.body("Count.", max_tokens=16)

Started = AbstractContextManager[list[RunningGateway]]
Start = Callable[[str, Path], Started]


@contextlib.contextmanager
def _one(config: str, folder: Path) -> Generator[list[RunningGateway]]:
    with running_gateway(config, folder) as gateway:
        yield [gateway]


@contextlib.contextmanager
def _four_workers(config: str, folder: Path) -> Generator[list[RunningGateway]]:
    with running_gateway(config, folder, workers=4) as gateway:
        yield [gateway]


@pytest.fixture
def store(postgres_dsn: str, tmp_path: Path) -> str:
    return new_database(postgres_dsn, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def processes(request: pytest.FixtureRequest) -> Start:
    """Four processes on one store: the workers of a gateway, or two gateways of two workers."""
    if request.param == "sqlite":
        return _four_workers
    dsn: str = request.getfixturevalue("store")

    @contextlib.contextmanager
    def two_gateways(config: str, folder: Path) -> Generator[list[RunningGateway]]:
        with gateways(config, dsn, folder, count=2, workers=2) as running:
            yield running

    return two_gateways


@pytest.fixture(params=["sqlite", "postgres"])
def alone(request: pytest.FixtureRequest) -> Start:
    """One process."""
    if request.param == "sqlite":
        return _one
    dsn: str = request.getfixturevalue("store")
    return lambda config, folder: gateways(config, dsn, folder, count=1)


async def _calls(running: Sequence[RunningGateway], count: int) -> list[tuple[int, dict[str, Any], dict[str, str]]]:
    """So many calls at once, each over a connection of its own: status, body and headers of their answers."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=CHAT.headers) as session:

        async def call(number: int) -> tuple[int, dict[str, Any], dict[str, str]]:
            url = f"{running[number % len(running)].base_url}/{CHAT.path}"
            async with session.post(url, json=BODY) as response:
                return response.status, await response.json(), {k.lower(): v for k, v in response.headers.items()}

        return await asyncio.gather(*(call(number) for number in range(count)))


def calls(running: Sequence[RunningGateway], count: int = 1) -> list[tuple[int, dict[str, Any], dict[str, str]]]:
    return asyncio.run(_calls(running, count))


def statuses(running: Sequence[RunningGateway], count: int) -> Counter[int]:
    return Counter(status for status, _, _ in calls(running, count))


def wait_for_all(running: Sequence[RunningGateway], status: int, timeout_s: float) -> None:
    """Wait until whichever process is asked answers with this status: three waves in a row."""
    wait_until(
        lambda: all(statuses(running, 24).keys() == {status} for _ in range(3)),
        timeout_s,
        f"every process answers {status}",
    )


def attempts(simulator: RunningSimulator) -> int:
    return sum(simulator.bill().calls.values())


def states(gateway: RunningGateway) -> dict[str, str]:
    """By subject's target."""
    rows = json.loads(gateway.run("breaker", "list", "--format", "json").stdout)
    return {(row["subject"] or {}).get("target", ""): row["state"] for row in rows}


def trip(running: Sequence[RunningGateway], simulator: RunningSimulator) -> None:
    """Let the upstream fail until the breaker is open everywhere."""
    simulator.set_behaviour(FAILING)
    calls(running, 40)
    wait_for_all(running, 503, FOLLOWED_S + 2)


def test_a_target_that_always_fails_is_tried_no_more_than_forty_times(alone: Start, tmp_path: Path) -> None:
    with running_simulator(FAILING) as simulator, alone(config_text(simulator, more=BREAKERS), tmp_path) as running:
        seen: Counter[int] = Counter()
        for _ in range(WAVES):
            seen += statuses(running, CALLS_PER_WAVE)
        tried = attempts(simulator)
        print(f"\n{WAVES * CALLS_PER_WAVE} calls, {tried} attempts, {dict(seen)}")
        assert seen.keys() == {500, 503}
        assert 20 <= tried <= ATTEMPTS_MAX
        assert seen[500] == tried
        ((status, body, headers),) = calls(running)
        assert (status, body["error"]["code"]) == (503, "breaker_open")
        assert headers["x-should-retry"] == "false"
        assert 1 <= int(headers["retry-after"]) <= COOLDOWN_S
        message = body["error"]["message"]
        assert f'breaker "errors" (target={TARGET}) is' in message
        assert "above 10%" in message


def test_a_healed_upstream_serves_again_within_its_cooldown_and_a_second(alone: Start, tmp_path: Path) -> None:
    with running_simulator(FAILING) as simulator, alone(config_text(simulator, more=BREAKERS), tmp_path) as running:
        trip(running, simulator)
        simulator.set_behaviour(HEALTHY)
        healed_at = time.monotonic()
        wait_until(lambda: statuses(running, 1)[200] == 1, COOLDOWN_S + 1, "the healed upstream serves")
        assert time.monotonic() - healed_at <= COOLDOWN_S + 1
        wait_until(lambda: statuses(running, 40) == {200: 40}, FOLLOWED_S, "all calls are served")
        log = json.loads(running[0].run("breaker", "log", "--format", "json").stdout)
        changes = [(one["from"], one["to"], one["who"]) for one in log]
        assert changes[0] == ("closed", "open", "spendfuse")
        assert changes[-2:] == [("open", "half_open", "spendfuse"), ("half_open", "closed", "spendfuse")]


def test_half_open_four_processes_let_one_probe_through_at_a_time(processes: Start, tmp_path: Path) -> None:
    """Invariant 15."""
    with running_simulator() as simulator, processes(config_text(simulator, more=BREAKERS), tmp_path) as running:
        trip(running, simulator)
        for _ in range(3):
            # The probe takes as long as several waves of calls from all processes; then it fails.
            simulator.set_behaviour(Behaviour(latency_s=1.0, errors=Errors(status=500, probability=1.0)))
            before = attempts(simulator)
            time.sleep(COOLDOWN_S)
            probed = asyncio.run(_waves_until_probe_ends(running))
            assert probed[500] == 1, probed
            assert attempts(simulator) - before == 1
        simulator.set_behaviour(HEALTHY)
        wait_until(lambda: statuses(running, 8)[200] > 0, COOLDOWN_S + 2, "the healed upstream serves")
        wait_until(lambda: statuses(running, 40) == {200: 40}, FOLLOWED_S + 2, "every process serves")


async def _waves_until_probe_ends(running: Sequence[RunningGateway]) -> Counter[int]:
    seen: Counter[int] = Counter()
    waves: list[asyncio.Task[Any]] = []
    ends_at = time.monotonic() + 1.2
    while time.monotonic() < ends_at:
        waves.append(asyncio.create_task(_calls(running, 16)))
        await asyncio.sleep(0.1)
    for wave in waves:
        seen += Counter(status for status, _, _ in await wave)
    return seen


def test_states_survive_a_kill_and_a_restart(alone: Start, tmp_path: Path) -> None:
    config = BREAKERS.replace(f"cooldown: {COOLDOWN_S}s", "cooldown: 1h")
    with running_simulator(FAILING) as simulator:
        with alone(config_text(simulator, more=config), tmp_path) as running:
            trip(running, simulator)
            running[0].kill()
        before = attempts(simulator)
        with alone(config_text(simulator, more=config), tmp_path) as running:
            assert statuses(running, 20) == {503: 20}
            assert states(running[0]) == {TARGET: "open"}
        assert attempts(simulator) == before


def test_a_hand_opens_and_closes_breakers_of_gateways_that_serve(processes: Start, tmp_path: Path) -> None:
    with (
        running_simulator(HEALTHY) as simulator,
        processes(config_text(simulator, more=BREAKERS), tmp_path) as running,
    ):
        said = running[0].run("breaker", "open", "errors", "--for", TARGET, "--why", "the vendor is down").stdout
        assert said.startswith(f'breaker "errors" (target={TARGET}) is open')
        wait_for_all(running, 503, FOLLOWED_S + 2)
        _, body, _ = calls(running)[0]
        assert "the vendor is down" in body["error"]["message"]
        assert states(running[0]) == {TARGET: "forced_open"}
        running[-1].run("breaker", "close", "errors", "--for", TARGET, "--why", "it is back")
        wait_for_all(running, 200, FOLLOWED_S + 2)
        assert "errors,closed,forced_open" in _csv_phases(running[0])


def _csv_phases(gateway: RunningGateway) -> list[str]:
    lines = gateway.run("breaker", "log", "--format", "csv").stdout.splitlines()[1:]
    return [",".join((line.split(",")[1], *line.split(",")[3:5])) for line in lines]


def test_the_openai_sdk_sees_one_request_and_a_clear_error(tmp_path: Path) -> None:
    with running_simulator(HEALTHY) as simulator, _one(config_text(simulator, more=BREAKERS), tmp_path) as running:
        running[0].run("breaker", "open", "errors", "--for", TARGET, "--why", "the vendor is down")
        wait_until(lambda: statuses(running, 1)[503] == 1, FOLLOWED_S + 1, "it refuses")
        tried: list[str] = []
        with openai.OpenAI(base_url=running[0].base_url, api_key=APP_KEY) as client:
            client._client.event_hooks["request"] = [lambda request: tried.append(str(request.url))]  # pyright: ignore[reportPrivateUsage]
            with pytest.raises(openai.InternalServerError) as refused:
                client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hi."}])
        assert len(tried) == 1
        assert refused.value.code == "breaker_open"
        assert f'breaker "errors" (target={TARGET}) was opened by' in refused.value.message


async def _admin(
    gateway: RunningGateway, method: str, path: str, body: dict[str, object] | None = None, *, key: str = ADMIN_KEY
) -> tuple[int, Any]:
    url = f"{gateway.base_url.removesuffix('/v1')}/admin/api{path}"
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.request(method, url, json=body) as response:
        return response.status, await response.json()


def admin(gateway: RunningGateway, method: str, path: str, **body: object) -> tuple[int, Any]:
    """`whose` is `for`, which is no name."""
    if "whose" in body:
        body["for"] = body.pop("whose")
    return asyncio.run(_admin(gateway, method, path, body or None))


def test_the_admin_api_opens_closes_and_lists_for_who_has_the_key(tmp_path: Path) -> None:
    with running_simulator(HEALTHY) as simulator, _one(config_text(simulator, more=BREAKERS), tmp_path) as running:
        gateway, path = running[0], "/breakers/errors/open"
        assert asyncio.run(_admin(gateway, "GET", "/breakers", key="another-key-of-at-least-twenty"))[0] == 401
        status, told = admin(gateway, "POST", path, whose=[TARGET], why="down", who="ana")
        assert (status, told["state"], told["who"]) == (200, "forced_open", "ana")
        # At once, in the process that changed it.
        assert statuses(running, 1) == {503: 1}
        status, told = admin(gateway, "GET", "/breakers")
        assert (told["breakers"][0]["breaker"], told["breakers"][0]["state"]) == ("errors", "forced_open")
        assert admin(gateway, "POST", path, whose=[TARGET])[0] == 400
        assert admin(gateway, "POST", path, whose=[], why="x")[0] == 400
        assert admin(gateway, "POST", path, whose=TARGET, why="x")[0] == 400
        assert admin(gateway, "POST", path, whose=[TARGET], why="x", more=1)[0] == 400
        assert admin(gateway, "POST", "/breakers/none/open", why="x")[0] == 404
        assert admin(gateway, "POST", "/breakers/errors/close", whose=[TARGET])[0] == 200
        assert statuses(running, 1) == {200: 1}
        _, told = admin(gateway, "GET", "/breakers/log")
        assert [(one["to"], one["who"]) for one in told["changes"]] == [("forced_open", "ana"), ("closed", "admin API")]


def test_the_admin_api_is_not_served_to_other_addresses(tmp_path: Path) -> None:
    config = BREAKERS + "admin_from: 192.0.2.0/24\n"
    with running_simulator(HEALTHY) as simulator, _one(config_text(simulator, more=config), tmp_path) as running:
        assert admin(running[0], "GET", "/breakers")[0] == 403


def test_without_an_admin_key_there_is_no_admin_api(tmp_path: Path) -> None:
    with running_simulator(HEALTHY) as simulator, _one(config_text(simulator), tmp_path) as running:
        assert admin(running[0], "GET", "/breakers")[0] == 404


def test_a_target_that_asked_to_be_left_alone_is_paused_in_all_processes(processes: Start, tmp_path: Path) -> None:
    asking = Behaviour(errors=Errors(status=429, probability=1.0), retry_after=2)
    with running_simulator(asking) as simulator, processes(config_text(simulator, more=BREAKERS), tmp_path) as running:
        assert calls(running)[0][0] == 429
        wait_until(lambda: statuses(running, 16).keys() == {503}, FOLLOWED_S + 0.8, "every process leaves it alone")
        simulator.set_behaviour(HEALTHY)
        wait_for_all(running, 200, 4)
        assert states(running[0]) == {"": "closed"}
