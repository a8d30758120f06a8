"""Compiles the price sheet that ships with Spendfuse from genai-prices: `python -m spendfuse.pricing.compile`.

For development only: genai-prices is not installed with Spendfuse. It reads the price *structure* (an example call
would get the tier of its own size) and writes one file per provider, one line per model, in the order of the source,
because there the first model whose rule matches a name wins. Whatever a bill of ours could not reproduce (images,
video, pages, hours) makes a model unpriced, with the reason, rather than cheaper than it is.
"""

import hashlib
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import orjson
from genai_prices.data import providers
from genai_prices.types import (
    ClauseAnd,
    ClauseContains,
    ClauseEndsWith,
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ClauseStartsWith,
    MatchLogic,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

SNAPSHOT_DATE = date(2026, 11, 10)
"""When the pinned version of the source was released."""

PICOS_PER_TOKEN_OF_USD_PER_MILLION = 10**6
PICOS_PER_REQUEST_OF_USD_PER_THOUSAND = 10**9
STANDARD_TIERS = frozenset({"default"})

Json = dict[str, object]

_RATES = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_long",
    "input_audio_mtok": "input_audio",
    "cache_audio_read_mtok": "cache_read_audio",
    "output_audio_mtok": "output_audio",
    "requests_kcount": "request",
}
# Fees of tools that run at the provider: a dialect refuses or prices the tools themselves.
_TOOL_FEES = frozenset({"web_searches_kcount", "storage_searches_kcount"})
_OTHER_MODALITIES = ("_audio", "_image", "_video")


