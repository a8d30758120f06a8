"""How a store runs the operations of breakers, whatever the database: read, decide by `core.breakers`, write.

Everything here happens under the store's lock and in one transaction, so that all processes see the same changes in one
order (invariant 15), and each is in the log.
"""

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar, assert_never

from spendfuse.core import breakers as rules
from spendfuse.core.breakers import CLOSED, NOTHING_COUNTED, PAUSE, Breaker, Passage, Phase, Spent, State
from spendfuse.core.labels import subject_of, subject_values
from spendfuse.ledger.breakers import (
    PROBE_LEASE_MS,
    BreakerLine,
    BreakerOperation,
    BreakerStates,
    BreakerStore,
    CountAttempts,
    CountRow,
    EndProbe,
    FollowSpent,
    ForceBreaker,
    PauseTarget,
    RenewProbe,
    StateChange,
    TakeProbe,
)
from spendfuse.ledger.spent import SpentLine

_T = TypeVar("_T")
_Touched = tuple[Breaker, str, State]


def run_now(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never waits: how stores without an event loop run what is here."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


async def run_breakers(
    store: BreakerStore, operation: BreakerOperation, now_ms: int, *, is_repeated: bool = False
) -> BreakerStates:
    """Run one of them. `is_repeated` when a commit of it was tried before, with unknown success."""
    match operation:
        case CountAttempts():
            touched = await _count(store, operation, now_ms, is_repeated=is_repeated)
        case FollowSpent():
            touched = [one for breaker in operation.breakers for one in await _follow(store, breaker, now_ms)]
        case TakeProbe():
            touched = await _take(store, operation, now_ms, is_repeated=is_repeated)
        case RenewProbe():
            touched = await _renew(store, operation, now_ms)
        case EndProbe():
            touched = [await _end(store, operation, now_ms)]
        case ForceBreaker():
            touched = [await _force(store, operation, now_ms)]
        case PauseTarget():
            touched = [await _pause(store, operation, now_ms)]
        case _:
            assert_never(operation)
    lines = tuple(_line(breaker, subject, state) for breaker, subject, state in touched)
    return BreakerStates(await store.revision(), now_ms, lines)


async def _count(
    store: BreakerStore, operation: CountAttempts, now_ms: int, *, is_repeated: bool
) -> Sequence[_Touched]:
    states = await store.states([one.key for one in operation.several])
    rows: list[CountRow] = []
    for one in operation.several:
        breaker, state = one.breaker, states.get(one.key, CLOSED)
        if one.counts != NOTHING_COUNTED and rules.counts_now(breaker, state, closed_since_ms=one.closed_since_ms):
            bucket_ms = rules.bucket_of(breaker, now_ms)
            until_ms = bucket_ms + breaker.bucket_ms + breaker.over.ms
            rows.append(CountRow(breaker.name, one.subject, bucket_ms, until_ms, one.counts))
    # Counted too little once, after a commit of unknown success, rather than twice.
    await store.add_counts([] if is_repeated else rows, now_ms)
    windows = [(*one.key, rules.window_from_ms(one.breaker, now_ms)) for one in operation.several]
    touched: list[_Touched] = []
    for one, counts in zip(operation.several, await store.counts(windows), strict=True):
        before = states.get(one.key, CLOSED)
        after = rules.judged(one.breaker, before, counts, now_ms, baseline=one.baseline)
        touched.append(await _changed(store, one.breaker, one.subject, before, after, now_ms))
    return touched


async def _follow(store: BreakerStore, breaker: Breaker, now_ms: int) -> Sequence[_Touched]:
    assert isinstance(breaker.trigger, Spent)
    states = await store.states_of(breaker.name)
    lines = [one for one in await store.spent(now_ms) if one.limit.name == breaker.trigger.limit_name]
    spent = _by_subject(breaker, lines)
    touched: list[_Touched] = []
    for key in sorted(states.keys() | {(breaker.name, subject) for subject in spent}):
        before, line = states.get(key, CLOSED), spent.get(key[1])
        after: State | None = None
        # One that a hand has closed since the limit was spent stays closed.
        if before.phase is Phase.CLOSED and line is not None and line.since_ms >= before.since_ms:
            after = rules.opened(breaker, now_ms, _spent_text(line), closes_at_ms=line.ends_at_ms)
        elif before.phase is Phase.OPEN and line is None:
            after = rules.recovered(now_ms, f'limit "{breaker.trigger.limit_name}" is no longer spent')
        touched.append(await _changed(store, breaker, key[1], before, after, now_ms))
    return touched


def _by_subject(breaker: Breaker, lines: Sequence[SpentLine]) -> Mapping[str, SpentLine]:
    """What is spent, by the breaker's subjects: of several limit's subjects the one that was spent last."""
    spent: dict[str, SpentLine] = {}
    for line in sorted(lines, key=lambda one: one.since_ms):
        labels = dict(zip(line.limit.each, subject_values(line.subject), strict=True))
        spent[subject_of(labels, breaker.each)] = line
    return spent


def _spent_text(line: SpentLine) -> str:
    pairs = zip(line.limit.each, subject_values(line.subject), strict=True)
    subject = ", ".join(f"{name}={value or '(none)'}" for name, value in pairs)
    of = f" ({subject})" if subject else ""
    return f'limit "{line.limit.name}"{of} of {line.limit.unit.amount_text(line.amount)} is spent'


async def _take(store: BreakerStore, operation: TakeProbe, now_ms: int, *, is_repeated: bool) -> Sequence[_Touched]:
    """All of them or none: a call is the probe of every breaker that stands in its way."""
    states = await _states(store, operation.several)
    if is_repeated and all(state.probe_id == operation.probe_id for _, _, state in states):
        return states
    if any(rules.passage(state, now_ms) is Passage.BLOCKED for _, _, state in states):
        return states
    touched: list[_Touched] = []
    for breaker, subject, before in states:
        # One that is closed by now does not stand in the way.
        after = rules.probe_taken(before, now_ms, probe_id=operation.probe_id, lease_ms=PROBE_LEASE_MS)
        touched.append(await _changed(store, breaker, subject, before, after, now_ms))
    return touched


async def _renew(store: BreakerStore, operation: RenewProbe, now_ms: int) -> Sequence[_Touched]:
    touched: list[_Touched] = []
    for breaker, subject, before in await _states(store, operation.several):
        after = rules.probe_renewed(before, now_ms, probe_id=operation.probe_id, lease_ms=PROBE_LEASE_MS)
        touched.append(await _changed(store, breaker, subject, before, after, now_ms, is_logged=False))
    return touched


async def _end(store: BreakerStore, operation: EndProbe, now_ms: int) -> _Touched:
    breaker, subject, probe_id = operation.breaker, operation.subject, operation.probe_id
    ((_, _, before),) = await _states(store, ((breaker, subject),))
    if operation.succeeded is None:
        after = rules.probe_given_up(before, now_ms, probe_id=probe_id)
    else:
        after = rules.probe_ended(breaker, before, now_ms, probe_id=probe_id, succeeded=operation.succeeded)
    return await _changed(store, breaker, subject, before, after, now_ms)


async def _force(store: BreakerStore, operation: ForceBreaker, now_ms: int) -> _Touched:
    ((_, _, before),) = await _states(store, ((operation.breaker, operation.subject),))
    forced = rules.forced_open if operation.is_open else rules.closed_by_hand
    after = forced(now_ms, why=operation.why, who=operation.who)
    return await _changed(store, operation.breaker, operation.subject, before, after, now_ms)


async def _pause(store: BreakerStore, operation: PauseTarget, now_ms: int) -> _Touched:
    subject = subject_of({"target": operation.target}, PAUSE.each)
    ((_, _, before),) = await _states(store, ((PAUSE, subject),))
    until_ms, after = now_ms + operation.ms, None
    if before.phase is not Phase.FORCED_OPEN and until_ms > (before.closes_at_ms or 0):
        after = rules.opened(PAUSE, now_ms, operation.why, closes_at_ms=until_ms)
    # Pauses come and go as providers ask for them; the log is for what people have to know of.
    return await _changed(store, PAUSE, subject, before, after, now_ms, is_logged=False)


async def _states(store: BreakerStore, several: Sequence[tuple[Breaker, str]]) -> Sequence[_Touched]:
    states = await store.states([(breaker.name, subject) for breaker, subject in several])
    return [(breaker, subject, states.get((breaker.name, subject), CLOSED)) for breaker, subject in several]


async def _changed(
    store: BreakerStore,
    breaker: Breaker,
    subject: str,
    before: State,
    after: State | None,
    now_ms: int,
    *,
    is_logged: bool = True,
) -> _Touched:
    """Write a state that has changed."""
    if after is None:
        return (breaker, subject, before)
    await store.write_state(StateChange(_line(breaker, subject, after), before, is_logged), now_ms)
    if after.phase is Phase.CLOSED:
        await store.clear_counts((breaker.name, subject))
    await store.grow_revision()
    return (breaker, subject, after)


def _line(breaker: Breaker, subject: str, state: State) -> BreakerLine:
    return BreakerLine(breaker.name, subject, breaker.each, state)
