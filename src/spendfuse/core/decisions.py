"""Admit or refuse: what a balance says to a demand, and what the caller is told.

`decide` is the one rule by which every ledger engine admits calls; engines differ only in how they read and write
balances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from spendfuse.core.labels import Subject, subject_values
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.quotes import Amounts, CapRange, Quote
from spendfuse.core.windows import NS_PER_MS

MODEST_SHARE = 10
"""A caller who named no cap gets the modest one when the wanted one exceeds this part (a tenth) of what is left."""


class Fit(Enum):
    """How far below the wanted cap an admission may go."""

    WHOLE = "whole"
    """Admit the wanted cap or refuse: a first try at a rough quote, before tokens are counted."""
    LOWER = "lower"
    """Lower the cap where the wanted one can never fit; wait where it could once calls in flight settle."""
    FREE = "free"
    """Take whatever useful cap is free now: the last try of a call that has waited."""


@dataclass(frozen=True, slots=True)
class Balance:
    """One limit for one subject in one window, as read under the lock. `amount` includes an override."""

    limit: Limit
    subject: str
    amount: int
    settled: int
    reserved: int
    resets_at_ms: int | None

    @property
    def free(self) -> int:
        """What can be reserved now."""
        return self.amount - self.settled - self.reserved

    @property
    def unspent(self) -> int:
        """What could be reserved once all calls in flight have settled at nothing."""
        return self.amount - self.settled


@dataclass(frozen=True, slots=True)
class RateState:
    """A smoothly refilling rate for one subject, as read under the lock."""

    limit: Limit
    subject: str
    amount: int
    tat_ns: int

    def passed(self, now_ns: int) -> int:
        """The TAT to store once a call has been admitted: a shadow rate that would have refused it stays as it is."""
        if self.amount < 1:
            return self.tat_ns
        after_ns, _ = self.limit.refill_of(self.amount).admit(self.tat_ns, now_ns)
        return self.tat_ns if after_ns is None else after_ns


class Shortfall(StrEnum):
    """Why a limit refuses, the strongest reason first; the values are the wire's error codes."""

    EXCEEDS = "call_exceeds_limit"
    SPENT = "budget_exceeded"
    RATE = "rate_limit_exceeded"
    BUSY = "budget_busy"


@dataclass(frozen=True, slots=True)
class Reason:
    """One limit's refusal, with its arithmetic. Amounts are in the limit's unit.

    `need` is the quote at the wanted cap, `need_useful` at the useful minimum. `retry_at_ms` is when a
    rate passes again. `opens` are the subjects that a call would have been the first of, where its key can open no more
    of them in this hour; its amounts are numbers of subjects then.
    """

    shortfall: Shortfall
    limit: Limit
    subject: str
    amount: int
    settled: int
    reserved: int
    need: int
    need_useful: int
    resets_at_ms: int | None
    retry_at_ms: int | None = None
    opens: tuple[Subject, ...] = ()

    @property
    def left(self) -> int:
        """What is left of the amount, calls in flight counted as spent."""
        return max(0, self.amount - self.settled - self.reserved)

    @property
    def is_spent_for_alerts(self) -> bool:
        """DESIGN's *spent*: refused for good although the call's useful minimum is at most 5 % of the amount."""
        return self.shortfall is Shortfall.SPENT and self.need_useful * 20 <= self.amount

    def describe(self) -> str:
        """The refusal for people, without times: `limit "feature-week" (feature=search): $5.00, $0.12 left, …`."""
        unit = self.limit.unit
        subject = _pairs_text(self.pairs)
        text = f'limit "{self.limit.name}"' + (f" ({subject})" if subject else "")
        if self.opens:
            opens = "; ".join(_pairs_text(_pairs(*one)) for one in self.opens)
            return (
                f"{text}: {self.amount:,} per {self.limit.period}, {self.left:,} left, call opens {self.need}: {opens}"
            )
        text += f": {unit.amount_text(self.amount)}"
        if self.shortfall is Shortfall.RATE:
            return f"{text}, all in use" if unit is Unit.CONCURRENT else f"{text} per {self.limit.per}, none left now"
        held = f" ({unit.amount_text(self.reserved)} held by calls in flight)" if self.reserved else ""
        at_least = f" and at least {unit.amount_text(self.need_useful)}" if self.need_useful < self.need else ""
        need = f"call needs up to {unit.amount_text(self.need)}{at_least}"
        return f"{text}, {unit.amount_text(self.left)} left{held}, {need}"

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The subject as (label, value) pairs."""
        return _pairs(self.limit.each, self.subject)


def _pairs(each: tuple[str, ...], subject: str) -> tuple[tuple[str, str], ...]:
    return tuple(zip(each, subject_values(subject), strict=True))


def _pairs_text(pairs: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name}={value or '(none)'}" for name, value in pairs)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A reservation is held at `cap` output tokens for each choice; `held` is its quote at that cap.

    `would_refuse` are the shadow limits that would have refused it.
    """

    cap: int
    held: Amounts
    would_refuse: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was changed. `reasons` has one reason for each limit that refused, the strongest first."""

    reasons: tuple[Reason, ...]

    @property
    def shortfall(self) -> Shortfall:
        return self.reasons[0].shortfall

    @property
    def can_wait(self) -> bool:
        """True when only calls in flight stand in the way."""
        return self.shortfall is Shortfall.BUSY


_STRENGTH = {shortfall: rank for rank, shortfall in enumerate(Shortfall)}


def decide(
    *,
    quote: Quote,
    caps: CapRange,
    fit: Fit,
    balances: Sequence[Balance],
    rates: Sequence[RateState],
    now_ns: int,
) -> Admitted | Refused:
    """Decide a demand against all balances and rates that its call touches, all-or-nothing.

    Only *enforced* limits refuse. A pure function: the engine that calls it holds the lock under which the balances
    were read, and writes what the answer implies.
    """
    wanted = caps.wanted
    need = quote.at(wanted)
    if caps.modest is not None and _is_greedy(need, balances):
        wanted = caps.modest
        need = quote.at(wanted)
    cap: int | None = wanted
    reasons: list[Reason] = []
    if any(need.of(one.limit.unit) > one.free and one.limit.is_enforced for one in balances):
        ask = _Ask(quote, need, quote.at(min(caps.useful, wanted)), wanted, min(caps.useful, wanted))
        cap, reasons = _lowered(ask, fit, [one for one in balances if one.limit.is_enforced])
    reasons += [reason for one in rates if one.limit.is_enforced and (reason := _rate_reason(one, now_ns))]
    if cap is None or reasons:
        return Refused(tuple(sorted(reasons, key=lambda reason: _STRENGTH[reason.shortfall])))
    shadows = [one for one in balances if not one.limit.is_enforced]
    shadow_rates = [one for one in rates if not one.limit.is_enforced]
    if not shadows and not shadow_rates:
        return Admitted(cap, need if cap == wanted else quote.at(cap))
    ask = _Ask(quote, need, quote.at(min(caps.useful, wanted)), wanted, min(caps.useful, wanted))
    would = [_hard_reason(ask, one) for one in shadows] + [_rate_reason(one, now_ns) for one in shadow_rates]
    return Admitted(cap, quote.at(cap), tuple(reason for reason in would if reason))


@dataclass(frozen=True, slots=True)
class _Ask:
    quote: Quote
    need: Amounts
    need_useful: Amounts
    wanted: int
    useful: int

    def floor_of(self, limit: Limit) -> Amounts:
        """The least that this limit may admit: `fit: false` takes the wanted cap or nothing."""
        return self.need_useful if limit.fit else self.need

    def largest_cap(self, balance: Balance, amount: int) -> int:
        """The largest cap, at most the wanted one, whose quote fits an amount of the balance's unit."""
        cap = self.quote.cap_within(balance.limit.unit, amount)
        return self.wanted if cap is None else min(cap, self.wanted)

    def reason(self, shortfall: Shortfall, balance: Balance) -> Reason:
        return Reason(
            shortfall=shortfall,
            limit=balance.limit,
            subject=balance.subject,
            amount=balance.amount,
            settled=balance.settled,
            reserved=balance.reserved,
            need=self.need.of(balance.limit.unit),
            need_useful=self.floor_of(balance.limit).of(balance.limit.unit),
            resets_at_ms=balance.resets_at_ms,
        )


