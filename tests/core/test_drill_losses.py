"""What a drill is judged by: the budget, and the greatest loss."""

import pytest

from spendfuse.config import parse
from spendfuse.core.limits import Limit
from spendfuse.core.money import AmountInvalid
from spendfuse.drill.losses import budget_of, exceeds, parse_max_loss


def limits(text: str) -> tuple[Limit, ...]:
    return parse(f"limits: {{{text}}}", environ={}).limits


def test_the_budget_is_the_smallest_limit_in_money_over_all_calls() -> None:
    found = limits(
        "month: {usd: 500, per: month}, day: {usd: 25, per: day}, each: {usd: 1, per: day, each: user},"
        "some: {usd: 2, per: day, match: {feature: [search]}}, shadow: {usd: 3, per: day, on_exceed: shadow},"
        "rate: {requests: 4, per: minute}, tokens: {tokens: 5, per: day}"
    )
    budget = budget_of(found)
    assert budget is not None and budget.name == "day"


@pytest.mark.parametrize(
    "text",
    [
        "a: {requests: 5, per: minute}",
        "a: {usd: 5, per: day, each: user}",
        "a: {usd: 5, per: day, on_exceed: shadow}",
        "a: {usd: 5, per: day, match: {feature: [search]}}",
    ],
)
def test_without_a_limit_in_money_over_all_calls_there_is_no_budget(text: str) -> None:
    assert budget_of(limits(text)) is None


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("25%", 2_500_000_000),
        ("100%", 10_000_000_000),
        ("0.001%", 100_000),
        ("0%", 0),
        ("5", 5_000_000_000),
        ("$0.10", 100_000_000),
    ],
)
def test_the_greatest_loss_is_a_share_of_the_budget_or_dollars(text: str, nanos: int) -> None:
    (budget,) = limits("day: {usd: 10, per: day}")
    assert parse_max_loss(text).allowed(budget) == nanos


@pytest.mark.parametrize("text", ["", "%", "a lot", "-5", "-1%", "nan", "1e99", "0.0001%"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(AmountInvalid):
        parse_max_loss(text)


def test_a_share_of_no_budget_allows_nothing_and_dollars_need_none() -> None:
    assert parse_max_loss("25%").allowed(None) is None
    assert exceeds(1, None) and not exceeds(0, None)
    allowed = parse_max_loss("5").allowed(None)
    assert not exceeds(5_000_000_000, allowed) and exceeds(5_000_000_001, allowed)
