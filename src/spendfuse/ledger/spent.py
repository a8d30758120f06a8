"""When a limit is *spent*, whatever the database: from the first refusal that says so, until its window turns or its
amount is raised.
"""

from dataclasses import dataclass

from spendfuse.core.limits import Limit
from spendfuse.core.windows import Window
from spendfuse.ledger.applied import window_of

PAST_KEPT_MS = 86_400_000
"""For so long after its window has turned a store still knows that a limit was spent."""


@dataclass(frozen=True, slots=True)
class SpentNote:
    """A refusal that says that a limit is spent for a subject (`Reason.is_spent_for_alerts`): at which amount, in the
    window that ends when."""

    limit_name: str
    subject: str
    amount: int
    resets_at_ms: int | None


@dataclass(frozen=True, slots=True)
class SpentLine:
    """A limit that is spent for a subject now."""

    limit: Limit
    subject: str
    amount: int
    since_ms: int
    ends_at_ms: int | None


@dataclass(frozen=True, slots=True)
class NoteSpent:
    """See `Ledger.note_spent`; the outcome is True where one of them was not known to be spent."""

    notes: tuple[SpentNote, ...]


def spent_window(note: SpentNote, limit: Limit, amount: int, now_ms: int) -> Window | None:
    """The window in which a limit, of this amount for the note's subject now, is spent; None where the note has come
    too late: the window has turned since, or the amount was raised.
    """
    if limit.is_rate or amount > note.amount:
        return None
    window = window_of(limit, now_ms)
    return window if window.ends_at_ms == note.resets_at_ms else None
