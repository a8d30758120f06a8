"""Windows tile time, in every zone and over every change of the clocks."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spendfuse.core.windows import (
    LIFETIME_WINDOW,
    Calendar,
    CalendarUnit,
    Lifetime,
    Period,
    Refill,
    Span,
    window_at,
)

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",  # Skipped midnights until 2018.
    "Asia/Beirut",  # Skips midnights every spring.
    "Pacific/Apia",  # Skipped 30 December 2011 whole.
    "America/St_Johns",  # Turned the clocks at one minute past midnight until 2011.
    "America/Havana",  # Has midnight twice every autumn.
    "Asia/Pyongyang",  # Went half an hour back and forth, at midnight.
    "Australia/Lord_Howe",  # Changes by half an hour.
)
EARLIEST_MS = int(datetime(1970, 1, 3, tzinfo=UTC).timestamp()) * 1_000
LATEST_MS = int(datetime(2037, 12, 1, tzinfo=UTC).timestamp()) * 1_000
DAY_MS = 86_400_000

instants = st.integers(EARLIEST_MS, LATEST_MS)
calendars = st.builds(Calendar, st.sampled_from(CalendarUnit), st.sampled_from(ZONES))
periods = calendars | st.builds(Span, st.integers(1, 400 * DAY_MS))


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000)


def changes(zone: str) -> list[int]:
    """The instants at which the clocks of a zone were turned, 1970 to 2037."""

    def offset(at_ms: int) -> timedelta | None:
        return datetime.fromtimestamp(at_ms / 1_000, UTC).astimezone(ZoneInfo(zone)).utcoffset()

    found: list[int] = []
    for start in range(EARLIEST_MS, LATEST_MS, 7 * DAY_MS):
        low, high = start, start + 7 * DAY_MS
        if offset(low) == offset(high):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
        found.append(high)
    return found


def assert_tiles(period: Period, now_ms: int) -> None:
    window = window_at(period, now_ms)
    assert window.holds(now_ms)
    assert window.ends_at_ms is not None
    assert window_at(period, window.starts_at_ms) == window
    assert window_at(period, window.ends_at_ms - 1) == window
    before, after = window_at(period, window.starts_at_ms - 1), window_at(period, window.ends_at_ms)
    assert before.ends_at_ms == window.starts_at_ms
    assert after.starts_at_ms == window.ends_at_ms
    assert before.number < window.number < after.number


@given(periods, instants)
@example(Calendar(CalendarUnit.DAY, "America/Sao_Paulo"), ms("2018-11-04T03:00:00+00:00"))
@example(Calendar(CalendarUnit.DAY, "Pacific/Apia"), ms("2011-12-30T10:00:00+00:00"))
@example(Calendar(CalendarUnit.DAY, "Pacific/Apia"), ms("2011-12-30T09:59:59+00:00"))
@example(Calendar(CalendarUnit.WEEK, "Pacific/Apia"), ms("2011-12-30T10:00:00+00:00"))
@example(Calendar(CalendarUnit.DAY, "America/St_Johns"), ms("2010-11-07T02:45:00+00:00"))
def test_windows_tile_time_without_gap_or_overlap(period: Period, now_ms: int) -> None:
    assert_tiles(period, now_ms)


@pytest.mark.parametrize("zone", ZONES)
def test_windows_tile_time_around_every_change_of_the_clocks(zone: str) -> None:
    for change_ms in changes(zone):
        for offset_ms in (-3_600_001, -1_800_000, -60_000, -1, 0, 1, 59_999, 1_800_000, 3_600_000, 7_200_000):
            for unit in CalendarUnit:
                assert_tiles(Calendar(unit, zone), change_ms + offset_ms)


@given(calendars, instants, instants)
def test_numbers_ascend_with_time_and_name_one_window(period: Calendar, one_ms: int, other_ms: int) -> None:
    one, other = window_at(period, one_ms), window_at(period, other_ms)
    assert (one.number == other.number) == (one == other)
    assert (one.number < other.number) == (one.starts_at_ms < other.starts_at_ms)


@given(st.sampled_from(ZONES), instants)
def test_a_week_is_the_iso_week_of_the_local_date(zone: str, now_ms: int) -> None:
    window = window_at(Calendar(CalendarUnit.WEEK, zone), now_ms)
    local = datetime.fromtimestamp(window.starts_at_ms / 1_000, UTC).astimezone(ZoneInfo(zone))
    # The first date with any time of its own; a Monday that does not exist hands on to the next date.
    assert local.isoweekday() == 1 or (zone == "Pacific/Apia" and local.year == 2011)
    assert local.hour in (0, 1)


@pytest.mark.parametrize(
    ("unit", "zone", "now", "starts", "ends"),
    [
        # Spring in Berlin has a day of 23 hours, autumn one of 25.
        ("day", "Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00+01:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        ("day", "America/New_York", "2026-11-01T23:59-05:00", "2026-11-01T00:00-04:00", "2026-11-02T00:00-05:00"),
        # A skipped midnight is the instant of the change.
        ("day", "America/Sao_Paulo", "2018-11-04T12:00-02:00", "2018-11-04T00:00-03:00", "2018-11-05T00:00-02:00"),
        ("day", "Asia/Beirut", "2026-03-29T12:00+03:00", "2026-03-29T00:00+02:00", "2026-03-30T00:00+03:00"),
        # One that comes twice is its first occurrence, and the second pass through that hour belongs to the same day.
        ("day", "America/Havana", "2026-11-01T00:30-05:00", "2026-11-01T00:00-04:00", "2026-11-02T00:00-05:00"),
        # Apia went from the 29th to the 31st.
        ("day", "Pacific/Apia", "2011-12-29T23:59-10:00", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00"),
        ("week", "UTC", "2027-01-03T23:59+00:00", "2026-12-28T00:00+00:00", "2027-01-04T00:00+00:00"),
        ("month", "UTC", "2028-02-29T12:00+00:00", "2028-02-01T00:00+00:00", "2028-03-01T00:00+00:00"),
        ("month", "America/New_York", "2026-01-01T04:59+00:00", "2025-12-01T00:00-05:00", "2026-01-01T00:00-05:00"),
    ],
)
def test_calendar_windows_follow_the_wall_clock(unit: str, zone: str, now: str, starts: str, ends: str) -> None:
    window = window_at(Calendar(CalendarUnit(unit), zone), ms(now))
    assert (window.starts_at_ms, window.ends_at_ms) == (ms(starts), ms(ends))


@given(st.integers(1, 400 * DAY_MS), instants)
def test_spans_are_aligned_to_the_epoch(span_ms: int, now_ms: int) -> None:
    window = window_at(Span(span_ms), now_ms)
    assert window.starts_at_ms == window.number * span_ms
    assert window.ends_at_ms == window.starts_at_ms + span_ms


@given(st.integers(0, LATEST_MS))
def test_a_lifetime_never_turns(now_ms: int) -> None:
    assert window_at(Lifetime(), now_ms) == LIFETIME_WINDOW
    assert LIFETIME_WINDOW.holds(now_ms)


@pytest.mark.parametrize(
    ("span_ms", "text"), [(1, "1ms"), (1_500, "1500ms"), (60_000, "1m"), (90_000, "90s"), (2_592_000_000, "30d")]
)
def test_spans_are_written_in_their_largest_whole_unit(span_ms: int, text: str) -> None:
    assert str(Span(span_ms)) == text


refills = st.builds(Refill, amount=st.integers(1, 50), per_ns=st.integers(1, 10**12), burst=st.integers(1, 100))
gaps = st.lists(st.fractions(0, 2), min_size=1, max_size=120)


@given(refills, gaps)
def test_a_refill_passes_at_most_amount_and_burst_in_any_span(refill: Refill, gaps_in_steps: list) -> None:
    step_ns = -(-refill.per_ns // refill.amount)
    now_ns = tat_ns = 0
    passed: list[int] = []
    for gap in gaps_in_steps:
        now_ns += int(gap * step_ns)
        after_ns, _ = refill.admit(tat_ns, now_ns)
        if after_ns is not None:
            tat_ns = after_ns
            passed.append(now_ns)
    for at_ns in passed:
        assert sum(at_ns <= one < at_ns + refill.per_ns for one in passed) <= refill.amount + refill.burst


@given(refills, st.integers(0, 10**13), st.integers(0, 10**13))
def test_a_refill_that_refuses_says_when_it_would_pass(refill: Refill, tat_ns: int, now_ns: int) -> None:
    after_ns, retry_at_ns = refill.admit(tat_ns, now_ns)
    if after_ns is None:
        assert retry_at_ns > now_ns
        assert refill.admit(tat_ns, retry_at_ns - 1)[0] is None
        assert refill.admit(tat_ns, retry_at_ns)[0] is not None
    else:
        assert after_ns > max(tat_ns, now_ns)


@given(refills, st.integers(0, 10**13), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_refill_is_monotone_in_time_and_in_use(refill: Refill, tat_ns: int, now_ns: int, more_ns: int) -> None:
    if refill.admit(tat_ns, now_ns)[0] is not None:
        assert refill.admit(tat_ns, now_ns + more_ns)[0] is not None
    else:
        assert refill.admit(tat_ns + more_ns, now_ns)[0] is None
    assert refill.available(tat_ns, now_ns) <= refill.available(tat_ns, now_ns + more_ns)
    assert refill.available(tat_ns + more_ns, now_ns) <= refill.available(tat_ns, now_ns)


@given(refills, st.integers(0, 10**13), st.integers(0, 10**13))
def test_as_many_pass_at_once_as_are_available(refill: Refill, tat_ns: int, now_ns: int) -> None:
    expected = refill.available(tat_ns, now_ns)
    passed = 0
    while (after_ns := refill.admit(tat_ns, now_ns)[0]) is not None:
        tat_ns = after_ns
        passed += 1
    assert passed == expected <= refill.burst


@given(refills)
def test_an_idle_refill_has_its_whole_burst_again(refill: Refill) -> None:
    step_ns = -(-refill.per_ns // refill.amount)
    assert refill.available(refill.burst * step_ns, refill.burst * step_ns) == refill.burst


@pytest.mark.parametrize("broken", [{"amount": 0}, {"per_ns": 0}, {"burst": 0}])
def test_a_refill_of_nothing_is_refused(broken: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Refill(**{"amount": 1, "per_ns": 1, "burst": 1, **broken})
