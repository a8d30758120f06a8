"""The real gateway's config changed while it serves: by one process, by two, by two gateways on one database."""

import asyncio
import http.server
import json
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, cast

import aiohttp
import pytest
from fleets import Fleet, code_of, limited, running_fleet
from gateway import config_text, sse_events, wait_until
from ways import CHAT, MESSAGES, WAYS, Way

from spendfuse.core.money import format_usd
from spendfuse.simulator.behaviour import Behaviour, LogNormal
from spendfuse.simulator.process import RunningSimulator, running_simulator

ONE, TWO, POSTGRES = "one process", "two workers", "two gateways on PostgreSQL"
QUICK = Behaviour(output_tokens=100)
SMALL = f"{{usd: '{format_usd(2 * 100 * CHAT.output_nanos)}', per: month}}"
"""Less than two small calls cost."""
LARGE = "{usd: 1, per: month}"


class Serves(Protocol):
    def __call__(self, config: str) -> AbstractContextManager[Fleet]: ...


@pytest.fixture(params=[ONE, TWO, POSTGRES])
def serves(request: pytest.FixtureRequest, tmp_path: Path) -> Serves:
    """Starts gateways with a config, in each of the arrangements."""
    postgres = request.getfixturevalue("postgres_dsn") if request.param == POSTGRES else None
    workers = 2 if request.param == TWO else 1
    return lambda config: running_fleet(config, tmp_path, workers=workers, postgres=postgres)


@pytest.fixture(scope="module")
def one_simulator() -> Generator[RunningSimulator]:
    with running_simulator(QUICK) as running:
        yield running


@pytest.fixture
def simulator(one_simulator: RunningSimulator) -> RunningSimulator:
    """A simulator with an empty bill."""
    one_simulator.bill(wait_idle_s=5)
    one_simulator.reset()
    return one_simulator


# What changes


def test_a_limit_is_added_renamed_raised_lowered_and_removed_and_counts_what_was_spent_before(
    serves: Serves, simulator: RunningSimulator
) -> None:
    with serves(limited(simulator, "")) as fleet:
        assert fleet.codes() | fleet.codes() == {"served"}
        fleet.reload(limited(simulator, f"company: {SMALL}"))
        assert fleet.codes() == {"budget_exceeded"}
        fleet.reload(limited(simulator, f"everybody: {SMALL}"))
        assert 'limit \\"everybody\\"' in fleet.processes[0].call().body.decode()
        assert fleet.codes() == {"budget_exceeded"}
        fleet.reload(limited(simulator, f"everybody: {LARGE}"))
        assert fleet.codes() == {"served"}
        fleet.reload(limited(simulator, f"everybody: {SMALL}"))
        assert fleet.codes() == {"budget_exceeded"}
        fleet.reload(limited(simulator, ""))
        assert fleet.codes() == {"served"}
        fleet.assert_whole(simulator)


def test_a_model_is_added_and_removed(serves: Serves, simulator: RunningSimulator) -> None:
    config = config_text(simulator)
    with serves(config) as fleet:
        assert fleet.codes(model="newest") == {"model_not_found"}
        fleet.reload(config.replace("models:\n", "models:\n  newest: openai/gpt-4o-mini\n"))
        assert fleet.codes(model="newest") == {"served"}
        fleet.reload(config)
        assert fleet.codes(model="newest") == {"model_not_found"}
        fleet.assert_whole(simulator)


def test_a_client_key_is_added_and_removed(serves: Serves, simulator: RunningSimulator) -> None:
    config = config_text(simulator)
    with serves(config) as fleet:
        assert fleet.codes(key="sk-test-second") == {"invalid_api_key"}
        fleet.reload(config.replace("keys:\n", "keys:\n  - {name: second, key: sk-test-second}\n"))
        assert fleet.codes(key="sk-test-second") == {"served"}
        fleet.reload(config)
        assert fleet.codes(key="sk-test-second") == {"invalid_api_key"}
        assert fleet.codes() == {"served"}


def test_bounds_of_a_request_change(serves: Serves, simulator: RunningSimulator) -> None:
    with serves(config_text(simulator)) as fleet:
        fleet.reload(config_text(simulator, more="body_bytes_max: 50"))
        assert fleet.codes() == {"request_too_large"}
        fleet.reload(config_text(simulator))
        assert fleet.codes() == {"served"}


class KeyNotes(http.server.ThreadingHTTPServer):
    """A provider that notes by which key it is called."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _NotedCall)
        self.keys: list[str] = []


class _NotedCall(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        cast("KeyNotes", self.server).keys.append(self.headers["authorization"].removeprefix("Bearer "))
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "Hi."}
        body = json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "llama",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing of it is worth a line."""


