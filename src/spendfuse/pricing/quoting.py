"""Quotes and charges: what a call can cost at most, and what it did cost.

The invariant that ties them: usage within the bound implies a charge within the quote.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from spendfuse.core.calls import CacheWrite, Call
from spendfuse.core.money import Nanos
from spendfuse.core.prices import DatedPrice, Price, Rates
from spendfuse.core.quotes import Quote
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.usage import Usage
from spendfuse.pricing import tokens
from spendfuse.pricing.bounds import InputBound, Unboundable, input_bound
from spendfuse.pricing.caps import CapsTable, ModelCaps
from spendfuse.pricing.sheet import REMEMBERED_NAMES_MAX, Sheet
from spendfuse.pricing.targets import Override, PricedTarget, Unpriced, is_zero, price_in_tier

OUTPUT_TOKENS_DEFAULT = 4_096
FREE = Price(Rates(input=0, output=0))
ANY_MODEL = "*"
FOREIGN_PERCENT = 115
_FOREIGN_PERCENT = {"anthropic": 135}
"""Another vendor's tokens for a text in percent of ours: a guess on the safe side, so an estimate and never a bound."""

Overrides = Mapping[str, Mapping[str, Override]]
"""By provider, then by model or `*`."""
Vendors = Mapping[str, str]
"""By provider: whose price list and model names it has, where its own name does not say it."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """A call's quote at a target and the input bound it rests on."""

    quote: Quote
    bound: InputBound


NOTHING_BILLED = Quoted(Quote(0, 0, 0), InputBound(0))
NO_VENDORS: Vendors = {}


@dataclass(frozen=True, slots=True)
class WantedCap:
    """The output cap to ask for, in tokens for each choice. `lowered`: less than the client asked for."""

    tokens: int
    lowered: bool = False


class Pricer:
    """Prices calls at targets. Pure but for its memory of names, so one serves all threads."""

    def __init__(self, sheet: Sheet, caps: CapsTable, overrides: Overrides, vendors: Vendors = NO_VENDORS) -> None:
        self._sheet = sheet
        self._caps = caps
        self._overrides = overrides
        self._vendors = vendors
        self.target_prices = lru_cache(REMEMBERED_NAMES_MAX)(self._target_prices)
        """The prices of a provider's model, `target_prices(provider, model)`."""

    @staticmethod
    def load(overrides: Overrides, vendors: Vendors = NO_VENDORS) -> "Pricer":
        """A pricer over the sheet and the caps that came with this version."""
        sheet = Sheet.load()
        return Pricer(sheet, CapsTable.load(sheet), overrides, vendors)

    def quote(
        self,
        call: Call,
        target: PricedTarget,
        *,
        counted: bool,
        at: datetime,
        overrun_percent: int = 100,
        estimated: bool = False,
        provider_count: int | None = None,
        cache_write: CacheWrite = CacheWrite.LONG,
    ) -> Quoted | Deny:
        """The upper bound of what a call can cost, at every price that can apply within an hour of `at`.

        `counted` counts tokens where that is possible: in a thread, see `bounds.input_bound`. `estimated` counts them
        by another vocabulary where we do not hold the model's own, which bounds nothing. `provider_count`
        is what the provider itself counted for the whole input. `overrun_percent` (at least 100) is what a target's
        quotes are multiplied by since it charged more than one of them. `cache_write`: for how long at most the
        provider keeps input of this call.
        """
        if not call.operation.is_billed:
            return NOTHING_BILLED
        if call.has_output and target.input_only:
            return Deny(
                Code.MODEL_NOT_PRICED,
                f'model "{target.model}" of provider "{target.provider}" has a price for its input only, so it cannot '
                f"answer: set providers.{target.provider}.prices in the config to serve it",
                "model",
            )
        prices = _prices_of(call, target, at)
        if isinstance(prices, Deny):
            return prices
        bound = input_bound(
            call.content,
            target.caps,
            operation=call.operation,
            holds_vocabulary=target.can_count,
            counted=counted,
            foreign_percent=_FOREIGN_PERCENT.get(target.vendor, FOREIGN_PERCENT) if estimated else None,
            provider_count=provider_count,
        )
        if isinstance(bound, Unboundable):
            return Deny(Code.INVALID_REQUEST, f'model "{target.model}": {bound.message}', "messages")
        return Quoted(_quote(call, prices, bound, overrun_percent=overrun_percent, cache_write=cache_write), bound)

    def charge(self, target: PricedTarget, usage: Usage, *, at: datetime, service_tier: str | None) -> Nanos:
        """The cost of a usage of a call begun at `at`.

        `service_tier` is the one that the provider says it served, else the one asked for. One without a known price is
        charged as the dearest that is known.
        """
        price = target.price(at)
        candidates = price_in_tier(price, service_tier) or (price, *price.service_tiers.values())
        return max(one.charge(usage) for one in candidates)

    def cap_for(
        self,
        call: Call,
        target: PricedTarget,
        *,
        bound: InputBound,
        output_tokens_default: int = OUTPUT_TOKENS_DEFAULT,
    ) -> WantedCap:
        """The client's cap lowered to the model's maximum; else the model's maximum; else the default.

        It leaves room for the input in the window, but never less than the default: the bound of an input is often
        several times what it turns out to be, and the provider keeps to its window by itself.
        """
        if not call.has_output:
            return WantedCap(0)
        model_max, window = target.caps.output_tokens_max, target.caps.context_window
        tokens_max = output_tokens_default if model_max is None else model_max
        if call.cap is not None:
            tokens_max = call.cap if model_max is None else min(call.cap, model_max)
        if window is not None:
            tokens_max = min(tokens_max, window, max(window - bound.tokens, output_tokens_default))
        return WantedCap(tokens_max, call.cap is not None and tokens_max < call.cap)

    def count_at_least(self, target: PricedTarget, text: str) -> int:
        """A lower estimate of the tokens that visible output was billed as.

        For a vocabulary that we hold it is what the text takes; for others half of that, as theirs differ by less.
        """
        counted = tokens.count_at_least(text)
        return counted if target.can_count else counted // 2

    def count_at_most(self, target: PricedTarget, text: str) -> int:
        """An upper bound of the same: what the text takes for a vocabulary that we hold, else its bytes."""
        return tokens.count(text) if target.can_count else len(text.encode("utf-8", "surrogatepass"))

    def _target_prices(self, provider: str, model: str) -> PricedTarget | Unpriced:
        override = self._override(provider, model)
        vendor = self._vendors.get(provider, provider)
        listing = self._sheet.listing(vendor, model)
        if override.price is not None:
            prices, source, input_only = (DatedPrice(None, override.price),), "config", False
        elif listing is None and override.allow_zero:
            prices, source, input_only = (DatedPrice(None, FREE),), "config", False
        elif listing is None:
            return Unpriced(provider, model, "no price of it is known")
        elif listing.unpriced is not None:
            return Unpriced(provider, model, listing.unpriced)
        elif is_zero(listing.prices) and not override.allow_zero:
            return Unpriced(provider, model, "the price data says that it is free, which has to be allowed")
        else:
            prices, source, input_only = listing.prices, self._sheet.about.source, listing.input_only
        return PricedTarget(
            provider=provider,
            vendor=vendor,
            model=model,
            prices=prices,
            caps=_with_override(self._caps.caps_of(vendor, model), override),
            source=source,
            can_count=tokens.holds_vocabulary(vendor, model),
            input_only=input_only,
        )

    def _override(self, provider: str, model: str) -> Override:
        """Config for the model; what it does not say there, config for all of the provider's models says."""
        of_provider = self._overrides.get(provider, {})
        general = of_provider.get(ANY_MODEL, Override())
        own = of_provider.get(model, Override())
        return Override(
            price=general.price if own.price is None else own.price,
            context_window=general.context_window if own.context_window is None else own.context_window,
            output_tokens_max=general.output_tokens_max if own.output_tokens_max is None else own.output_tokens_max,
            reference_tokens=general.reference_tokens if own.reference_tokens is None else own.reference_tokens,
            allow_zero=own.allow_zero or general.allow_zero,
        )


