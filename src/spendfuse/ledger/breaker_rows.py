"""Rows of breakers as both databases have them."""

import json
from typing import Any

from spendfuse.core.breakers import Phase, State
from spendfuse.ledger.breakers import BreakerChange, BreakerLine, CountRow, StateChange

CHANGES_MAX = 2**31


def state_of(row: tuple[Any, ...]) -> State:
    """From `phase` to `who`."""
    phase, *rest = row
    return State(Phase(phase), *rest)


def line_of(row: tuple[Any, ...]) -> BreakerLine:
    """A whole row of `breaker_state`."""
    breaker, subject, each, *state = row
    return BreakerLine(breaker, subject, tuple(json.loads(each)), state_of(tuple(state)))


def change_of(row: tuple[Any, ...]) -> BreakerChange:
    """A whole row of `breaker_change`."""
    number, at_ms, breaker, subject, each, before, after, why, who = row
    return BreakerChange(
        number, at_ms, breaker, subject, tuple(json.loads(each)), Phase(before), Phase(after), why, who
    )


def state_row(line: BreakerLine) -> tuple[Any, ...]:
    """As `upsert_breaker_state` takes it."""
    state = line.state
    return (
        *(line.breaker, line.subject, json.dumps(line.each), state.phase.value, state.since_ms),
        *(state.tries_at_ms, state.closes_at_ms, state.probe_id, state.probe_until_ms, state.why, state.who),
    )


def change_row(change: StateChange, now_ms: int) -> tuple[Any, ...]:
    """As `insert_breaker_change` takes it."""
    line, state = change.line, change.line.state
    phases = (change.before.phase.value, state.phase.value)
    return (now_ms, line.breaker, line.subject, json.dumps(line.each), *phases, state.why, state.who)


def count_row(row: CountRow) -> tuple[Any, ...]:
    """As `upsert_breaker_count` and `upsert_breaker_counts` takes it."""
    counts = row.counts
    return (
        *(row.breaker, row.subject, row.bucket_ms, row.until_ms),
        *(counts.calls, counts.errors, counts.timed, counts.latency_ms, counts.cost, counts.output_tokens),
    )