@contextmanager
def noting_provider() -> Generator[KeyNotes]:
    with KeyNotes() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_providers_key_changes_for_all_calls_that_begin_then(serves: Serves, simulator: RunningSimulator) -> None:
    with noting_provider() as provider:

        def config_with(key: str) -> str:
            local = f'local: {{dialect: openai, base_url: "http://127.0.0.1:{provider.server_port}/v1", api_key: {key}'
            return (
                config_text(simulator)
                .replace("providers:\n", f"providers:\n  {local}, prices: {{'*': {{input: 1, output: 1}}}}}}\n")
                .replace("models:\n", "models:\n  local: local/llama\n")
            )

        with serves(config_with("sk-one")) as fleet:
            assert fleet.codes(model="local") == {"served"}
            fleet.reload(config_with("sk-two"))
            provider.keys.clear()
            assert fleet.codes(model="local") == {"served"}
            assert set(provider.keys) == {"sk-two"}


# What is refused


def test_a_file_that_cannot_be_used_is_refused_with_its_key_path_and_the_old_one_goes_on(
    serves: Serves, simulator: RunningSimulator
) -> None:
    config = limited(simulator, f"company: {LARGE}")
    with serves(config) as fleet:
        name = fleet.running[0].config.name
        fleet.refuses(f"{config}\nlimits: [", f"{name}")
        fleet.refuses(config.replace("usd: 1", "usb: 1"), f"{name}: limits.company.usb: unknown key")
        fleet.refuses(config.replace("usd: 1", "usd: -1"), f"{name}: limits.company.usd: ")
        fleet.refuses(
            config.replace("models:\n", "models:\n  odd: openai/no-such-model\n"), f"{name}: models.odd: ", "not priced"
        )
        fleet.refuses(config.replace("PROVIDER_KEY", "NO_SUCH").replace("APP_KEY", "NO_SUCH"), f"{name}: keys[0].key: ")
        fleet.refuses(config.replace("store: ", "store: sqlite:///other.db #"), f"{name}: store: ", "restart")
        fleet.refuses(f"store: {fleet.store}", f"{name}: models: is empty")
        assert fleet.codes() == {"served"}
        fleet.reload(config)
        assert all(gateway.process.poll() is None for gateway in fleet.running)


def test_a_model_that_was_without_a_price_before_refuses_no_reload(simulator: RunningSimulator, tmp_path: Path) -> None:
    config = config_text(simulator).replace("models:\n", "models:\n  odd: openai/no-such-model\n")
    with running_fleet(config, tmp_path, workers=2) as fleet:
        fleet.reload(config)
        assert fleet.codes(model="odd") == {"model_not_priced"}


# A LiteLLM file

LITELLM = """\
model_list:
- model_name: gpt-4o-mini
  litellm_params: {{model: openai/gpt-4o-mini, api_base: "{base_url}", api_key: os.environ/PROVIDER_KEY}}
general_settings:
  master_key: os.environ/APP_KEY
litellm_settings:
  max_budget: {budget}
  budget_duration: "1mo"
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_litellm_file_is_reloaded_with_what_it_includes(
    workers: int, simulator: RunningSimulator, tmp_path: Path
) -> None:
    more = "model_list:\n- {model_name: more, litellm_params: {model: openai/gpt-4o, api_base: " + simulator.base_url
    more += ", api_key: os.environ/PROVIDER_KEY}}\n"

    def file(budget: float) -> str:
        return f"include: [more.yaml]\n{LITELLM.format(base_url=simulator.base_url, budget=budget)}"

    (tmp_path / "more.yaml").write_text(more)
    with running_fleet(file(500), tmp_path, workers=workers, name="litellm.yaml") as fleet:
        assert fleet.codes() == fleet.codes(model="more") == {"served"}
        (tmp_path / "more.yaml").write_text(more.replace("model_name: more", "model_name: most"))
        fleet.write(file(0.0005))
        wait_until(lambda: all(one.serves_model("most") for one in fleet.processes), 1.0, "all follow")
        assert fleet.codes() == {"budget_exceeded"}
        assert fleet.codes(model="more") == {"model_not_found"}
        (tmp_path / "more.yaml").write_text("model_list: [")
        fleet.refuses(file(500), "more.yaml")
        assert fleet.codes() == {"budget_exceeded"}
        (tmp_path / "more.yaml").write_text(more)
        fleet.assert_whole(simulator)


# Calls in flight


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_stream_that_runs_through_a_reload_ends_as_it_began_and_is_settled_exactly(
    way: Way, serves: Serves, simulator: RunningSimulator
) -> None:
    simulator.set_behaviour(Behaviour(output_tokens=200, chunk_tokens=10, chunk_interval_s=0.05))
    with serves(limited(simulator, f"company: {LARGE}")) as fleet:
        asyncio.run(_stream_through_a_reload(way, fleet, simulator))
        assert fleet.codes(model=way.model) == {"model_not_found"}
        fleet.assert_whole(simulator)
        assert fleet.query("SELECT count(*) FROM entry WHERE is_estimated = 1") == [(0,)]


async def _stream_through_a_reload(way: Way, fleet: Fleet, simulator: RunningSimulator) -> None:
    """Streams at every gateway, while the model, the provider's prices and the limits go another way."""
    async with aiohttp.ClientSession(headers=way.headers) as session:
        body = way.body("Hello", max_tokens=300, stream=True)
        streams = [
            await session.post(f"{gateway.base_url}/{way.path}", json=body) for gateway in fleet.running for _ in "1234"
        ]
        begun = [await stream.content.readline() for stream in streams]
        other = limited(simulator, f"everybody: {SMALL}").replace(f"  {way.model}: ", "  another: ", 1)
        await asyncio.to_thread(fleet.reload, other)
        for stream, first in zip(streams, begun, strict=True):
            text = first + await stream.content.read()
            assert len(sse_events(text)) > 20
            assert b"[DONE]" in text or b"message_stop" in text