def _with_override(caps: ModelCaps, override: Override) -> ModelCaps:
    return replace(
        caps,
        context_window=caps.context_window if override.context_window is None else override.context_window,
        output_tokens_max=caps.output_tokens_max if override.output_tokens_max is None else override.output_tokens_max,
        reference_tokens=override.reference_tokens,
    )


def _prices_of(call: Call, target: PricedTarget, at: datetime) -> tuple[Price, ...] | Deny:
    """All prices that can apply to a call, or the refusal of its service tier or of audio output.

    Audio *input* without a rate of its own is text to the vendor (Gemini 2.5 Pro).
    """
    prices: list[Price] = []
    for price in target.prices_for_call(at):
        in_tier = price_in_tier(price, call.service_tier)
        if not in_tier:
            message = f'service tier "{call.service_tier}" of model "{target.model}" is not priced: leave the field out'
            return Deny(Code.MODEL_NOT_PRICED, message, "service_tier")
        prices += in_tier
    if call.output_audio and any(one.base.output_audio is None and not one.is_free for one in prices):
        message = f'audio output of model "{target.model}" is not priced: use a model that has a price for it'
        return Deny(Code.MODEL_NOT_PRICED, message, "modalities")
    return tuple(prices)


def _quote(
    call: Call, prices: tuple[Price, ...], bound: InputBound, *, overrun_percent: int, cache_write: CacheWrite
) -> Quote:
    rates = [one for price in prices for one in price.rates_up_to(bound.tokens)]
    dearest_input = max([one.dearest_input(audio=bound.audio, cache_write=cache_write) for one in rates])
    dearest_output = max([one.dearest_output(audio=call.output_audio) for one in rates]) if call.has_output else 0
    fixed_picos = bound.tokens * dearest_input + max([one.request for one in rates])
    percent = max(overrun_percent, 100)
    return Quote(
        input_tokens=bound.tokens,
        fixed_picos=-(-fixed_picos * percent // 100),
        output_picos=-(-dearest_output * percent // 100),
        choices=call.choices,
    )
