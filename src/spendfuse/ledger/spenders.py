"""Who spends a limit, and how fast: the rollup of quarters of an hour as limits count it, whatever the database."""

from collections.abc import Iterable, Mapping, Sequence

from spendfuse.core.labels import FLEETING_LABELS, Labels
from spendfuse.core.limits import Limit
from spendfuse.ledger.folding import BUCKET_MS, Sum, SumRow, fold
from spendfuse.ledger.store import SpendRow


def knows(limit: Limit) -> bool:
    """Whether the rollup can tell what a limit counts."""
    return not limit.is_rate and FLEETING_LABELS.isdisjoint((*limit.each, *limit.match))


def bucket_of(at_ms: int) -> int:
    """The start of the quarter of an hour that holds an instant."""
    return at_ms // BUCKET_MS * BUCKET_MS


def spender_rows(
    label: str, limit: Limit, subject: str, rows: Iterable[SumRow], label_sets: Mapping[int, Labels]
) -> list[SpendRow]:
    """Spend by the values of a label, of what a limit counts under a subject, the dearest first."""
    totals: dict[str, list[int]] = {}
    for label_set_id, _, _, calls, cost, input_tokens, output_tokens, estimated_cost in rows:
        labels = label_sets[label_set_id]
        if limit.covers(labels) and limit.subject_of(labels) == subject:
            total = totals.setdefault(labels.get(label, ""), [0] * 5)
            for column, more in enumerate((calls, input_tokens, output_tokens, cost, estimated_cost)):
                total[column] += more
    return sorted((SpendRow(value, *total) for value, total in totals.items()), key=lambda row: (-row.cost, row.value))


def settled_by_limit(limits: Iterable[Limit], settled: Sequence[Sum]) -> dict[tuple[str, str], int]:
    """What each limit counts of these, by its name and subject, in its unit; not those that the rollup can't tell."""
    return {
        (limit.name, subject): amount
        for limit in limits
        if knows(limit)
        for subject, (amount, _) in fold(limit, settled=settled, reserved=()).items()
    }
