"""Which subjects a store has seen, and how many new ones each key has opened in this hour, whatever the database."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from spendfuse.core.decisions import Refused
from spendfuse.core.labels import Subject
from spendfuse.core.limits import Limit
from spendfuse.core.subjects import hour_of, refuse_new_subjects, unseen_subjects

SEEN_MAX = 100_000
"""More subjects than this are forgotten, all at once, and looked up again."""


class Subjects(ABC):
    """Remembers subjects that were seen, which stay seen whatever other processes do. Within write transactions."""

    def __init__(self) -> None:
        self._seen: set[Subject] = set()

    def open(self, limits: Iterable[tuple[Limit, str]], *, key: str, per_hour: int, now_ms: int) -> Refused | None:
        """Count the new subjects that a call is about to open; or say why its key can't, and change nothing."""
        unseen = unseen_subjects(limits, self._is_seen)
        if not unseen:
            return None
        counted = [subject for subject, counts in unseen.items() if counts]
        hour_ms = hour_of(now_ms)
        if counted:
            opened = self._opened(key, hour_ms)
            refused = refuse_new_subjects(counted, key=key, opened=opened, per_hour=per_hour, now_ms=now_ms)
            if refused is not None:
                return refused
            self._count(key, hour_ms, len(counted))
        self._note(unseen)
        self._remember(unseen)
        return None

    def note(self, limits: Iterable[tuple[Limit, str]]) -> None:
        """These are not new any more, and count for nobody."""
        unseen = unseen_subjects(limits, self._is_seen)
        if unseen:
            self._note(unseen)
            self._remember(unseen)

    def forget(self) -> None:
        """After a rollback: what was noted has not been seen."""
        self._seen.clear()

    @abstractmethod
    def _is_stored(self, subject: Subject) -> bool:
        """Whether the store has seen it."""

    @abstractmethod
    def _opened(self, key: str, hour_ms: int) -> int:
        """How many new subjects the key has opened in this hour, under the lock."""

    @abstractmethod
    def _count(self, key: str, hour_ms: int, count: int) -> None:
        """Add to what the key has opened."""

    @abstractmethod
    def _note(self, subjects: Iterable[Subject]) -> None:
        """These are not new any more."""

    def _is_seen(self, subject: Subject) -> bool:
        if subject in self._seen:
            return True
        is_stored = self._is_stored(subject)
        if is_stored:
            self._remember((subject,))
        return is_stored

    def _remember(self, subjects: Iterable[Subject]) -> None:
        if len(self._seen) > SEEN_MAX:
            self._seen.clear()
        self._seen.update(subjects)
