"""Adding up entries and open reservations by limit and subject: what a balance is, whatever the database."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from spendfuse.core.labels import FLEETING_LABELS, Labels
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.money import AMOUNT_MAX, Nanos
from spendfuse.core.quotes import Amounts
from spendfuse.core.windows import Window
from spendfuse.ledger.store import BalanceMismatch, SpendRow

BUCKET_MS = 15 * 60_000
"""Entries are added up by quarters of an hour: no time zone's midnight lies within one."""
DAY_MS = 86_400_000
"""And entries that are past by days of UTC, label by label."""

SumRow = tuple[int, str, int, int, int, int, int, int]
"""Label set, fleeting labels, requests, calls, cost, input and output tokens, estimated cost."""


@dataclass(frozen=True, slots=True)
class Sum:
    """What entries, or open reservations, with equal labels add up to."""

    labels: Labels
    requests: int
    amounts: Amounts


def sums(rows: Iterable[SumRow], label_sets: Mapping[int, Labels]) -> Iterator[Sum]:
    """Rows as read, with their labels."""
    for label_set_id, fleeting, requests, _, cost, input_tokens, output_tokens, _ in rows:
        labels = label_sets[label_set_id]
        if fleeting:
            labels = {**labels, **json.loads(fleeting)}
        yield Sum(labels, requests, Amounts(Nanos(cost), input_tokens, output_tokens))


def fold(limit: Limit, *, settled: Iterable[Sum], reserved: Iterable[Sum]) -> dict[str, tuple[int, int]]:
    """Settled and reserved of every subject that has an entry or an open reservation among these."""
    totals: dict[str, list[int]] = {}
    for column, several in enumerate((settled, reserved)):
        for one in several:
            if limit.covers(one.labels):
                total = totals.setdefault(limit.subject_of(one.labels), [0, 0])
                total[column] += _in_unit(limit.unit, one, is_open=column == 1)
    return {subject: (total[0], total[1]) for subject, total in totals.items()}


def fits_rollup(limit: Limit, window: Window) -> bool:
    """Whether the rollup knows the window and the labels as exactly as the entries do."""
    is_aligned = window.starts_at_ms % BUCKET_MS == 0 and (window.ends_at_ms or 0) % BUCKET_MS == 0
    return is_aligned and FLEETING_LABELS.isdisjoint((*limit.each, *limit.match))


def mismatches(
    limit: Limit,
    window: Window,
    balances: Mapping[str, tuple[int, int]],
    folded: Mapping[str, tuple[int, int]],
) -> Iterator[BalanceMismatch]:
    """Where the balances of one limit and window differ from their fold."""
    for subject in sorted(balances.keys() | folded.keys()):
        settled, reserved = balances.get(subject, (0, 0))
        by_entries, by_reservations = folded.get(subject, (0, 0))
        if (settled, reserved) != (by_entries, by_reservations):
            yield BalanceMismatch(
                limit_name=limit.name,
                unit=limit.unit.value,
                each=limit.each,
                subject=subject,
                window_starts_at_ms=window.starts_at_ms,
                window_ends_at_ms=window.ends_at_ms,
                settled=settled,
                settled_by_entries=by_entries,
                reserved=reserved,
                reserved_by_reservations=by_reservations,
            )


@dataclass(frozen=True, slots=True)
class Positions:
    """How far upkeep has come: entries of calls made before `rolled_up_until_ms` are in `spend_day` and no others, and
    those of calls made before `horizon_ms`, a midnight, are deleted or about to be; none that is not rolled up."""

    rolled_up_until_ms: int
    horizon_ms: int


Span = tuple[int, int]
"""From an instant until another, in milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class SpendParts:
    """The time of a spend report in parts that do not overlap: from the rollup of days (until before it begins where
    there is none), from that of quarters of an hour, and from the entries themselves."""

    days: Span
    buckets: list[Span]
    entries: list[Span]


def is_rolled_up(label: str) -> bool:
    """Whether `spend_day` knows a label: fingerprints are as many as calls, so that adding them up saves nothing."""
    return label != "fingerprint"


def spend_parts(label: str, *, since_ms: int, until_ms: int | None, positions: Positions) -> SpendParts:
    """Whole days come from their rollup, what is cut off at either end from quarters of an hour, and what is cut off
    those from the entries; of fleeting labels, which those quarters don't know, from the entries alone.

    Where the entries are gone, the quarter (of a fleeting label: the day) in which a report begins is part of it, and
    that in which it ends is not: of adjacent reports nothing is missing, nor counted twice.
    """
    is_fleeting = label in FLEETING_LABELS
    grain_ms = DAY_MS if is_fleeting else BUCKET_MS
    since, until = [
        at_ms // grain_ms * grain_ms if at_ms < positions.horizon_ms else at_ms
        for at_ms in (since_ms, AMOUNT_MAX if until_ms is None else until_ms)
    ]
    rolled_up = positions.rolled_up_until_ms
    # The day of that instant is rolled up in part: as far as the report goes beyond it, that part is whole.
    days = (_up(since, DAY_MS), rolled_up if until >= rolled_up else until // DAY_MS * DAY_MS)
    edges = [(since, days[0]), (days[1], until)]
    if days[0] >= days[1] or not is_rolled_up(label):
        days, edges = (0, 0), [(since, until)]
    parts = SpendParts(days, [], [])
    for from_ms, to_ms in edges:
        first, last = _up(from_ms, BUCKET_MS), to_ms // BUCKET_MS * BUCKET_MS
        if is_fleeting or first >= last:
            parts.entries.append((from_ms, to_ms))
        else:
            parts.entries.extend(((from_ms, first), (last, to_ms)))
            parts.buckets.append((first, last))
    return parts


def with_top(rows: list[SpendRow], top: int | None) -> list[SpendRow]:
    """The dearest of these, which come in order, and one row for all others."""
    if top is None or len(rows) <= top:
        return rows
    others = rows[top:]
    return [
        *rows[:top],
        SpendRow(
            "",
            sum(one.calls for one in others),
            sum(one.input_tokens for one in others),
            sum(one.output_tokens for one in others),
            sum(one.cost for one in others),
            sum(one.estimated_cost for one in others),
            values=len(others),
        ),
    ]


def _up(at_ms: int, grain_ms: int) -> int:
    return -(-at_ms // grain_ms) * grain_ms


def _in_unit(unit: Unit, one: Sum, *, is_open: bool) -> int:
    match unit:
        case Unit.REQUESTS:
            return one.requests
        case Unit.CONCURRENT:
            return one.requests if is_open else 0
        case Unit.USD | Unit.TOKENS | Unit.INPUT_TOKENS | Unit.OUTPUT_TOKENS:
            return one.amounts.of(unit)
