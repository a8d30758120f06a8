"""When limits will be spent at their rate, by the window so far and the last day."""

from collections.abc import Iterable
from dataclasses import dataclass

from spendfuse.core.limits import Limit
from spendfuse.core.thresholds import DAY_MS, Course, spent_at_ms
from spendfuse.core.windows import Window, window_at
from spendfuse.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class Outlook:
    """A limit for one subject, with its course in the window that runs now."""

    limit: Limit
    subject: str
    window: Window
    course: Course

    def spent_at_ms(self, now_ms: int) -> int | None:
        """When it is spent if it goes on like this; None: not before the window turns."""
        return spent_at_ms(self.course, self.window, now_ms)


async def outlooks(ledger: Ledger, limits: Iterable[Limit], now_ms: int) -> list[Outlook]:
    """Of all subjects that spent something of limits of money and tokens whose windows last a day or longer."""
    last_day = await ledger.settled_since(now_ms - DAY_MS)
    found: list[Outlook] = []
    for limit in limits:
        window = window_at(limit.period, now_ms)
        if (
            not limit.unit.is_consumable
            or window.ends_at_ms is None
            or window.ends_at_ms - window.starts_at_ms < DAY_MS
        ):
            continue
        for line in await ledger.balances(limit.name):
            # One that turned between the two is looked at the next time.
            if line.settled > 0 and line.resets_at_ms == window.ends_at_ms:
                course = Course(line.amount, line.settled, last_day.get((limit.name, line.subject), 0))
                found.append(Outlook(limit, line.subject, window, course))
    return found
