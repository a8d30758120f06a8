"""What the end of a reservation does to the balances it touches, and the entry that records it. Pure."""

from dataclasses import dataclass

from spendfuse.core.alerts import Alert, AlertKind, Severity, alert_id
from spendfuse.core.limits import Unit
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import Charge, Entry, EntryKind, ReservationId
from spendfuse.core.usage import NOTHING, Usage
from spendfuse.ledger.store import TargetOverrun

OVERRUN_PERCENT_MAX = 1_000
"""Quotes are multiplied by ten at most: what is further off than that is not priced right, and shows as overrun."""
FOLLOWED_WITHIN_MS = 1_000
"""By then every process quotes as the store says."""


@dataclass(frozen=True, slots=True)
class Ending:
    """An entry with what only the store keeps of it.

    `calls` counts a call that may have been billed, once over both entries of a reservation, and `estimated_cost` is
    what the entry adds to the cost that no provider's figure backs; the reports sum them.
    """

    entry: Entry
    usage: Usage
    calls: int
    estimated_cost: int


def settled_by(unit: Unit, entry: Entry) -> int:
    """What an entry adds to `settled` of a balance in this unit.

    A request stays counted however it ended, a call in flight is over, and later corrections concern only money and
    tokens.
    """
    match unit:
        case Unit.USD | Unit.TOKENS | Unit.INPUT_TOKENS | Unit.OUTPUT_TOKENS:
            return entry.amounts.of(unit)
        case Unit.REQUESTS:
            return 0 if entry.kind is EntryKind.LATE else 1
        case Unit.CONCURRENT:
            return 0


def closed(reservation_id: ReservationId, kind: EntryKind, charge: Charge, held: Amounts) -> Ending:
    """The closing entry of a reservation that held `held`."""
    entry = Entry(
        reservation_id=reservation_id,
        kind=kind,
        amounts=charge.amounts,
        held=held,
        estimated=charge.estimated,
        overrun_cost=_overrun(charge.cost, held),
    )
    return Ending(entry, charge.usage, int(kind is not EntryKind.VOIDED), charge.cost if charge.estimated else 0)


def expired(reservation_id: ReservationId, held: Amounts) -> Ending:
    """The closing entry of a reservation whose fate nobody learned: charged at its quote."""
    usage = Usage(held.input_tokens, held.output_tokens)
    return closed(reservation_id, EntryKind.EXPIRED, Charge(usage, held.cost, estimated=True), held)


def voided(reservation_id: ReservationId, held: Amounts) -> Ending:
    """The closing entry of a reservation of which nothing was billed."""
    return closed(reservation_id, EntryKind.VOIDED, Charge(NOTHING, Nanos(0)), held)


def late(closing: Entry, charge: Charge) -> Ending:
    """The correction once the charge of a reservation is learned after its expiry or void."""
    learned, before = charge.amounts, closing.amounts
    entry = Entry(
        reservation_id=closing.reservation_id,
        kind=EntryKind.LATE,
        amounts=Amounts(
            Nanos(learned.cost - before.cost),
            learned.input_tokens - before.input_tokens,
            learned.output_tokens - before.output_tokens,
        ),
        held=closing.held,
        estimated=charge.estimated,
        overrun_cost=_overrun(charge.cost, closing.held),
    )
    estimated_cost = (charge.cost if charge.estimated else 0) - (before.cost if closing.estimated else 0)
    return Ending(entry, charge.usage, int(closing.kind is EntryKind.VOIDED), estimated_cost)


def raised_overrun(
    target: str, entry: Entry, known: TargetOverrun | None, *, reserved_at_ms: int, now_ms: int
) -> TargetOverrun | None:
    """What an entry above its quote raises the multiplication of its target's quotes to; None where that is enough.

    A quote that was multiplied already, and still too low, raises it further.
    """
    is_followed = known is not None and reserved_at_ms >= known.since_ms + FOLLOWED_WITHIN_MS
    quoted_percent = known.percent if known is not None and is_followed else 100
    held = entry.held.cost
    percent = -(-quoted_percent * (held + entry.overrun_cost) // held) if held else OVERRUN_PERCENT_MAX
    percent = min(percent, OVERRUN_PERCENT_MAX)
    return None if known is not None and percent <= known.percent else TargetOverrun(target, percent, now_ms)


def overrun_alert(first: TargetOverrun, entry: Entry) -> Alert:
    """That a target charged more than its quote, told once until somebody clears it."""
    facts = {
        "target": first.target,
        "percent": first.percent,
        "charged": entry.held.cost + entry.overrun_cost,
        "quoted": entry.held.cost,
        "at_ms": first.since_ms,
    }
    number = alert_id(AlertKind.OVERRUN, first.target, first.since_ms)
    return Alert(AlertKind.OVERRUN, number, Severity.WARNING, facts, about=first.target)


def _overrun(cost: int, held: Amounts) -> Nanos:
    return Nanos(max(0, cost - held.cost))