def _is_greedy(need: Amounts, balances: Sequence[Balance]) -> bool:
    """Whether a cap that no caller asked for would hold over a tenth of what a balance has left."""
    return any(
        one.limit.is_enforced and one.limit.unit.has_output and need.of(one.limit.unit) * MODEST_SHARE > one.free
        for one in balances
    )


def _lowered(ask: _Ask, fit: Fit, balances: list[Balance]) -> tuple[int | None, list[Reason]]:
    """The cap to admit where the wanted one is not free everywhere, or None and the reasons."""
    hard = [reason for one in balances if (reason := _hard_reason(ask, one))]
    if hard:
        return None, hard
    flexible = [one for one in balances if one.limit.fit]
    can_ever = min((ask.largest_cap(one, one.unspent) for one in flexible), default=ask.wanted)
    may_lower = fit is Fit.FREE or (fit is Fit.LOWER and can_ever < ask.wanted)
    busy = [
        ask.reason(Shortfall.BUSY, one)
        for one in balances
        if (ask.floor_of(one.limit) if may_lower else ask.need).of(one.limit.unit) > one.free
    ]
    if busy:
        return None, busy
    return min(ask.largest_cap(one, one.free) for one in flexible), []


def _hard_reason(ask: _Ask, balance: Balance) -> Reason | None:
    """Why a balance refuses now, whatever calls in flight will settle at; None where only they stand in the way."""
    unit = balance.limit.unit
    if not unit.is_consumable:
        if balance.free >= 1:
            return None
        # A request is never given back; a place in flight is, at any moment.
        is_place = unit is Unit.CONCURRENT and balance.amount > 0
        return ask.reason(Shortfall.RATE if is_place else Shortfall.SPENT, balance)
    floor = ask.floor_of(balance.limit).of(unit)
    if floor > balance.amount > 0:
        return ask.reason(Shortfall.EXCEEDS, balance)
    return ask.reason(Shortfall.SPENT, balance) if floor > balance.unspent else None


def _rate_reason(rate: RateState, now_ns: int) -> Reason | None:
    """Why a rate does not let a request pass now."""
    retry_at_ns = 0
    if rate.amount > 0:
        after_ns, retry_at_ns = rate.limit.refill_of(rate.amount).admit(rate.tat_ns, now_ns)
        if after_ns is not None:
            return None
    return Reason(
        shortfall=Shortfall.RATE if rate.amount > 0 else Shortfall.SPENT,
        limit=rate.limit,
        subject=rate.subject,
        amount=rate.amount,
        settled=rate.amount,
        reserved=0,
        need=1,
        need_useful=1,
        resets_at_ms=None,
        retry_at_ms=-(-retry_at_ns // NS_PER_MS) if rate.amount > 0 else None,
    )
