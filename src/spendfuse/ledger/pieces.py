"""What a piece of upkeep is to do, whatever the database. Pure."""

import json
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from spendfuse.core.limits import Unit
from spendfuse.core.windows import Window
from spendfuse.ledger.applied import window_of
from spendfuse.ledger.definitions import StoredLimit
from spendfuse.ledger.folding import BUCKET_MS, DAY_MS, Positions, SumRow, fold, sums

PIECE_ENTRIES = 1_000
"""So many entries, or balances, are dealt with at once: a few milliseconds, in which no batch runs."""
ENDED_WITHIN_MS = 3_600_000
"""Calls are added to their days so long after they were made, when nearly all have ended: one that ends later costs its
batch a write for each of its labels."""


class Piece(Enum):
    """What a piece of upkeep did."""

    NOTHING = 0
    ROLLED_UP = 1
    DELETED = 2
    LIMITS_CHANGED = 3
    """What a process remembers of balances, or of the horizon, is to be read again."""


class Carried(NamedTuple):
    """What a balance has to carry over from entries that are about to be deleted."""

    amount: int
    limit_id: int
    subject: str
    window_no: int


def due_ms(now_ms: int) -> int:
    """Until when entries should be in the rollup of days by now."""
    return (now_ms - ENDED_WITHIN_MS) // BUCKET_MS * BUCKET_MS


def horizon_ms(stored: Iterable[StoredLimit], positions: Positions, *, retention_ms: int | None, now_ms: int) -> int:
    """Where the horizon of retention should be by now: a midnight, before which no call counts in a window that has an
    end and has not come to it, and everything is in the rollup of days. It never moves back."""
    if retention_ms is None:
        return positions.horizon_ms
    bounds = [now_ms - retention_ms, positions.rolled_up_until_ms]
    bounds += [window.starts_at_ms for _, window in open_windows(stored, now_ms) if window.ends_at_ms is not None]
    return max(positions.horizon_ms, min(bounds) // DAY_MS * DAY_MS)


def open_windows(stored: Iterable[StoredLimit], now_ms: int) -> Iterator[tuple[StoredLimit, Window]]:
    """The windows of now in which entries count, by their limits."""
    for one in stored:
        if not one.limit.is_rate and one.limit.unit is not Unit.CONCURRENT:
            yield one, window_of(one.limit, now_ms)


def carried(stored: StoredLimit, window: Window, rows: Sequence[tuple[SumRow, str]]) -> Iterator[Carried]:
    """What entries that are about to be deleted have settled on a limit's balances: their sums, and their labels as
    stored."""
    label_sets = {row[0]: json.loads(labels) for row, labels in rows}
    folded = fold(stored.limit, settled=sums((row for row, _ in rows), label_sets), reserved=())
    for subject, (settled, _) in folded.items():
        yield Carried(settled, stored.limit_id, subject, window.number)
