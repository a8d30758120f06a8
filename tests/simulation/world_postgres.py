"""A PostgreSQL store of a simulated world: the real engine on an event loop of its own, in a thread, whose every call
is waited for. The connections of its processes fail at a commit when they are told to.

Leases are on the server's clock, which no test can freeze: none ends by itself, and the world ends those whose time is
over by its own clock.
"""

import json
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Any

import asyncpg
import uvloop
from world_store import ENTRY_COLUMNS, OPEN_COLUMNS, BalanceSeen, EntryRow, Key, OpenRow, Session, run_in

from spendfuse.clock import FrozenClock
from spendfuse.core.labels import Labels
from spendfuse.core.limits import Limit
from spendfuse.core.reservations import ReservationId
from spendfuse.ledger.batching import STORE_TIMEOUT_S
from spendfuse.ledger.operations import Operation, Outcome
from spendfuse.ledger.postgres import PostgresEngine
from spendfuse.ledger.postgres_connection import ConnectionLost, PostgresConnection, connect

LEASE_S = 3_600.0
"""Longer than any run, on the server's clock."""
_BALANCES = """
SELECT limit_id, subject, window_no, amount, ceiling, settled, reserved, overrun FROM balance
JOIN unnest($1::bigint[], $2::text[], $3::bigint[]) AS asked (limit_id, subject, window_no)
    USING (limit_id, subject, window_no)
"""


class Loss(Enum):
    """What happens to a commit on its way."""

    COMMIT = auto()
    """The connection breaks before the server gets it."""
    ANSWER = auto()
    """The server commits, and the connection breaks before its answer."""


class Server:
    """A database of the server, and the thread from which it is spoken to; kept from seed to seed."""

    def __init__(self, dsn: str, database: str) -> None:
        self.loop = uvloop.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        run_in(self.loop, _create(dsn, database))
        self.dsn = dsn.replace("/postgres?", f"/{database}?")


async def _create(dsn: str, database: str) -> None:
    raw = await asyncpg.connect(dsn)
    await raw.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    await raw.execute(f"CREATE DATABASE {database}")
    await raw.close()


