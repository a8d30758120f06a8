"""Breakers: when calls of a target, a model, a feature or of everybody pause, and when they go on.

A breaker is a rule; each subject of it has a state of its own. Every function here is pure: a store keeps the states
and the counts, and calls these under its lock, so that all processes see the same transitions in one order.

    closed ── tripped ──▶ open ── cooldown over, a probe is taken ──▶ half-open ── it succeeds ──▶ closed
                           ▲                                            │
                           └──────────────── it fails ──────────────────┘

A breaker that was opened by hand is *forced open*: nothing but a hand closes it. One that watches money or drift sends
no probe, as no single call can tell, nor does one that opens for alerts only: it closes once its cooldown and what
tripped it are over. One that follows a limit closes when the limit is no longer spent, and one that a provider has
asked for (`Retry-After`) at the time that was said.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import assert_never

from spendfuse.core.labels import Labels, subject_of
from spendfuse.core.money import format_usd
from spendfuse.core.windows import MS_PER_S, Span

FIVE_MINUTES = Span(300_000)
BUCKETS = 60
"""A window is counted in so many buckets, so it is right to a sixtieth of itself."""
BUCKET_MS_MIN = 1_000
PROBE_FAILED = "the probe failed"
BY_ITSELF = "spendfuse"
"""Who changed a state that no hand has changed."""


class Phase(StrEnum):
    """Where a breaker stands, for one subject."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"


class Measure(StrEnum):
    """What drift is told by: the mean of it for each call."""

    OUTPUT_TOKENS = "output_tokens"
    COST = "cost"


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Trips when more than `percent` of the attempts in the window were errors."""

    percent: int
    min_calls: int = 20
    min_errors: int = 5


@dataclass(frozen=True, slots=True)
class MeanLatency:
    """Trips when the mean time of the answers in the window was above `ms`: to their end, or to the first token of
    streams (`to_first_token`)."""

    ms: int
    min_calls: int = 10
    to_first_token: bool = False


@dataclass(frozen=True, slots=True)
class Spent:
    """Trips when a limit is spent; closes by itself when it no longer is."""

    limit_name: str


@dataclass(frozen=True, slots=True)
class Burn:
    """Trips when more than `nanos` were charged in the window, or more than `times` as much as the same hour of the day
    had in the mean of the days before. Exactly one of them is given."""

    nanos: int | None = None
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """Trips when the mean of a measure in the window is above `times` its mean in the `baseline_ms` before it."""

    measure: Measure
    times: int
    baseline_ms: int = 7 * 86_400_000
    min_calls: int = 20


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Trips when a provider answers 429 and says when to come again; closes then."""


Trigger = ErrorRate | MeanLatency | Spent | Burn | Drift | RetryAfter


@dataclass(frozen=True, slots=True)
class Breaker:
    """One rule. `each` are the labels by which it is told apart; none: one state for all calls. `match` narrows it to
    calls whose label has one of the values.

    `opens` False: it raises alerts and refuses nothing.
    """

    name: str
    trigger: Trigger
    each: tuple[str, ...] = ()
    over: Span = FIVE_MINUTES
    cooldown_ms: int = 30_000
    opens: bool = True
    match: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    @property
    def bucket_ms(self) -> int:
        """How finely its window is counted."""
        return max(BUCKET_MS_MIN, self.over.ms // BUCKETS)

    def subject_of(self, labels: Labels) -> str:
        """The subject that a call with these labels falls under."""
        return subject_of(labels, self.each)

    def covers(self, labels: Labels) -> bool:
        """Whether a call with these labels falls under it at all."""
        return not self.match or all(labels.get(name, "") in values for name, values in self.match.items())

    @property
    def probes(self) -> bool:
        """Whether an attempt can tell that it may close: a limit that is spent, or money that was, no attempt brings
        back, and where nothing is refused every attempt tells."""
        return self.opens and isinstance(self.trigger, ErrorRate | MeanLatency)

    @property
    def is_judged(self) -> bool:
        """Whether counts decide that it closes, as they did that it opened."""
        return not self.probes and isinstance(self.trigger, ErrorRate | MeanLatency | Burn | Drift)


PAUSE = Breaker("retry-after", RetryAfter(), each=("target",))
"""What a provider's `Retry-After` opens, for its target. No config has a breaker of this name."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the attempts in a window add up to: milliseconds, nano-dollars, tokens."""

    calls: int = 0
    errors: int = 0
    timed: int = 0
    """Attempts whose time is in `latency_ms`: those that were answered."""
    latency_ms: int = 0
    cost: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.calls + other.calls,
            self.errors + other.errors,
            self.timed + other.timed,
            self.latency_ms + other.latency_ms,
            self.cost + other.cost,
            self.output_tokens + other.output_tokens,
        )


