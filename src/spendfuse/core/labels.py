"""Attribution: the labels of a call and the subjects its limits are counted by."""

import json
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

Labels = Mapping[str, str]
"""Label name to value. A call's labels never change once it has been parsed and authenticated."""
Subject = tuple[tuple[str, ...], str]
"""The labels that a limit counts by, and one of its subjects: the same for all limits that count by the same labels."""

LABEL_VALUE_BYTES_MAX = 128
LABEL_NAME_BYTES_MAX = 64
KEY_LABELS = ("organization", "user", "key", "feature", "run", "model", "provider", "target", "ip", "fingerprint")
"""The names that mean something to Spendfuse; any other label is a tag."""
FLEETING_LABELS = frozenset({"run", "ip", "fingerprint"})
"""Labels with about as many values as there are calls: kept with the entry, left out of rollups."""
_NAME_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class LabelInvalid(ValueError):
    """A label's name or value breaks the rules."""


def label_value(name: str, text: str) -> str:
    """A label's value in its stored form: NFC, trimmed, 1 to 128 bytes of UTF-8 without control characters.

    Raises:
        LabelInvalid: empty, too long, not encodable as UTF-8, or with a control character.
    """
    value = text if text.isascii() else unicodedata.normalize("NFC", text)
    value = value.strip()
    if not value.isprintable() and any(unicodedata.category(one) in ("Cc", "Cs") for one in value):
        raise LabelInvalid(f"label {name!r} has a control character or is not valid Unicode")
    size = len(value.encode())
    if not 1 <= size <= LABEL_VALUE_BYTES_MAX:
        raise LabelInvalid(f"label {name!r} has {size} bytes; it must have 1 to {LABEL_VALUE_BYTES_MAX}")
    return value


def label_name(text: str) -> str:
    """A tag's name: 1 to 64 of `a-z A-Z 0-9 _ . -`.

    Raises:
        LabelInvalid: anything else.
    """
    if not 1 <= len(text) <= LABEL_NAME_BYTES_MAX or not _NAME_ALPHABET.issuperset(text):
        raise LabelInvalid(f"label name {text[:80]!r} must have 1 to {LABEL_NAME_BYTES_MAX} of a-z A-Z 0-9 _ . -")
    return text


@lru_cache(maxsize=65_536)
def _subject_text(values: tuple[str, ...]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def subject_of(labels: Labels, each: tuple[str, ...]) -> str:
    """The subject a limit counts these labels by: a JSON array in `each` order, `[]` for a limit over all calls.

    A label that the call lacks counts as the empty value.
    """
    return _subject_text(tuple([labels.get(name, "") for name in each]))


def subject_values(subject: str) -> tuple[str, ...]:
    """The values of a subject, in `each` order."""
    return tuple(json.loads(subject))
