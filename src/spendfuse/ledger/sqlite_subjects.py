"""Which subjects a SQLite store has seen, and how many new ones each key has opened in this hour."""

import sqlite3
from collections.abc import Iterable

from spendfuse.core.labels import Subject
from spendfuse.core.subjects import each_text
from spendfuse.ledger.statements import sql
from spendfuse.ledger.subjects import Subjects

_SELECT_SEEN_SUBJECT = sql("sqlite", "select_seen_subject")
_INSERT_SEEN_SUBJECT = sql("sqlite", "insert_seen_subject")
_SELECT_OPENED_SUBJECTS = sql("sqlite", "select_opened_subjects")
_UPSERT_OPENED_SUBJECTS = sql("sqlite", "upsert_opened_subjects")


def note_subjects(connection: sqlite3.Connection, subjects: Iterable[Subject]) -> None:
    """These are not new any more."""
    connection.executemany(_INSERT_SEEN_SUBJECT, [(each_text(each), text) for each, text in subjects])


class SqliteSubjects(Subjects):
    """Looks up and writes at once, one subject at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection

    def _is_stored(self, subject: Subject) -> bool:
        each, text = subject
        return self._connection.execute(_SELECT_SEEN_SUBJECT, (each_text(each), text)).fetchone() is not None

    def _opened(self, key: str, hour_ms: int) -> int:
        (opened,) = self._connection.execute(_SELECT_OPENED_SUBJECTS, (key, hour_ms)).fetchone() or (0,)
        return opened

    def _count(self, key: str, hour_ms: int, count: int) -> None:
        self._connection.execute(_UPSERT_OPENED_SUBJECTS, (key, hour_ms, count))

    def _note(self, subjects: Iterable[Subject]) -> None:
        note_subjects(self._connection, subjects)
