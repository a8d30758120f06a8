"""Limits: LiteLLM's amounts and durations in our units and periods, under names that say where they come from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spendfuse.config import scalars
from spendfuse.config.document import Tree
from spendfuse.core.labels import LABEL_NAME_BYTES_MAX
from spendfuse.litellm_config.findings import Findings
from spendfuse.litellm_config.sections import Section

_DURATION = re.compile(r"([0-9]{1,6})(mo|s|m|h|d|w)")
_NO_NAME = re.compile(r"[^a-zA-Z0-9_.-]+")
_LIFETIME = frozenset({"none", "null"})

RATES: Mapping[str, tuple[str, str]] = {
    "rpm": ("requests", "minute"),
    "tpm": ("tokens", "minute"),
    "itpm": ("input_tokens", "minute"),
    "otpm": ("output_tokens", "minute"),
    "rpm_limit": ("requests", "minute"),
    "tpm_limit": ("tokens", "minute"),
    "default_api_key_rpm_limit": ("requests", "minute"),
    "default_api_key_tpm_limit": ("tokens", "minute"),
    "max_parallel_requests": ("concurrent", ""),
    "default_max_parallel_requests": ("concurrent", ""),
    "global_max_parallel_requests": ("concurrent", ""),
    "max_in_flight_requests_per_worker": ("concurrent", ""),
}
"""LiteLLM's keys for traffic: our unit and period."""


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount in one of our units, per period; `kind` is LiteLLM's key. Calls in flight have no period."""

    kind: str
    unit: str
    amount: str
    per: str = ""

    def tree(self) -> dict[str, Tree]:
        return {self.unit: self.amount, "per": self.per} if self.per else {self.unit: self.amount}


def rate(section: Section, key: str) -> Amount | None:
    """The amount of one of `RATES`."""
    count = section.count(key)
    unit, per = RATES[key]
    return None if count is None else Amount(key, unit, str(count), per)


def budget(
    section: Section, findings: Findings, amount_key: str, duration_key: str, *, resets: bool = True
) -> Amount | None:
    """Dollars per duration; without one, or where nothing `resets`, they are for ever."""
    usd = section.usd(amount_key)
    duration = section.text(duration_key)
    if amount_key not in section and duration is not None:
        findings.ignored(section.path_of(duration_key), f"there is no {amount_key}")
    if usd is None:
        return None
    if usd == "0":
        findings.warn(section.path_of(amount_key), "is 0: every call under it that costs anything is refused")
    per = _period(duration) if resets else "lifetime"
    if per is None:
        findings.unenforced(
            section.path_of(duration_key),
            f'a budget can turn each 1mo, or after so many s, m, h, d or w, but not "{duration}"',
        )
        return None
    return Amount(amount_key, "usd", usd, per)


def _period(duration: str | None) -> str | None:
    """A duration as a period: `1mo` is the calendar month, anything else a span. None for one that we do not have."""
    if duration is None or duration.strip().lower() in _LIFETIME:
        return "lifetime"
    match = _DURATION.fullmatch(duration.strip())
    if not match:
        return None
    number, unit = int(match[1]), match[2]
    if unit == "mo":
        return "month" if number == 1 else None
    per = f"{7 * number}d" if unit == "w" else f"{number}{unit}"
    try:
        scalars.period(per)
    except ValueError:  # None at all, or more than a century.
        return None
    return per


class LimitBook:
    """The section `limits`, growing."""

    def __init__(self) -> None:
        self.tree: dict[str, Tree] = {}

    def add(
        self, name: str, amount: Amount, *, each: Sequence[str] = (), match: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Add a limit under this name, or the nearest to it that is free and valid."""
        section = amount.tree()
        if each:
            section["each"] = list(each)
        if match:
            section["match"] = {label: list(values) for label, values in match.items()}
        self.tree[self._free(_NO_NAME.sub("-", name))] = section

    def _free(self, name: str) -> str:
        short = name[:LABEL_NAME_BYTES_MAX]
        number = 1
        while short in self.tree:
            number += 1
            suffix = f"-{number}"
            short = name[: LABEL_NAME_BYTES_MAX - len(suffix)] + suffix
        return short
