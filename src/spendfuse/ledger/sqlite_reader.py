"""What reports, audits and the command line read from a SQLite store. Everything here runs on the reader's thread.

Every verb reads one consistent snapshot and takes no lock, so it neither waits for writers nor makes them wait.
"""

import contextlib
import json
from collections.abc import Generator, Iterator
from pathlib import Path

from spendfuse.clock import Clock
from spendfuse.core.breakers import Breaker, Counts
from spendfuse.core.labels import FLEETING_LABELS, Labels
from spendfuse.core.limits import Limit
from spendfuse.core.money import AMOUNT_MAX
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.alerts import ChannelHealth, StoredAlert
from spendfuse.ledger.applied import window_of
from spendfuse.ledger.baselines import baseline_of, baseline_spans, spent_of
from spendfuse.ledger.breakers import BreakerChange, BreakerStates
from spendfuse.ledger.definitions import Override, StoredLimit
from spendfuse.ledger.folding import spend_parts, sums
from spendfuse.ledger.lines import always_shown, balance_line, rate_line
from spendfuse.ledger.operations import Audit
from spendfuse.ledger.spenders import bucket_of, knows, settled_by_limit, spender_rows
from spendfuse.ledger.spent import SpentLine
from spendfuse.ledger.sqlite_alerts import has_outbox_work, read_alerts, read_channel_health
from spendfuse.ledger.sqlite_audit import audit
from spendfuse.ledger.sqlite_breakers import breaker_changes, breaker_states
from spendfuse.ledger.sqlite_file import connect_reader, store_errors
from spendfuse.ledger.sqlite_limits import limits_in_force, overrides, positions
from spendfuse.ledger.sqlite_spent import spent_now
from spendfuse.ledger.statements import sql
from spendfuse.ledger.store import BalanceLine, KeyRecord, RefusalCount, SpendRow, TargetOverrun, Topic

_SELECT_CURRENT_BALANCES = sql("sqlite", "select_current_balances")
_SELECT_RATES = sql("sqlite", "select_rates")
_SELECT_REFUSALS = sql("sqlite", "select_refusals")
_SELECT_KEYS = sql("sqlite", "select_keys")
_SELECT_LABEL_SETS = sql("sqlite", "select_label_sets")
_FOLD_SPEND = sql("sqlite", "fold_spend")
_SELECT_OVERRUNS = sql("sqlite", "select_overruns")
_SELECT_REVISIONS = sql("sqlite", "select_revisions")
_REPORT_SPEND = sql("sqlite", "report_spend")
_REPORT_FLEETING_SPEND = sql("sqlite", "report_fleeting_spend")


