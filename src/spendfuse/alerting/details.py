"""What is found out about an alert before it is sent: who spends the limit that it is about, or the digest's figures.

Failure policy: a store that fails fails the whole step, which is taken again.
"""

import json
from collections.abc import Iterable

from spendfuse.alerting.digest import digest_details, fetch_digest, span_of
from spendfuse.alerting.messages import Wording
from spendfuse.alerting.routing import kind_of
from spendfuse.config import Config
from spendfuse.core.alerts import Alert, AlertKind
from spendfuse.core.limits import Unit
from spendfuse.ledger.store import Ledger, SpendRow

TOPS_SHOWN = 3


async def details_of(ledger: Ledger, alert: Alert, *, config: Config, wording: Wording, now_ms: int) -> str | None:
    """As JSON; None where there is nothing to find out."""
    if alert.kind is AlertKind.DIGEST:
        return digest_details(await fetch_digest(ledger, config.limits, span_of(alert), now_ms), wording)
    if alert.kind is AlertKind.BREAKER:
        breaker = next((one for one in config.breakers if one.name == alert.about), None)
        kind = kind_of(alert, config.breakers)
        return json.dumps({"kind": kind.value, "refuses": int(breaker is None or breaker.opens)})
    limit = next((one for one in config.limits if one.identity == alert.about), None)
    since_ms = alert.facts.get("starts_at_ms")
    if limit is None or not isinstance(since_ms, int):
        return None
    tops = {
        f"top_{label}s": _tops(await ledger.spenders(label, limit, alert.subject, since_ms=since_ms), limit.unit)
        for label in ("feature", "user")
    }
    return json.dumps(tops, ensure_ascii=False)


def _tops(rows: Iterable[SpendRow], unit: Unit) -> list[dict[str, str]]:
    amounts = sorted(((_in_unit(row, unit), row.value) for row in rows), key=lambda one: (-one[0], one[1]))
    return [{"name": value, "text": unit.amount_text(amount)} for amount, value in amounts[:TOPS_SHOWN] if amount > 0]


def _in_unit(row: SpendRow, unit: Unit) -> int:
    match unit:
        case Unit.USD:
            return row.cost
        case Unit.TOKENS:
            return row.input_tokens + row.output_tokens
        case Unit.INPUT_TOKENS:
            return row.input_tokens
        case Unit.OUTPUT_TOKENS:
            return row.output_tokens
        case Unit.REQUESTS | Unit.CONCURRENT:
            return row.calls
