"""What a limit covers, by whom it counts, and what makes it the same limit."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.labels import subject_values
from spendfuse.core.limits import Limit, Reject, RouteTo, Shadow, Unit
from spendfuse.core.windows import Calendar, CalendarUnit, Lifetime, Period, Span

MONTH = Calendar(CalendarUnit.MONTH)
LIMIT = Limit("team", Unit.USD, 5_000_000_000, MONTH, each=("organization", "user"))

names = st.sampled_from(("organization", "user", "feature", "run", "tag"))
values = st.text("abc,\"[]'é ", min_size=1, max_size=4)
labels = st.dictionaries(names, values)
matches = st.dictionaries(names, st.frozensets(values, min_size=1, max_size=3), max_size=3)


@given(labels, matches)
def test_a_limit_covers_a_call_when_every_matched_label_has_one_of_its_values(
    call: dict[str, str], match: dict[str, frozenset[str]]
) -> None:
    covered = replace(LIMIT, match=match).covers(call)
    assert covered == all(name in call and call[name] in allowed for name, allowed in match.items())


@given(st.lists(labels, min_size=2, max_size=2), st.lists(names, unique=True, max_size=4))
def test_two_calls_share_a_subject_when_all_labels_of_each_agree(calls: list[dict[str, str]], each: list[str]) -> None:
    limit = replace(LIMIT, each=tuple(each))
    one, other = (limit.subject_of(call) for call in calls)
    agree = all(calls[0].get(name, "") == calls[1].get(name, "") for name in each)
    assert (one == other) == agree
    assert subject_values(one) == tuple(calls[0].get(name, "") for name in each)


@pytest.mark.parametrize(
    ("require", "call", "missing"),
    [
        (False, {}, None),
        (True, {}, "organization"),
        (True, {"organization": "acme"}, "user"),
        (True, {"organization": "acme", "user": ""}, "user"),
        (True, {"organization": "acme", "user": "u1"}, None),
    ],
)
def test_a_limit_that_requires_its_labels_names_the_first_missing_one(
    require: bool, call: dict[str, str], missing: str | None
) -> None:
    assert replace(LIMIT, require=require).missing_label(call) == missing


@pytest.mark.parametrize(
    "other",
    [
        replace(LIMIT, name="other"),
        replace(LIMIT, unit=Unit.TOKENS),
        replace(LIMIT, period=Calendar(CalendarUnit.WEEK)),
        replace(LIMIT, period=Calendar(CalendarUnit.MONTH, "Europe/Berlin")),
        replace(LIMIT, period=Span(60_000)),
        replace(LIMIT, each=("user", "organization")),
        replace(LIMIT, match={"feature": frozenset({"search"})}),
    ],
)
def test_what_a_limit_counts_is_its_identity(other: Limit) -> None:
    assert other.identity != LIMIT.identity


def test_amount_and_conduct_are_not_part_of_the_identity() -> None:
    same = replace(
        LIMIT,
        amount=1,
        require=True,
        on_exceed=Shadow(),
        fit=False,
        estimate=True,
        min_output_tokens=9,
        alert_at=(),
    )
    assert same.identity == LIMIT.identity


@given(st.permutations(["a", "b", "c"]))
def test_the_identity_does_not_follow_the_order_of_match(order: list[str]) -> None:
    match = {name: frozenset(order) for name in order}
    assert replace(LIMIT, match=match).identity == replace(LIMIT, match=dict(sorted(match.items()))).identity


@pytest.mark.parametrize(
    ("unit", "period", "is_rate"),
    [
        (Unit.REQUESTS, Span(60_000), True),
        (Unit.REQUESTS, MONTH, False),
        (Unit.REQUESTS, Lifetime(), False),
        (Unit.TOKENS, Span(60_000), False),
        (Unit.CONCURRENT, Lifetime(), False),
    ],
)
def test_only_requests_over_a_span_are_a_rate(unit: Unit, period: Period, is_rate: bool) -> None:
    assert Limit("one", unit, 1, period).is_rate == is_rate


def test_the_burst_of_a_rate_is_its_amount_unless_it_says_otherwise() -> None:
    rate = Limit("rate", Unit.REQUESTS, 60, Span(60_000))
    assert rate.refill_of(60).burst == 60
    assert rate.refill_of(90).burst == 90
    assert replace(rate, burst=5).refill_of(90).burst == 5
    assert rate.refill_of(60).per_ns == 60_000_000_000


def test_only_a_shadow_limit_is_not_enforced() -> None:
    assert replace(LIMIT, on_exceed=Reject()).is_enforced
    assert replace(LIMIT, on_exceed=RouteTo("cheap")).is_enforced
    assert not replace(LIMIT, on_exceed=Shadow()).is_enforced


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (LIMIT, "team ($5.00 per month, each organization, user)"),
        (Limit("rate", Unit.REQUESTS, 60, Span(60_000), each=("key",)), "rate (60 requests per minute, each key)"),
        (Limit("run", Unit.TOKENS, 1_500, Lifetime()), "run (1,500 tokens per lifetime)"),
        (Limit("parallel", Unit.CONCURRENT, 4, Lifetime()), "parallel (4 concurrent calls)"),
    ],
)
def test_a_limit_describes_itself(limit: Limit, text: str) -> None:
    assert limit.describe() == text
