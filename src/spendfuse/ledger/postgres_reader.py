"""What reports, audits and the command line read from a PostgreSQL store, over a connection of their own.

Every verb reads one consistent snapshot and takes no lock, so it neither waits for batches nor makes them wait. The
connection is made when the first of them is asked for: a process that never reports has none.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

from spendfuse.clock import Clock
from spendfuse.core.breakers import Breaker, Counts
from spendfuse.core.labels import FLEETING_LABELS
from spendfuse.core.limits import Limit
from spendfuse.core.money import AMOUNT_MAX
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.alerts import ChannelHealth, StoredAlert
from spendfuse.ledger.applied import window_of
from spendfuse.ledger.baselines import Spent, baseline_of, baseline_spans, spent_of
from spendfuse.ledger.definitions import Override, StoredLimit
from spendfuse.ledger.folding import spend_parts, sums
from spendfuse.ledger.lines import always_shown, balance_line, rate_line
from spendfuse.ledger.operations import Audit
from spendfuse.ledger.postgres_alerts import read_alerts, read_channel_health
from spendfuse.ledger.postgres_audit import audit
from spendfuse.ledger.postgres_connection import PostgresConnection, unavailable
from spendfuse.ledger.postgres_limits import label_sets, limits_in_force, overrides, positions
from spendfuse.ledger.spenders import bucket_of, knows, settled_by_limit, spender_rows
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import BalanceLine, RefusalCount, SpendRow

_SELECT_CLOCK = sql("postgres", "select_clock")
_SELECT_REFUSALS = sql("postgres", "select_refusals")
_FOLD_SPEND = sql("postgres", "fold_spend")
_SELECT_CURRENT_BALANCES = sql("postgres", "select_current_balances")
_SELECT_RATES = sql("postgres", "select_rates")
_REPORT_SPEND = sql("postgres", "report_spend")
_REPORT_FLEETING_SPEND = sql("postgres", "report_fleeting_spend")


class PostgresReader:
    """Reads snapshots. `connect` makes the connection; `clock` stands in for the store's."""

    def __init__(self, connect: Callable[[], Awaitable[PostgresConnection]], clock: Clock | None) -> None:
        self._connect = connect
        self._clock = clock
        self._connection: PostgresConnection | None = None
        self._turn = asyncio.Lock()

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def balances(self, limit_name: str | None) -> list[BalanceLine]:
        """See `Ledger.balances`."""
        async with self._snapshot() as connection:
            now_ns = await self._now_ns(connection)
            amounts = await overrides(connection)
            lines: list[BalanceLine] = []
            for stored in await limits_in_force(connection):
                if limit_name is None or stored.limit.name == limit_name:
                    lines += await _lines(connection, stored, amounts, now_ns)
            return lines

    async def audit(self) -> Audit:
        """See `Ledger.audit`."""
        async with self._snapshot() as connection:
            return await audit(connection, await self._now_ns(connection) // NS_PER_MS)

    async def spend(self, label: str, *, since_ms: int, until_ms: int | None, top: int | None) -> list[SpendRow]:
        """See `Ledger.spend`."""
        async with self._snapshot() as connection:
            known = await positions(connection)
            parts = spend_parts(label, since_ms=since_ms, until_ms=until_ms, positions=known)
            is_fleeting = label in FLEETING_LABELS
            statement = _REPORT_FLEETING_SPEND if is_fleeting else _REPORT_SPEND
            spans = [parts.entries] if is_fleeting else [parts.buckets, parts.entries]
            columns = [[span[end] for span in several] for several in spans for end in (0, 1)]
            rows = await connection.rows(statement, label, *parts.days, *columns, AMOUNT_MAX if top is None else top)
            return [SpendRow(*row) for *row, _ in rows]

    async def spenders(self, label: str, limit: Limit, subject: str, since_ms: int) -> list[SpendRow]:
        """See `Ledger.spenders`."""
        if not knows(limit):
            return []
        async with self._snapshot() as connection:
            rows = await connection.rows(_FOLD_SPEND, bucket_of(since_ms), AMOUNT_MAX)
            return spender_rows(label, limit, subject, rows, await label_sets(connection))  # type: ignore[arg-type]

    async def settled_since(self, since_ms: int) -> dict[tuple[str, str], int]:
        """See `Ledger.settled_since`."""
        async with self._snapshot() as connection:
            limits = [stored.limit for stored in await limits_in_force(connection)]
            rows = await connection.rows(_FOLD_SPEND, bucket_of(since_ms), AMOUNT_MAX)
            return settled_by_limit(limits, list(sums(rows, await label_sets(connection))))  # type: ignore[arg-type]

    async def refusals(self, since_ms: int, until_ms: int) -> list[RefusalCount]:
        """See `Ledger.refusals`."""
        async with self._snapshot() as connection:
            rows = await connection.rows(_SELECT_REFUSALS, since_ms, until_ms)
            return [
                RefusalCount(code, limit_name, feature, user, int(count))
                for code, limit_name, feature, user, count in rows
            ]

    async def alerts(self, since_ms: int) -> list[StoredAlert]:
        """See `AlertLedger.alerts`."""
        async with self._snapshot() as connection:
            return await read_alerts(connection, since_ms)

    async def channel_health(self) -> list[ChannelHealth]:
        """See `AlertLedger.channel_health`."""
        async with self._snapshot() as connection:
            return await read_channel_health(connection, await self._now_ns(connection) // NS_PER_MS)

    async def _now_ns(self, connection: PostgresConnection) -> int:
        now_ns: int = await connection.only(_SELECT_CLOCK) if self._clock is None else self._clock.now_ns()
        return now_ns

    async def baseline(self, breaker: Breaker) -> dict[str, Counts]:
        """See `BreakerLedger.baseline`."""
        async with self._snapshot() as connection:
            now_ms = await self._now_ns(connection) // NS_PER_MS
            labels, spans = await label_sets(connection), list[Iterable[Spent]]()
            for from_ms, until_ms in baseline_spans(breaker, now_ms):
                rows = await connection.rows(_FOLD_SPEND, from_ms, until_ms)
                spans.append(spent_of(rows, labels))  # type: ignore[arg-type]
            return baseline_of(breaker, spans, now_ms)

    @contextlib.asynccontextmanager
    async def _snapshot(self) -> AsyncGenerator[PostgresConnection]:
        async with self._turn:
            with unavailable():
                if self._connection is None or self._connection.is_closed:
                    self._connection = await self._connect()
                connection = self._connection
                try:
                    await connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    yield connection
                    await connection.run("ROLLBACK")
                except BaseException:
                    # Cancelled, timed out or broken: the next one reads over a new connection.
                    self.close()
                    raise


async def _lines(
    connection: PostgresConnection, stored: StoredLimit, amounts: dict[tuple[int, str], Override], now_ns: int
) -> list[BalanceLine]:
    limit_id, limit = stored.limit_id, stored.limit
    if limit.is_rate:
        tats: dict[str, int] = dict(await connection.rows(_SELECT_RATES, limit_id, now_ns))  # type: ignore[arg-type]
        return [
            rate_line(limit, subject, amounts.get((limit_id, subject)), tats.get(subject, 0), now_ns)
            for subject in sorted(tats.keys() | always_shown(limit.each))
        ]
    window = window_of(limit, now_ns // NS_PER_MS)
    rows = await connection.rows(_SELECT_CURRENT_BALANCES, limit_id, window.number)
    balances: dict[str, tuple[int, int]] = {subject: (settled, reserved) for subject, settled, reserved in rows}
    lines: list[BalanceLine] = []
    for subject in sorted(balances.keys() | always_shown(limit.each)):
        settled, reserved = balances.get(subject, (0, 0))
        override = amounts.get((limit_id, subject))
        lines.append(
            balance_line(limit, subject, override, settled=settled, reserved=reserved, resets_at_ms=window.ends_at_ms)
        )
    return lines