class PostgresWorld:
    """One schema, made anew."""

    engine = "postgres"
    has_leases = True

    def __init__(self, clock: FrozenClock, server: Server) -> None:
        self._clock = clock
        self._server = server
        self._raw: Any = run_in(server.loop, _cleared(server.dsn))
        self._identities: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._labels: dict[tuple[int, str], Labels] = {}
        self._rates: Sequence[Any] = ()

    def open(self, limits: tuple[Limit, ...]) -> Session:
        return PostgresSession(self._server, limits, self._clock)

    def know_limits(self) -> None:
        """Other limits were applied."""
        self._identities = dict(self.rows("SELECT limit_id, identity FROM applied_limit"))
        self._numbers = {identity: number for number, identity in self._identities.items()}

    def end_lease(self, owner_id: int) -> None:
        self.rows("UPDATE owner SET lease_until_ms = 0 WHERE owner_id = $1", owner_id)

    def has_lease(self, owner_id: int) -> bool:
        return bool(self.rows("SELECT 1 FROM owner WHERE owner_id = $1 AND lease_until_ms > 0", owner_id))

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What a query gives, beside the engine."""
        return [tuple(row) for row in run_in(self._server.loop, self._raw.fetch(query, *parameters))]

    def open_rows(self) -> Mapping[int, OpenRow]:
        return {row[0]: tuple(row) for row in run_in(self._server.loop, self._look())}

    async def _look(self) -> Any:
        """Open reservations and rates in one go, as a change of threads takes longer than a query."""
        self._rates = await self._raw.fetch("SELECT limit_id, subject, tat_ns FROM rate")
        return await self._raw.fetch(f"SELECT {OPEN_COLUMNS} FROM reservation")

    def labels(self, row: OpenRow) -> Labels:
        key = row[8:]
        if key not in self._labels:
            ((text,),) = self.rows("SELECT labels FROM label_set WHERE label_set_id = $1", row[8])
            self._labels[key] = json.loads(text) | (json.loads(row[9]) if row[9] else {})
        return self._labels[key]

    def entries(self, ids: Iterable[int] | None) -> Sequence[EntryRow]:
        if ids is None:
            return self.rows(f"SELECT {ENTRY_COLUMNS} FROM entry ORDER BY reservation_id, is_late")
        if not ids:
            return []
        some = "WHERE reservation_id = ANY($1::bigint[]) ORDER BY reservation_id, is_late"
        return self.rows(f"SELECT {ENTRY_COLUMNS} FROM entry {some}", list(ids))

    def balances(self, keys: Iterable[Key] | None) -> Mapping[Key, BalanceSeen]:
        if keys is None:
            rows = self.rows(
                "SELECT limit_id, subject, window_no, amount, ceiling, settled, reserved, overrun FROM balance"
            )
        else:
            asked = [(self._numbers[identity], subject, window_no) for identity, subject, window_no in keys]
            rows = self.rows(_BALANCES, *[[one[at] for one in asked] for at in range(3)]) if asked else []
        return {(self._identities[row[0]], *row[1:3]): BalanceSeen(*row[3:]) for row in rows}

    def rates(self) -> Mapping[tuple[str, str], int]:
        self.open_rows()
        return {(self._identities[number], subject): tat_ns for number, subject, tat_ns in self._rates}

    def rates_seen(self) -> Mapping[tuple[str, str], int]:
        return {(self._identities[number], subject): tat_ns for number, subject, tat_ns in self._rates}

    def close(self) -> None:
        run_in(self._server.loop, self._raw.close())


async def _cleared(dsn: str) -> Any:
    raw = await asyncpg.connect(dsn, server_settings={"search_path": "spendfuse", "client_min_messages": "error"})
    await raw.execute("DROP SCHEMA IF EXISTS spendfuse CASCADE")
    return raw


class _FailingConnection(PostgresConnection):
    """Loses commits, or their answers, as its session says."""

    def __init__(self, raw: Any, session: "PostgresSession") -> None:
        super().__init__(raw)
        self._session = session

    async def commit(self) -> None:
        is_batch = self._session.runs and not self._session.writer._is_unregistered
        loss = self._session.losses.popleft() if is_batch and self._session.losses else None
        if loss is Loss.COMMIT:
            self.terminate()
            raise ConnectionLost("the world cut the connection before the commit")
        await super().commit()
        self._session.commits += is_batch
        if loss is Loss.ANSWER:
            self.terminate()
            raise ConnectionLost("the world cut the connection after the commit")


class _Engine(PostgresEngine):
    session: "PostgresSession"

    async def _connect_writer(self) -> PostgresConnection:
        made = await connect(self._dsn, timeout_s=self._timeout_s, is_writer=True)
        return _FailingConnection(made._raw, self.session)


class PostgresSession:
    def __init__(self, server: Server, limits: tuple[Limit, ...], clock: FrozenClock) -> None:
        self._loop = server.loop
        self.runs = False
        self.commits = 0
        self.losses: deque[Loss] = deque()
        run_in(self._loop, self._open(server.dsn, limits, clock))
        self.writer = self._engine._writer

    async def _open(self, dsn: str, limits: tuple[Limit, ...], clock: FrozenClock) -> None:
        self._engine = _Engine(dsn, limits, clock, timeout_s=STORE_TIMEOUT_S * 6, lease_s=LEASE_S)
        self._engine.session = self
        await self._engine.open()

    @property
    def owner_id(self) -> int:
        return self._engine.owner_id

    @property
    def doubtful(self) -> Sequence[ReservationId]:
        return list(self.writer._doubtful)

    def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        self.runs = True
        try:
            return run_in(self._loop, self._engine.run(operations))
        finally:
            self.runs = False
            self.losses.clear()

    def ask(self, verb: str, *arguments: Any, **named: Any) -> Any:
        return run_in(self._loop, getattr(self._engine, verb)(*arguments, **named))

    def close(self) -> None:
        run_in(self._loop, self._engine.close())

    def kill(self) -> None:
        async def vanish() -> None:
            self.writer.disconnect()
            self._engine._reader.close()

        run_in(self._loop, vanish())
