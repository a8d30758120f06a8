"""Breakers from their sections, and those of a config that says nothing of any."""

from spendfuse.config.problems import Path, Problems, closest
from spendfuse.config.schema import BreakerSection, Document
from spendfuse.core.breakers import (
    FIVE_MINUTES,
    PAUSE,
    Breaker,
    Burn,
    Drift,
    ErrorRate,
    MeanLatency,
    Measure,
    Spent,
    Trigger,
)
from spendfuse.core.labels import FLEETING_LABELS
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.windows import Span

DEFAULT_BREAKERS = (
    Breaker("errors", ErrorRate(percent=10), each=("target",)),
    Breaker("slow", MeanLatency(ms=30_000), each=("target",), cooldown_ms=60_000),
)
"""Of a config without `breakers`; an empty section has none."""

_DRIFT_OVER = Span(3_600_000)
_COOLDOWN_MS = 30_000
_COOLDOWN_MS_SLOW = 60_000
_WEEK_MS = 7 * 86_400_000


def build_breakers(document: Document, limits: tuple[Limit, ...], problems: Problems) -> tuple[Breaker, ...]:
    """The breakers of a document whose sections are valid each by itself."""
    if "breakers" not in document.model_fields_set:
        return DEFAULT_BREAKERS
    by_name = {limit.name: limit for limit in limits}
    return tuple(_breaker(name, section, by_name, problems) for name, section in document.breakers.items())


def _breaker(name: str, section: BreakerSection, limits: dict[str, Limit], problems: Problems) -> Breaker:
    path = ("breakers", name)
    if name == PAUSE.name:
        problems.add(path, "is what Spendfuse calls targets that asked to be left alone: give it another name")
    for label in sorted(FLEETING_LABELS & set(section.each or ())):
        problems.add((*path, "each"), f"{label} has about as many values as there are calls")
    if section.limit is not None:
        return _of_limit(name, section, limits, problems)
    default_over = _DRIFT_OVER if section.trigger == "drift" else FIVE_MINUTES
    default_cooldown_ms = _COOLDOWN_MS_SLOW if section.trigger == "mean_latency" else _COOLDOWN_MS
    return Breaker(
        name=name,
        trigger=_trigger(section),
        each=tuple(section.each or ()),
        over=default_over if section.over is None else Span(section.over),
        cooldown_ms=default_cooldown_ms if section.cooldown is None else section.cooldown,
        # One that drifts has longer answers than it had, which may be as it should be.
        opens=section.trigger != "drift" if section.opens is None else section.opens,
    )


def _trigger(section: BreakerSection) -> Trigger:
    if section.error_rate is not None:
        return ErrorRate(section.error_rate, section.min_calls or 20, section.min_errors or 5)
    if section.mean_latency is not None:
        return MeanLatency(section.mean_latency, section.min_calls or 10, to_first_token=section.ttft is True)
    if section.usd is not None:
        return Burn(nanos=section.usd)
    assert section.times is not None, "the schema has seen to it"
    if section.drift is None:
        return Burn(times=section.times)
    return Drift(Measure(section.drift), section.times, section.baseline or _WEEK_MS, section.min_calls or 20)


def _of_limit(name: str, section: BreakerSection, limits: dict[str, Limit], problems: Problems) -> Breaker:
    """A breaker that follows a limit: by default for just the calls that the limit counts."""
    assert section.limit is not None
    path: Path = ("breakers", name, "limit")
    opens = section.opens is not False
    limit = limits.get(section.limit)
    if limit is None:
        hint = closest(section.limit, limits)
        problems.add(path, f"{problems.got(path, section.limit)}, expected a limit of `limits`{hint}")
        return Breaker(name, Spent(section.limit))
    if not limit.is_enforced:
        problems.add(path, f'limit "{limit.name}" is a shadow one, which refuses nothing and so is never spent')
    if limit.is_rate or limit.unit is Unit.CONCURRENT:
        problems.add(path, f'limit "{limit.name}" comes free again by itself, and so is never spent')
    if section.each is None:
        return Breaker(name, Spent(limit.name), limit.each, opens=opens, match=limit.match)
    for label in section.each:
        if label not in limit.each:
            counted = ", ".join(limit.each) or "no label"
            problems.add(("breakers", name, "each"), f'names {label}, but limit "{limit.name}" is counted by {counted}')
    return Breaker(name, Spent(limit.name), tuple(section.each), opens=opens)
