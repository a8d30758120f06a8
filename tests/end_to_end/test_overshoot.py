"""The promise, measured on the provider's own bill: never over a limit, and nearly all of it usable."""

import asyncio
import itertools
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
from gateway import config_text, running_gateway
from ways import CHAT, MESSAGES, TRANSLATED, WAYS, Way

from spendfuse.core.money import format_usd
from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

CALLS_PER_WAVE = 200
WAVES_MIN = 3
WAVES_MAX = 12
USABLE_SHARE = 0.97
OUTPUT_TOKENS = 500
PROMPT = "Explain how a ledger keeps money safe when many people spend from it at once. " * 12
CALLS_WITHIN = 28
INPUT_TOKENS = {"chat": 207, "messages": 253, "translated": 253}
"""About what each way's provider counts for the prompt: the limit is that of 28 calls."""
LIMITS = ("global_usd", "user_tokens", "feature_usd")
LABELS = {"x-spendfuse-user": "u1", "x-spendfuse-feature": "search"}


@dataclass(frozen=True, slots=True)
class Case:
    way: Way
    limit: str
    max_tokens: int | None
    stream: bool
    workers: int

    @property
    def amount(self) -> int:
        """The limit's amount, in its unit."""
        input_tokens = INPUT_TOKENS[self.way.name]
        if self.limit == "user_tokens":
            return CALLS_WITHIN * (input_tokens + OUTPUT_TOKENS)
        return CALLS_WITHIN * (input_tokens * self.way.input_nanos + OUTPUT_TOKENS * self.way.output_nanos)

    @property
    def config(self) -> str:
        """The limit in YAML."""
        match self.limit:
            case "user_tokens":
                return f"limits: {{user-tokens: {{tokens: {self.amount}, per: month, each: user}}}}"
            case "feature_usd":
                return f"limits: {{feature: {{usd: '{format_usd(self.amount)}', per: week, each: feature}}}}"
            case _:
                return f"limits: {{company: {{usd: '{format_usd(self.amount)}', per: month}}}}"

    def __str__(self) -> str:
        cap = self.max_tokens or "absent"
        return f"{self.way}-{self.limit}-{cap}-{'stream' if self.stream else 'whole'}-{self.workers}w"


ALL_CASES = [Case(*choice) for choice in itertools.product(WAYS, LIMITS, (500, 2000, None), (False, True), (1, 2))]
# Every pair of two choices occurs in one of the chat cases at least, and every choice of theirs on each other way.
PAIRWISE = [
    Case(CHAT, "global_usd", 500, False, 1),
    Case(CHAT, "global_usd", 2000, True, 2),
    Case(CHAT, "global_usd", None, False, 2),
    Case(CHAT, "global_usd", None, True, 1),
    Case(CHAT, "user_tokens", 500, True, 2),
    Case(CHAT, "user_tokens", 2000, False, 1),
    Case(CHAT, "user_tokens", None, True, 1),
    Case(CHAT, "user_tokens", 500, False, 2),
    Case(CHAT, "feature_usd", 500, True, 1),
    Case(CHAT, "feature_usd", 2000, False, 2),
    Case(CHAT, "feature_usd", None, True, 2),
    Case(CHAT, "feature_usd", 2000, True, 1),
    Case(MESSAGES, "global_usd", 500, True, 2),
    Case(MESSAGES, "global_usd", None, False, 1),
    Case(MESSAGES, "user_tokens", 2000, True, 1),
    Case(MESSAGES, "feature_usd", None, True, 2),
    Case(TRANSLATED, "global_usd", None, True, 2),
    Case(TRANSLATED, "global_usd", 2000, False, 1),
    Case(TRANSLATED, "user_tokens", None, False, 2),
    Case(TRANSLATED, "feature_usd", 500, True, 1),
]
# All of chat's, and of the other ways those that hold every pair of choices: the rest takes as long again.
FIRST = {case for case in ALL_CASES if case.way is CHAT or replace(case, way=CHAT) in PAIRWISE}


class Burst:
    """Waves of concurrent calls, and what the provider had billed when the first of them was refused as spent."""

    def __init__(self, base_url: str, case: Case, simulator: RunningSimulator) -> None:
        self._url = f"{base_url}/{case.way.path}"
        self._case = case
        self._simulator = simulator
        self._lock = threading.Lock()
        self.used_at_first_refusal: int | None = None
        self.codes: dict[str, int] = {}

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        headers = {**self._case.way.headers, **LABELS}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            for wave in range(WAVES_MAX):
                await asyncio.gather(*(self._call(session) for _ in range(CALLS_PER_WAVE)))
                if wave + 1 >= WAVES_MIN and self.used_at_first_refusal is not None:
                    return
        raise AssertionError(f"not refused as spent within {WAVES_MAX} waves: {self.codes}")

    async def _call(self, session: aiohttp.ClientSession) -> None:
        body = self._case.way.body(PROMPT, max_tokens=self._case.max_tokens, stream=self._case.stream)
        async with session.post(self._url, json=body) as response:
            if response.status == 200:
                await response.read()
                code = "served"
            else:
                code = (await response.json())["error"]["code"]
            if code == "budget_exceeded" and self.used_at_first_refusal is None:
                self.used_at_first_refusal = used(self._simulator, self._case)
            self.codes[code] = self.codes.get(code, 0) + 1


def used(simulator: RunningSimulator, case: Case) -> int:
    """What the provider has billed, in the unit of the case's limit."""
    bill = simulator.bill()
    return bill.input_tokens + bill.output_tokens if case.limit == "user_tokens" else bill.nanos


def check_case(case: Case, folder: Path, latency_s: float) -> None:
    behaviour = Behaviour(latency_s=latency_s, output_tokens=OUTPUT_TOKENS)
    with running_simulator(behaviour) as simulator:
        config = config_text(simulator, limits=case.config)
        with running_gateway(config, folder, workers=case.workers) as gateway:
            burst = Burst(gateway.base_url, case, simulator)
            asyncio.run(burst.run())
            billed = used(simulator, case)
            print(f"\n{case}: billed {billed / case.amount:.2%}, at the first refusal", end=" ")
            print(f"{(burst.used_at_first_refusal or 0) / case.amount:.2%}, {burst.codes}")
            assert billed <= case.amount
            assert burst.used_at_first_refusal is not None
            assert burst.used_at_first_refusal >= USABLE_SHARE * case.amount
            gateway.run("audit")


@pytest.mark.parametrize("case", PAIRWISE, ids=str)
def test_a_limit_is_never_over_and_nearly_all_usable(case: Case, tmp_path: Path) -> None:
    check_case(case, tmp_path, latency_s=0.1)


@pytest.mark.matrix
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in FIRST else pytest.mark.rest) for case in ALL_CASES], ids=str
)
def test_a_limit_is_never_over_and_nearly_all_usable_as_written(case: Case, tmp_path: Path) -> None:
    check_case(case, tmp_path, latency_s=0.5)
