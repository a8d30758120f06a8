"""Values as people and programs read them."""

import difflib
from collections.abc import Iterable
from datetime import UTC, datetime

from spendfuse.core.windows import MS_PER_S

NO_VALUE = "(none)"
"""How the empty value of a label is shown: calls that lack it."""


def iso_time(ms: int) -> str:
    """An instant in UTC, to the second."""
    return datetime.fromtimestamp(ms / MS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def labels_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Labels for people: `organization=acme, user=(none)`."""
    return ", ".join(f"{name}={value or NO_VALUE}" for name, value in pairs)


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 limit`, `2,000 limits`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(permille: int) -> str:
    return f"{permille // 10}.{permille % 10} %"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: its closest neighbours, else all that are known."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known: {', '.join(names[:20])}" if names else ""
