"""What ledgers in memory share, as a database file is shared by several processes, and what can be read from it.

No balance is stored: whenever one is needed, the entries and open reservations are added up.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from spendfuse.core.alerts import Alert, AlertKind
from spendfuse.core.decisions import Balance, RateState
from spendfuse.core.labels import FLEETING_LABELS, Labels, Subject
from spendfuse.core.limits import Limit
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import ReservationId
from spendfuse.core.subjects import hour_of
from spendfuse.core.thresholds import shares_reached, spent_alert, threshold_alert
from spendfuse.core.windows import NS_PER_MS, Window
from spendfuse.ledger.alerts import Resolution
from spendfuse.ledger.applied import AppliedLimits, window_of
from spendfuse.ledger.breakers import BreakerChange, BreakerLine, CountRow, Key
from spendfuse.ledger.definitions import Override
from spendfuse.ledger.endings import Ending, settled_by
from spendfuse.ledger.folding import with_top
from spendfuse.ledger.lines import balance_line, rate_line
from spendfuse.ledger.memory_alerts import MemoryOutbox
from spendfuse.ledger.spent import SpentLine, SpentNote, spent_window
from spendfuse.ledger.store import BalanceLine, KeyRecord, RefusalCount, SpendRow, TargetOverrun, Topic


@dataclass(slots=True)
class Reservation:
    """A reservation through its whole life: open while it has no endings."""

    owner_id: int
    labels: Labels
    reserved_at_ms: int
    deadline_ms: int
    cap: int
    held: Amounts
    endings: list[Ending] = field(default_factory=list[Ending])


@dataclass(frozen=True, slots=True)
class _Rules:
    """The limits by identity, and the overrides, from an instant on."""

    since_ms: int
    limits: Mapping[str, Limit]
    overrides: Mapping[tuple[str, str], Override]


@dataclass(slots=True)
class MemoryStore:
    """Limits, reservations with their entries, and all else that a store keeps."""

    limits: AppliedLimits = field(default_factory=lambda: AppliedLimits(()))
    overrides: dict[tuple[str, str], Override] = field(default_factory=dict[tuple[str, str], Override])
    """By a limit's identity and subject."""
    tats_ns: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    reservations: dict[ReservationId, Reservation] = field(default_factory=dict[ReservationId, Reservation])
    refusals: list[RefusalCount] = field(default_factory=list[RefusalCount])
    refusal_hours: list[int] = field(default_factory=list[int])
    """When each of them was counted."""
    keys: list[KeyRecord] = field(default_factory=list[KeyRecord])
    overruns: dict[str, TargetOverrun] = field(default_factory=dict[str, TargetOverrun])
    seen: set[Subject] = field(default_factory=set[Subject])
    opened: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    """How many new subjects each key opened, by the start of the hour."""
    revisions: Counter[Topic] = field(default_factory=Counter[Topic])
    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    owners: set[int] = field(default_factory=set[int])
    owners_ever: int = 0
    spent: dict[tuple[str, str, int], SpentLine] = field(default_factory=dict[tuple[str, str, int], SpentLine])
    """By a limit's identity, subject and window."""
    breaker_lines: dict[Key, BreakerLine] = field(default_factory=dict[Key, BreakerLine])
    breaker_rows: list[CountRow] = field(default_factory=list[CountRow])
    breaker_changes: list[BreakerChange] = field(default_factory=list[BreakerChange])
    active_since_ms: dict[str, int] = field(default_factory=dict[str, int])
    """When each limit in force came into force, by identity."""
    rules: list[_Rules] = field(default_factory=list[_Rules])
    """Those that hold now, behind all that held before."""

    def apply(self, limits: AppliedLimits, now_ms: int) -> None:
        """Make these limits the ones that rule."""
        wanted = {limit.identity for limit in limits.limits}
        before = {limit.identity for limit in self.limits.limits}
        for identity, subject in list(self.tats_ns):
            if identity not in wanted & before:
                del self.tats_ns[identity, subject]
        self.limits = limits
        self.note_rules(now_ms)
        for limit in limits.limits:
            if limit.identity not in before:
                self.active_since_ms[limit.identity] = now_ms
                self.seen.update((limit.each, subject) for subject in self._known_subjects(limit, now_ms))
        self.end_raised_spent()

    def note_spent(self, notes: Iterable[SpentNote], now_ms: int) -> bool:
        """See `Ledger.note_spent`."""
        known, limits = len(self.spent), {limit.name: limit for limit in self.limits.limits}
        for note in notes:
            limit = limits.get(note.limit_name)
            window = limit and spent_window(note, limit, self._amount(limit, note.subject), now_ms)
            if limit and window:
                key = (limit.identity, note.subject, window.number)
                self.spent.setdefault(key, SpentLine(limit, note.subject, note.amount, now_ms, window.ends_at_ms))
                balance = self._balance(limit, note.subject, now_ms)
                settled = 0 if balance is None else balance.settled
                alert = spent_alert(limit, note.subject, window, amount=note.amount, settled=settled)
                self.outbox.insert([] if alert is None else [alert], now_ms)
        return len(self.spent) > known

    def spent_now(self, now_ms: int) -> Sequence[SpentLine]:
        """See `Ledger.spent`."""
        return [
            replace(line, limit=limit)
            for limit in self.limits.limits
            for (identity, _, _), line in sorted(self.spent.items())
            if identity == limit.identity and (line.ends_at_ms is None or line.ends_at_ms > now_ms)
        ]

    def end_raised_spent(self) -> None:
        """What is no longer in force, or has another amount than the one that was spent, is not spent."""
        limits = {limit.identity: limit for limit in self.limits.limits}
        for key, line in list(self.spent.items()):
            limit = limits.get(key[0])
            if limit is None or self._amount(limit, line.subject) > line.amount:
                del self.spent[key]
                self.revisions[Topic.SPENT] += 1

    def note_rules(self, now_ms: int) -> None:
        """Limits or overrides have changed."""
        limits = {limit.identity: limit for limit in self.limits.limits}
        self.rules.append(_Rules(now_ms, limits, dict(self.overrides)))

    def balances(self, matching: Iterable[tuple[Limit, str]], at_ms: int) -> list[Balance]:
        """Those that a call of an instant touches."""
        found = [self._balance(limit, subject, at_ms) for limit, subject in matching if not limit.is_rate]
        return [balance for balance in found if balance is not None]

    def rate(self, limit: Limit, subject: str) -> RateState:
        """A rate as it stands."""
        tat_ns = self.tats_ns.get((limit.identity, subject), 0)
        return RateState(limit, subject, self._amount(limit, subject), tat_ns)

    def lines(self, limit: Limit, now_ns: int) -> Iterator[BalanceLine]:
        """The current window of a limit, as it is listed."""
        always: set[str] = set() if limit.each else {"[]"}
        if limit.is_rate:
            tats_ns = {
                subject: tat_ns
                for (identity, subject), tat_ns in self.tats_ns.items()
                if identity == limit.identity and tat_ns > now_ns
            }
            for subject in sorted(tats_ns.keys() | always):
                override = self.overrides.get((limit.identity, subject))
                yield rate_line(limit, subject, override, tats_ns.get(subject, 0), now_ns)
            return
        window = window_of(limit, now_ns // NS_PER_MS)
        fold = self._fold(limit, window)
        for subject in sorted(fold.keys() | always):
            settled, reserved = fold.get(subject, (0, 0))
            override = self.overrides.get((limit.identity, subject))
            yield balance_line(
                limit, subject, override, settled=settled, reserved=reserved, resets_at_ms=window.ends_at_ms
            )

    def spend(self, label: str, *, since_ms: int, until_ms: int | None, top: int | None) -> Sequence[SpendRow]:
        """See `Ledger.spend`."""
        made = [one for one in self.reservations.values() if one.reserved_at_ms >= since_ms]
        return with_top(
            _spend_by(label, [one for one in made if until_ms is None or one.reserved_at_ms < until_ms]), top
        )

    def spenders(self, label: str, limit: Limit, subject: str, since_ms: int) -> Sequence[SpendRow]:
        """See `Ledger.spenders`; exact here."""
        if limit.is_rate or not FLEETING_LABELS.isdisjoint((*limit.each, *limit.match)):
            return []
        made = [one for one in self.reservations.values() if one.reserved_at_ms >= since_ms]
        counted = [one for one in made if limit.covers(one.labels) and limit.subject_of(one.labels) == subject]
        return _spend_by(label, [one for one in counted if one.endings])

    def settled_since(self, since_ms: int) -> Mapping[tuple[str, str], int]:
        """See `Ledger.settled_since`; exact here."""
        totals: Counter[tuple[str, str]] = Counter()
        for one in self.reservations.values():
            if one.endings and one.reserved_at_ms >= since_ms:
                for limit, subject in self.limits.matching(one.labels):
                    if not limit.is_rate and FLEETING_LABELS.isdisjoint((*limit.each, *limit.match)):
                        totals[limit.name, subject] += sum(settled_by(limit.unit, end.entry) for end in one.endings)
        return totals

    def count_refusals(self, counts: Sequence[RefusalCount], now_ms: int) -> None:
        """See `Ledger.count_refusals`."""
        self.refusals += counts
        self.refusal_hours += [hour_of(now_ms)] * len(counts)

    def refused(self, since_ms: int, until_ms: int) -> Sequence[RefusalCount]:
        """See `Ledger.refusals`."""
        totals: Counter[tuple[str, str, str, str]] = Counter()
        for hour_ms, one in zip(self.refusal_hours, self.refusals, strict=True):
            if since_ms <= hour_ms < until_ms and not one.shadow:
                totals[one.code, one.limit_name, one.feature, one.user] += one.count
        return [RefusalCount(*kind, count) for kind, count in sorted(totals.items(), key=lambda one: (-one[1], one[0]))]

    def note_thresholds(self, one: Reservation, now_ms: int) -> None:
        """Invariant 16: after the end of a reservation, an alert for each share of a balance that is reached."""
        for limit, subject in self.limits.matching(one.labels):
            window = window_of(limit, one.reserved_at_ms)
            if limit.is_rate or not window.holds(now_ms):
                continue
            balance = self._balance(limit, subject, one.reserved_at_ms)
            if balance is None:
                continue
            amount, settled = balance.amount, balance.settled
            reached = shares_reached(limit, amount=amount, settled=settled)
            self.outbox.insert(
                [
                    threshold_alert(limit, subject, window, share=share, amount=amount, settled=settled)
                    for share in reached
                ],
                now_ms,
            )

    def why_over(self, alert: Alert) -> Resolution | None:
        """Why an alert is over, other than by its time."""
        if alert.kind is AlertKind.OVERRUN:
            return None if alert.about in self.overruns else Resolution.CLEARED
        if alert.kind not in (AlertKind.THRESHOLD, AlertKind.FORECAST):
            return None
        limit = next((one for one in self.limits.limits if one.identity == alert.about), None)
        if limit is None:
            return Resolution.GONE
        is_raised = alert.amount is not None and self._amount(limit, alert.subject) > alert.amount
        return Resolution.RAISED if is_raised else None

    def _balance(self, limit: Limit, subject: str, at_ms: int) -> Balance | None:
        """A balance in the window of an instant; one that is over keeps the rules by which it ended.

        None for a window that was over before its limit came into force: nothing is counted in it.
        """
        window = window_of(limit, at_ms)
        ends_at_ms = window.ends_at_ms
        if ends_at_ms is not None and ends_at_ms <= self.active_since_ms[limit.identity]:
            return None
        rules = next(one for one in reversed(self.rules) if ends_at_ms is None or one.since_ms < ends_at_ms)
        then, override = rules.limits[limit.identity], rules.overrides.get((limit.identity, subject))
        settled, reserved = self._fold(limit, window).get(subject, (0, 0))
        amount = then.amount if override is None else override.amount
        return Balance(then, subject, amount, settled, reserved, ends_at_ms)

    def _amount(self, limit: Limit, subject: str) -> int:
        override = self.overrides.get((limit.identity, subject))
        return limit.amount if override is None else override.amount

    def _known_subjects(self, limit: Limit, now_ms: int) -> set[str]:
        """Of whom a call was admitted before a limit came into force; of fleeting labels, in its window now."""
        known = {limit.subject_of(one.labels) for one in self.reservations.values()}
        if FLEETING_LABELS.isdisjoint(limit.each):
            return known
        return set() if limit.is_rate else set(self._fold(limit, window_of(limit, now_ms)))

    def _fold(self, limit: Limit, window: Window) -> Mapping[str, tuple[int, int]]:
        """Settled and reserved of every subject: what a balance is, word for word."""
        totals: dict[str, tuple[int, int]] = {}
        for one in self.reservations.values():
            if window.holds(one.reserved_at_ms) and limit.covers(one.labels):
                subject = limit.subject_of(one.labels)
                settled, reserved = totals.get(subject, (0, 0))
                if one.endings:
                    settled += sum(settled_by(limit.unit, ending.entry) for ending in one.endings)
                else:
                    reserved += one.held.of(limit.unit)
                totals[subject] = (settled, reserved)
        return totals


def _spend_by(label: str, several: Iterable[Reservation]) -> list[SpendRow]:
    rows: dict[str, SpendRow] = {}
    for one in several:
        value = one.labels.get(label, "")
        for ending in one.endings:
            row = rows.get(value, SpendRow(value, 0, 0, 0, 0, 0))
            amounts = ending.entry.amounts
            rows[value] = SpendRow(
                value,
                row.calls + ending.calls,
                row.input_tokens + amounts.input_tokens,
                row.output_tokens + amounts.output_tokens,
                row.cost + amounts.cost,
                row.estimated_cost + ending.estimated_cost,
            )
    return sorted(rows.values(), key=lambda row: (-row.cost, row.value))