NOTHING_COUNTED = Counts()


@dataclass(frozen=True, slots=True)
class State:
    """A breaker for one subject, since an instant.

    `tries_at_ms`: when an open one may send a probe; None: it sends none. `closes_at_ms`: when an open one has nothing
    more to refuse; None: nobody can say. `probe_id` and `probe_until_ms`: whom a half-open one waits for, and until
    when, after which another probe may be taken. `why` and `who` are for people.
    """

    phase: Phase
    since_ms: int
    tries_at_ms: int | None = None
    closes_at_ms: int | None = None
    probe_id: int | None = None
    probe_until_ms: int | None = None
    why: str = ""
    who: str = BY_ITSELF


CLOSED = State(Phase.CLOSED, 0)


class Passage(StrEnum):
    """What a breaker says to a call."""

    FREE = "free"
    PROBE = "probe"
    """It may go if it is the probe, which the store has to grant."""
    BLOCKED = "blocked"


def passage(state: State, now_ms: int) -> Passage:
    """What a call is told."""
    match state.phase:
        case Phase.CLOSED:
            return Passage.FREE
        case Phase.FORCED_OPEN:
            return Passage.BLOCKED
        case Phase.OPEN:
            if state.closes_at_ms is not None and now_ms >= state.closes_at_ms:
                return Passage.FREE
            return Passage.PROBE if state.tries_at_ms is not None and now_ms >= state.tries_at_ms else Passage.BLOCKED
        case Phase.HALF_OPEN:
            is_lost = state.probe_until_ms is None or now_ms >= state.probe_until_ms
            return Passage.PROBE if is_lost else Passage.BLOCKED
        case _:
            assert_never(state.phase)


def bucket_of(breaker: Breaker, now_ms: int) -> int:
    """The bucket in which an attempt that ends now is counted, by its start."""
    return now_ms // breaker.bucket_ms * breaker.bucket_ms


def window_from_ms(breaker: Breaker, now_ms: int) -> int:
    """The first bucket of the counts that a breaker is judged by. What was counted before it last closed is no longer
    there: see `counts_now`."""
    return bucket_of(breaker, now_ms - breaker.over.ms)


def counts_now(breaker: Breaker, state: State, *, closed_since_ms: int) -> bool:
    """Whether an attempt still counts that began while its process knew the breaker as closed since then: not where it
    has been opened and closed in between, nor while only a probe is waited for."""
    if state.phase is Phase.CLOSED:
        return closed_since_ms >= state.since_ms
    return breaker.is_judged


def judged(
    breaker: Breaker, state: State, counts: Counts, now_ms: int, *, baseline: Counts = NOTHING_COUNTED
) -> State | None:
    """The state that the counts of its window bring a breaker to: open, or closed again where it sends no probe; None
    where it stays as it is."""
    why = trip_reason(breaker, counts, baseline=baseline)
    if state.phase is Phase.CLOSED and why is not None:
        return opened(breaker, now_ms, why)
    cools = state.phase is Phase.OPEN and breaker.is_judged
    if cools and why is None and now_ms >= state.since_ms + breaker.cooldown_ms:
        return recovered(now_ms, "what tripped it is over")
    return None


def opened(breaker: Breaker, now_ms: int, why: str, *, closes_at_ms: int | None = None) -> State:
    """It has tripped."""
    tries_at_ms = now_ms + breaker.cooldown_ms if breaker.probes else None
    return State(Phase.OPEN, now_ms, tries_at_ms, closes_at_ms, why=why)


def probe_taken(state: State, now_ms: int, *, probe_id: int, lease_ms: int) -> State | None:
    """The state once a call has become the probe; None where it may not: there is one, or it is too early."""
    if passage(state, now_ms) is not Passage.PROBE:
        return None
    probe_until_ms = now_ms + lease_ms
    return replace(state, phase=Phase.HALF_OPEN, tries_at_ms=None, probe_id=probe_id, probe_until_ms=probe_until_ms)


def probe_renewed(state: State, now_ms: int, *, probe_id: int, lease_ms: int) -> State | None:
    """The state once the probe has said that it still runs; None where it is the probe no more."""
    if not _is_probe(state, probe_id):
        return None
    return replace(state, probe_until_ms=now_ms + lease_ms)


