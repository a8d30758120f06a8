"""The price sheet that ships with Spendfuse: who sells which model for what, since when.

Read lazily, one file per provider, without the library it was compiled from. A name is *authorised* by being known:
it must match the rule of a model and be, but for a snapshot suffix, one of the names in that rule. So
`gpt-4o-mini-2024-07-18` is priced, and `claude-sonnet-4-5-evil` is not, although a prefix rule matches it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TypedDict, cast

import orjson

from spendfuse.core.errors import SpendfuseError
from spendfuse.core.prices import DailyWindow, DatedPrice, Price, Rates, price_at

REMEMBERED_NAMES_MAX = 1_024
"""Names whose lookup is remembered; invented ones push each other out."""

_SNAPSHOT_SUFFIX = re.compile(
    r"(?:[-@](?:latest|preview|exp|v\d+(?::\d+)?|\d{3,4}|\d{8}|\d{4}-\d{2}-\d{2}|\d{2}-\d{2}(?:\d{2})?))+$"
)
_OTHER_NAMES = {
    "bedrock": "aws",
    "gemini": "google",
    "moonshot": "moonshotai",
    "vertex": "google",
    "voyage": "voyageai",
    "xai": "x-ai",
}
"""What people call providers that the sheet calls otherwise."""

_RATE_NAMES = tuple(Rates.__dataclass_fields__)


class SheetDamaged(SpendfuseError):
    """A file of the price sheet cannot be read."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One model of the sheet. `unpriced` says why it has no price; then `prices` is empty.

    `input_only`: only its input has a price, so it serves embeddings, not chat.
    """

    provider: str
    model: str
    prices: tuple[DatedPrice, ...]
    context_window: int | None = None
    input_only: bool = False
    unpriced: str | None = None


@dataclass(frozen=True, slots=True)
class About:
    """Which prices these are, for the record."""

    source: str
    snapshot_date: date
    sha256: str


_Rule = Mapping[str, object]


class _ProviderSheet:
    """One provider's lines: the rules are decoded, the prices only when asked for."""

    def __init__(self, provider: str, content: bytes) -> None:
        self._provider = provider
        self._lines = content.splitlines()
        try:
            self._rules = [cast("_Rule", orjson.loads(line)["match"]) for line in self._lines]
        except (orjson.JSONDecodeError, KeyError) as error:
            raise SheetDamaged(f"the price sheet of {provider} is damaged; reinstall Spendfuse") from error
        # Most rules only spell names out: those are looked up, and the others tried one by one.
        self._exact: dict[str, int] = {}
        self._tried: list[int] = []
        for index, rule in enumerate(self._rules):
            if _is_exact(rule):
                for name in _exact_names(rule):
                    self._exact.setdefault(name, index)
            else:
                self._tried.append(index)

    def find(self, name: str) -> Listing | None:
        index = self._index_of(name)
        if index is None:
            return None
        entry = orjson.loads(self._lines[index])
        known = {entry["model"].lower(), *_literals(self._rules[index])}
        is_known = name in known or _SNAPSHOT_SUFFIX.sub("", name) in known
        return _listing(self._provider, entry) if is_known else None

    def names(self) -> Iterator[str]:
        """Each model's own name, then those that its rule takes as they are."""
        for line, rule in zip(self._lines, self._rules, strict=True):
            own = str(orjson.loads(line)["model"])
            yield own
            yield from (name for name in _exact_names(rule) if name != own.lower())

    def _index_of(self, name: str) -> int | None:
        """The first line whose rule matches a name in lower case."""
        exact = self._exact.get(name)
        for index in self._tried:
            if exact is not None and index > exact:
                break
            if _matches(self._rules[index], name):
                return index
        return exact


