"""The spend report adds up, whatever was spent."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.money import NANOS_PER_USD
from spendfuse.ledger.store import SpendRow
from spendfuse.reports.instants import InstantInvalid, end_ms, instant_ms
from spendfuse.reports.spend import decimals_for, rounded_costs, shares_permille, spend_report

NOW_MS = round(datetime(2026, 11, 18, 15, 30, tzinfo=UTC).timestamp() * 1000)
COSTS = st.lists(st.integers(0, 10**15), min_size=1, max_size=50)


def row(value: str, cost: int, *, calls: int = 1, estimated_cost: int = 0) -> SpendRow:
    return SpendRow(value, calls, 10 * calls, 20 * calls, cost, estimated_cost)


def test_lines_come_as_their_rows_with_a_total_over_all() -> None:
    report = spend_report("feature", [row("search", 300, calls=2, estimated_cost=50), row("chat", 100)])

    assert [(line.value, line.cost, line.share_permille) for line in report.lines] == [
        ("search", 300, 750),
        ("chat", 100, 250),
    ]
    assert report.rest is None
    total = report.total
    assert (total.calls, total.input_tokens, total.output_tokens) == (3, 30, 60)
    assert (total.cost, total.estimated_cost, total.share_permille, total.values) == (400, 50, 1000, 2)


def test_values_beyond_the_top_are_one_line_so_that_the_total_still_adds_up() -> None:
    report = spend_report("user", [row("a", 5), row("b", 3), row("c", 1), row("d", 1)], top=2)

    assert [line.value for line in report.lines] == ["a", "b"]
    assert report.rest is not None
    assert (report.rest.values, report.rest.cost, report.rest.share_permille) == (2, 2, 200)
    assert sum(line.cost for line in report.all_lines) == report.total.cost == 10


def test_a_row_that_stands_for_many_values_is_the_rest() -> None:
    many = SpendRow("", 40, 10, 20, 12, 3, values=38)
    report = spend_report("run", [row("a", 5), row("b", 3), many], top=2)

    assert report.rest is not None
    assert (report.rest.values, report.rest.cost, report.rest.estimated_cost) == (38, 12, 3)
    assert (report.total.values, report.total.cost) == (40, 20)


def test_no_rest_when_the_top_holds_every_value() -> None:
    assert spend_report("user", [row("a", 5)], top=1).rest is None


def test_nothing_spent_has_no_shares() -> None:
    assert spend_report("user", []).total.share_permille == 0
    report = spend_report("user", [row("free", 0, calls=7)])
    assert (report.lines[0].share_permille, report.total.share_permille, report.total.calls) == (0, 0, 7)


@given(COSTS)
def test_shares_add_up_to_the_whole_and_none_is_off_by_a_unit(costs: list[int]) -> None:
    shares = shares_permille(costs)
    total = sum(costs)

    assert sum(shares) == (1000 if total else 0)
    assert all(abs(share * total - cost * 1000) < total for share, cost in zip(shares, costs, strict=True) if total)


@given(COSTS, st.sampled_from([2, 4, 6]))
def test_rounded_costs_add_up_to_the_rounded_total(costs: list[int], decimals: int) -> None:
    unit = NANOS_PER_USD // 10**decimals
    rounded = rounded_costs(costs, decimals=decimals)

    assert abs(sum(rounded) - sum(costs)) * 2 <= unit
    assert all(part % unit == 0 for part in rounded)
    assert all(abs(part - cost) < unit for part, cost in zip(rounded, costs, strict=True))


@pytest.mark.parametrize(("usd", "decimals"), [("0", 6), ("0.99", 6), ("1", 4), ("99.9", 4), ("100", 2)])
def test_small_totals_show_more_decimals(usd: str, decimals: int) -> None:
    assert decimals_for(round(float(usd) * NANOS_PER_USD)) == decimals


@pytest.mark.parametrize(
    ("text", "timezone", "expected"),
    [
        ("7d", "UTC", "2026-11-11T15:30+00:00"),
        ("90m", "UTC", "2026-11-18T14:00+00:00"),
        ("2w", "UTC", "2026-11-04T15:30+00:00"),
        ("month", "UTC", "2026-11-01T00:00+00:00"),
        ("week", "UTC", "2026-11-16T00:00+00:00"),
        ("month", "Europe/Berlin", "2026-11-01T00:00+01:00"),
        ("day", "America/New_York", "2026-11-18T00:00-05:00"),
        ("2026-11-01", "Europe/Berlin", "2026-11-01T00:00+01:00"),
        ("2026-11-01T12:00", "UTC", "2026-11-01T12:00+00:00"),
        ("2026-11-01T12:00+02:00", "UTC", "2026-11-01T10:00+00:00"),
    ],
)
def test_an_instant_is_read_in_the_time_zone(text: str, timezone: str, expected: str) -> None:
    assert instant_ms(text, now_ms=NOW_MS, timezone=timezone) == datetime.fromisoformat(expected).timestamp() * 1000


@pytest.mark.parametrize("text", ["", "yesterday", "0d", "7 d", "-7d", "2026-13-01", "1e3d", "year"])
def test_what_is_no_instant_is_refused_by_name(text: str) -> None:
    with pytest.raises(InstantInvalid, match="is no time"):
        instant_ms(text, now_ms=NOW_MS, timezone="UTC")


@pytest.mark.parametrize(
    ("text", "timezone", "expected"),
    [
        ("7d", "UTC", "2026-11-25T15:30+00:00"),
        ("90m", "Europe/Berlin", "2026-11-18T17:00+00:00"),
        ("2026-11-19", "Europe/Berlin", "2026-11-19T00:00+01:00"),
        ("2027-07-01", "Europe/Berlin", "2027-07-01T00:00+02:00"),
        ("2026-11-18T16:30", "UTC", "2026-11-18T16:30+00:00"),
        ("2026-11-18T16:30", "America/New_York", "2026-11-18T16:30-05:00"),
        ("2026-11-18T15:30:00.001+00:00", "America/New_York", "2026-11-18T15:30:00.001+00:00"),
    ],
)
def test_an_end_lies_after_now_in_the_time_zone(text: str, timezone: str, expected: str) -> None:
    assert end_ms(text, now_ms=NOW_MS, timezone=timezone) == datetime.fromisoformat(expected).timestamp() * 1000


@pytest.mark.parametrize("text", ["2026-11-18", "2026-11-18T15:30", "2026-11-18T16:30+01:00", "0001-01-01"])
def test_an_end_that_is_over_is_refused(text: str) -> None:
    with pytest.raises(InstantInvalid, match="is over already"):
        end_ms(text, now_ms=NOW_MS, timezone="UTC")


@pytest.mark.parametrize("text", ["", "tomorrow", "0d", "-7d", "day", "month", "2026-13-01"])
def test_what_is_no_end_is_refused_by_name(text: str) -> None:
    with pytest.raises(InstantInvalid, match="is no time: expected a span from now"):
        end_ms(text, now_ms=NOW_MS, timezone="UTC")
