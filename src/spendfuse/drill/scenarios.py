"""The four disasters, as traffic.

Each is played by clients that do what programs do: SDKs that retry, jobs that begin anew, users who come and go,
scripts that ask for more than anybody reads. How fast, how long and how much follows from the seed.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from spendfuse.clock import Clock
from spendfuse.core.labels import Labels
from spendfuse.drill.clients import SDK_RETRIES, SDK_TIMEOUT_S, Ask, Clients, Source
from spendfuse.drill.offers import Offer, Offers
from spendfuse.gate.requests import Caller
from spendfuse.simulator.behaviour import Behaviour, Errors, LogNormal

_S_PER_HOUR = 3_600


@dataclass(slots=True)
class Cast:
    """Who plays a scenario, and with what. Times are of the clock's monotonic hand.

    `counted_by` are the labels that the config's limits count by, `required` those of them that calls must have.
    """

    clients: Clients
    clock: Clock
    rng: random.Random
    callers: Sequence[Caller]
    counted_by: Sequence[str]
    required: Sequence[str]
    offers: Offers
    ends_at_s: float
    sources: list[Source] = field(default_factory=list[Source])
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def source(
        self, at: int, claimed: Labels, *, timeout_s: float = SDK_TIMEOUT_S, retries: int = SDK_RETRIES
    ) -> Source:
        """One more whom calls come from; `at` gives it a key and an address. What it has to claim, it claims."""
        caller = self.callers[at % len(self.callers)]
        ip = f"10.{at // 65_536 % 256}.{at // 256 % 256}.{at % 256}"
        source = Source(caller, {**dict.fromkeys(self.required, "drill"), **claimed}, ip, timeout_s, retries)
        self.sources.append(source)
        return source

    def impostor(self, at: int) -> Source:
        """One who makes up a value of its own for whatever calls are told apart by, and repeats nothing."""
        made_up = {name: f"{name}-{at:03d}" for name in ("user", *self.counted_by)}
        return self.source(at, made_up, retries=0)

    def ask(self, offer: Offer, prompt_tokens: int, cap: int | None = None) -> Ask:
        """A call with a prompt that nobody sent before."""
        return Ask(offer.model, offer.target, next(self._numbers), prompt_tokens, cap)

    @property
    def is_over(self) -> bool:
        """The time is over, or nobody can get anything through any more."""
        return self.clock.monotonic_s() >= self.ends_at_s or self.is_done

    @property
    def is_done(self) -> bool:
        """Nobody can get anything through any more."""
        return bool(self.sources) and all(one.is_done for one in self.sources)

    async def arrive(self, per_minute: float, call: Callable[[], Awaitable[object]]) -> None:
        """Make calls at random times, at a mean rate, each without waiting for the last."""
        async with asyncio.TaskGroup() as under_way:
            while not self.is_over:
                under_way.create_task(_awaited(call()))
                await asyncio.sleep(self.rng.expovariate(per_minute / 60))


async def _awaited(call: Awaitable[object]) -> None:
    await call


@dataclass(frozen=True, slots=True)
class Scenario:
    """One disaster. `hours` is how long it would go on unseen, `ordinary_hours` what goes before it and is not counted.

    `behaviour` is the providers' from its beginning, `ordinary` the one before; their seeds are the drill's.
    """

    name: str
    title: str
    hours: float
    play: Callable[[Cast], Awaitable[None]]
    behaviour: Behaviour
    ordinary: Behaviour | None = None
    ordinary_hours: float = 0.0

    def behaves(self, seed: int, *, starts_at_s: float) -> Callable[[float], Behaviour]:
        """How providers behave at a monotonic time."""
        after = replace(self.behaviour, seed=seed)
        before = after if self.ordinary is None else replace(self.ordinary, seed=seed)
        return lambda now_s: before if now_s < starts_at_s else after


async def _retry_loop(cast: Cast) -> None:
    """Jobs that read a document each: whatever goes wrong, and an answer that can't be used is wrong too, they begin
    anew."""

    async def job(at: int) -> None:
        claims = {"organization": "acme", "user": f"import-{at}", "feature": "import", "run": f"import-{at}"}
        source = cast.source(at, claims, timeout_s=20)
        ask = cast.ask(cast.offers.ordinary, 6_000, cap=250)
        while not cast.is_over and not source.is_done:
            await cast.clients.call(source, ask)
            await asyncio.sleep(1)

    await asyncio.gather(*(job(at) for at in range(3)))


async def _power_user(cast: Cast) -> None:
    """One user's script asks through the chatbot, over four connections, each time something else."""
    source = cast.source(0, {"organization": "acme", "user": "power-user", "feature": "chatbot"})

    async def connection() -> None:
        while not cast.is_over:
            answer = await cast.clients.call(source, cast.ask(cast.offers.ordinary, 3_000))
            await asyncio.sleep(5 if answer.refused_by else 0.5)

    await asyncio.gather(*(connection() for _ in range(4)))


async def _long_answers(cast: Cast) -> None:
    """Users of a chatbot, as many as always."""
    claims = {"organization": "acme", "feature": "chatbot"}
    users = [cast.source(at, {**claims, "user": f"user-{at:02d}"}) for at in range(25)]
    await cast.arrive(3, lambda: cast.clients.call(cast.rng.choice(users), cast.ask(cast.offers.ordinary, 1_200)))


async def _denial_of_wallet(cast: Cast) -> None:
    """Two calls a second for the longest answers of the dearest models, from many accounts, keys and addresses."""
    accounts = [cast.impostor(at) for at in range(200)]
    dearest = cast.offers.dearest

    async def attack() -> None:
        source = cast.rng.choice(accounts)
        if not source.is_done:
            await cast.clients.call(source, cast.ask(cast.rng.choice(dearest), 500, cap=8_000))

    await cast.arrive(120, attack)


_TOKEN_S = 0.012
_CHAT = Behaviour(
    latency_s=LogNormal(0.9, 0.4), output_tokens=LogNormal(350, 0.5), chunk_tokens=1, chunk_interval_s=_TOKEN_S
)
SCENARIOS: Mapping[str, Scenario] = {
    one.name: one
    for one in (
        Scenario(
            "retry-loop",
            "three jobs retry one failing request each, forever",
            hours=8,
            play=_retry_loop,
            behaviour=replace(
                _CHAT,
                latency_s=LogNormal(2, 1),
                output_tokens=LogNormal(400, 0.5),
                errors=Errors(status=500, probability=0.3),
            ),
        ),
        Scenario(
            "power-user",
            "one user scrapes through the chatbot, on four connections",
            hours=8,
            play=_power_user,
            behaviour=replace(_CHAT, output_tokens=LogNormal(700, 0.4)),
        ),
        Scenario(
            "long-answers",
            "ordinary traffic, but answers have become three times longer",
            hours=8,
            play=_long_answers,
            behaviour=replace(_CHAT, output_tokens=LogNormal(1_050, 0.5)),
            ordinary=_CHAT,
            ordinary_hours=2,
        ),
        Scenario(
            "denial-of-wallet",
            "an attack on the dearest models from 200 accounts and addresses, with many keys",
            hours=1,
            play=_denial_of_wallet,
            behaviour=replace(_CHAT, output_tokens=LogNormal(6_000, 0.3)),
        ),
    )
}
