"""What an engine is asked to do: one value for each verb that changes the store, and the contract of an engine.

An engine knows nothing of waiting, queues or tasks. `batching.BatchingLedger` turns many callers into batches of these
operations, and an engine runs a batch in one transaction, in the order given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from spendfuse.core.alerts import Alert
from spendfuse.core.breakers import Breaker, Counts
from spendfuse.core.decisions import Admitted, Refused
from spendfuse.core.errors import LedgerError
from spendfuse.core.limits import Limit
from spendfuse.core.quotes import Quote
from spendfuse.core.reservations import Charge, Entry, ReservationId
from spendfuse.ledger.alerts import ChannelHealth, Claim, Ended, OutboxWork, Routed, StoredAlert
from spendfuse.ledger.applied import AppliedLimits
from spendfuse.ledger.breakers import BreakerChange, BreakerOperation, BreakerStates
from spendfuse.ledger.spent import NoteSpent, SpentLine
from spendfuse.ledger.store import (
    BalanceLine,
    Demand,
    KeyRecord,
    Mismatch,
    RefusalCount,
    SpendRow,
    TargetOverrun,
    Topic,
)


@dataclass(frozen=True, slots=True)
class Reserve:
    """See `Ledger.reserve`; the outcome is `Admitted` or `Refused`, at once."""

    demand: Demand

    @property
    def reservation_id(self) -> ReservationId:
        return self.demand.reservation_id


@dataclass(frozen=True, slots=True)
class Extend:
    """See `Ledger.extend`; the outcome is a bool."""

    reservation_id: ReservationId
    quote: Quote
    cap: int
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Settle:
    """See `Ledger.settle`; the outcome is an `Entry`."""

    reservation_id: ReservationId
    charge: Charge


@dataclass(frozen=True, slots=True)
class Void:
    """See `Ledger.void`; the outcome is an `Entry`."""

    reservation_id: ReservationId


@dataclass(frozen=True, slots=True)
class ExpireDue:
    """See `Ledger.expire_due`; the outcome is a tuple of entries. Renews this owner's lease when that is due, and ends
    the amounts whose time is over."""


@dataclass(frozen=True, slots=True)
class CountRefusals:
    """See `Ledger.count_refusals`."""

    counts: tuple[RefusalCount, ...]


@dataclass(frozen=True, slots=True)
class SetAmount:
    """See `Ledger.set_amount`."""

    limit_name: str
    subject: str
    amount: int | None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ApplyLimits:
    """See `Ledger.apply`. Once it is committed the engine's own limits are these."""

    applied: AppliedLimits


@dataclass(frozen=True, slots=True)
class Record:
    """See `Ledger.record`; the outcome is an `Entry`."""

    demand: Demand
    charge: Charge
    at_ms: int

    @property
    def reservation_id(self) -> ReservationId:
        return self.demand.reservation_id


@dataclass(frozen=True, slots=True)
class Upkeep:
    """See `Ledger.upkeep`; the outcome is a bool."""

    retention_ms: int | None


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found in a snapshot, without any lock.

    `basis` is equal while differences stay as they are: no repair was made, and no limits were applied.
    """

    found: tuple[Mismatch, ...]
    basis: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Repair:
    """See `Ledger.repair`; the outcome is a bool: False, and nothing has changed, when the audit is outdated."""

    audit: Audit


@dataclass(frozen=True, slots=True)
class AddKey:
    """See `Ledger.add_key`."""

    record: KeyRecord


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """See `Ledger.revoke_key`; the outcome is a bool."""

    name: str


@dataclass(frozen=True, slots=True)
class ClearOverrun:
    """See `Ledger.clear_overrun`; the outcome is a bool."""

    target: str


@dataclass(frozen=True, slots=True)
class RaiseAlerts:
    """See `AlertLedger.raise_alerts`; the outcome is a bool."""

    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class OutboxStep:
    """See `AlertLedger.outbox_step`; the outcome is `OutboxWork`, or None where another process has the lease."""

    holder: str
    lease_ms: int
    routed: tuple[Routed, ...] = ()
    claims: tuple[Claim, ...] = ()
    ended: tuple[Ended, ...] = ()


CallOperation = Reserve | Extend | Settle | Void | Record
"""What is about one reservation, whose id it names."""
Operation = (
    CallOperation
    | ExpireDue
    | CountRefusals
    | SetAmount
    | ApplyLimits
    | AddKey
    | RevokeKey
    | ClearOverrun
    | RaiseAlerts
    | OutboxStep
    | Upkeep
    | Repair
    | NoteSpent
    | BreakerOperation
)
Outcome = Admitted | Refused | Entry | tuple[Entry, ...] | OutboxWork | bool | BreakerStates | LedgerError | None
"""What became of one operation. An error is a value here: it is that of one operation, not of its batch."""


class Engine(Protocol):
    """A store that runs batches. Only one `run` is under way at a time; the other verbs may overlap it."""

    @property
    def owner_id(self) -> int:
        """This process in the store; 0 for one that was opened without limits and so never reserves."""
        ...

    async def run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Run the operations in order in one transaction; every outcome is durable when this returns. Without any it
        writes next to nothing (this owner's lease, anew): whether the store takes anything.

        Raises:
            LedgerUnavailable: nothing was committed, and trying at once again would not help.
            Exception: nothing was committed, because of at least one of the operations.
        """
        ...

    async def balances(self, limit_name: str | None) -> Sequence[BalanceLine]:
        """See `Ledger.balances`."""
        ...

    async def audit(self) -> Audit:
        """See `Ledger.audit`."""
        ...

    async def spend(self, label: str, *, since_ms: int, until_ms: int | None, top: int | None) -> Sequence[SpendRow]:
        """See `Ledger.spend`."""
        ...

    async def keys(self) -> Sequence[KeyRecord]:
        """See `Ledger.keys`."""
        ...

    async def overruns(self) -> Sequence[TargetOverrun]:
        """See `Ledger.overruns`."""
        ...

    async def spenders(self, label: str, limit: Limit, subject: str, *, since_ms: int) -> Sequence[SpendRow]:
        """See `Ledger.spenders`."""
        ...

    async def settled_since(self, since_ms: int) -> Mapping[tuple[str, str], int]:
        """See `Ledger.settled_since`."""
        ...

    async def refusals(self, since_ms: int, until_ms: int) -> Sequence[RefusalCount]:
        """See `Ledger.refusals`."""
        ...

    async def has_outbox_work(self, holder: str) -> bool:
        """See `AlertLedger.has_outbox_work`."""
        ...

    async def alerts(self, since_ms: int) -> Sequence[StoredAlert]:
        """See `AlertLedger.alerts`."""
        ...

    async def channel_health(self) -> Sequence[ChannelHealth]:
        """See `AlertLedger.channel_health`."""
        ...

    async def spent(self) -> Sequence[SpentLine]:
        """See `Ledger.spent`."""
        ...

    async def breakers(self) -> BreakerStates:
        """See `BreakerLedger.breakers`."""
        ...

    async def breaker_changes(self, *, after: int, newest: int | None) -> Sequence[BreakerChange]:
        """See `BreakerLedger.breaker_changes`."""
        ...

    async def baseline(self, breaker: Breaker) -> Mapping[str, Counts]:
        """See `BreakerLedger.baseline`."""
        ...

    async def revisions(self) -> Mapping[Topic, int]:
        """See `Ledger.revisions`."""
        ...

    async def close(self) -> None:
        """Expire what this owner holds, end its lease and release the store."""
        ...
