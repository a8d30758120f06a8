"""The real gate, with real dialects, routes, prices and ledger, between a scripted upstream and a recorded client.

Time stands still unless a test moves it: the event loop runs on the same frozen clock as the gate, so a wait ends when
the test says so and a failure repeats.
"""

import asyncio
import functools
import inspect
import json
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from scripted_upstream import Play, Upstream

from spendfuse.clock import FrozenClock
from spendfuse.config import Config, parse
from spendfuse.core.decisions import Admitted, Refused
from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.core.labels import Labels
from spendfuse.core.limits import Limit
from spendfuse.core.quotes import Amounts, Quote
from spendfuse.core.reservations import Charge, Entry, EntryKind, ReservationId
from spendfuse.gate.exchanges import served
from spendfuse.gate.gate import Gate
from spendfuse.gate.requests import Caller, Request
from spendfuse.gate.routes import Routes
from spendfuse.gate.shared import Shared
from spendfuse.ledger.batching import STORE_TIMEOUT_S
from spendfuse.ledger.memory import MemoryEngine
from spendfuse.ledger.memory_store import MemoryStore
from spendfuse.ledger.operations import Engine, Operation, Outcome
from spendfuse.ledger.spool import Spool
from spendfuse.ledger.sqlite import SqliteEngine
from spendfuse.ledger.store import Demand
from spendfuse.ledger.verbs import BatchingLedger
from spendfuse.wire.anthropic_count import AnthropicCountTokens
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.dialect import Answer, Dialect
from spendfuse.wire.openai_chat import OpenAIChat
from spendfuse.wire.openai_embeddings import OpenAIEmbeddings

START_NS = 1_795_262_400 * 10**9  # 2026-11-21 12:00 UTC
CHAT, EMBEDDINGS = OpenAIChat(), OpenAIEmbeddings()
MESSAGES, COUNT_TOKENS = AnthropicMessages(), AnthropicCountTokens()
APP = Caller("app", {"key": "app"})
CAP_HEADER, CALL_ID_HEADER, COST_HEADER = "x-spendfuse-max-tokens", "x-spendfuse-call-id", "x-spendfuse-cost-usd"
SPINS = 60
INPUT_NANOS, OUTPUT_NANOS = 1_000, 2_000
"""A token of `plain`, whose vocabulary nobody holds."""

_CONFIG = """
providers:
  openai: {{api_key: sk-provider}}
  anthropic: {{api_key: sk-claude}}
  plain: {{dialect: openai, base_url: "http://plain.test/v1", prices: {{"*": {{input: 1, output: 2}}}}}}
  free: {{dialect: openai, base_url: "http://free.test/v1", prices: {{"*": {{input: 0, output: 0}}}}}}
models:
  gpt-4o-mini: openai/gpt-4o-mini
  gpt-4o: openai/gpt-4o
  o4-mini: openai/o4-mini
  embed: openai/text-embedding-3-small
  plain: plain/llama
  frugal: {{targets: [plain/tiny], min_output_tokens: 10, prices: {{input: '0.1', output: '0.2'}}}}
  free: free/llama
  claude: anthropic/claude-sonnet-4-5
{more}
limits:
  everything: {{usd: 1000, per: lifetime}}
{limits}
"""

T = TypeVar("T")


class FrozenLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers follow a frozen clock."""

    def __init__(self, clock: FrozenClock) -> None:
        self._frozen = clock
        super().__init__()

    def time(self) -> float:
        # From the start of the test: the loop adds a nanosecond to tell what is due, which must not be rounded away.
        return (self._frozen.now_ns() - START_NS) / 1e9


def run_frozen(test: Callable[[FrozenClock], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a loop of frozen time."""
    clock = FrozenClock(START_NS)
    with asyncio.Runner(loop_factory=lambda: FrozenLoop(clock)) as runner:
        return runner.run(test(clock))


