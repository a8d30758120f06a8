"""What is usual for a breaker's subjects, from the rollup of spend: what burn and drift are compared with."""

from collections.abc import Iterable, Mapping, Sequence

from spendfuse.core.breakers import Breaker, Burn, Counts, Drift
from spendfuse.core.labels import Labels
from spendfuse.ledger.folding import BUCKET_MS, DAY_MS, SumRow

HOUR_MS = 3_600_000
DAYS = 7
"""So many days before are the usual ones."""

Spent = tuple[Labels, Counts]
"""What calls with equal labels add up to: calls, cost and output tokens."""


def baseline_spans(breaker: Breaker, now_ms: int) -> list[tuple[int, int]]:
    """The time spans, in whole buckets of the rollup, that `baseline_of` is asked about; none for breakers without a
    baseline. Each is half-open."""
    match breaker.trigger:
        case Burn(times=int()):
            from_ms, until_ms = _hours(breaker, now_ms)
            return [(from_ms - day * DAY_MS, until_ms - day * DAY_MS) for day in range(1, DAYS + 1)]
        case Drift(baseline_ms=baseline_ms):
            until_ms = (now_ms - breaker.over.ms) // BUCKET_MS * BUCKET_MS
            return [((until_ms - baseline_ms) // BUCKET_MS * BUCKET_MS, until_ms)]
        case _:
            return []


def baseline_of(breaker: Breaker, spans: Sequence[Iterable[Spent]], now_ms: int) -> dict[str, Counts]:
    """What is usual for each subject, from what was spent in each of `baseline_spans`.

    Drift: the calls of the time before. Burn: the mean of the same hours of the days before, of at most seven and as
    far back as the subject has spent anything, in proportion to the breaker's window.
    """
    by_span = [_by_subject(breaker, one) for one in spans]
    subjects = {subject for one in by_span for subject in one}
    if not isinstance(breaker.trigger, Burn):
        return by_span[0] if by_span else {}
    from_ms, until_ms = _hours(breaker, now_ms)
    usual: dict[str, Counts] = {}
    for subject in subjects:
        days = max(day for day, one in enumerate(by_span, 1) if subject in one)
        cost = sum(one[subject].cost for one in by_span if subject in one)
        usual[subject] = Counts(cost=cost * breaker.over.ms // (days * (until_ms - from_ms)))
    return usual


def spent_of(rows: Iterable[SumRow], label_sets: Mapping[int, Labels]) -> Iterable[Spent]:
    """Rows of the rollup with their labels."""
    for label_set_id, _, _, calls, cost, _, output_tokens, _ in rows:
        yield label_sets[label_set_id], Counts(calls=int(calls), cost=int(cost), output_tokens=int(output_tokens))


def _hours(breaker: Breaker, now_ms: int) -> tuple[int, int]:
    """The whole hours, the one that runs included, that the window of a breaker lies in."""
    until_ms = (now_ms // HOUR_MS + 1) * HOUR_MS
    return until_ms - -(-breaker.over.ms // HOUR_MS) * HOUR_MS, until_ms


def _by_subject(breaker: Breaker, several: Iterable[Spent]) -> dict[str, Counts]:
    counts: dict[str, Counts] = {}
    for labels, more in several:
        if breaker.covers(labels):
            subject = breaker.subject_of(labels)
            counts[subject] = counts.get(subject, Counts()) + more
    return counts
