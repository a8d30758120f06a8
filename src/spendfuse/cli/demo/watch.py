"""A live picture of the traffic and of the fullest balances, on a terminal only."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from spendfuse.cli.demo.traffic import Tally
from spendfuse.cli.output import is_terminal
from spendfuse.cli.texts import labels_text
from spendfuse.core.labels import subject_values
from spendfuse.core.limits import Unit
from spendfuse.ledger.store import BalanceLine, Ledger

if TYPE_CHECKING:
    from rich.text import Text

REFRESH_S = 0.12
BALANCES_SHOWN = 5
BAR_CELLS = 24


@asynccontextmanager
async def watching(tally: Tally, ledger: Ledger) -> AsyncGenerator[None]:
    """Show the picture while the block runs, and take it away afterwards; nothing when output is piped."""
    if not is_terminal():
        yield
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(highlight=False), auto_refresh=False, transient=True) as live:

        async def refresh() -> None:
            while True:
                live.update(_picture(tally, await ledger.balances()), refresh=True)
                await asyncio.sleep(REFRESH_S)

        task = asyncio.create_task(refresh())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _picture(tally: Tally, balances: Sequence[BalanceLine]) -> "Text":
    from rich.text import Text

    refused = sum(tally.refused.values())
    picture = Text(f"  {tally.calls} calls  {tally.admitted} admitted  {tally.fitted} lowered  {refused} refused\n")
    fullest = sorted(balances, key=lambda one: -_use(one))[:BALANCES_SHOWN]
    for line in fullest:
        settled = round(BAR_CELLS * min(1.0, line.settled / max(1, line.amount)))
        held = round(BAR_CELLS * min(1.0, _use(line))) - settled
        picture.append(f"  {_name(line):<28.28} ")
        picture.append("█" * settled, "red" if _use(line) > 0.9 else "green")
        picture.append("▒" * held, "yellow")
        picture.append("·" * (BAR_CELLS - settled - held), "dim")
        picture.append(f" of {Unit(line.unit).amount_text(line.amount)}\n")
    return picture


def _use(line: BalanceLine) -> float:
    return (line.settled + line.reserved) / max(1, line.amount)


def _name(line: BalanceLine) -> str:
    subject = labels_text(zip(line.each, subject_values(line.subject), strict=True))
    return f"{line.limit_name} {subject}"