@dataclass(slots=True)
class Client:
    """A recording `Downstream`. While `stalled` is set it reads nothing."""

    log: list[str] = field(default_factory=list[str])
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    is_finished: bool = False
    is_aborted: bool = False
    reading: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.reading.set()

    async def answer(self, answer: Answer) -> None:
        """See `Downstream`."""
        await self.start(answer.status, answer.headers)
        await self.send(answer.body)
        await self.finish()

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        """See `Downstream`."""
        assert self.status == 0, "answered twice"
        self.status, self.headers = status, {name.lower(): value for name, value in headers}
        await self._written("start")

    async def send(self, chunk: bytes) -> None:
        """See `Downstream`."""
        assert self.status and not self.is_finished and not self.is_aborted
        self.body += chunk
        await self._written("send")

    async def finish(self) -> None:
        """See `Downstream`."""
        assert not self.is_finished and not self.is_aborted
        self.is_finished = True
        await self._written("finish")

    async def abort(self) -> None:
        """See `Downstream`."""
        self.is_aborted = True
        self.log.append("abort")

    async def _written(self, what: str) -> None:
        self.log.append(what)
        await asyncio.sleep(0)
        await self.reading.wait()

    @property
    def error(self) -> dict[str, Any]:
        """The `error` object of a refusal."""
        return json.loads(self.body)["error"]

    @property
    def events(self) -> list[Any]:
        """The events of a stream, read; `[DONE]` as its text."""
        return [
            text if text == "[DONE]" else json.loads(text)
            for text in (block.removeprefix("data: ") for block in self.body.decode().split("\n\n") if block)
        ]

    @property
    def text(self) -> str:
        """What a stream showed."""
        return "".join(
            choice["delta"].get("content") or ""
            for event in self.events
            if event != "[DONE]"
            for choice in event["choices"]
        )

    @property
    def finish_reasons(self) -> list[str]:
        """In the order in which a stream gave them."""
        return [
            choice["finish_reason"]
            for event in self.events
            if event != "[DONE]"
            for choice in event["choices"]
            if choice.get("finish_reason")
        ]


class AwayEngine:
    """An engine that a test can take away as a whole."""

    def __init__(self, engine: Engine) -> None:
        self._present = engine
        self.is_away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._present, name)

    async def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        if self.is_away:
            raise LedgerUnavailable("the store is away")
        return await self._present.run(operations)


class InlineSpool(Spool):
    """A spool that uses the disk in the event loop, so that a run takes the same steps each time."""

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        await asyncio.sleep(0)
        return work(*args)


class WatchedLedger(BatchingLedger):
    """A ledger that remembers what it was asked, and of which verbs are away as often as a test says."""

    def __init__(self, engine: Engine) -> None:
        self.engine = AwayEngine(engine)
        super().__init__(cast("Engine", self.engine))
        self.demands: list[Demand] = []
        self.settled: list[ReservationId] = []
        self.away: dict[str, int] = {}

    def _check(self, verb: str) -> None:
        left = self.away.get(verb, 0)
        if left:
            self.away[verb] = left - 1
            raise LedgerUnavailable("the store is away")

    async def reserve(self, demand: Demand, *, wait_s: float = 0.0) -> Admitted | Refused:
        self.demands.append(demand)
        self._check("reserve")
        return await super().reserve(demand, wait_s=wait_s)

    async def extend(self, reservation_id: ReservationId, *, quote: Quote, cap: int, deadline_s: float) -> bool:
        self._check("extend")
        return await super().extend(reservation_id, quote=quote, cap=cap, deadline_s=deadline_s)

    def settle(self, reservation_id: ReservationId, charge: Charge) -> asyncio.Future[Entry]:
        self.settled.append(reservation_id)
        try:
            self._check("settle")
        except LedgerError as error:
            refused: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused
        return super().settle(reservation_id, charge)

    async def void(self, reservation_id: ReservationId) -> Entry:
        self._check("void")
        return await super().void(reservation_id)

    async def apply(self, limits: tuple[Limit, ...]) -> None:
        self._check("apply")
        await super().apply(limits)


@dataclass(frozen=True, slots=True)
class Ended:
    """One reservation through its life, as the reference ledger has it."""

    labels: Labels
    cap: int
    held: Amounts
    entries: tuple[Entry, ...]

    @property
    def entry(self) -> Entry:
        """Its only entry."""
        (entry,) = self.entries
        return entry

    @property
    def is_void(self) -> bool:
        return self.entry.kind is EntryKind.VOIDED

    @property
    def output_tokens(self) -> int:
        return self.entry.amounts.output_tokens


