"""Adding up entries and open reservations by limit and subject: what a balance is, whatever the database."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from spendfuse.core.labels import FLEETING_LABELS, Labels
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.money import AMOUNT_MAX, Nanos
from spendfuse.core.quotes import Amounts
from spendfuse.core.windows import Window
from spendfuse.ledger.store import BalanceMismatch, SpendRow

BUCKET_MS = 15 * 60_000
"""Entries are added up by quarters of an hour: no time zone's midnight lies within one."""

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


def settled_by_limit(limits: Iterable[Limit], settled: Sequence[Sum]) -> dict[tuple[str, str], int]:
    """What each limit counts of these, by its name and subject, in its unit; not those that the rollup can't tell."""
    return {
        (limit.name, subject): amount
        for limit in limits
        if not limit.is_rate and FLEETING_LABELS.isdisjoint((*limit.each, *limit.match))
        for subject, (amount, _) in fold(limit, settled=settled, reserved=()).items()
    }


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
class SpendPart:
    """A time span of a spend report, from the rollup or from the entries themselves."""

    is_rollup: bool
    from_ms: int
    until_ms: int


def spend_parts(
    label: str, *, since_ms: int, until_ms: int | None, of: tuple[Limit, str] | None = None
) -> list[SpendPart]:
    """Whole buckets come from the rollup, what is cut off at either end from the entries; all of it where a label is
    told apart that the rollup leaves out."""
    until = AMOUNT_MAX if until_ms is None else until_ms
    from_bucket = -(-since_ms // BUCKET_MS) * BUCKET_MS
    until_bucket = until if until_ms is None else until // BUCKET_MS * BUCKET_MS
    named = {label} if of is None else {label, *of[0].each, *of[0].match}
    if not FLEETING_LABELS.isdisjoint(named) or from_bucket >= until_bucket:
        return [SpendPart(is_rollup=False, from_ms=since_ms, until_ms=until)]
    return [
        SpendPart(is_rollup=False, from_ms=since_ms, until_ms=from_bucket),
        SpendPart(is_rollup=True, from_ms=from_bucket, until_ms=until_bucket),
        SpendPart(is_rollup=False, from_ms=until_bucket, until_ms=until),
    ]


def spend_rows(
    label: str, rows: Iterable[SumRow], label_sets: Mapping[int, Labels], *, of: tuple[Limit, str] | None = None
) -> list[SpendRow]:
    """Spend by the values of a label, the dearest first; with `of` only what a limit counts under a subject."""
    totals: dict[str, list[int]] = {}
    for label_set_id, fleeting, _, calls, cost, input_tokens, output_tokens, estimated_cost in rows:
        labels = {**label_sets[label_set_id], **json.loads(fleeting)} if fleeting else label_sets[label_set_id]
        if of is not None and not (of[0].covers(labels) and of[0].subject_of(labels) == of[1]):
            continue
        total = totals.setdefault(labels.get(label, ""), [0] * 5)
        for column, more in enumerate((calls, input_tokens, output_tokens, cost, estimated_cost)):
            total[column] += more
    return sorted((SpendRow(value, *total) for value, total in totals.items()), key=lambda row: (-row.cost, row.value))


def _in_unit(unit: Unit, one: Sum, *, is_open: bool) -> int:
    match unit:
        case Unit.REQUESTS:
            return one.requests
        case Unit.CONCURRENT:
            return one.requests if is_open else 0
        case Unit.USD | Unit.TOKENS | Unit.INPUT_TOKENS | Unit.OUTPUT_TOKENS:
            return one.amounts.of(unit)
