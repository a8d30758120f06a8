"""The ledger as its callers see it: every verb as an operation of a batch, or as a question to the engine."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import cast

from spendfuse.core.alerts import Alert
from spendfuse.core.decisions import Admitted, Fit, Refused
from spendfuse.core.errors import LedgerClosed, LedgerUnavailable, LimitsOutdated
from spendfuse.core.limits import Limit
from spendfuse.core.quotes import Quote
from spendfuse.core.reservations import Charge, Entry, ReservationId
from spendfuse.core.windows import MS_PER_S
from spendfuse.ledger.alerts import ChannelHealth, Claim, Ended, OutboxWork, Routed, StoredAlert
from spendfuse.ledger.applied import AppliedLimits
from spendfuse.ledger.batching import STORE_TIMEOUT_S
from spendfuse.ledger.breaker_verbs import BreakerVerbs
from spendfuse.ledger.operations import (
    AddKey,
    ApplyLimits,
    ClearOverrun,
    CountRefusals,
    Engine,
    ExpireDue,
    Extend,
    OutboxStep,
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
from spendfuse.ledger.spent import NoteSpent, SpentLine, SpentNote
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

REPAIRS_MAX = 3
"""A balance that was missing may lack what was settled between its audit and its repair, which the next round finds."""
RELOAD_WAIT_S = 1.0
"""So long after another process has applied newer limits, reserves wait for this one to do so too."""
OUTDATED_RETRY_S = 0.05
"""How often they are tried meanwhile: a process that was late may put the limits of this one into force again."""


class BatchingLedger(BreakerVerbs):
    """A `Ledger` over an engine. Bound to the event loop in which it was made; `start` must be called once."""

    def __init__(self, engine: Engine, *, timeout_s: float = STORE_TIMEOUT_S) -> None:
        super().__init__(engine, timeout_s=timeout_s)
        self._applied = asyncio.Event()
        """Set, and replaced, once this process has applied other limits."""
        self._outdated_since_s: float | None = None

    @property
    def owner_id(self) -> int:
        """See `Ledger`."""
        return self._engine.owner_id

    async def reserve(self, demand: Demand, *, wait_s: float = 0.0) -> Admitted | Refused:
        """See `Ledger`."""
        may_wait_s = 0.0 if demand.fit is Fit.WHOLE else wait_s
        while True:
            applied = self._applied
            try:
                outcome = await self._submit(self._reserves, Reserve(demand), may_wait_s)
            except LimitsOutdated:
                if not await self._may_be_up_to_date(applied):
                    raise
                continue
            except LedgerUnavailable as error:
                if self._outdated_since_s is not None and not isinstance(error, LedgerClosed):
                    raise LimitsOutdated(f"newer limits were applied, and now {error}") from error
                raise
            self._outdated_since_s = None
            assert isinstance(outcome, Admitted | Refused)
            return outcome

    async def extend(self, reservation_id: ReservationId, *, quote: Quote, cap: int, deadline_s: float) -> bool:
        """See `Ledger`."""
        return await self._submit(self._freeing, Extend(reservation_id, quote, cap, deadline_s)) is True

    def settle(self, reservation_id: ReservationId, charge: Charge) -> asyncio.Future[Entry]:
        """See `Ledger`. Not a coroutine, as nobody needs to wait for it."""
        _check_charge(charge)
        try:
            pending = self._enqueue(self._freeing, Settle(reservation_id, charge))
        except LedgerUnavailable as error:
            refused: asyncio.Future[Entry] = self._loop.create_future()
            refused.set_exception(error)
            return refused
        return cast("asyncio.Future[Entry]", pending.future)

    async def void(self, reservation_id: ReservationId) -> Entry:
        """See `Ledger`."""
        outcome = await self._submit(self._freeing, Void(reservation_id))
        assert isinstance(outcome, Entry)
        return outcome

    async def expire_due(self) -> Sequence[Entry]:
        """See `Ledger`."""
        outcome = await self._submit(self._freeing, ExpireDue())
        return cast("tuple[Entry, ...]", outcome)

    async def record(self, demand: Demand, charge: Charge, *, at_ms: int) -> Entry:
        """See `Ledger`."""
        _check_charge(charge)
        outcome = await self._submit(self._freeing, Record(demand, charge, at_ms))
        assert isinstance(outcome, Entry)
        return outcome

    async def count_refusals(self, counts: Sequence[RefusalCount]) -> None:
        """See `Ledger`."""
        if counts:
            await self._submit(self._freeing, CountRefusals(tuple(counts)))

    async def balances(self, limit_name: str | None = None) -> Sequence[BalanceLine]:
        """See `Ledger`."""
        return await self._open_engine().balances(limit_name)

    async def set_amount(
        self, limit_name: str, subject: str, amount: int | None, *, until_ms: int | None = None
    ) -> None:
        """See `Ledger`."""
        if amount is not None and amount < 0:
            raise ValueError(f"an amount must not be negative, got {amount}")
        await self._submit(self._freeing, SetAmount(limit_name, subject, amount, until_ms))

    async def apply(self, limits: tuple[Limit, ...]) -> None:
        """See `Ledger`."""
        await self._submit(self._freeing, ApplyLimits(AppliedLimits(limits)))
        self._outdated_since_s = None
        self._applied.set()
        self._applied = asyncio.Event()

    async def audit(self) -> Sequence[Mismatch]:
        """See `Ledger`."""
        return list((await self._open_engine().audit()).found)

    async def repair(self) -> Sequence[Mismatch]:
        """See `Ledger`."""
        repaired: list[Mismatch] = []
        for _ in range(REPAIRS_MAX):
            audit = await self._open_engine().audit()
            if not audit.found:
                break
            if await self._submit(self._freeing, Repair(audit)) is True:
                repaired += audit.found
        return repaired

    async def upkeep(self, retention_ms: int | None) -> bool:
        """See `Ledger`."""
        return await self._submit(self._freeing, Upkeep(retention_ms)) is True

    async def spend(
        self, label: str, *, since_ms: int, until_ms: int | None = None, top: int | None = None
    ) -> Sequence[SpendRow]:
        """See `Ledger`."""
        return await self._open_engine().spend(label, since_ms=since_ms, until_ms=until_ms, top=top)

    async def spenders(self, label: str, limit: Limit, subject: str, *, since_ms: int) -> Sequence[SpendRow]:
        """See `Ledger`."""
        return await self._open_engine().spenders(label, limit, subject, since_ms=since_ms)

    async def settled_since(self, since_ms: int) -> Mapping[tuple[str, str], int]:
        """See `Ledger`."""
        return await self._open_engine().settled_since(since_ms)

    async def keys(self) -> Sequence[KeyRecord]:
        """See `Ledger`."""
        return await self._open_engine().keys()

    async def add_key(self, record: KeyRecord) -> None:
        """See `Ledger`."""
        await self._submit(self._freeing, AddKey(record))

    async def revoke_key(self, name: str) -> bool:
        """See `Ledger`."""
        return await self._submit(self._freeing, RevokeKey(name)) is True

    async def overruns(self) -> Sequence[TargetOverrun]:
        """See `Ledger`."""
        return await self._open_engine().overruns()

    async def clear_overrun(self, target: str) -> bool:
        """See `Ledger`."""
        return await self._submit(self._freeing, ClearOverrun(target)) is True

    async def raise_alerts(self, alerts: Sequence[Alert]) -> bool:
        """See `Ledger`."""
        return bool(alerts) and await self._submit(self._freeing, RaiseAlerts(tuple(alerts))) is True

    async def refusals(self, since_ms: int, until_ms: int) -> Sequence[RefusalCount]:
        """See `Ledger`."""
        return await self._open_engine().refusals(since_ms, until_ms)

    async def has_outbox_work(self, holder: str) -> bool:
        """See `Ledger`."""
        return await self._open_engine().has_outbox_work(holder)

    async def outbox_step(
        self,
        holder: str,
        *,
        lease_s: float,
        routed: Sequence[Routed] = (),
        claims: Sequence[Claim] = (),
        ended: Sequence[Ended] = (),
    ) -> OutboxWork | None:
        """See `Ledger`."""
        step = OutboxStep(holder, int(lease_s * MS_PER_S), tuple(routed), tuple(claims), tuple(ended))
        outcome = await self._submit(self._freeing, step)
        assert outcome is None or isinstance(outcome, OutboxWork)
        return outcome

    async def alerts(self, since_ms: int) -> Sequence[StoredAlert]:
        """See `Ledger`."""
        return await self._open_engine().alerts(since_ms)

    async def channel_health(self) -> Sequence[ChannelHealth]:
        """See `Ledger`."""
        return await self._open_engine().channel_health()

    async def note_spent(self, notes: Sequence[SpentNote]) -> bool:
        """See `Ledger`."""
        return await self._submit(self._freeing, NoteSpent(tuple(notes))) is True

    async def spent(self) -> Sequence[SpentLine]:
        """See `Ledger`."""
        return await self._open_engine().spent()

    async def revisions(self) -> Mapping[Topic, int]:
        """See `Ledger`."""
        return await self._open_engine().revisions()

    async def _may_be_up_to_date(self, applied: asyncio.Event) -> bool:
        """Wait until another try is worth while; False once this process has been outdated for too long."""
        now_s = self._loop.time()
        if self._outdated_since_s is None:
            self._outdated_since_s = now_s
        left_s = self._outdated_since_s + RELOAD_WAIT_S - now_s
        if left_s <= 0:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(left_s, OUTDATED_RETRY_S)):
                await applied.wait()
        return True


def _check_charge(charge: Charge) -> None:
    if charge.cost < 0:
        raise ValueError(f"a charge must not be negative, got {charge.cost} nano-dollars")
