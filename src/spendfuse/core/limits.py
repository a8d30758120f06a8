"""Limits: an amount of a unit per period, counted by subject."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import assert_never

from spendfuse.core.labels import Labels, subject_of
from spendfuse.core.money import format_usd
from spendfuse.core.windows import NS_PER_MS, Calendar, Lifetime, Period, Refill, Span


class Unit(StrEnum):
    """What a limit counts. Amounts of USD are nano-dollars."""

    USD = "usd"
    TOKENS = "tokens"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    REQUESTS = "requests"
    CONCURRENT = "concurrent"

    @property
    def is_consumable(self) -> bool:
        """Money or tokens: reserved at a quote, settled at a charge; a call may wait for them or be fitted to them."""
        return self not in (Unit.REQUESTS, Unit.CONCURRENT)

    @property
    def has_output(self) -> bool:
        """Whether a lower output cap makes a call smaller in this unit."""
        return self in (Unit.USD, Unit.TOKENS, Unit.OUTPUT_TOKENS)

    def amount_text(self, amount: int) -> str:
        """An amount for people: `$0.12`, `1,500 tokens`."""
        if self is Unit.USD:
            return f"${format_usd(amount)}"
        word = {Unit.CONCURRENT: "concurrent calls"}.get(self, self.value.replace("_", " "))
        return f"{amount:,} {word}"


_SPAN_NAMES = {"1s": "second", "1m": "minute", "1h": "hour"}


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse the call."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """Count, say what would have been refused, refuse nothing."""


@dataclass(frozen=True, slots=True)
class RouteTo:
    """Try another public model instead, quoted against the same limits."""

    model: str


OnExceed = Reject | Shadow | RouteTo

_GIVEN_LABELS = frozenset({"key", "model", "provider", "target"})
"""Labels with no more values than the gateway has keys and models."""


@dataclass(frozen=True)
class Limit:
    """One limit as configured. Two with the same `identity` are the same limit, whatever their amount.

    `amount` is in the unit (nano-dollars for USD). `burst` is for `requests` over a span only. `match` narrows the
    limit to calls whose label has one of the values. `alert_at` are shares of the amount in percent.
    `admits_unreserved`, for `requests` only: it does not stand in the way of a call while the store is away.
    """

    name: str
    unit: Unit
    amount: int
    period: Period
    each: tuple[str, ...] = ()
    match: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    require: bool = False
    on_exceed: OnExceed = Reject()
    fit: bool = True
    estimate: bool = False
    burst: int | None = None
    min_output_tokens: int | None = None
    alert_at: tuple[int, ...] = (50, 80, 100)
    admits_unreserved: bool = False

    @cached_property
    def identity(self) -> str:
        """Name, unit, period, time zone, `each` and `match`, as canonical JSON."""
        period = self.period
        return json.dumps(
            {
                "name": self.name,
                "unit": self.unit.value,
                "period": str(period),
                "timezone": period.timezone if isinstance(period, Calendar) else None,
                "each": self.each,
                "match": {name: sorted(values) for name, values in sorted(self.match.items())},
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )

    @cached_property
    def is_enforced(self) -> bool:
        """False for a shadow limit, which has no ceiling and never refuses."""
        return not isinstance(self.on_exceed, Shadow)

    @cached_property
    def is_rate(self) -> bool:
        """`requests` over a span: refills smoothly and has no balance."""
        return self.unit is Unit.REQUESTS and isinstance(self.period, Span)

    @cached_property
    def has_claimed_subjects(self) -> bool:
        """Whether calls can make up subjects of it. Not where every call has one of its own, by its fingerprint."""
        return not _GIVEN_LABELS.issuperset(self.each) and "fingerprint" not in self.each

    def refill_of(self, amount: int) -> Refill:
        """The rate of this limit at an amount (its own or a subject's override); only where `is_rate`."""
        assert isinstance(self.period, Span)
        burst = amount if self.burst is None else self.burst
        return Refill(amount=amount, per_ns=self.period.ms * NS_PER_MS, burst=burst)

    def covers(self, labels: Labels) -> bool:
        """Whether a call with these labels counts under this limit."""
        return not self.match or all(labels.get(name, "") in values for name, values in self.match.items())

    def missing_label(self, labels: Labels) -> str | None:
        """The first label that the limit requires and the call lacks."""
        if not self.require:
            return None
        return next((name for name in self.each if not labels.get(name)), None)

    def subject_of(self, labels: Labels) -> str:
        """The subject that a call with these labels is counted under."""
        return subject_of(labels, self.each)

    @property
    def per(self) -> str:
        """The period for people: `month`, `minute`, `5m`."""
        text = str(self.period)
        return _SPAN_NAMES.get(text, text) if isinstance(self.period, Span) else text

    def describe(self) -> str:
        """The limit for people: `feature-week ($50.00 per week, each feature)`."""
        match self.period:
            case Calendar() | Span():
                per = f" per {self.per}"
            case Lifetime():
                per = "" if self.unit is Unit.CONCURRENT else " per lifetime"
            case _:
                assert_never(self.period)
        each = f", each {', '.join(self.each)}" if self.each else ""
        return f"{self.name} ({self.unit.amount_text(self.amount)}{per}{each})"
