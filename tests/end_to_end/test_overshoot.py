"""The promise, measured on the provider's own bill: never over a limit, and nearly all of it usable."""

import asyncio
import itertools
import threading
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from gateway import APP_KEY, config_text, running_gateway

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

CALLS_PER_WAVE = 200
WAVES_MIN = 3
WAVES_MAX = 12
USABLE_SHARE = 0.97
OUTPUT_TOKENS = 500
PROMPT = "Explain how a ledger keeps money safe when many people spend from it at once. " * 12
# 28 calls of about 207 + 500 tokens at $0.15 and $0.60 per million.
USD_LIMIT_NANOS = 28 * (207 * 150 + 500 * 600)
TOKEN_LIMIT = 28 * (207 + 500)

LIMITS = {
    "global_usd": f"limits: {{company: {{usd: '0.00{USD_LIMIT_NANOS}', per: month}}}}",
    "user_tokens": f"limits: {{user-tokens: {{tokens: {TOKEN_LIMIT}, per: month, each: user}}}}",
    "feature_usd": f"limits: {{feature-week: {{usd: '0.00{USD_LIMIT_NANOS}', per: week, each: feature}}}}",
}
LABELS = {"x-spendfuse-user": "u1", "x-spendfuse-feature": "search"}


@dataclass(frozen=True, slots=True)
class Case:
    limit: str
    max_tokens: int | None
    stream: bool
    workers: int

    def __str__(self) -> str:
        cap = self.max_tokens or "absent"
        return f"{self.limit}-{cap}-{'stream' if self.stream else 'whole'}-{self.workers}w"


ALL_CASES = [Case(*choice) for choice in itertools.product(LIMITS, (500, 2000, None), (False, True), (1, 2))]
# Every pair of two choices occurs in one of these at least.
PAIRWISE = [
    Case("global_usd", 500, False, 1),
    Case("global_usd", 2000, True, 2),
    Case("global_usd", None, False, 2),
    Case("global_usd", None, True, 1),
    Case("user_tokens", 500, True, 2),
    Case("user_tokens", 2000, False, 1),
    Case("user_tokens", None, True, 1),
    Case("user_tokens", 500, False, 2),
    Case("feature_usd", 500, True, 1),
    Case("feature_usd", 2000, False, 2),
    Case("feature_usd", None, True, 2),
    Case("feature_usd", 2000, True, 1),
]


class Burst:
    """Waves of concurrent calls, and what the provider had billed when the first of them was refused as spent."""

    def __init__(self, base_url: str, case: Case, simulator: RunningSimulator) -> None:
        self._url = f"{base_url}/chat/completions"
        self._case = case
        self._simulator = simulator
        self._lock = threading.Lock()
        self.used_at_first_refusal: int | None = None
        self.codes: dict[str, int] = {}

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"authorization": f"Bearer {APP_KEY}", **LABELS}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            for wave in range(WAVES_MAX):
                await asyncio.gather(*(self._call(session) for _ in range(CALLS_PER_WAVE)))
                if wave + 1 >= WAVES_MIN and self.used_at_first_refusal is not None:
                    return
        raise AssertionError(f"not refused as spent within {WAVES_MAX} waves: {self.codes}")

    async def _call(self, session: aiohttp.ClientSession) -> None:
        body: dict[str, object] = {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": PROMPT}],
            "stream": self._case.stream,
        }
        if self._case.max_tokens is not None:
            body["max_tokens"] = self._case.max_tokens
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


def limit_of(case: Case) -> int:
    return TOKEN_LIMIT if case.limit == "user_tokens" else USD_LIMIT_NANOS


def check_case(case: Case, folder: Path, latency_s: float) -> None:
    behaviour = Behaviour(latency_s=latency_s, output_tokens=OUTPUT_TOKENS)
    with running_simulator(behaviour) as simulator:
        config = config_text(simulator, limits=LIMITS[case.limit])
        with running_gateway(config, folder, workers=case.workers) as gateway:
            burst = Burst(gateway.base_url, case, simulator)
            asyncio.run(burst.run())
            billed = used(simulator, case)
            print(f"\n{case}: billed {billed / limit_of(case):.2%}, at the first refusal", end=" ")
            print(f"{(burst.used_at_first_refusal or 0) / limit_of(case):.2%}, {burst.codes}")
            assert billed <= limit_of(case)
            assert burst.used_at_first_refusal is not None
            assert burst.used_at_first_refusal >= USABLE_SHARE * limit_of(case)
            gateway.run("audit")


@pytest.mark.parametrize("case", PAIRWISE, ids=str)
def test_a_limit_is_never_over_and_nearly_all_usable(case: Case, tmp_path: Path) -> None:
    check_case(case, tmp_path, latency_s=0.1)


@pytest.mark.matrix
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_a_limit_is_never_over_and_nearly_all_usable_as_written(case: Case, tmp_path: Path) -> None:
    check_case(case, tmp_path, latency_s=0.5)
