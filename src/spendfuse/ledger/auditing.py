"""What an audit reads and a repair writes down, whatever the database. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from spendfuse.core.money import Nanos
from spendfuse.core.quotes import Amounts
from spendfuse.core.reservations import ReservationId, reservation_text
from spendfuse.core.windows import Window
from spendfuse.ledger.definitions import StoredLimit
from spendfuse.ledger.folding import mismatches
from spendfuse.ledger.store import (
    BalanceMismatch,
    DayMismatch,
    Mismatch,
    RollupMismatch,
    RollupSums,
    StaleReservation,
)

Balances = dict[tuple[int, Window], dict[str, tuple[int, int, int]]]
"""Settled, reserved and carried over by subject, by a limit's number and the window."""

RepairRow = tuple[object, ...]
"""Time, what, limit, subject, start, figures before and after: the columns of `repair`."""


def balances_of(rows: Iterable[Sequence[int | str | None]]) -> Balances:
    """Balances as read."""
    kept: Balances = {}
    for limit_id, subject, number, starts_at_ms, ends_at_ms, *sums in rows:
        window = Window(number, starts_at_ms, ends_at_ms)  # type: ignore[arg-type]
        kept.setdefault((limit_id, window), {})[subject] = tuple(sums)  # type: ignore[index,assignment]
    return kept


def balance_mismatches(
    stored: StoredLimit,
    window: Window,
    balances: Mapping[str, tuple[int, int, int]],
    folded: Mapping[str, tuple[int, int]],
) -> Iterator[BalanceMismatch]:
    """Where balances differ from what they carry over and the fold of what is left."""
    whole = dict(folded)
    for subject, (_, _, carried) in balances.items():
        settled, reserved = folded.get(subject, (0, 0))
        whole[subject] = (settled + carried, reserved)
    kept = {subject: (settled, reserved) for subject, (settled, reserved, _) in balances.items()}
    return mismatches(stored.limit, window, kept, whole)


def rollup_mismatch(row: Sequence[int | str | None]) -> RollupMismatch:
    """A row of `audit_spend`."""
    bucket_ms, label_set_id, labels, *sums = row
    assert isinstance(bucket_ms, int) and isinstance(label_set_id, int)
    return RollupMismatch(bucket_ms, label_set_id, json.loads(str(labels)) if labels else {}, *_both(sums))


def day_mismatch(row: Sequence[int | str | None]) -> DayMismatch:
    """A row of `audit_days`."""
    day_ms, label, value, *sums = row
    assert isinstance(day_ms, int)
    return DayMismatch(day_ms, str(label), str(value), *_both(sums))


def stale_reservation(row: Sequence[int]) -> StaleReservation:
    """A row of `select_stale_reservations`."""
    number, reserved_at_ms, cost, input_tokens, output_tokens = row
    return StaleReservation(ReservationId(number), reserved_at_ms, Amounts(Nanos(cost), input_tokens, output_tokens))


def lacking(one: RollupMismatch | DayMismatch) -> tuple[int, ...]:
    """What has to be added to a row of a rollup."""
    return tuple(right - wrong for right, wrong in zip(_sums(one.by_entries), _sums(one.rolled_up), strict=True))


def repair_row(one: Mismatch, now_ms: int, *, before: Sequence[int] = (), after: Sequence[int] = ()) -> RepairRow:
    """What is kept of a correction; of a balance, its figures as they were under the lock."""
    key: tuple[str, str, str, int]
    match one:
        case BalanceMismatch():
            key = ("balance", one.limit_name, one.subject, one.window_starts_at_ms)
            figures = [json.dumps({"settled": settled, "reserved": reserved}) for settled, reserved in (before, after)]
        case RollupMismatch():
            key = ("spend", "", json.dumps(dict(one.labels), ensure_ascii=False), one.bucket_ms)
            figures = [_sums_text(one.rolled_up), _sums_text(one.by_entries)]
        case DayMismatch():
            key = ("spend_day", "", json.dumps([one.label, one.value], ensure_ascii=False), one.day_ms)
            figures = [_sums_text(one.rolled_up), _sums_text(one.by_entries)]
        case StaleReservation():
            key = ("reservation", "", reservation_text(one.reservation_id), one.reserved_at_ms)
            held = one.held
            amounts = {"cost": held.cost, "input_tokens": held.input_tokens, "output_tokens": held.output_tokens}
            figures = [json.dumps(amounts), "{}"]
    return (now_ms, *key, figures[0], figures[1])


def _both(sums: Sequence[int | str | None]) -> tuple[RollupSums, RollupSums]:
    numbers = [int(one or 0) for one in sums]
    rolled_up, too_much = numbers[:6], numbers[6:]
    return RollupSums(*rolled_up), RollupSums(*[a - b for a, b in zip(rolled_up, too_much, strict=True)])


def _sums(one: RollupSums) -> tuple[int, ...]:
    return (one.requests, one.calls, one.cost, one.input_tokens, one.output_tokens, one.estimated_cost)


def _sums_text(one: RollupSums) -> str:
    names = ("requests", "calls", "cost", "input_tokens", "output_tokens", "estimated_cost")
    return json.dumps(dict(zip(names, _sums(one), strict=True)))
