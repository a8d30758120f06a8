"""Breakers for people and programs: what a config has, and how each stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from spendfuse.core.breakers import CLOSED, Breaker, Burn, Drift, ErrorRate, MeanLatency, RetryAfter, Spent, State
from spendfuse.core.labels import subject_of, subject_values
from spendfuse.core.money import format_usd
from spendfuse.core.refusals import retries_at_ms
from spendfuse.core.windows import MS_PER_S, Span
from spendfuse.ledger.breakers import BreakerLine


@dataclass(frozen=True, slots=True)
class BreakerRow:
    """One breaker for one subject; of a breaker that has never opened for anybody there is one row without a
    subject."""

    breaker: Breaker
    subject: str | None
    state: State

    @property
    def labels(self) -> Mapping[str, str]:
        """The subject by its labels."""
        if self.subject is None:
            return {}
        return dict(zip(self.breaker.each, subject_values(self.subject), strict=True))

    @property
    def tries_at_ms(self) -> int | None:
        """When it lets calls through again, or tries to; None where it does, or nobody can say."""
        return None if self.state == CLOSED else retries_at_ms(self.breaker, self.state)


def breaker_rows(breakers: Sequence[Breaker], lines: Sequence[BreakerLine]) -> list[BreakerRow]:
    """How the breakers of a config stand, in its order."""
    rows: list[BreakerRow] = []
    for breaker in breakers:
        own = [one for one in lines if one.breaker == breaker.name and one.each == breaker.each]
        rows += [BreakerRow(breaker, one.subject, one.state) for one in own]
        if not own:
            rows.append(BreakerRow(breaker, None if breaker.each else "[]", CLOSED))
    return rows


class SubjectInvalid(ValueError):
    """Values don't name a subject of a breaker."""


def subject_named(breaker: Breaker, values: Sequence[str]) -> str:
    """The subject of a breaker that values in the order of its `each` name.

    Raises:
        SubjectInvalid: not as many as it is counted by.
    """
    if len(values) == len(breaker.each):
        return subject_of(dict(zip(breaker.each, values, strict=True)), breaker.each)
    if not breaker.each:
        raise SubjectInvalid(f'breaker "{breaker.name}" is one for all calls, and takes no subject')
    raise SubjectInvalid(
        f'breaker "{breaker.name}" is one for each {", ".join(breaker.each)}: expected '
        f"{','.join(name.upper() for name in breaker.each)}, got {f'{len(values)} values' if values else 'none'}"
    )


def breaker_words(breaker: Breaker) -> str:
    """A breaker in words: `errors (above 10% errors in 5m, …, each target): refuses calls for 30s, then …`."""
    each = f", each {', '.join(breaker.each)}" if breaker.each else ""
    only = "".join(f", only {name}={'|'.join(sorted(values))}" for name, values in sorted(breaker.match.items()))
    return f"{breaker.name} ({_watches(breaker)}{each}{only}): {_does(breaker)}"


def _watches(breaker: Breaker) -> str:
    over = breaker.over
    match breaker.trigger:
        case ErrorRate(percent, min_calls, min_errors):
            return f"above {percent}% errors in {over}, at least {min_calls} attempts and {min_errors} errors"
        case MeanLatency(ms, min_calls, to_first_token):
            what = "time to the first token" if to_first_token else "latency"
            return f"mean {what} above {_span(ms)} in {over}, at least {min_calls} answers"
        case Spent(limit_name):
            return f'limit "{limit_name}" is spent'
        case Burn(nanos, times):
            much = f"${format_usd(nanos)}" if nanos is not None else f"{times} times what is usual at this hour"
            return f"above {much} spent in {over}"
        case Drift(measure, times, baseline_ms, min_calls):
            what = measure.value.replace("_", " ")
            return (
                f"mean {what} of a call in {over} above {times} times that of the last {_span(baseline_ms)}, "
                f"at least {min_calls} calls"
            )
        case RetryAfter():
            return "its provider asked to be left alone"
        case _:
            assert_never(breaker.trigger)


def _does(breaker: Breaker) -> str:
    if not breaker.opens:
        return "raises alerts, refuses nothing"
    if breaker.probes:
        return f"refuses calls for {_span(breaker.cooldown_ms)}, then one call tries"
    if breaker.is_judged:
        return f"refuses calls for at least {_span(breaker.cooldown_ms)}, until that is over"
    if isinstance(breaker.trigger, Spent):
        return "refuses calls until the window turns, the amount is raised or somebody closes it"
    return "refuses calls for as long"


def _span(ms: int) -> str:
    return str(Span(ms)) if ms % MS_PER_S == 0 else f"{ms}ms"