def probe_ended(breaker: Breaker, state: State, now_ms: int, *, probe_id: int, succeeded: bool) -> State | None:
    """The state once the probe has ended; None where it was no probe any more: a hand, or another one, came between."""
    if not _is_probe(state, probe_id):
        return None
    if succeeded:
        return State(Phase.CLOSED, now_ms, why="the probe succeeded")
    return opened(breaker, now_ms, f"{PROBE_FAILED}; {state.why.removeprefix(f'{PROBE_FAILED}; ')}")


def probe_given_up(state: State, now_ms: int, *, probe_id: int) -> State | None:
    """The probe could not tell, as its client left before: another may be taken at once."""
    if not _is_probe(state, probe_id):
        return None
    return replace(state, phase=Phase.OPEN, tries_at_ms=now_ms, probe_id=None, probe_until_ms=None)


def _is_probe(state: State, probe_id: int) -> bool:
    return state.phase is Phase.HALF_OPEN and state.probe_id == probe_id


def forced_open(now_ms: int, *, why: str, who: str) -> State:
    """Opened by hand: it stays open until a hand closes it."""
    return State(Phase.FORCED_OPEN, now_ms, why=why, who=who)


def closed_by_hand(now_ms: int, *, why: str, who: str) -> State:
    """Closed by hand: what was counted before does not count any more."""
    return State(Phase.CLOSED, now_ms, why=why, who=who)


def recovered(now_ms: int, why: str) -> State:
    """Closed because what it was opened for is over."""
    return State(Phase.CLOSED, now_ms, why=why)


def trip_reason(breaker: Breaker, counts: Counts, *, baseline: Counts = NOTHING_COUNTED) -> str | None:
    """Why these counts trip a breaker; None where they do not. Thresholds mean *above*."""
    over = breaker.over
    match breaker.trigger:
        case ErrorRate(percent, min_calls, min_errors):
            enough = counts.calls >= min_calls and counts.errors >= min_errors
            if enough and counts.errors * 100 > percent * counts.calls:
                return f"{counts.errors} errors in {counts.calls} attempts over {over}, above {percent}%"
        case MeanLatency(ms, min_calls):
            if counts.timed >= min_calls and counts.latency_ms > ms * counts.timed:
                mean_ms = counts.latency_ms // counts.timed
                return f"mean latency {_seconds(mean_ms)} in {counts.timed} answers over {over}, above {_seconds(ms)}"
        case Burn(nanos, times):
            return _burn_reason(counts, baseline, nanos=nanos, times=times, over=over)
        case Drift():
            return _drift_reason(breaker.trigger, counts, baseline, over)
        case Spent() | RetryAfter():
            return None
        case _:
            assert_never(breaker.trigger)
    return None


def _burn_reason(counts: Counts, baseline: Counts, *, nanos: int | None, times: int | None, over: Span) -> str | None:
    spent = f"${format_usd(counts.cost)} spent over {over}"
    if nanos is not None and counts.cost > nanos:
        return f"{spent}, above ${format_usd(nanos)}"
    if times is not None and baseline.cost > 0 and counts.cost > times * baseline.cost:
        return f"{spent}, above {times} times the usual ${format_usd(baseline.cost)}"
    return None


def _drift_reason(drift: Drift, counts: Counts, baseline: Counts, over: Span) -> str | None:
    if counts.calls < drift.min_calls or baseline.calls < drift.min_calls:
        return None
    now, before = _measured(drift.measure, counts), _measured(drift.measure, baseline)
    # Means are compared without dividing: now / calls > times * before / calls before.
    if now * baseline.calls <= drift.times * before * counts.calls:
        return None
    word = drift.measure.value.replace("_", " ")
    shown = [
        _mean_text(drift.measure, total, calls) for total, calls in ((now, counts.calls), (before, baseline.calls))
    ]
    return f"mean {word} of a call {shown[0]} over {over}, above {drift.times} times the usual {shown[1]}"


def _measured(measure: Measure, counts: Counts) -> int:
    return counts.output_tokens if measure is Measure.OUTPUT_TOKENS else counts.cost


def _mean_text(measure: Measure, total: int, calls: int) -> str:
    mean = total // calls
    return f"${format_usd(mean)}" if measure is Measure.COST else f"{mean:,}"


def _seconds(ms: int) -> str:
    whole, rest = divmod(ms, MS_PER_S)
    return f"{whole}.{rest:03}".rstrip("0").rstrip(".") + " s"