@dataclass(slots=True)
class World:
    """A gate and everything around it."""

    clock: FrozenClock
    config: Config
    store: MemoryStore
    ledger: WatchedLedger
    upstream: Upstream
    shared: Shared
    gate: Gate
    log: list[str]

    @property
    def spool(self) -> Spool:
        return self.shared.spool

    def meets(self, *plays: Play) -> None:
        """The next calls meet these answers; the last one also meets all after it."""
        left = list(plays)
        self.upstream.play = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def begin(self, body: Mapping[str, object], **of_request: Any) -> tuple["asyncio.Task[None]", Client]:
        """Start a call."""
        client = Client(self.log)
        return asyncio.create_task(self.gate.serve(request(body, **of_request), client)), client

    async def call(self, body: Mapping[str, object], **of_request: Any) -> Client:
        """A call from its beginning to its end, its reservation's end included."""
        task, client = self.begin(body, **of_request)
        await task
        await self.settled()
        return client

    async def settled(self) -> None:
        """Wait for the ends of reservations whose calls are over."""
        await self.gate.endings.drain(5)

    async def later(self, ms: int) -> None:
        """Let time pass, and everything that follows from it happen."""
        await self.leap(ms)
        await spin()

    async def leap(self, ms: int) -> None:
        """Let time pass. A batch that is under way on a thread would seem to hang, so it is waited for."""
        while self.ledger._batch:
            await asyncio.sleep(0)
        self.clock.advance(ms=ms)

    @property
    def reservations(self) -> list[Ended]:
        """All reservations ever made, the oldest first."""
        return [
            Ended(one.labels, one.cap, one.held, tuple(ending.entry for ending in one.endings))
            for _, one in sorted(self.store.reservations.items())
        ]

    @property
    def last(self) -> Ended:
        """The newest reservation."""
        return self.reservations[-1]

    async def committed(self, limit_name: str) -> list[tuple[str, int, int]]:
        """Subject, settled and reserved of every balance of a limit."""
        return [(one.subject, one.settled, one.reserved) for one in await self.ledger.balances(limit_name)]

    async def assert_whole(self) -> None:
        """Nothing is left open, each reservation ended once, and no balance is above its amount and overruns."""
        await self.settled()
        assert self.upstream.open == 0
        for one in self.reservations:
            closing = [entry for entry in one.entries if entry.kind is not EntryKind.LATE]
            assert len(closing) == 1, one
        overrun = sum(entry.overrun_cost for one in self.reservations for entry in one.entries)
        for line in await self.ledger.balances():
            assert line.settled >= 0 and line.reserved >= 0
            if line.is_enforced and line.unit == "usd":
                assert line.settled + line.reserved <= line.amount + overrun, line
        assert await self.ledger.audit() == []


async def spin(times: int = SPINS) -> None:
    """Let everything that can happen now happen."""
    for _ in range(times):
        await asyncio.sleep(0)


def config_of(limits: str = "", more: str = "") -> Config:
    """A config with all models of this harness; `limits` and `more` are YAML, `limits` below its key."""
    return parse(_CONFIG.format(limits=limits, more=more), environ={})


def gate_over(config: Config, shared: Shared) -> Gate:
    """A gate of a config over what it shares with others."""
    clock = shared.clock
    shared.breakers.configure(config.breakers)
    return Gate(
        config=config,
        routes=Routes(config, clock),
        exchanges=served(config, clock).exchanges,
        shared=shared,
    )


@asynccontextmanager
async def opened(
    clock: FrozenClock, config: Config, *, sqlite: Path | None = None, folder: Path | None = None
) -> AsyncGenerator[World]:
    """A world over the reference ledger, or over a SQLite file, where `store` stays empty. `folder` is the spool's."""
    store, log = MemoryStore(), list[str]()
    if sqlite is None:
        ledger = WatchedLedger(MemoryEngine(config.limits, clock, store))
    else:
        engine = SqliteEngine(sqlite, config.limits, clock, STORE_TIMEOUT_S)
        await engine.open()
        ledger = WatchedLedger(engine)
    ledger.start()
    upstream = Upstream(log)
    own_folder = None if folder else tempfile.TemporaryDirectory()
    spool = InlineSpool(ledger, folder or Path(own_folder.name if own_folder else ""), store="simulated")
    spool.start()
    shared = Shared(ledger, spool, upstream, clock)
    try:
        yield World(clock, config, store, ledger, upstream, shared, gate_over(config, shared), log)
    finally:
        await spool.close()
        await ledger.close()
        if own_folder:
            own_folder.cleanup()


def gate_test(limits: str = "", more: str = "") -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """A test over a `world` with these limits, which at its end has to be whole."""

    def decorated(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            async def over_a_world(clock: FrozenClock) -> None:
                async with opened(clock, config_of(limits, more)) as world:
                    await test(*args, world=world, **kwargs)
                    await world.assert_whole()

            run_frozen(over_a_world)

        # Else pytest would look for a fixture of this name.
        del run.__wrapped__  # type: ignore[attr-defined]
        run.__signature__ = _without_world(test)  # type: ignore[attr-defined]
        return run

    return decorated


def _without_world(test: Callable[..., object]) -> object:
    signature = inspect.signature(test)
    kept = [one for name, one in signature.parameters.items() if name != "world"]
    return signature.replace(parameters=kept)


def request(
    body: Mapping[str, object] | bytes,
    *,
    dialect: Dialect = CHAT,
    caller: Caller = APP,
    claimed: Labels | None = None,
    ip: str = "192.0.2.1",
    headers: Mapping[bytes, bytes] | None = None,
) -> Request:
    """A request as the server hands it to the gate."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request(dialect, caller, claimed or {}, ip, headers or {}, raw)


def chat(model: str = "plain", content: str = "Hi.", **fields: object) -> dict[str, object]:
    """The body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


def messages(model: str = "claude", content: object = "Hi.", **fields: object) -> dict[str, object]:
    """The body of a messages request."""
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 1_000, **fields}


def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count tokens in the event loop, so that a run takes the same steps each time."""

    async def inline(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        await asyncio.sleep(0)
        return function(*args, **kwargs)

    monkeypatch.setattr(asyncio, "to_thread", inline)
