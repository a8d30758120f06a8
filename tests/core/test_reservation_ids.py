"""Ids of reservations, and how calls and reservations are written for people; see test_call_ids for how they differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.reservations import (
    ATTEMPTS_MAX,
    CallId,
    CallIds,
    call_text,
    reservation_of,
    reservation_text,
)

NOW_MS = 1_795_262_400_000
PER_MS = 256
call_ids = st.integers(0, 2**59 - 1).map(lambda number: CallId(number << 4))


def test_a_millisecond_has_256_ids_and_lends_from_the_next_one() -> None:
    ids = CallIds()
    minted = [ids.mint(NOW_MS, 7) for _ in range(3 * PER_MS)]
    assert minted == sorted(set(minted))
    # Three milliseconds are used up; the clock's own next one comes after them.
    assert CallIds().mint(NOW_MS + 2, 7) <= minted[-1] < CallIds().mint(NOW_MS + 3, 7)


def test_ids_fit_63_bits_for_decades() -> None:
    in_2090_ms = 3_786_912_000_000
    assert 0 < CallIds().mint(in_2090_ms, 1_023) < 2**63


@given(call_ids, st.integers(1, ATTEMPTS_MAX))
def test_a_reservation_is_its_call_and_the_number_of_the_attempt(call_id: CallId, attempt: int) -> None:
    reservation_id = reservation_of(call_id, attempt)
    assert reservation_text(reservation_id) == f"{call_text(call_id)}.{attempt}"
    assert reservation_id >> 4 == call_id >> 4


@pytest.mark.parametrize("attempt", [0, ATTEMPTS_MAX + 1])
def test_a_call_has_at_most_15_attempts(attempt: int) -> None:
    with pytest.raises(AssertionError):
        reservation_of(CallIds().mint(NOW_MS, 1), attempt)


@given(call_ids, call_ids)
def test_texts_sort_as_their_ids_and_tell_them_apart(one: CallId, other: CallId) -> None:
    assert (call_text(one) < call_text(other)) == (one < other)
    assert (call_text(one) == call_text(other)) == (one == other)


@given(call_ids)
def test_texts_have_13_characters_that_are_not_confused(call_id: CallId) -> None:
    text = call_text(call_id)
    assert len(text) == 13
    assert not set(text) & set("ilou")
    assert text == text.lower() and text.isalnum()


def test_a_known_id_keeps_its_text() -> None:
    call_id = CallIds().mint(NOW_MS, 1)
    assert (call_id, call_text(call_id)) == (117594862387204096, "038e7wy000400")
