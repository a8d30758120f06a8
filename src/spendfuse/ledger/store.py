"""The contract that every ledger engine keeps.

Failure policy: closed. When a store can't be reached or can't commit, every verb raises `LedgerUnavailable` within a
bounded time, at once when that is known already (`outage`), and nothing is assumed to have happened. A refusal is a
value (`Refused`), not an exception.

All verbs are idempotent by reservation id: repeating one, also twice within one batch, changes nothing and gives the
same answer. All time is the store's own.
"""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from spendfuse.core.decisions import Admitted, Fit, Refused
from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.labels import Labels
from spendfuse.core.limits import Limit
from spendfuse.core.quotes import Amounts, CapRange, Quote
from spendfuse.core.reservations import Charge, Entry, ReservationId
from spendfuse.core.subjects import NEW_SUBJECTS_PER_HOUR
from spendfuse.ledger.alerts import AlertLedger
from spendfuse.ledger.breakers import BreakerLedger
from spendfuse.ledger.spent import SpentLine, SpentNote


@dataclass(frozen=True, slots=True)
class Demand:
    """What a call asks of the ledger: to hold its quote on every limit that covers its labels.

    `deadline_s` is how long the reservation may stay open, from the store's now; after it the keeper charges the quote.
    `new_subjects_per_hour` is how many the calls of its key, the label `key`, may open.
    """

    reservation_id: ReservationId
    labels: Labels
    quote: Quote
    caps: CapRange
    fit: Fit
    deadline_s: float
    new_subjects_per_hour: int = NEW_SUBJECTS_PER_HOUR


@dataclass(frozen=True, slots=True)
class BalanceLine:
    """One limit for one subject in its current window, as `limits list` shows it. A rate has no balance: its `settled`
    is what of its burst is in use now."""

    limit_name: str
    unit: str
    period: str
    each: tuple[str, ...]
    subject: str
    amount: int
    is_overridden: bool
    is_enforced: bool
    settled: int
    reserved: int
    resets_at_ms: int | None
    override_ends_at_ms: int | None = None
    """When the amount goes back to the config's; None for one that was set without an end."""


@dataclass(frozen=True, slots=True)
class BalanceMismatch:
    """One balance that differs from the fold of its entries and open reservations; figures are in the limit's unit.

    `settled_by_entries` counts what was carried over from entries that retention has deleted.
    """

    limit_name: str
    unit: str
    each: tuple[str, ...]
    subject: str
    window_starts_at_ms: int
    window_ends_at_ms: int | None
    settled: int
    settled_by_entries: int
    reserved: int
    reserved_by_reservations: int


@dataclass(frozen=True, slots=True)
class RollupSums:
    """What calls add up to in the rollup of spend; nano-dollars and tokens."""

    requests: int
    calls: int
    cost: int
    input_tokens: int
    output_tokens: int
    estimated_cost: int


@dataclass(frozen=True, slots=True)
class RollupMismatch:
    """A quarter of an hour of spend by calls with equal labels that differs from the entries it adds up."""

    bucket_ms: int
    label_set_id: int
    labels: Labels
    rolled_up: RollupSums
    by_entries: RollupSums


@dataclass(frozen=True, slots=True)
class DayMismatch:
    """A day (UTC) of spend by one value of a label that differs from the entries it adds up; the label "" stands for
    all calls."""

    day_ms: int
    label: str
    value: str
    rolled_up: RollupSums
    by_entries: RollupSums


@dataclass(frozen=True, slots=True)
class StaleReservation:
    """A reservation that stands open although it has its closing entry; what it holds, nobody will ever free."""

    reservation_id: ReservationId
    reserved_at_ms: int
    held: Amounts


Mismatch = BalanceMismatch | RollupMismatch | DayMismatch | StaleReservation
"""What an audit finds wrong."""


@dataclass(frozen=True, slots=True)
class RefusalCount:
    """So many refusals of one kind: the hourly rollup that stands in for entries of refused calls."""

    code: str
    limit_name: str
    feature: str
    user: str
    count: int = 1
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class SpendRow:
    """What one value of a label spent; nano-dollars and tokens."""

    value: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: int
    estimated_cost: int
    """The part of `cost` that the provider's own figures do not back."""
    values: int = 1
    """How many values the row stands for."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A client key as stored: its name, never the key itself. `digest` is the SHA-256 of the key."""

    name: str
    digest: bytes = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    labels_from: tuple[str, ...] = ("headers", "body")
    created_at_ms: int = 0
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TargetOverrun:
    """A target that charged more than a quote of it: what its quotes are multiplied by, above 100, and since when."""

    target: str
    percent: int
    since_ms: int