class SqliteReader:
    """Reads snapshots."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def open(self) -> None:
        """Connect; the store must exist."""
        with store_errors():
            self._connection = connect_reader(self._path)

    def close(self) -> None:
        """Disconnect. The writer is still connected, so this never runs a checkpoint."""
        self._connection.close()

    def balances(self, limit_name: str | None) -> list[BalanceLine]:
        """See `Ledger.balances`."""
        with self._snapshot():
            now_ns = self._clock.now_ns()
            amounts = overrides(self._connection)
            lines: list[BalanceLine] = []
            for stored in limits_in_force(self._connection):
                if limit_name is None or stored.limit.name == limit_name:
                    lines += self._lines(stored, amounts, now_ns)
            return lines

    def audit(self) -> Audit:
        """See `Ledger.audit`."""
        with self._snapshot():
            return audit(self._connection, self._clock.now_ns() // NS_PER_MS)

    def spend(self, label: str, *, since_ms: int, until_ms: int | None, top: int | None) -> list[SpendRow]:
        """See `Ledger.spend`."""
        with self._snapshot():
            parts = spend_parts(label, since_ms=since_ms, until_ms=until_ms, positions=positions(self._connection))
            parameters = {
                "label": label,
                "day_from_ms": parts.days[0],
                "day_until_ms": parts.days[1],
                "buckets": json.dumps(parts.buckets),
                "entries": json.dumps(parts.entries),
                "top": AMOUNT_MAX if top is None else top,
            }
            statement = _REPORT_FLEETING_SPEND if label in FLEETING_LABELS else _REPORT_SPEND
            return [SpendRow(*row) for *row, _ in self._connection.execute(statement, parameters)]

    def spenders(self, label: str, limit: Limit, subject: str, since_ms: int) -> list[SpendRow]:
        """See `Ledger.spenders`."""
        if not knows(limit):
            return []
        with self._snapshot():
            rows = self._connection.execute(_FOLD_SPEND, {"from_ms": bucket_of(since_ms), "until_ms": AMOUNT_MAX})
            return spender_rows(label, limit, subject, rows, self._label_sets())

    def settled_since(self, since_ms: int) -> dict[tuple[str, str], int]:
        """See `Ledger.settled_since`."""
        with self._snapshot():
            limits = [stored.limit for stored in limits_in_force(self._connection)]
            rows = self._connection.execute(
                _FOLD_SPEND, {"from_ms": bucket_of(since_ms), "until_ms": AMOUNT_MAX}
            ).fetchall()
            return settled_by_limit(limits, list(sums(rows, self._label_sets())))

    def refusals(self, since_ms: int, until_ms: int) -> list[RefusalCount]:
        """See `Ledger.refusals`."""
        with store_errors():
            span = {"since_ms": since_ms, "until_ms": until_ms}
            return [RefusalCount(*row) for row in self._connection.execute(_SELECT_REFUSALS, span)]

    def has_outbox_work(self, holder: str) -> bool:
        """See `AlertLedger.has_outbox_work`."""
        with store_errors():
            return has_outbox_work(self._connection, holder, self._clock.now_ns() // NS_PER_MS)

    def alerts(self, since_ms: int) -> list[StoredAlert]:
        """See `AlertLedger.alerts`."""
        with self._snapshot():
            return read_alerts(self._connection, since_ms)

    def channel_health(self) -> list[ChannelHealth]:
        """See `AlertLedger.channel_health`."""
        with store_errors():
            return read_channel_health(self._connection, self._clock.now_ns() // NS_PER_MS)

    def keys(self) -> list[KeyRecord]:
        """See `Ledger.keys`."""
        with self._snapshot():
            return [
                KeyRecord(
                    name, digest, json.loads(labels), tuple(json.loads(labels_from)), created_at_ms, revoked_at_ms
                )
                for name, digest, labels, labels_from, created_at_ms, revoked_at_ms in self._connection.execute(
                    _SELECT_KEYS
                )
            ]

    def overruns(self) -> list[TargetOverrun]:
        """See `Ledger.overruns`."""
        with store_errors():
            return [TargetOverrun(*row) for row in self._connection.execute(_SELECT_OVERRUNS)]

    def spent(self) -> list[SpentLine]:
        """See `Ledger.spent`."""
        with store_errors():
            return spent_now(self._connection, self._clock.now_ns() // NS_PER_MS)

    def breakers(self) -> BreakerStates:
        """See `BreakerLedger.breakers`."""
        with self._snapshot():
            return breaker_states(self._connection, self._clock.now_ns() // NS_PER_MS)

    def breaker_changes(self, *, after: int, newest: int | None) -> list[BreakerChange]:
        """See `BreakerLedger.breaker_changes`."""
        with store_errors():
            return breaker_changes(self._connection, after=after, newest=newest)

    def baseline(self, breaker: Breaker) -> dict[str, Counts]:
        """See `BreakerLedger.baseline`."""
        with self._snapshot():
            now_ms = self._clock.now_ns() // NS_PER_MS
            labels = self._label_sets()
            spans = [
                spent_of(self._connection.execute(_FOLD_SPEND, {"from_ms": from_ms, "until_ms": until_ms}), labels)
                for from_ms, until_ms in baseline_spans(breaker, now_ms)
            ]
            return baseline_of(breaker, spans, now_ms)

    def revisions(self) -> dict[Topic, int]:
        """See `Ledger.revisions`."""
        with store_errors():
            numbers: dict[str, int] = dict(self._connection.execute(_SELECT_REVISIONS).fetchall())
            return {topic: numbers[topic] for topic in Topic}

    def _label_sets(self) -> dict[int, Labels]:
        return {number: json.loads(text) for number, text in self._connection.execute(_SELECT_LABEL_SETS)}

    @contextlib.contextmanager
    def _snapshot(self) -> Generator[None]:
        with store_errors():
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    def _lines(
        self, stored: StoredLimit, amounts: dict[tuple[int, str], Override], now_ns: int
    ) -> Iterator[BalanceLine]:
        limit_id, limit = stored.limit_id, stored.limit
        if limit.is_rate:
            tats: dict[str, int] = dict(self._connection.execute(_SELECT_RATES, (limit_id, now_ns)))
            for subject in sorted(tats.keys() | always_shown(limit.each)):
                yield rate_line(limit, subject, amounts.get((limit_id, subject)), tats.get(subject, 0), now_ns)
            return
        window = window_of(limit, now_ns // NS_PER_MS)
        rows = self._connection.execute(_SELECT_CURRENT_BALANCES, (limit_id, window.number))
        balances: dict[str, tuple[int, int]] = {
            subject: (settled, reserved) for subject, _, settled, reserved, _ in rows
        }
        for subject in sorted(balances.keys() | always_shown(limit.each)):
            settled, reserved = balances.get(subject, (0, 0))
            override = amounts.get((limit_id, subject))
            yield balance_line(
                limit, subject, override, settled=settled, reserved=reserved, resets_at_ms=window.ends_at_ms
            )
