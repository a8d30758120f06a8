"""The engines under contract, and short ways to say what a call asks for."""

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol

from spendfuse.clock import FrozenClock
from spendfuse.core.decisions import Admitted, Fit, Refused
from spendfuse.core.limits import Limit, OnExceed, Reject, Unit
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import CapRange, Quote
from spendfuse.core.reservations import Charge, ReservationId
from spendfuse.core.usage import Usage
from spendfuse.core.windows import Calendar, CalendarUnit, Lifetime, Period
from spendfuse.ledger.memory import open_memory
from spendfuse.ledger.memory_store import MemoryStore
from spendfuse.ledger.sqlite import open_sqlite
from spendfuse.ledger.store import BalanceLine, Demand, Ledger

NOON_NS = 1_795_262_400 * 10**9  # 2026-11-21 12:00 UTC, a Saturday
DAY = Calendar(CalendarUnit.DAY)
MONTH = Calendar(CalendarUnit.MONTH)
LIFETIME = Lifetime()
ACME = {"organization": "acme", "user": "u1", "feature": "search"}


class Harness(Protocol):
    """One store that several ledgers can be opened on, as several processes would."""

    clock: FrozenClock

    async def open(self, *limits: Limit) -> Ledger:
        """A new owner that applies these limits."""
        ...

    async def open_without_limits(self) -> Ledger:
        """What a command of the command line opens."""
        ...

    def kill(self, ledger: Ledger) -> None:
        """Let an owner die without a word."""
        ...

    async def close(self) -> None:
        """Close all ledgers."""
        ...


class StoreHarness(Harness, Protocol):
    """A harness over a database that can be looked into."""

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query gives that every database understands."""
        ...


class MemoryHarness:
    """Ledgers over one `MemoryStore`."""

    def __init__(self) -> None:
        self.clock = FrozenClock(NOON_NS)
        self.store = MemoryStore()
        self._ledgers: list[Ledger] = []

    async def open(self, *limits: Limit) -> Ledger:
        return await self._open(limits)

    async def open_without_limits(self) -> Ledger:
        return await self._open(None)

    def kill(self, ledger: Ledger) -> None:
        self.store.owners.discard(ledger.owner_id)

    async def close(self) -> None:
        for ledger in self._ledgers:
            await ledger.close()

    async def _open(self, limits: tuple[Limit, ...] | None) -> Ledger:
        ledger = await open_memory(limits, self.clock, store=self.store)
        self._ledgers.append(ledger)
        return ledger


class SqliteHarness:
    """Ledgers over one file. Locks belong to open files, so two ledgers of a process exclude each other as two
    processes do."""

    def __init__(self, path: Path) -> None:
        self.clock = FrozenClock(NOON_NS)
        self.path = path
        self._ledgers: list[Ledger] = []

    async def open(self, *limits: Limit) -> Ledger:
        return await self._open(limits)

    async def open_without_limits(self) -> Ledger:
        return await self._open(None)

    def kill(self, ledger: Ledger) -> None:
        ledger._engine._writer._owners.release()  # type: ignore[attr-defined]

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        raw = sqlite3.connect(self.path)
        try:
            return raw.execute(query).fetchall()
        finally:
            raw.close()

    async def close(self) -> None:
        for ledger in self._ledgers:
            await ledger.close()

    async def _open(self, limits: tuple[Limit, ...] | None) -> Ledger:
        ledger = await open_sqlite(self.path, limits=limits, clock=self.clock)
        self._ledgers.append(ledger)
        return ledger


def claim(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def contract(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test over a harness; close what it opened, and audit the store first."""

    @functools.wraps(test)
    async def run(*args: Any, harness: Harness, **kwargs: Any) -> None:
        try:
            await test(*args, harness=harness, **kwargs)
            reader = await harness.open_without_limits()
            assert await reader.audit() == []
        finally:
            await harness.close()

    return claim(run)


async def back(ledger: Ledger) -> None:
    """Wait until a store that was away is there again."""
    async with asyncio.timeout(10):
        while ledger.outage is not None:
            await asyncio.sleep(0.01)


def limit(
    name: str,
    amount: int,
    *,
    unit: Unit = Unit.USD,
    per: Period = MONTH,
    each: tuple[str, ...] = (),
    match: Mapping[str, frozenset[str]] | None = None,
    on_exceed: OnExceed = Reject(),  # noqa: B008
    fit: bool = True,
    burst: int | None = None,
) -> Limit:
    """A limit, by default in money per month over all calls."""
    return Limit(name, unit, amount, per, each, match or {}, on_exceed=on_exceed, fit=fit, burst=burst)


def quote(input_tokens: int = 0) -> Quote:
    """One nano-dollar for each token: at a cap of n it holds `input_tokens + n`."""
    return Quote(input_tokens, fixed_picos=input_tokens * 1_000, output_picos=1_000)


def demand(
    number: int,
    cap: int,
    *,
    input_tokens: int = 0,
    useful: int | None = None,
    labels: Mapping[str, str] | None = None,
    fit: Fit = Fit.LOWER,
    deadline_s: float = 600.0,
    new_subjects: int = 1_000,
) -> Demand:
    """A call that asks for `input_tokens + cap` tokens and as many nano-dollars; useful only as a whole by default."""
    caps = CapRange(cap, cap if useful is None else useful)
    labels = ACME if labels is None else labels
    return Demand(ReservationId(number), labels, quote(input_tokens), caps, fit, deadline_s, new_subjects)


def charge(output_tokens: int, *, input_tokens: int = 0, estimated: bool = False) -> Charge:
    """What such a call turned out to cost."""
    return Charge(Usage(input_tokens, output_tokens), Nanos(input_tokens + output_tokens), estimated)


def rid(number: int) -> ReservationId:
    """A reservation id."""
    return ReservationId(number)


async def admitted(ledger: Ledger, *args: Any, wait_s: float = 0.0, **kwargs: Any) -> Admitted:
    """Reserve, expecting to be admitted."""
    outcome = await ledger.reserve(demand(*args, **kwargs), wait_s=wait_s)
    assert isinstance(outcome, Admitted), outcome
    return outcome


async def refused(ledger: Ledger, *args: Any, wait_s: float = 0.0, **kwargs: Any) -> Refused:
    """Reserve, expecting to be refused."""
    outcome = await ledger.reserve(demand(*args, **kwargs), wait_s=wait_s)
    assert isinstance(outcome, Refused), outcome
    return outcome


async def committed(ledger: Ledger, name: str, subject: str = "[]") -> tuple[int, int]:
    """Settled and reserved of one balance; nothing where it was never touched."""
    found = [line for line in await ledger.balances(name) if line.subject == subject]
    return (found[0].settled, found[0].reserved) if found else (0, 0)


async def line_of(ledger: Ledger, name: str, subject: str = "[]") -> BalanceLine:
    """One balance as listed."""
    (found,) = [line for line in await ledger.balances(name) if line.subject == subject]
    return found