class Sheet:
    """A price sheet. Thread-safe; looking up a name twice costs a dictionary access."""

    def __init__(self, folder: Traversable) -> None:
        raw = orjson.loads((folder / "sheet.json").read_bytes())
        self.about = About(raw["source"], date.fromisoformat(raw["snapshot_date"]), raw["sha256"])
        self.providers = frozenset(
            one.name.removesuffix(".jsonl") for one in folder.iterdir() if one.name.endswith(".jsonl")
        )
        self._fallbacks = cast("Mapping[str, list[str]]", raw["fallbacks"])
        self._folder = folder
        self._opened: dict[str, _ProviderSheet] = {}
        self.listing = lru_cache(REMEMBERED_NAMES_MAX)(self._listing)
        """The listing of a provider's model, `listing(provider, model)`; None when the sheet does not know it."""

    @staticmethod
    def load() -> "Sheet":
        """The sheet that came with this version."""
        return Sheet(files("spendfuse.pricing") / "data" / "prices")

    def names(self, seller: str) -> Iterator[str]:
        """The names that a seller's models have here, as far as they are spelled out."""
        return self._open(seller).names()

    def price(self, provider: str, model: str, at: datetime) -> Price | None:
        """What a model costs at an instant; None when the sheet does not know. It may be zero: see `Price.is_free`."""
        listing = self.listing(provider, model)
        return None if listing is None else price_at(listing.prices, at)

    def _listing(self, provider: str, model: str) -> Listing | None:
        provider = provider.lower()
        provider = _OTHER_NAMES.get(provider, provider)
        for seller in (provider, *self._fallbacks.get(provider, ())):
            if seller in self.providers and (found := self._open(seller).find(model.lower())):
                return found
        return None

    def _open(self, provider: str) -> _ProviderSheet:
        if provider not in self._opened:
            content = (self._folder / f"{provider}.jsonl").read_bytes()
            self._opened[provider] = _ProviderSheet(provider, content)
        return self._opened[provider]


def _matches(rule: _Rule, name: str) -> bool:
    """Whether a rule of the source matches a name in lower case."""
    for key, value in rule.items():
        match key, value:
            case "equals", str():
                return name == value
            case "starts_with", str():
                return name.startswith(value)
            case "ends_with", str():
                return name.endswith(value)
            case "contains", str():
                return value in name
            case "regex", str():
                return re.search(value, name) is not None
            case "or", list():
                return any(_matches(one, name) for one in cast("list[_Rule]", value))
            case "and", list():
                return all(_matches(one, name) for one in cast("list[_Rule]", value))
            case _:
                raise SheetDamaged(f"the price sheet has an unknown rule {key!r}; reinstall Spendfuse")
    return False


def _is_exact(rule: _Rule) -> bool:
    """Whether a rule is no more than names."""
    return all(
        key == "equals" or (key == "or" and all(map(_is_exact, cast("list[_Rule]", value))))
        for key, value in rule.items()
    )


def _exact_names(rule: _Rule) -> Iterator[str]:
    """The names that a rule takes as they are, which are in lower case."""
    for key, value in rule.items():
        if key == "equals":
            yield str(value)
        elif key == "or":
            for one in cast("list[_Rule]", value):
                yield from _exact_names(one)


def _literals(rule: _Rule) -> Iterator[str]:
    """The names that a rule spells out."""
    for key, value in rule.items():
        if isinstance(value, list):
            for one in cast("list[_Rule]", value):
                yield from _literals(one)
        elif key != "regex":
            yield cast("str", value)


class _Entry(TypedDict, total=False):
    model: str
    window: int
    input_only: bool
    unpriced: str
    prices: list[dict[str, object]]


def _listing(provider: str, entry: _Entry) -> Listing:
    return Listing(
        provider=provider,
        model=entry.get("model", ""),
        prices=tuple(_dated(one) for one in entry.get("prices", ())),
        context_window=entry.get("window"),
        input_only=entry.get("input_only", False),
        unpriced=entry.get("unpriced"),
    )


def _dated(raw: dict[str, object]) -> DatedPrice:
    since, daily = raw.get("since"), raw.get("daily")
    return DatedPrice(
        datetime.fromisoformat(cast("str", since)).replace(tzinfo=UTC) if since else None,
        _price(raw),
        DailyWindow(*cast("list[int]", daily)) if daily else None,
    )


def _price(raw: Mapping[str, object]) -> Price:
    tiers = cast("list[tuple[int, dict[str, object]]]", raw.get("tiers", ()))
    service_tiers = cast("dict[str, dict[str, object]]", raw.get("service_tiers", {}))
    return Price(
        _rates(raw),
        tuple((above, _rates(rates)) for above, rates in tiers),
        {name: _price(one) for name, one in service_tiers.items()},
    )


def _rates(raw: Mapping[str, object]) -> Rates:
    return Rates(**{name: cast("int", raw[name]) for name in _RATE_NAMES if name in raw})
