"""The life of a reservation: its ids, what opens it and what ends it."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NewType

from spendfuse.core.money import Nanos
from spendfuse.core.quotes import Amounts
from spendfuse.core.usage import Usage

CallId = NewType("CallId", int)
"""63 bits, ascending in time: 41 of milliseconds since 2026-01-01, 10 of owner, 8 of sequence, 4 zero."""
ReservationId = NewType("ReservationId", int)
"""A call id plus the number of the attempt, 1 to 15."""

ATTEMPTS_MAX = 15
_EPOCH_MS = 1_767_225_600_000
_ATTEMPT_BITS, _SEQUENCE_BITS, _OWNER_BITS = 4, 8, 10
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


class CallIds:
    """Mints the call ids of one process: unique while no two live owners are equal modulo 1,024."""

    def __init__(self) -> None:
        self._last = (0, 0)

    def mint(self, now_ms: int, owner_id: int) -> CallId:
        """A new id. A clock that went back, or more than 256 ids in a millisecond, borrow from the next one.

        `owner_id` is the process's own now: one that lost its lease goes on as another owner.
        """
        since_ms, sequence = now_ms - _EPOCH_MS, 0
        last_ms, last_sequence = self._last
        if since_ms <= last_ms:
            since_ms, sequence = last_ms, last_sequence + 1
            if sequence >> _SEQUENCE_BITS:
                since_ms, sequence = last_ms + 1, 0
        self._last = (since_ms, sequence)
        owner = owner_id % (1 << _OWNER_BITS)
        owned = (since_ms << _OWNER_BITS | owner) << _SEQUENCE_BITS | sequence
        return CallId(owned << _ATTEMPT_BITS)


def reservation_of(call_id: CallId, attempt: int) -> ReservationId:
    """The id of a call's n-th reservation, n from 1."""
    assert 1 <= attempt <= ATTEMPTS_MAX
    return ReservationId(call_id + attempt)


def minted_at_ms(reservation_id: ReservationId) -> int:
    """When its call's id was minted, give or take what an id borrows from the next millisecond."""
    return _EPOCH_MS + (reservation_id >> _OWNER_BITS + _SEQUENCE_BITS + _ATTEMPT_BITS)


def call_text(call_id: CallId) -> str:
    """A call id for people and headers: 13 characters of Crockford's base 32, in the order of time."""
    pairs = [_PAIRS[call_id >> shift & 1023] for shift in range(50, -1, -10)]
    return _ALPHABET[call_id >> 60 & 31] + "".join(pairs)


def reservation_text(reservation_id: ReservationId) -> str:
    """A reservation id for people: `CALL.ATTEMPT`."""
    attempt = reservation_id & ATTEMPTS_MAX
    return f"{call_text(CallId(reservation_id - attempt))}.{attempt}"


class EntryKind(IntEnum):
    """How a reservation ended, or what was learned after its end. Stored as its number."""

    SETTLED = 1
    VOIDED = 2
    EXPIRED = 3
    LATE = 4
    """The difference between the charge learned after an expiry or a void, and what was charged then."""


@dataclass(frozen=True, slots=True)
class Charge:
    """The priced usage of one reservation. `estimated`: the provider's own figures are not known."""

    usage: Usage
    cost: Nanos
    estimated: bool = False

    @property
    def amounts(self) -> Amounts:
        return Amounts(self.cost, self.usage.input_tokens, self.usage.output_tokens)


@dataclass(frozen=True, slots=True)
class Entry:
    """One immutable line of the ledger.

    `amounts` are what it adds to every balance that the call touches; those of a LATE entry are differences and may be
    negative. `held` is what the reservation held at its end. `overrun_cost` is the part of the cost above it.
    """

    reservation_id: ReservationId
    kind: EntryKind
    amounts: Amounts
    held: Amounts
    estimated: bool
    overrun_cost: Nanos
