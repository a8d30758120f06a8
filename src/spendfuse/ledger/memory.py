"""The reference model: a ledger in memory that is right at a glance, and by which every engine is judged.

Nothing survives the process, and every call takes time in proportion to all calls before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from spendfuse.clock import Clock, SystemClock
from spendfuse.core.breakers import Breaker, Counts
from spendfuse.core.decisions import Admitted, Refused, decide
from spendfuse.core.errors import LedgerError, LimitsOutdated, LimitUnknown, ReservationEnded, ReservationUnknown
from spendfuse.core.limits import Limit
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import Entry, EntryKind, ReservationId, reservation_text
from spendfuse.core.subjects import hour_of, refuse_new_subjects, unseen_subjects
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.alerts import ChannelHealth, StoredAlert
from spendfuse.ledger.applied import END_IS_OVER, WITHOUT_LIMITS, AppliedLimits, wrong_subject
from spendfuse.ledger.breakers import BreakerChange, BreakerOperation, BreakerStates
from spendfuse.ledger.breaking import run_breakers, run_now
from spendfuse.ledger.definitions import Override
from spendfuse.ledger.endings import closed, expired, late, overrun_alert, raised_overrun, voided
from spendfuse.ledger.memory_breakers import MemoryBreakers, baseline, breaker_changes, breaker_states
from spendfuse.ledger.memory_store import MemoryStore, Reservation
from spendfuse.ledger.operations import (
    AddKey,
    ApplyLimits,
    Audit,
    ClearOverrun,
    CountRefusals,
    ExpireDue,
    Extend,
    Operation,
    OutboxStep,
    Outcome,
    RaiseAlerts,
    Record,
    Repair,
    Reserve,
    RevokeKey,
    SetAmount,
    Settle,
    Upkeep,
    Void,
)
from spendfuse.ledger.spent import NoteSpent, SpentLine
from spendfuse.ledger.store import (
    BalanceLine,
    Demand,
    KeyRecord,
    Ledger,
    RefusalCount,
    SpendRow,
    TargetOverrun,
    Topic,
)
from spendfuse.ledger.verbs import BatchingLedger


async def open_memory(
    limits: tuple[Limit, ...] | None, clock: Clock | None = None, *, store: MemoryStore | None = None
) -> Ledger:
    """Open a ledger in memory; give the same store to several of them to make them see each other."""
    ledger = BatchingLedger(MemoryEngine(limits, clock or SystemClock(), store or MemoryStore()))
    ledger.start()
    return ledger


class MemoryEngine:
    """An `Engine` whose every operation is its own transaction, as nothing here can fail half-way."""

    def __init__(self, limits: tuple[Limit, ...] | None, clock: Clock, store: MemoryStore) -> None:
        self._store = store
        self._clock = clock
        self._own = None if limits is None else AppliedLimits(limits)
        self.owner_id = 0
        if self._own is not None:
            store.apply(self._own, self._now_ms())
            store.owners_ever += 1
            self.owner_id = store.owners_ever
            store.owners.add(self.owner_id)

    async def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """See `Engine`."""
        return [self._run(operation) for operation in operations]

    async def balances(self, limit_name: str | None) -> Sequence[BalanceLine]:
        """See `Engine`."""
        limits = [one for one in self._store.limits.limits if limit_name in (None, one.name)]
        return [line for limit in limits for line in self._store.lines(limit, self._clock.now_ns())]

    async def audit(self) -> Audit:
        """See `Engine`. A balance is the fold itself, so none can differ from it."""
        return Audit((), (0, 0))

    async def spend(self, label: str, *, since_ms: int, until_ms: int | None, top: int | None) -> Sequence[SpendRow]:
        """See `Engine`."""
        return self._store.spend(label, since_ms=since_ms, until_ms=until_ms, top=top)

    async def spenders(self, label: str, limit: Limit, subject: str, *, since_ms: int) -> Sequence[SpendRow]:
        """See `Engine`."""
        return self._store.spenders(label, limit, subject, since_ms)

    async def settled_since(self, since_ms: int) -> Mapping[tuple[str, str], int]:
        """See `Engine`."""
        return self._store.settled_since(since_ms)

    async def refusals(self, since_ms: int, until_ms: int) -> Sequence[RefusalCount]:
        """See `Engine`."""
        return self._store.refused(since_ms, until_ms)

    async def has_outbox_work(self, holder: str) -> bool:
        """See `Engine`."""
        store = self._store
        return store.outbox.has_work(holder, self._now_ms(), store.why_over, store.breaker_changes)

    async def alerts(self, since_ms: int) -> Sequence[StoredAlert]:
        """See `Engine`."""
        return self._store.outbox.listed(since_ms)

    async def channel_health(self) -> Sequence[ChannelHealth]:
        """See `Engine`."""
        return self._store.outbox.health(self._now_ms())

    async def keys(self) -> Sequence[KeyRecord]:
        """See `Engine`."""
        return list(self._store.keys)

    async def overruns(self) -> Sequence[TargetOverrun]:
        """See `Engine`."""
        return [one for _, one in sorted(self._store.overruns.items())]

    async def spent(self) -> Sequence[SpentLine]:
        """See `Engine`."""
        return self._store.spent_now(self._now_ms())

    async def breakers(self) -> BreakerStates:
        """See `Engine`."""
        return breaker_states(self._store, self._now_ms())

    async def breaker_changes(self, *, after: int, newest: int | None) -> Sequence[BreakerChange]:
        """See `Engine`."""
        return breaker_changes(self._store, after=after, newest=newest)

    async def baseline(self, breaker: Breaker) -> Mapping[str, Counts]:
        """See `Engine`."""
        return baseline(self._store, breaker, self._now_ms())

    async def revisions(self) -> Mapping[Topic, int]:
        """See `Engine`."""
        return {topic: self._store.revisions[topic] for topic in Topic}

    async def close(self) -> None:
        """See `Engine`."""
        if self.owner_id:
            self._store.owners.discard(self.owner_id)
            self._expire()

    def _run(self, operation: Operation) -> Outcome:
        if isinstance(operation, BreakerOperation):
            return run_now(run_breakers(MemoryBreakers(self._store), operation, self._now_ms()))
        match operation:
            case Reserve():
                return self._reserve(operation)
            case Settle():
                return self._settle(operation)
            case Void():
                return self._void(operation)
            case Extend():
                return self._extend(operation)
            case ExpireDue():
                return self._expire_due()
            case CountRefusals():
                return self._store.count_refusals(operation.counts, self._now_ms())
            case Record():
                return self._record(operation)
            case SetAmount():
                return self._set_amount(operation)
            case ApplyLimits():
                return self._apply(operation)
            case Upkeep():
                return False
            case Repair():
                return True
            case AddKey():
                return self._add_key(operation)
            case RevokeKey():
                return self._revoke_key(operation)
            case NoteSpent():
                return self._store.note_spent(operation.notes, self._now_ms())
            case ClearOverrun():
                return self._clear_overrun(operation)
            case RaiseAlerts():
                return self._store.outbox.insert(operation.alerts, self._now_ms())
            case OutboxStep():
                store = self._store
                return store.outbox.step(operation, self._now_ms(), store.why_over, store.breaker_changes)
            case _:
                assert_never(operation)

    def _reserve(self, operation: Reserve) -> Outcome:
        demand, store, now_ns = operation.demand, self._store, self._clock.now_ns()
        known = store.reservations.get(demand.reservation_id)
        if known is not None:
            if known.endings:
                return ReservationEnded(f"reservation {reservation_text(demand.reservation_id)} has ended")
            return Admitted(known.cap, known.held)
        if self._own is None:
            return WITHOUT_LIMITS
        if self._own.hash != store.limits.hash:
            return LimitsOutdated("another process applied newer limits to this store: reload the config")
        matching = self._own.matching(demand.labels)
        now_ms = now_ns // NS_PER_MS
        rates = [store.rate(limit, subject) for limit, subject in matching if limit.is_rate]
        outcome = decide(
            quote=demand.quote,
            caps=demand.caps,
            fit=demand.fit,
            balances=store.balances(matching, now_ms),
            rates=rates,
            now_ns=now_ns,
        )
        if isinstance(outcome, Admitted):
            outcome = self._open_subjects(matching, demand, now_ms) or outcome
        if isinstance(outcome, Refused):
            return outcome
        for rate in rates:
            store.tats_ns[rate.limit.identity, rate.subject] = rate.passed(now_ns)
        deadline_ms = now_ms + int(demand.deadline_s * 1_000)
        store.reservations[demand.reservation_id] = Reservation(
            self.owner_id, demand.labels, now_ms, deadline_ms, outcome.cap, outcome.held
        )
        return outcome

    def _open_subjects(self, matching: tuple[tuple[Limit, str], ...], demand: Demand, now_ms: int) -> Refused | None:
        store, key, per_hour = self._store, demand.labels.get("key", ""), demand.new_subjects_per_hour
        unseen = unseen_subjects(matching, store.seen.__contains__)
        counted = [subject for subject, counts in unseen.items() if counts]
        opened = store.opened[key, hour_of(now_ms)]
        refused = refuse_new_subjects(counted, key=key, opened=opened, per_hour=per_hour, now_ms=now_ms)
        if refused is not None:
            return refused
        store.opened[key, hour_of(now_ms)] += len(counted)
        store.seen.update(unseen)
        return None

    def _extend(self, operation: Extend) -> bool:
        known = self._store.reservations.get(operation.reservation_id)
        if known is None or known.endings:
            return False
        if operation.cap > known.cap:
            quoted = operation.quote.at(operation.cap)
            wider = Amounts(
                max(known.held.cost, quoted.cost),
                max(known.held.input_tokens, quoted.input_tokens),
                max(known.held.output_tokens, quoted.output_tokens),
            )
            matching = self._store.limits.matching(known.labels)
            for balance in self._store.balances(matching, known.reserved_at_ms):
                more = wider.of(balance.limit.unit) - known.held.of(balance.limit.unit)
                if more and balance.limit.is_enforced and more > balance.free:
                    return False
            known.cap, known.held = operation.cap, wider
        known.deadline_ms = self._now_ms() + int(operation.deadline_s * 1_000)
        return True

    def _settle(self, operation: Settle) -> Outcome:
        known = self._store.reservations.get(operation.reservation_id)
        if known is None:
            return _unknown(operation.reservation_id)
        if not known.endings:
            ending = closed(operation.reservation_id, EntryKind.SETTLED, operation.charge, known.held)
            known.endings.append(ending)
        elif known.endings[-1].entry.kind in (EntryKind.EXPIRED, EntryKind.VOIDED):
            known.endings.append(late(known.endings[0].entry, operation.charge))
        else:
            return known.endings[-1].entry
        entry = known.endings[-1].entry
        self._store.note_thresholds(known, self._now_ms())
        if entry.overrun_cost:
            self._note_overrun(known, entry)
        return entry

    def _note_overrun(self, known: Reservation, entry: Entry) -> None:
        store, target = self._store, known.labels.get("target")
        if target is None:
            return
        now_ms = self._now_ms()
        before = store.overruns.get(target)
        raised = raised_overrun(target, entry, before, reserved_at_ms=known.reserved_at_ms, now_ms=now_ms)
        if raised is not None:
            store.overruns[target] = raised
            store.revisions[Topic.OVERRUNS] += 1
            if before is None:
                store.outbox.insert([overrun_alert(raised, entry)], now_ms)

    def _clear_overrun(self, operation: ClearOverrun) -> bool:
        if self._store.overruns.pop(operation.target, None) is None:
            return False
        self._store.revisions[Topic.OVERRUNS] += 1
        return True

    def _void(self, operation: Void) -> Outcome:
        known = self._store.reservations.get(operation.reservation_id)
        if known is None:
            return _unknown(operation.reservation_id)
        if not known.endings:
            known.endings.append(voided(operation.reservation_id, known.held))
            self._store.note_thresholds(known, self._now_ms())
        return known.endings[0].entry

    def _record(self, operation: Record) -> Entry:
        demand, store = operation.demand, self._store
        if demand.reservation_id in store.reservations:
            outcome = self._settle(Settle(demand.reservation_id, operation.charge))
            assert isinstance(outcome, Entry)
            return outcome
        at_ms = min(operation.at_ms, self._now_ms())
        held = demand.quote.at(demand.caps.wanted)
        ending = closed(demand.reservation_id, EntryKind.SETTLED, operation.charge, held)
        for limit, subject in store.limits.matching(demand.labels):
            store.seen.add((limit.each, subject))
            if limit.is_rate:
                store.tats_ns[limit.identity, subject] = store.rate(limit, subject).passed(at_ms * NS_PER_MS)
        store.reservations[demand.reservation_id] = recorded = Reservation(
            self.owner_id, demand.labels, at_ms, at_ms, demand.caps.wanted, held, [ending]
        )
        store.note_thresholds(recorded, self._now_ms())
        if ending.entry.overrun_cost:
            self._note_overrun(recorded, ending.entry)
        return ending.entry

    def _expire_due(self) -> tuple[Entry, ...]:
        now_ms = self._now_ms()
        for key, override in list(self._store.overrides.items()):
            if override.until_ms is not None and override.until_ms <= now_ms:
                del self._store.overrides[key]
        self._store.end_raised_spent()
        self._store.note_rules(now_ms)
        return self._expire()

    def _expire(self) -> tuple[Entry, ...]:
        now_ms = self._now_ms()
        entries: list[Entry] = []
        for number, one in sorted(self._store.reservations.items()):
            if not one.endings and (one.deadline_ms <= now_ms or one.owner_id not in self._store.owners):
                one.endings.append(expired(number, one.held))
                entries.append(one.endings[0].entry)
                self._store.note_thresholds(one, now_ms)
        return tuple(entries)

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS

    def _set_amount(self, operation: SetAmount) -> LedgerError | None:
        limit = next((one for one in self._store.limits.limits if one.name == operation.limit_name), None)
        if limit is None:
            return LimitUnknown(f"no limit in force is named {operation.limit_name!r}")
        if (wrong := wrong_subject(limit, operation.subject)) is not None:
            return wrong
        if operation.until_ms is not None and operation.until_ms <= self._now_ms():
            return END_IS_OVER
        key = (limit.identity, operation.subject)
        self._store.overrides.pop(key, None)
        if operation.amount is not None:
            self._store.overrides[key] = Override(operation.amount, operation.until_ms)
            self._store.seen.add((limit.each, operation.subject))
        self._store.end_raised_spent()
        self._store.note_rules(self._now_ms())
        return None

    def _apply(self, operation: ApplyLimits) -> LedgerError | None:
        if self._own is None:
            return WITHOUT_LIMITS
        self._own = operation.applied
        self._store.apply(operation.applied, self._now_ms())
        return None

    def _add_key(self, operation: AddKey) -> LedgerError | None:
        key, keys = operation.record, self._store.keys
        if any(one.digest == key.digest or (one.name == key.name and not one.revoked_at_ms) for one in keys):
            return LedgerError(f"a live key named {key.name!r}, or with the same secret, is stored already")
        keys.append(replace(key, created_at_ms=key.created_at_ms or self._now_ms()))
        self._store.revisions[Topic.KEYS] += 1
        return None

    def _revoke_key(self, operation: RevokeKey) -> bool:
        for place, key in enumerate(self._store.keys):
            if key.name == operation.name and key.revoked_at_ms is None:
                self._store.keys[place] = replace(key, revoked_at_ms=self._now_ms())
                self._store.revisions[Topic.KEYS] += 1
                return True
        return False


def _unknown(reservation_id: ReservationId) -> LedgerError:
    return ReservationUnknown(f"no reservation has the id {reservation_text(reservation_id)}")
