"""Which subjects a SQLite store has seen, and how many new ones each key has opened in this hour."""

import sqlite3
from collections.abc import Iterable

from spendfuse.core.decisions import Refused
from spendfuse.core.labels import Subject
from spendfuse.core.limits import Limit
from spendfuse.core.subjects import each_text, hour_of, refuse_new_subjects, unseen_subjects
from spendfuse.ledger.statements import sql

SEEN_MAX = 100_000
"""More subjects than this are forgotten, all at once, and looked up again."""

_SELECT_SEEN_SUBJECT = sql("sqlite", "select_seen_subject")
_INSERT_SEEN_SUBJECT = sql("sqlite", "insert_seen_subject")
_SELECT_OPENED_SUBJECTS = sql("sqlite", "select_opened_subjects")
_UPSERT_OPENED_SUBJECTS = sql("sqlite", "upsert_opened_subjects")


def note_subjects(connection: sqlite3.Connection, subjects: Iterable[Subject]) -> None:
    """These are not new any more."""
    connection.executemany(_INSERT_SEEN_SUBJECT, [(each_text(each), text) for each, text in subjects])


class Subjects:
    """Remembers subjects that were seen, which stay seen whatever other processes do. Within write transactions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._seen: set[Subject] = set()

    def open(self, limits: Iterable[tuple[Limit, str]], *, key: str, per_hour: int, now_ms: int) -> Refused | None:
        """Count the new subjects that a call is about to open; or say why its key can't, and change nothing."""
        unseen = unseen_subjects(limits, self._is_seen)
        if not unseen:
            return None
        counted = [subject for subject, counts in unseen.items() if counts]
        if counted:
            hour_ms = hour_of(now_ms)
            (opened,) = self._connection.execute(_SELECT_OPENED_SUBJECTS, (key, hour_ms)).fetchone() or (0,)
            refused = refuse_new_subjects(counted, key=key, opened=opened, per_hour=per_hour, now_ms=now_ms)
            if refused is not None:
                return refused
            self._connection.execute(_UPSERT_OPENED_SUBJECTS, (key, hour_ms, len(counted)))
        note_subjects(self._connection, unseen)
        self._remember(unseen)
        return None

    def forget(self) -> None:
        """After a rollback: what was noted has not been seen."""
        self._seen.clear()

    def _is_seen(self, subject: Subject) -> bool:
        if subject in self._seen:
            return True
        each, text = subject
        is_seen = self._connection.execute(_SELECT_SEEN_SUBJECT, (each_text(each), text)).fetchone() is not None
        if is_seen:
            self._remember((subject,))
        return is_seen

    def _remember(self, subjects: Iterable[Subject]) -> None:
        if len(self._seen) > SEEN_MAX:
            self._seen.clear()
        self._seen.update(subjects)
