"""Prices of a deployment: LiteLLM's dollars a token as our dollars per million tokens."""

import re
from collections.abc import Mapping
from decimal import Decimal

from spendfuse.litellm_config.findings import Findings
from spendfuse.litellm_config.sections import Section, is_off, plain

Prices = tuple[tuple[str, str], ...]
"""Our `prices` of one model, hashable."""

_KINDS: Mapping[str, str] = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "input_audio",
    "cache_read_input_audio_token_cost": "cache_read_audio",
    "output_cost_per_audio_token": "output_audio",
}
_TIER = re.compile(r"_above_[0-9]+k_tokens")
_SERVICE_TIER = re.compile(r"_(flex|priority|batches|batch)$")
_COST = re.compile(r"(^|_)costs?(_|$)")


def is_price(key: str) -> bool:
    return _COST.search(key) is not None


class PriceReader:
    """Reads the prices of one deployment, which stand in `litellm_params` or `model_info`; the former win."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._by_key: dict[str, Decimal] = {}
        self.unreadable: str | None = None
        """A key that prices something else than tokens, so that no price of ours is safe."""

    def read(self, section: Section) -> None:
        """Take the prices of a section, but those that were found already."""
        for key in [one for one in section.left() if is_price(one)]:
            if _SERVICE_TIER.search(key):
                self._findings.ignored(section.path_of(key), "other service tiers are not asked for")
                section.raw(key)
            elif _kind(key) is None:
                self._take_unreadable(section, key)
            else:
                price = section.per_million(key)
                if price is not None:
                    self._by_key.setdefault(key, price)

    def _take_unreadable(self, section: Section, key: str) -> None:
        value = section.raw(key)
        if not is_off(value) and not (isinstance(value, str) and _is_zero(value)):
            self.unreadable = self.unreadable or key

    def prices(self, section: Section, *, is_embedding: bool) -> Prices | None:
        """What was found, or None where it is no whole price: input and output both."""
        found: dict[str, Decimal] = {}
        for key, price in self._by_key.items():
            # Of several tiers and of reasoning the dearest holds: what a call costs must never be more.
            kind = _kind(key) or key
            found[kind] = max(found.get(kind, price), price)
        if is_embedding and "input" in found:
            found.setdefault("output", Decimal(0))
        if "input" in found and "output" in found:
            return tuple((kind, plain(found[kind])) for kind in dict.fromkeys(_KINDS.values()) if kind in found)
        if found:
            missing = "output_cost_per_token" if "input" in found else "input_cost_per_token"
            what = f"its prices are not used, as {missing} is missing: the price sheet's hold, if it has any"
            self._findings.warn(section.path, what)
        return None


def _kind(key: str) -> str | None:
    return _KINDS.get(_TIER.sub("", key))


def _is_zero(text: str) -> bool:
    try:
        return float(text) == 0
    except ValueError:
        return False