CLIENTS = 40
RELOADS = 5
ANSWERS_BETWEEN = 60
AMOUNTS = [f"{{usd: '{format_usd(n * 1_000_000)}', per: month}}" for n in (30, 60, 20, 40, 80, 50)]
HIGHEST_NANOS = 80_000_000
BUSY = Behaviour(
    latency_s=LogNormal(median=0.03, sigma=0.5),
    output_tokens=LogNormal(median=100, sigma=0.6),
    chunk_interval_s=0.004,
)


class Load:
    """Clients who call without a pause, whole and streamed, on two ways, until told to stop."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._is_over = False
        self._answered = asyncio.Condition()
        self.codes: Counter[str] = Counter()

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        headers = {**CHAT.headers, **MESSAGES.headers}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            await asyncio.gather(*(self._call_on(session, number) for number in range(CLIENTS)))

    async def after(self, answers: int) -> None:
        """Return when so many more calls have ended."""
        wanted = self.codes.total() + answers
        async with self._answered:
            await self._answered.wait_for(lambda: self.codes.total() >= wanted)

    def stop(self) -> None:
        self._is_over = True

    async def _call_on(self, session: aiohttp.ClientSession, number: int) -> None:
        gateway = self._fleet.running[number % len(self._fleet.running)]
        way = (CHAT, MESSAGES)[number // 2 % 2]
        headers = {"x-spendfuse-user": f"u{number % 4}"}
        while not self._is_over:
            body = way.body("Explain how a ledger keeps money safe. " * 4, max_tokens=400, stream=number % 3 == 0)
            async with session.post(f"{gateway.base_url}/{way.path}", json=body, headers=headers) as response:
                text = await response.read()
            code = "served" if response.status == 200 else str(_code_in(text))
            async with self._answered:
                self.codes[code] += 1
                self._answered.notify_all()


def _code_in(body: bytes) -> object:
    error = json.loads(body)["error"]
    return error.get("code") or error["type"]


async def _reload_under_load(fleet: Fleet, simulator: RunningSimulator) -> Counter[str]:
    load = Load(fleet)
    running = asyncio.create_task(load.run())
    try:
        for number, amount in enumerate(AMOUNTS[1:]):
            await asyncio.wait_for(load.after(ANSWERS_BETWEEN), 60)
            user = f"user-{number}: {{tokens: 1_000_000, per: day, each: user}}"
            took_s = await asyncio.to_thread(fleet.reload, limited(simulator, f"company: {amount}, {user}"))
            print(f"\nreload {number}: {took_s * 1_000:.0f} ms")
        await asyncio.wait_for(load.after(ANSWERS_BETWEEN), 60)
    finally:
        load.stop()
    await running
    return load.codes


def test_under_load_no_call_fails_because_of_a_reload_and_no_limit_is_exceeded(
    serves: Serves, simulator: RunningSimulator
) -> None:
    with serves(limited(simulator, f"company: {SMALL}")) as fleet:
        # By its bytes it does not fit. Whoever counts tokens for the first time answers nobody for a moment.
        assert {process.call(prompt="ledger " * 150).status for process in fleet.processes} <= {200, 402}
        fleet.reload(limited(simulator, f"company: {AMOUNTS[0]}"))
        simulator.set_behaviour(BUSY)
        codes = asyncio.run(_reload_under_load(fleet, simulator))
        print(f"{codes}")
        assert codes.keys() <= {"served", "budget_exceeded", "budget_busy"}
        assert codes["served"] > ANSWERS_BETWEEN
        assert simulator.bill(wait_idle_s=10).nanos <= HIGHEST_NANOS
        fleet.assert_whole(simulator)


# Gateways that disagree


def test_of_two_gateways_the_one_that_was_not_reloaded_refuses_and_says_so_until_it_is(
    postgres_dsn: str, simulator: RunningSimulator, tmp_path: Path
) -> None:
    with running_fleet(limited(simulator, f"company: {LARGE}"), tmp_path, postgres=postgres_dsn) as fleet:
        (first, second), (one, other) = fleet.running, fleet.processes
        assert fleet.codes() == {"served"}
        newer = limited(simulator, f"company: {LARGE}, user: {{tokens: 1_000_000, per: day, each: user}}")
        fleet.write(newer, first)
        wait_until(lambda: other.call().status == 503, 3, "the second meets the newer limits")
        assert code_of(one.call()) == "served"
        refused = other.call()
        assert (refused.status, refused.error_code) == (503, "store_unavailable")
        assert b"reload the config" in refused.body
        assert "retry-after" in refused.headers
        fleet.write(newer, second)
        wait_until(lambda: code_of(other.call()) == "served", 1.0, "the second follows")
        assert fleet.codes() == {"served"}
        fleet.assert_whole(simulator)
