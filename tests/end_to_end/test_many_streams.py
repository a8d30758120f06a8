"""A thousand concurrent streams of eight organisations: none is ever over its limit, each can use nearly all of it."""

import asyncio
import json
import random
import resource
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from gateway import RunningGateway, config_text, running_gateway, sse_events, wait_until
from postgres_stores import gateways, new_database
from ways import CHAT

from spendfuse.simulator.behaviour import Behaviour, LogNormal
from spendfuse.simulator.process import RunningSimulator, running_simulator

ORGANISATIONS = 8
CLIENTS_EACH = 128
LIMIT_TOKENS = 20_000
MAX_TOKENS = 1_024
MIN_OUTPUT_TOKENS = 64
WORDS_MIN, WORDS_MAX = 5, 53
WORD = " ledger"
INPUT_TOKENS_MAX = 60
"""What the provider counts for a prompt of `WORDS_MAX` words."""
USED_SHARE = 0.99
EXHAUSTED_WITHIN_S = 60
FILES = 4_096
"""Both ends of every stream's connection to a gateway, and more."""
SEED = 20_000
BEHAVIOUR = Behaviour(
    seed=SEED,
    latency_s=LogNormal(median=0.05, sigma=0.5),
    output_tokens=LogNormal(median=150, sigma=0.8),
    chunk_tokens=10,
    chunk_interval_s=0.01,
)


@dataclass(slots=True)
class Organisation:
    """What came back to the clients of one organisation; `cut` are answers ended by a cap that the gateway lowered."""

    name: str
    answers: set[str] = field(default_factory=set[str])
    cut: int = 0
    codes: Counter[str] = field(default_factory=Counter[str])

    @property
    def key(self) -> str:
        return f"sk-test-{self.name}"

    def note_answer(self, body: bytes, lowered: bool) -> None:
        events = cast("list[dict[str, Any]]", sse_events(body))
        endings = {choice["finish_reason"] for event in events for choice in event["choices"]} - {None}
        assert len(endings) == 1, f"an answer without its end: {body!r}"
        self.answers.add(events[0]["id"])
        self.cut += lowered and endings == {"length"}


@pytest.fixture(autouse=True)
def enough_files() -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, FILES if hard == resource.RLIM_INFINITY else min(FILES, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def config_of(simulator: RunningSimulator, organisations: list[Organisation]) -> str:
    """The usual config with a key for each organisation, and their limit."""
    app_key = "  - {name: app, key: os.environ/APP_KEY}\n"
    keys = [
        f"  - {{name: {one.name}, key: {one.key}, labels: {{organization: {one.name}}}}}\n" for one in organisations
    ]
    limits = f"limits: {{org-tokens: {{tokens: {LIMIT_TOKENS}, per: month, each: organization}}}}"
    text = config_text(simulator, limits=limits, more=f"min_output_tokens: {MIN_OUTPUT_TOKENS}")
    assert app_key in text
    return text.replace(app_key, app_key + "".join(keys))


async def exhaust(running: list[RunningGateway], organisations: list[Organisation]) -> None:
    """All clients at once, each until its organisation is refused as spent."""
    words = random.Random(SEED)
    turns = cycle(running)
    async with (
        asyncio.timeout(EXHAUSTED_WITHIN_S),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as clients,
    ):
        for _ in range(CLIENTS_EACH):
            for organisation in organisations:
                prompt = (WORD * words.randint(WORDS_MIN, WORDS_MAX)).strip()
                url = f"{next(turns).base_url}/{CHAT.path}"
                clients.create_task(_stream_until_spent(session, url, organisation, prompt))


async def _stream_until_spent(
    session: aiohttp.ClientSession, url: str, organisation: Organisation, prompt: str
) -> None:
    headers = {"authorization": f"Bearer {organisation.key}"}
    body = CHAT.body(prompt, max_tokens=MAX_TOKENS, stream=True)
    while True:
        async with session.post(url, json=body, headers=headers) as response:
            answer = await response.read()
        if response.status == 200:
            organisation.codes["served"] += 1
            organisation.note_answer(answer, "x-spendfuse-max-tokens" in response.headers)
            continue
        code = json.loads(answer)["error"]["code"]
        organisation.codes[code] += 1
        if code == "budget_exceeded":
            return
        assert code == "budget_busy", answer
        await asyncio.sleep(float(response.headers["retry-after"]))


def settled_tokens(gateway: RunningGateway) -> dict[str, int]:
    """What the ledger has for each organisation, once nothing is reserved any more."""
    balances: list[dict[str, Any]] = []

    def is_settled() -> bool:
        balances[:] = json.loads(gateway.run("limits", "list", "org-tokens", "--format", "json").stdout)
        return all(one["reserved"] == 0 for one in balances)

    wait_until(is_settled, 10, "all calls are settled")
    return {one["subject"]["organization"]: one["settled"] for one in balances}


def report(billed: dict[str, int], organisations: list[Organisation]) -> None:
    print()
    for one in organisations:
        print(f"{one.name}: {billed[one.name] / LIMIT_TOKENS:.2%} used, {one.cut} cut short, {dict(one.codes)}")
    used = sum(billed.values()) / (ORGANISATIONS * LIMIT_TOKENS)
    print(f"all: {used:.2%} used, {sum(one.cut for one in organisations)} cut short")


def check(simulator: RunningSimulator, running: list[RunningGateway], organisations: list[Organisation]) -> None:
    asyncio.run(exhaust(running, organisations))
    bill = simulator.bill(with_records=True, wait_idle_s=5)
    assert bill.calls["completed"] == len(bill.records) == sum(len(one.answers) for one in organisations)
    assert max(record.input_tokens for record in bill.records) <= INPUT_TOKENS_MAX
    tokens = {record.id: record.input_tokens + record.output_tokens for record in bill.records}
    billed = {one.name: sum(tokens[answer] for answer in one.answers) for one in organisations}
    report(billed, organisations)
    assert sum(billed.values()) == bill.input_tokens + bill.output_tokens
    assert all(one.codes["budget_exceeded"] == CLIENTS_EACH for one in organisations)
    assert max(billed.values()) <= LIMIT_TOKENS
    assert min(billed.values()) >= USED_SHARE * LIMIT_TOKENS
    assert settled_tokens(running[0]) == billed
    assert running[0].run("audit").stdout.startswith("clean")


def test_many_streams_on_three_gateways_and_one_postgresql(postgres_dsn: str, tmp_path: Path) -> None:
    organisations = [Organisation(f"org-{number}") for number in range(ORGANISATIONS)]
    store = new_database(postgres_dsn, tmp_path)
    with (
        running_simulator(BEHAVIOUR) as simulator,
        gateways(config_of(simulator, organisations), store, tmp_path, count=3) as running,
    ):
        check(simulator, running, organisations)


def test_many_streams_on_two_workers_and_sqlite(tmp_path: Path) -> None:
    organisations = [Organisation(f"org-{number}") for number in range(ORGANISATIONS)]
    with (
        running_simulator(BEHAVIOUR) as simulator,
        running_gateway(config_of(simulator, organisations), tmp_path, workers=2) as gateway,
    ):
        check(simulator, [gateway], organisations)
