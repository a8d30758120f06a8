"""Two equal providers, one asked directly, one behind the gateway: what both are asked they answer and bill alike."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import openai
from gateway import APP_KEY, RunningGateway, wait_until

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator

CLAUDE_TARGETS = {
    "claude-haiku": "claude-3-5-haiku-20241022",
    "claude-sonnet": "claude-sonnet-4-5",
    "claude-opus": "claude-opus-4-6",
}
"""The provider's names of models, by the public ones."""
_PER_CALL = frozenset({"id", "request_id"})
_IDS = re.compile(rb"(msg|toolu|req)_[0-9A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Twins:
    """The gateway and both providers."""

    direct: RunningSimulator
    behind: RunningSimulator
    gateway: RunningGateway

    @property
    def root(self) -> str:
        """The gateway's URL as Anthropic's SDK wants it."""
        return self.gateway.base_url.removesuffix("/v1")

    def behave(self, behaviour: Behaviour) -> None:
        """Both providers, from the next call on."""
        self.direct.set_behaviour(behaviour)
        self.behind.set_behaviour(behaviour)

    def settled_nanos(self) -> int:
        """All that was ever charged, once no call is open."""
        wait_until(lambda: self.gateway.totals().open_reservations == 0, 5, "all reservations are ended")
        return self.gateway.totals().settled

    @contextmanager
    def counted(self) -> Generator[None]:
        """What is done here is charged as the provider behind the gateway bills it: to the nano-dollar."""
        self.direct.reset()
        self.behind.reset()
        settled_before = self.settled_nanos()
        yield
        billed = self.behind.bill(wait_idle_s=5).nanos
        assert self.settled_nanos() - settled_before == billed

    @contextmanager
    def counted_alike(self) -> Generator[None]:
        """Beside that, both providers are asked the same here and bill the same, and something at all."""
        with self.counted():
            yield
        assert self.direct.bill(wait_idle_s=5).nanos == self.behind.bill().nanos > 0

    @contextmanager
    def free(self) -> Generator[None]:
        """What is done here costs nothing, neither at the provider nor in the ledger."""
        with self.counted():
            yield
        assert self.behind.bill().nanos == 0

    @contextmanager
    def nothing_upstream(self) -> Generator[None]:
        """Beside that, it neither reaches the provider nor leaves an entry."""
        self.behind.reset()
        before = self.gateway.totals()
        yield
        assert self.behind.last_request() is None
        assert self.gateway.totals() == before

    def anthropic_clients(self, **options: Any) -> tuple[anthropic.Anthropic, anthropic.Anthropic]:
        """Of the provider and of the gateway."""
        return (
            anthropic.Anthropic(base_url=self.direct.anthropic_base_url, api_key="sk-direct", max_retries=0, **options),
            anthropic.Anthropic(base_url=self.root, api_key=APP_KEY, max_retries=0, **options),
        )

    def openai_client(self, **options: Any) -> openai.OpenAI:
        """Of the gateway."""
        return openai.OpenAI(base_url=self.gateway.base_url, api_key=APP_KEY, **{"max_retries": 0, **options})


@contextmanager
def sent_requests() -> Generator[tuple[httpx2.Client, list[httpx2.Request]]]:
    """An HTTP client for an SDK, and every request that it has sent."""
    sent: list[httpx2.Request] = []
    with httpx2.Client(event_hooks={"request": [sent.append]}) as client:
        yield client, sent


def nanos_of(dollars: str) -> int:
    """Of a decimal string of dollars."""
    whole, _, decimals = dollars.partition(".")
    return int(whole) * 10**9 + int(decimals.ljust(9, "0"))


def without_ids(value: Any) -> Any:
    """SDK objects as plain data without what differs from call to call, at any depth."""
    if isinstance(value, list):
        return [without_ids(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {name: without_ids(one) for name, one in value.items() if name not in _PER_CALL}  # pyright: ignore[reportUnknownVariableType]
    return without_ids(value.model_dump()) if hasattr(value, "model_dump") else value


def same_ids(body: bytes) -> bytes:
    """An answer's bytes with all ids made equal."""
    return _IDS.sub(rb"\1_0", body)