@dataclass(frozen=True, slots=True)
class _Corrections:
    unpriced_models: Mapping[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    unpriced_names: Mapping[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    text_only: frozenset[tuple[str, str]] = frozenset()


def render() -> dict[str, bytes]:
    """The whole sheet: the contents of `data/prices/` by file name."""
    corrections = _read_corrections()
    sheet = {f"{one.id}.jsonl": b"".join(_lines(one, corrections)) for one in providers if one.models}
    digest = hashlib.sha256()
    for name in sorted(sheet):
        digest.update(name.encode() + b"\0" + sheet[name])
    about = {
        "source": f"genai-prices {version('genai-prices')}",
        "snapshot_date": SNAPSHOT_DATE.isoformat(),
        "sha256": digest.hexdigest(),
        "fallbacks": {one.id: one.fallback_model_providers for one in providers if one.fallback_model_providers},
    }
    return {**sheet, "sheet.json": orjson.dumps(about, option=orjson.OPT_INDENT_2) + b"\n"}


def main() -> None:
    """Write the sheet into the package, removing files of providers that are gone."""
    folder = Path(str(files("spendfuse.pricing"))) / "data" / "prices"
    folder.mkdir(parents=True, exist_ok=True)
    sheet = render()
    for gone in {path.name for path in folder.iterdir()} - sheet.keys():
        (folder / gone).unlink()
    for name, content in sheet.items():
        (folder / name).write_bytes(content)
    sys.stdout.write(f"{len(sheet)} files, {sum(map(len, sheet.values()))} bytes\n")


def _read_corrections() -> _Corrections:
    raw = tomllib.loads((files("spendfuse.pricing") / "corrections.toml").read_text(encoding="utf-8"))
    corrections = _Corrections(
        {(one["provider"], model): one["reason"] for one in raw["unpriced"] for model in one.get("models", ())},
        {(one["provider"], name): one["reason"] for one in raw["unpriced"] for name in one.get("names", ())},
        frozenset((one["provider"], model) for one in raw["text_only"] for model in one["models"]),
    )
    known = {(provider.id, model.id) for provider in providers for model in provider.models}
    missing = (corrections.unpriced_models.keys() | corrections.text_only) - known
    if missing:
        raise ValueError(f"corrections.toml names models that the source does not have: {sorted(missing)}")
    return corrections


def _lines(provider: Provider, corrections: _Corrections) -> Iterable[bytes]:
    for (owner, name), reason in corrections.unpriced_names.items():
        if owner == provider.id:
            yield _line({"model": name, "match": {"equals": name}, "unpriced": reason})
    for model in provider.models:
        yield _line(_entry(provider.id, model, corrections))


def _line(entry: Json) -> bytes:
    return orjson.dumps(entry) + b"\n"


def _entry(provider_id: str, model: ModelInfo, corrections: _Corrections) -> Json:
    entry: Json = {"model": model.id, "match": _clause(model.match)}
    if model.context_window is not None:
        entry["window"] = model.context_window
    key = (provider_id, model.id)
    is_text_only = key in corrections.text_only
    reason = corrections.unpriced_models.get(key) or _unpriced_reason(model, is_text_only)
    if reason is not None:
        return {**entry, "unpriced": reason}
    if any(price.output_mtok is None for price in _standard_prices(model)):
        entry["input_only"] = True
    return {**entry, "prices": _dated_prices(model, is_text_only)}


def _clause(match: MatchLogic) -> Json:
    """The rule that tells a model by its name, in lower case but for regular expressions."""
    match match:
        case ClauseEquals():
            return {"equals": match.equals.lower()}
        case ClauseStartsWith():
            return {"starts_with": match.starts_with.lower()}
        case ClauseEndsWith():
            return {"ends_with": match.ends_with.lower()}
        case ClauseContains():
            return {"contains": match.contains.lower()}
        case ClauseRegex():
            return {"regex": match.regex}
        case ClauseOr():
            return {"or": [_clause(one) for one in match.or_]}
        case ClauseAnd():
            return {"and": [_clause(one) for one in match.and_]}


def _unpriced_reason(model: ModelInfo, is_text_only: bool) -> str | None:
    """Why this model has no price that a bill of ours could follow; None if it has one."""
    keys = {key for price in _all_prices(model) for key, value in _values(price).items() if value is not None}
    if not keys & {"input_mtok", "output_mtok"}:
        return "it has no price per token" if keys else "no price is known"
    odd = set[str]() if is_text_only else keys - _RATES.keys() - _TOOL_FEES
    if odd:
        return f"it bills what its usage does not tell apart ({', '.join(sorted(odd))})"
    if any(price.input_mtok is None for price in _standard_prices(model)):
        return "no price of its input is known"
    return None


def _all_prices(model: ModelInfo) -> list[ModelPrice]:
    return [*_standard_prices(model), *(variant.prices for variant in model.price_variants or ())]


def _standard_prices(model: ModelInfo) -> list[ModelPrice]:
    return [model.prices] if isinstance(model.prices, ModelPrice) else [one.prices for one in model.prices]


def _values(price: ModelPrice) -> dict[str, Decimal | TieredPrices | None]:
    return dict(price.__dict__)


def _dated_prices(model: ModelInfo, is_text_only: bool) -> list[Json]:
    """All prices, oldest first: for each date on which one starts, first the one for all day, then those of hours."""
    starts, edges = _changes(model)
    dated: list[Json] = []
    for since in (None, *starts):
        day = since or min(starts, default=date(2020, 1, 2)) - timedelta(days=1)
        prices = [_price(model, datetime.combine(day, edge, UTC), is_text_only) for edge in edges]
        prefix: Json = {"since": since.isoformat()} if since else {}
        for index, (edge, price) in enumerate(zip(edges, prices, strict=True)):
            end_s = _second(edges[index + 1]) if index + 1 < len(edges) else 24 * 3_600
            if index == 0:
                dated.append({**prefix, **price})
            elif price != prices[0]:
                dated.append({**prefix, "daily": [_second(edge), end_s], **price})
    return [
        one for index, one in enumerate(dated) if index == 0 or _without_date(one) != _without_date(dated[index - 1])
    ]


def _without_date(price: Json) -> Json:
    return {key: value for key, value in price.items() if key != "since"}


def _changes(model: ModelInfo) -> tuple[list[date], list[time]]:
    """The dates on which a price starts, and the times of day at which one does, midnight included."""
    constraints = [] if isinstance(model.prices, ModelPrice) else [one.constraint for one in model.prices]
    constraints += [one.constraint for one in model.price_variants or ()]
    starts = {one.start_date for one in constraints if isinstance(one, StartDateConstraint)}
    edges = {time(0, 0, tzinfo=UTC)}
    for one in constraints:
        if isinstance(one, TimeOfDateConstraint):
            if one.start_time.tzinfo != UTC or one.end_time.tzinfo != UTC:
                raise ValueError(f"{model.id}: only times of day in UTC can be compiled")
            edges |= {one.start_time, one.end_time}
    return sorted(starts), sorted(edges)


def _second(moment: time) -> int:
    return moment.hour * 3_600 + moment.minute * 60 + moment.second


def _price(model: ModelInfo, at: datetime, is_text_only: bool) -> Json:
    """The price at an instant, those of its service tiers included."""
    price = _tiered(model.get_prices(at), is_text_only)
    names = {
        variant.when["service_tier"]
        for variant in model.price_variants or ()
        if variant.when.keys() == {"service_tier"} and (variant.constraint is None or variant.constraint.active(at))
    }
    tiers = {
        name: _tiered(model.get_prices(at, {"service_tier": name}), is_text_only)
        for name in sorted(names - STANDARD_TIERS)
    }
    return {**price, "service_tiers": tiers} if tiers else price


def _tiered(price: ModelPrice, is_text_only: bool) -> Json:
    """A price with its long-context tiers, each of which prices the whole call."""
    other = {key for key in _values(price) if any(part in key for part in _OTHER_MODALITIES)}
    skipped = _TOOL_FEES | other if is_text_only else _TOOL_FEES
    values = {key: value for key, value in _values(price).items() if value is not None and key not in skipped}
    starts = sorted(
        {tier.start for value in values.values() if isinstance(value, TieredPrices) for tier in value.tiers}
    )
    base = _rates(values, 0)
    return {**base, "tiers": [[start, _rates(values, start + 1)] for start in starts]} if starts else base


def _rates(values: Mapping[str, Decimal | TieredPrices], input_tokens: int) -> Json:
    rates = {_RATES[key]: _picos(key, _at(values[key], input_tokens)) for key in _RATES if key in values}
    return {"input": 0, "output": 0, **rates}


def _at(value: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return next((tier.price for tier in reversed(value.tiers) if input_tokens > tier.start), value.base)


def _picos(key: str, usd: Decimal) -> int:
    """Whole pico-dollars, rounded up: some prices are quotients (0.18000000000000002)."""
    scale = PICOS_PER_REQUEST_OF_USD_PER_THOUSAND if key == "requests_kcount" else PICOS_PER_TOKEN_OF_USD_PER_MILLION
    return int((usd * scale).to_integral_value(ROUND_CEILING))


if __name__ == "__main__":
    main()
