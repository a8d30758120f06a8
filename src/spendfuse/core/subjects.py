"""New subjects: a key's calls may open only so many of them in an hour, whatever labels they claim.

A subject is new until a call of it has been admitted, or an operator has set an amount for it. Those of enforced limits
count, each once however many limits have it; see `Limit.has_claimed_subjects` for which limits.
"""

import json
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache

from spendfuse.core.decisions import Reason, Refused, Shortfall
from spendfuse.core.labels import Subject
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.windows import Span

NEW_SUBJECTS_PER_HOUR = 1_000
"""So many a key may open, unless config says otherwise."""
HOUR_MS = 3_600_000
_LIMIT_NAME = "new_subjects"


def unseen_subjects(limits: Iterable[tuple[Limit, str]], is_seen: Callable[[Subject], bool]) -> dict[Subject, bool]:
    """The subjects among these, by limits, that are new; True for those that count."""
    unseen: dict[Subject, bool] = {}
    for limit, text in limits:
        if limit.has_claimed_subjects:
            subject = (limit.each, text)
            if subject in unseen or not is_seen(subject):
                unseen[subject] = unseen.get(subject, False) or limit.is_enforced
    return unseen


def hour_of(now_ms: int) -> int:
    """The start of the hour."""
    return now_ms // HOUR_MS * HOUR_MS


def refuse_new_subjects(
    opens: Collection[Subject], *, key: str, opened: int, per_hour: int, now_ms: int
) -> Refused | None:
    """Why a key that has opened so many in this hour can't open these; None if it can."""
    if not opens or opened + len(opens) <= per_hour:
        return None
    next_hour_ms = hour_of(now_ms) + HOUR_MS
    limit = _limit(per_hour)
    reason = Reason(
        shortfall=Shortfall.RATE,
        limit=limit,
        subject=limit.subject_of({"key": key}),
        amount=per_hour,
        settled=opened,
        reserved=0,
        need=len(opens),
        need_useful=len(opens),
        resets_at_ms=next_hour_ms,
        retry_at_ms=next_hour_ms,
        opens=tuple(sorted(opens)),
    )
    return Refused((reason,))


@lru_cache(maxsize=64)
def _limit(per_hour: int) -> Limit:
    """The bound as a limit, so that its refusals read like any other's."""
    return Limit(_LIMIT_NAME, Unit.REQUESTS, per_hour, Span(HOUR_MS), each=("key",))


@lru_cache(maxsize=1_024)
def each_text(each: tuple[str, ...]) -> str:
    """The labels that a subject is made of as they are stored: a JSON array."""
    return json.dumps(each, separators=(",", ":"))
