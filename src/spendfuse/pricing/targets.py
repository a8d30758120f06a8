"""What a target costs: config first, then the corrected sheet; or why it has no price."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from spendfuse.core.prices import DatedPrice, Price, price_at, prices_within
from spendfuse.pricing.caps import ModelCaps

CALL_SPAN = timedelta(hours=1)
"""A quote covers every price that holds within this time: the vendor may bill by when a token is made."""

STANDARD_SERVICE_TIERS = frozenset({None, "default", "standard", "standard_only"})
ANY_SERVICE_TIER = "auto"
"""The vendor chooses: the dearest may apply."""


@dataclass(frozen=True, slots=True)
class Override:
    """What config says of a provider's model, or of all of them under `*`: it beats the sheet.

    A `price` of zero is an explicit allowance. `allow_zero` accepts a zero that the sheet has, and takes a model that
    the sheet does not know for free.
    """

    price: Price | None = None
    context_window: int | None = None
    output_tokens_max: int | None = None
    reference_tokens: int | None = None
    allow_zero: bool = False


@dataclass(frozen=True, slots=True)
class PricedTarget:
    """A provider's model with its prices. `vendor` is whose price list it is looked up in; `source` names where the
    prices come from, for the record.

    `can_count`: we hold the model's own vocabulary. `input_only`: it has no price of output, so it only serves
    embeddings.
    """

    provider: str
    vendor: str
    model: str
    prices: tuple[DatedPrice, ...]
    caps: ModelCaps
    source: str
    can_count: bool = False
    input_only: bool = False

    @property
    def is_free(self) -> bool:
        """True when nothing it does can ever cost anything, which config has allowed: no cap, no money line."""
        return all(_is_free(one.price) for one in self.prices)

    def price(self, at: datetime) -> Price:
        """The price at an instant; before the first that is known, the first."""
        newest = self.prices[-1]
        if newest.is_settled_at(at):
            return newest.price
        return price_at(self.prices, at) or self.prices[0].price

    def prices_for_call(self, at: datetime) -> tuple[Price, ...]:
        """All prices that can apply to a call begun at an instant."""
        newest = self.prices[-1]
        if newest.is_settled_at(at):
            return (newest.price,)
        return prices_within(self.prices, at, CALL_SPAN) or (self.prices[0].price,)


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A provider's model that must not be called. `reason` completes "it is not priced: …"."""

    provider: str
    model: str
    reason: str

    @property
    def message(self) -> str:
        """For the caller."""
        return (
            f'model "{self.model}" of provider "{self.provider}" is not priced: {self.reason}. '
            f"Set providers.{self.provider}.prices in the config to serve it."
        )


def price_in_tier(price: Price, service_tier: str | None) -> tuple[Price, ...]:
    """The prices that a service tier can lead to; empty where this tier has none that is known."""
    if service_tier in STANDARD_SERVICE_TIERS or price.is_free:
        return (price,)
    if service_tier == ANY_SERVICE_TIER:
        return (price, *price.service_tiers.values())
    tier = price.service_tiers.get(service_tier or "")
    return () if tier is None else (tier,)


def is_zero(prices: tuple[DatedPrice, ...]) -> bool:
    """Whether any of the prices is zero: a zero that begins or ends some day must not pass unseen."""
    return any(_is_free(one.price) for one in prices)


def _is_free(price: Price) -> bool:
    return price.is_free and all(one.is_free for one in price.service_tiers.values())
