"""From a call to what is asked of the ledger: its quote, and the output caps it can do with.

The first estimate takes the bytes of the text as its tokens, which costs nothing. Tokens are counted only when that
does not fit, and only where the model's own vocabulary is at hand, where the provider counts for nothing, or where all
limits that count are content with an estimate (`estimate: true`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from spendfuse.core.calls import Call
from spendfuse.core.decisions import Refused, Shortfall
from spendfuse.core.labels import Labels
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.quotes import CapRange
from spendfuse.core.refusals import Deny
from spendfuse.gate.learned import LearnedCaps
from spendfuse.gate.overruns import Overruns
from spendfuse.gate.routes import Route
from spendfuse.pricing.quoting import Quoted

USEFUL_REASONING_TOKENS = 4_096
USEFUL_STRUCTURED_TOKENS = 1_024
"""A schema cut short, or thinking cut short, is money for nothing: such a call needs at least this, or its own cap."""


ProviderCount = Callable[[], Awaitable[int | None]]
"""Asks a provider how many tokens a call's input has; None when it does not say."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call asks of the ledger. `sends_cap` is False for a free target that no token limit covers."""

    call: Call
    route: Route
    labels: Labels
    quoted: Quoted
    caps: CapRange
    counts: ProviderCount | None
    """How its provider can count it."""
    can_count: bool
    """Tokens have not been counted yet, and could be."""
    sends_cap: bool


class Estimator:
    """Makes estimates under one config."""

    def __init__(
        self, limits: Sequence[Limit], overruns: Overruns, learned: LearnedCaps, *, output_tokens_default: int
    ) -> None:
        self._token_limits = tuple(one for one in limits if one.unit in (Unit.TOKENS, Unit.OUTPUT_TOKENS))
        self._with_minimum = tuple(one for one in limits if one.min_output_tokens is not None)
        self._enforced = tuple(one for one in limits if one.is_enforced and one.unit.is_consumable)
        self._takes_estimates = any(one.estimate for one in self._enforced)
        self._overruns = overruns
        self._output_tokens_default = output_tokens_default
        self._learned = learned

    def rough(self, call: Call, route: Route, labels: Labels, counts: ProviderCount | None = None) -> Estimate | Deny:
        """An estimate by bytes; `counts` asks the provider for its own count."""
        quoted = route.quote(call, counted=False, overrun_percent=self._overruns.percent_of(route.target))
        if isinstance(quoted, Deny):
            return quoted
        if not call.has_output or (route.is_free and not any(one.covers(labels) for one in self._token_limits)):
            can_count = call.operation.is_billed and route.can_count
            return Estimate(call, route, labels, quoted, _NO_OUTPUT, None, can_count, sends_cap=False)
        caps = self._caps(call, route, labels, quoted)
        can_count = route.can_count or counts is not None or self._may_estimate(labels)
        return Estimate(call, route, labels, quoted, caps, counts, can_count, sends_cap=True)

    def _may_estimate(self, labels: Labels) -> bool:
        """Whether every limit of money or tokens that covers the call takes an estimate for a bound."""
        if not self._takes_estimates:
            return False
        covering = [one for one in self._enforced if one.covers(labels)]
        return bool(covering) and all(one.estimate for one in covering)

    async def counted(self, estimate: Estimate) -> Estimate:
        """The estimate with its tokens counted: by the provider, else here in a thread, as loading the vocabulary and
        long texts take a while. Where neither can be had it stays as it was.
        """
        call, route, labels = estimate.call, estimate.route, estimate.labels
        percent = self._overruns.percent_of(route.target)
        count = await estimate.counts() if estimate.counts is not None else None
        if count is not None:
            quoted = route.quote(call, counted=False, overrun_percent=percent, provider_count=count)
        elif route.can_count or self._may_estimate(labels):
            quoted = await asyncio.to_thread(route.quote, call, counted=True, overrun_percent=percent)
        else:
            return replace(estimate, can_count=False)
        assert not isinstance(quoted, Deny), "what can be bounded by bytes can be bounded"
        caps = self._caps(call, route, labels, quoted) if estimate.sends_cap else _NO_OUTPUT
        return replace(estimate, quoted=quoted, caps=caps, can_count=False)

    def counting_may_help(self, estimate: Estimate, refused: Refused) -> bool:
        """Whether fewer input tokens could change a refusal: not a rate's, nor where the least output does not fit.

        A rate that refuses too does not matter: whether the money is spent as well decides if a retry makes sense. A
        call that seems larger than a whole limit is counted even where nothing is left: it may only be spent.
        """
        if not estimate.can_count or refused.shortfall is Shortfall.RATE:
            return False
        reasons = [reason for reason in refused.reasons if reason.shortfall is not Shortfall.RATE]
        if not all(reason.limit.unit.is_consumable for reason in reasons):
            return False
        quote = replace(estimate.quoted.quote, input_tokens=0, fixed_picos=0)
        least = quote.at(estimate.caps.useful)
        exceeding = [reason for reason in reasons if reason.shortfall is Shortfall.EXCEEDS]
        if exceeding:
            return all(least.of(reason.limit.unit) <= reason.amount for reason in exceeding)
        return all(least.of(reason.limit.unit) <= reason.amount - reason.settled for reason in reasons)

    def observe(self, estimate: Estimate, output_tokens: int) -> None:
        """Learn from an answer's output, in tokens for each choice."""
        if estimate.call.has_output:
            self._learned.observe(estimate.route.name, estimate.labels.get("feature", ""), output_tokens)

    def _caps(self, call: Call, route: Route, labels: Labels, quoted: Quoted) -> CapRange:
        wanted = route.cap_wanted(call, quoted, self._output_tokens_default)
        useful = min(wanted, self._useful(call, route, labels) + call.thinking_tokens)
        if call.cap is not None:
            return CapRange(wanted, useful)
        return CapRange(wanted, useful, modest=max(useful, min(wanted, self._learned_cap(route, labels))))

    def _learned_cap(self, route: Route, labels: Labels) -> int:
        return self._learned.cap(route.name, labels.get("feature", ""))

    def _useful(self, call: Call, route: Route, labels: Labels) -> int:
        if route.reasons or (call.thinks and not call.thinking_tokens):
            return max(self._learned_cap(route, labels), USEFUL_REASONING_TOKENS)
        if call.is_structured:
            return max(self._learned_cap(route, labels), USEFUL_STRUCTURED_TOKENS)
        of_limits = [one.min_output_tokens or 0 for one in self._with_minimum if one.covers(labels)]
        return max(of_limits, default=route.min_output_tokens)


_NO_OUTPUT = CapRange(0, 0)