class Topic(StrEnum):
    """What every process keeps a copy of, and has to follow in the store."""

    KEYS = "keys"
    OVERRUNS = "overruns"
    SPENT = "spent"
    """Grows when a limit that was spent no longer is, as its amount was raised."""
    BREAKERS = "breakers"


class Ledger(BreakerLedger, AlertLedger, Protocol):
    """Balances, reservations and entries behind one atomic interface."""

    @property
    def owner_id(self) -> int:
        """This process in the store, from opening to closing."""
        ...

    @property
    def outage(self) -> LedgerUnavailable | None:
        """Why the store takes nothing now, as far as this process knows; None while it does. Costs nothing to ask.

        During an outage every verb that changes the store raises this at once, and the store is tried several times a
        second. It is found out by whatever is asked of the store, so at the latest by the keeper.
        """
        ...

    async def reserve(self, demand: Demand, *, wait_s: float = 0.0) -> Admitted | Refused:
        """Hold the demand's quote on every limit that covers its labels, or change nothing.

        While only calls in flight stand in the way it waits up to `wait_s` in the queue of the balance that refused,
        then takes whatever useful cap is free. Rates and concurrency answer at once, and so does a key that has opened
        all the new subjects that it may in this hour of the store. A demand with `Fit.WHOLE` never waits. Cancelling
        the caller leaves no reservation behind: one that was committed meanwhile is voided.

        Raises:
            LedgerUnavailable: the store did not commit.
            LimitsOutdated: another process applied newer limits.
            ReservationEnded: the id has its closing entry already.
        """
        ...

    async def extend(self, reservation_id: ReservationId, *, quote: Quote, cap: int, deadline_s: float) -> bool:
        """Raise an open reservation to its quote at `cap`, on all its balances or none, and move its deadline to
        `deadline_s` from now. A cap that is not above the held one only moves the deadline.

        Returns False, and changes nothing, when a balance has no room or the reservation has ended.
        """
        ...

    def settle(self, reservation_id: ReservationId, charge: Charge) -> Awaitable[Entry]:
        """Close a reservation at its charge (nano-dollars), in one transaction.

        Never refuses money already spent: a charge above the reservation is recorded in full, its excess as overrun;
        after expiry or void it becomes a late entry. Repeating the call returns the same entry. An overrun raises, in
        the same transaction, what later quotes of the call's target are multiplied by: see `overruns`.

        Raises:
            ReservationUnknown: no reservation has this id; ReservationForgotten: it is older than the retention.
            LedgerUnavailable: the store did not commit; the same call may be repeated.
        """
        ...

    async def void(self, reservation_id: ReservationId) -> Entry:
        """Close a reservation of which nothing was billed: its amounts are freed, its request stays counted.

        After another end it changes nothing and returns that closing entry.

        Raises:
            ReservationUnknown, LedgerUnavailable: as `settle`.
        """
        ...

    async def expire_due(self) -> Sequence[Entry]:
        """Charge every open reservation at its quote whose owner is gone or whose deadline has passed.

        Also renews this owner's lease when that is due, and takes back the amounts whose end (`set_amount`) has come,
        so it must be called every few seconds: see `keeper`.
        """
        ...

    async def record(self, demand: Demand, charge: Charge, *, at_ms: int) -> Entry:
        """Write down a call that was served without a reservation while the store was away: its closing entry, and
        what that adds to the balances and rates of `at_ms`, the time of the call (the store's now, where that is
        earlier).

        Never refuses: a balance that has no room grows above its amount, as overrun. Repeating it with the same id
        returns the same entry. Where a reservation was made after all, it settles that one, as `settle` would: also
        after it was voided or expired, as its reserve may have been committed unseen.

        Raises:
            ReservationForgotten: `at_ms` is before the retention, so that it may have been written down already.
            LedgerUnavailable: as `settle`.
        """
        ...

    async def count_refusals(self, counts: Sequence[RefusalCount]) -> None:
        """Add to the hourly rollup of refusals."""
        ...

    async def balances(self, limit_name: str | None = None) -> Sequence[BalanceLine]:
        """The current windows of all applied limits, or of one."""
        ...

    async def set_amount(
        self, limit_name: str, subject: str, amount: int | None, *, until_ms: int | None = None
    ) -> None:
        """Override the amount of a limit for one subject, or with None go back to the config's. Holds at once, in every
        process; the ceiling of a balance never falls below what is committed. An amount with an end goes back to the
        config's at `until_ms` by the store's clock, at the latest one keeper interval behind it.

        Raises:
            LimitUnknown: no applied limit has this name.
            LedgerError: the limit has no such subject, or `until_ms` is over already.
        """
        ...

    async def apply(self, limits: tuple[Limit, ...]) -> None:
        """Make these limits the ones that rule, in this process and in the store, in one transaction.

        A limit that comes into force opens at the fold of what was spent. Other processes refuse to reserve until they
        have applied the same ones; a `reserve` that meets newer limits waits up to a second for its own process to.

        Raises:
            LedgerUnavailable: the store did not commit; the old limits are this process's still.
        """
        ...

    async def audit(self) -> Sequence[Mismatch]:
        """Recompute from entries and open reservations every balance, but those that retention is about to delete, and
        the rollups of spend as far back as there are entries; empty when all agree.
        """
        ...

    async def repair(self) -> Sequence[Mismatch]:
        """Audit, and move what differs by as much as it differs, in one transaction; again until nothing differs. What
        differed.

        Calls may go on meanwhile: they move a balance and its fold alike, so a difference stays as it is. Each
        correction is kept in the store, with its time. Entries are never changed, nor are open reservations, but for
        stale ones, which go.

        Raises:
            LedgerUnavailable: the store did not commit; nothing more was repaired.
        """
        ...

    async def upkeep(self, retention_ms: int | None) -> bool:
        """Do a bounded piece of what keeps the store small and its reports fast; True when more is left to do.

        Adds entries to the rollup of days. Deletes entries older than `retention_ms` (None: keeps all) once they are
        in it, and the past balances that they made up, but for those of windows that have not ended; the rollups of
        spend stay.
        """
        ...

    async def spend(
        self, label: str, *, since_ms: int, until_ms: int | None = None, top: int | None = None
    ) -> Sequence[SpendRow]:
        """Spend by the values of one label, the dearest first. With `top`, so many have a row, and all others share
        one behind those: what to ask of a label with a million values; calls count by the time of their reservation."""
        ...

    async def spenders(self, label: str, limit: Limit, subject: str, *, since_ms: int) -> Sequence[SpendRow]:
        """Spend by the values of one label since about an instant (to a quarter of an hour), of what a limit counts
        under a subject; empty where the limit tells calls apart by a fleeting label."""
        ...

    async def refusals(self, since_ms: int, until_ms: int) -> Sequence[RefusalCount]:
        """What was refused from an instant until another, both rounded down to the hour, the most refused first."""
        ...

    async def settled_since(self, since_ms: int) -> Mapping[tuple[str, str], int]:
        """What was settled since about an instant (to a quarter of an hour) by a limit's name and subject, in its unit,
        whatever windows it fell into. Limits that tell calls apart by a fleeting label are left out, and rates."""
        ...

    async def keys(self) -> Sequence[KeyRecord]:
        """All stored keys, revoked ones included."""
        ...

    async def add_key(self, record: KeyRecord) -> None:
        """Store a key.

        Raises:
            LedgerError: the name is taken.
        """
        ...

    async def revoke_key(self, name: str) -> bool:
        """Revoke a key; False when no live key has this name."""
        ...

    async def overruns(self) -> Sequence[TargetOverrun]:
        """The targets whose quotes are multiplied, by name, until `clear_overrun`."""
        ...

    async def clear_overrun(self, target: str) -> bool:
        """Trust a target's quotes again; False when they were not multiplied."""
        ...

    async def note_spent(self, notes: Sequence[SpentNote]) -> bool:
        """Write down that limits are spent, each once for each subject and window; True where one was not known to be.

        A note that comes too late, as its window has turned or the amount was raised, changes nothing.
        """
        ...

    async def spent(self) -> Sequence[SpentLine]:
        """The limits that are spent now, until their windows turn or their amounts are raised."""
        ...

    async def revisions(self) -> Mapping[Topic, int]:
        """Numbers that grow whenever any process changes what they stand for. Cheap enough to ask several times a
        second: see `following`."""
        ...

    async def close(self) -> None:
        """Flush, end this owner's lease and release the store. Open reservations of this owner expire at once."""
        ...
