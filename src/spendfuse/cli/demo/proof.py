"""The proof: what the ledger says, what the provider billed, and what the limit allowed."""

import asyncio
import time

from spendfuse.cli.audit import say_audit
from spendfuse.cli.output import fail, say
from spendfuse.cli.report import fetch_report, say_report
from spendfuse.cli.texts import counted
from spendfuse.core.money import format_usd
from spendfuse.ledger.store import Ledger
from spendfuse.simulator.process import RunningSimulator

SETTLE_TIMEOUT_S = 10.0
CHECK_S = 0.05


async def say_proof(ledger: Ledger, simulator: RunningSimulator, *, limit_name: str, config_option: str) -> None:
    """Show the reports and the audit, and compare the bills.

    Raises:
        typer.Exit: the books do not agree, or the limit was exceeded.
    """
    await _until_settled(ledger)
    for arguments, label, top in (("--by feature", "feature", None), ("--by user --top 5", "user", 5)):
        say(f"$ spendfuse report {arguments} {config_option}")
        say_report(await fetch_report(ledger, label, since_ms=0, top=top))
        say()
    say(f"$ spendfuse audit {config_option}")
    say_audit(await ledger.audit())
    say()
    bill = simulator.bill(wait_idle_s=SETTLE_TIMEOUT_S)
    spent = (await fetch_report(ledger, "feature", since_ms=0)).total
    (limit,) = await ledger.balances(limit_name)
    is_kept = bill.nanos <= limit.amount
    say(f"the ledger: ${format_usd(spent.cost)} in {counted(spent.calls, 'call')}, {_compared(spent.cost, bill.nanos)}")
    say(
        f"the provider's own bill: ${format_usd(bill.nanos)}, at most the limit ${format_usd(limit.amount)}: "
        f"{'yes' if is_kept else 'NO'}"
    )
    if not is_kept or spent.cost < bill.nanos:
        fail("the ledger does not cover the provider's bill")


def _compared(spent_nanos: int, billed_nanos: int) -> str:
    if spent_nanos == billed_nanos:
        return "what the provider billed, to the nano-dollar"
    relation = "more" if spent_nanos > billed_nanos else "LESS"
    return f"${format_usd(abs(spent_nanos - billed_nanos))} {relation} than the provider billed"


async def _until_settled(ledger: Ledger) -> None:
    """Settling happens behind the answer, so the last calls may still be on their way into the ledger."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    # Other processes' balances can only be asked for.
    while any(one.reserved for one in await ledger.balances()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(CHECK_S)
