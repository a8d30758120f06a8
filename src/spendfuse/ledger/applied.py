"""The limits in force, and which of them a call's labels fall under."""

import contextlib
import hashlib
import json
from collections import OrderedDict
from typing import cast

from spendfuse.core.errors import LedgerError
from spendfuse.core.labels import Labels
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.windows import LIFETIME_WINDOW, Window, window_at

MATCHES_MAX = 10_000
"""So many distinct label values are remembered; the least recently used goes first."""
WITHOUT_LIMITS = LedgerError("this process opened the store without limits, so it can neither reserve nor apply any")
END_IS_OVER = LedgerError("an amount can't be set until a time that is over already")


class AppliedLimits:
    """Limits as one value, with a hash by which processes tell whether they hold the same ones."""

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        self.limits = limits
        self.hash = _hash_of(limits)
        self._relevant = tuple(sorted({name for limit in limits for name in (*limit.each, *limit.match)}))
        self._matches: OrderedDict[tuple[str, ...], tuple[tuple[Limit, str], ...]] = OrderedDict()

    def matching(self, labels: Labels) -> tuple[tuple[Limit, str], ...]:
        """Every limit that covers the labels, with the subject it counts them under, in the order of the config."""
        # Only labels that a limit looks at are part of the key, or a call's own fingerprint would miss every time.
        key = tuple([labels.get(name, "") for name in self._relevant])
        found = self._matches.get(key)
        if found is not None:
            self._matches.move_to_end(key)
            return found
        found = tuple((limit, limit.subject_of(labels)) for limit in self.limits if limit.covers(labels))
        self._matches[key] = found
        if len(self._matches) > MATCHES_MAX:
            self._matches.popitem(last=False)
        return found


def window_of(limit: Limit, at_ms: int) -> Window:
    """The window of a limit's balance that a call made at this instant counts in; calls in flight have only one."""
    return LIFETIME_WINDOW if limit.unit is Unit.CONCURRENT else window_at(limit.period, at_ms)


def wrong_subject(limit: Limit, subject: str) -> LedgerError | None:
    """Why a text can't be a subject of the limit: it must be a JSON array with one value for each of its labels."""
    with contextlib.suppress(ValueError):
        values = json.loads(subject)
        if isinstance(values, list) and subject == _subject_text(limit, cast("list[object]", values)):
            return None
    each = ", ".join(limit.each) or "no label"
    return LedgerError(f"limit {limit.name!r} is counted by {each}; {subject!r} is not one of its subjects")


def _subject_text(limit: Limit, values: list[object]) -> str:
    texts = [value for value in values if isinstance(value, str)]
    return limit.subject_of(dict(zip(limit.each, texts, strict=True)))


def _hash_of(limits: tuple[Limit, ...]) -> str:
    """Equal for two processes whose limits admit the same calls."""
    rules = sorted([limit.identity, limit.amount, limit.is_enforced, limit.burst or 0] for limit in limits)
    return hashlib.sha256(json.dumps(rules).encode()).hexdigest()
