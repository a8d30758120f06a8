from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.money import (
    AMOUNT_MAX,
    NANOS_PER_USD,
    PICOS_PER_NANO,
    AmountInvalid,
    format_usd,
    nanos_from_picos_up,
    parse_exact,
    parse_usd,
)


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("500", 500_000_000_000),
        ("0.01", 10_000_000),
        ("1e-3", 1_000_000),
        ("1E2", 100_000_000_000),
        ("0", 0),
        ("0.000000001", 1),
        (7, 7_000_000_000),
        (Decimal("1.50"), 1_500_000_000),
    ],
)
def test_dollars_are_read_exactly(text: str | int | Decimal, nanos: int) -> None:
    assert parse_usd(text) == nanos


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a number"),
        ("five", "must be a number"),
        ("-1", "at least 0"),
        ("nan", "finite"),
        ("Infinity", "finite"),
        ("0.0000000001", "finer"),
        ("1e30", "too large"),
        ("1e999999999", "too large"),
    ],
)
def test_what_is_no_amount_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(AmountInvalid, match=complaint):
        parse_usd(text)


def test_the_largest_amount_is_the_ledgers() -> None:
    assert parse_exact(AMOUNT_MAX, scale=1, what="it") == AMOUNT_MAX
    with pytest.raises(AmountInvalid):
        parse_exact(AMOUNT_MAX + 1, scale=1, what="it")


@given(st.integers(0, AMOUNT_MAX))
def test_formatting_and_reading_are_inverse(nanos: int) -> None:
    text = format_usd(nanos)
    assert parse_usd(text) == nanos
    assert len(text.partition(".")[2]) >= 2
    assert not text.endswith("0") or len(text.partition(".")[2]) == 2


def test_a_negative_amount_keeps_its_sign() -> None:
    assert format_usd(-NANOS_PER_USD // 2) == "-0.50"


@given(st.integers(0, 10**24))
def test_picos_round_up_by_less_than_a_nano(picos: int) -> None:
    nanos = nanos_from_picos_up(picos)
    assert 0 <= nanos * PICOS_PER_NANO - picos < PICOS_PER_NANO
