"""A target's prices and caps in words, for `spendfuse prices MODEL`."""

from dataclasses import fields
from datetime import datetime

from spendfuse.core.money import PICOS_PER_USD
from spendfuse.core.prices import DatedPrice, Price, Rates
from spendfuse.pricing.targets import PricedTarget, Unpriced

Row = tuple[str, str]
"""What it is, and its value."""

_TOKENS_PER_RATE = 1_000_000
_PER_REQUEST = "request"


def describe(target: PricedTarget | Unpriced, at: datetime) -> list[Row]:
    """All rates in force at an instant (dollars a million tokens, fees in dollars a call), caps, and their source."""
    if isinstance(target, Unpriced):
        return [("provider", target.provider), ("model", target.model), ("not priced", target.reason)]
    rows = [("provider", target.provider), ("model", target.model), ("prices from", target.source)]
    in_force = next((one for one in reversed(target.prices) if one.holds_at(at)), target.prices[0])
    rows += _validity(in_force)
    rows += _price_rows(in_force.price, "")
    caps = target.caps
    known = (
        ("context window", caps.context_window),
        ("output at most", caps.output_tokens_max),
        ("a reference counts as", caps.reference_tokens),
    )
    rows += [(name, "not known" if value is None else f"{value:,} tokens") for name, value in known[:2]]
    rows += [(name, f"{value:,} tokens") for name, value in known[2:] if value is not None]
    rows.append(("hidden reasoning", "yes" if caps.reasons else "no"))
    rows.append(("tokens", "counted" if target.can_count else "bounded by bytes"))
    return rows


def usd_per_million(picos_per_token: int) -> str:
    """A price as exact dollars for a million tokens."""
    return _usd(picos_per_token * _TOKENS_PER_RATE)


def _usd(picos: int) -> str:
    dollars, fraction = divmod(picos, PICOS_PER_USD)
    decimals = f"{fraction:012d}".rstrip("0").ljust(2, "0")
    return f"{dollars}.{decimals}"


def _validity(price: DatedPrice) -> list[Row]:
    rows: list[Row] = []
    if price.since is not None:
        rows.append(("since", price.since.date().isoformat()))
    if price.daily is not None:
        rows.append(("daily, UTC", f"{_clock(price.daily.start_s)} to {_clock(price.daily.end_s)}"))
    return rows


def _clock(second: int) -> str:
    return f"{second // 3_600:02d}:{second // 60 % 60:02d}"


def _price_rows(price: Price, prefix: str) -> list[Row]:
    rows = _rate_rows(price.base, prefix)
    for above, rates in price.tiers:
        rows += _rate_rows(rates, f"{prefix}above {above:,} input tokens: ")
    for name, tier in price.service_tiers.items():
        rows += _price_rows(tier, f"{prefix}{name}: ")
    return rows


def _rate_rows(rates: Rates, prefix: str) -> list[Row]:
    rows: list[Row] = []
    for one in fields(rates):
        picos: int | None = getattr(rates, one.name)
        if one.name == _PER_REQUEST:
            rows += [(f"{prefix}each call", f"${_usd(picos)}")] if picos else []
        elif picos is not None:
            rows.append((f"{prefix}{one.name.replace('_', ' ')}", f"${usd_per_million(picos)} per million tokens"))
    return rows
