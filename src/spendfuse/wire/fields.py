"""What becomes of every known field of a request body, and why: the tables of the dialects are made of these."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from spendfuse.wire.json_body import BodyInvalid, JsonObject


class Treatment(StrEnum):
    """What happens to a field on its way upstream."""

    PASSES = "passes"
    """Unaltered; it cannot change the bill beyond the quote."""
    PRICED = "priced"
    """Unaltered; the quote follows from it."""
    SET = "set by us"
    """Replaced, or added."""
    REFUSED = "refused"
    """A 400 unless null or false."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a body."""

    name: str
    treatment: Treatment
    why: str


def passing(names: str, why: str) -> list[Field]:
    return [Field(name, Treatment.PASSES, why) for name in names.split()]


def priced(name: str, why: str) -> Field:
    return Field(name, Treatment.PRICED, why)


def set_by_us(name: str, why: str) -> Field:
    return Field(name, Treatment.SET, why)


def refused(names: str, why: str) -> list[Field]:
    return [Field(name, Treatment.REFUSED, why) for name in names.split()]


class FieldTable:
    """A table of fields, ready to be asked."""

    def __init__(self, fields: Iterable[Field], *, allowed: Iterable[str] = ()) -> None:
        """`allowed` are fields that stand as refused but that whoever calls has priced."""
        everything = tuple(fields)
        self.names = frozenset(field.name for field in everything)
        passing = frozenset(allowed)
        self._why_refused = {
            field.name: field.why
            for field in everything
            if field.treatment is Treatment.REFUSED and field.name not in passing
        }

    def refuse(self, body: JsonObject) -> None:
        """Look for a refused field.

        Raises:
            BodyInvalid: there is one that is neither null nor false.
        """
        for name in body.keys() & self._why_refused.keys():
            if body[name] is not None and body[name] is not False:
                raise BodyInvalid(f"`{name}` is refused: {self._why_refused[name]}", name)
