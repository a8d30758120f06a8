"""What the gate tells of limits that are spent: each once for a subject and window, behind the refusal that shows it.

Failure policy: open. A note is for alerts and breakers, not for limits; one that comes while the store is away is kept
for the next try, and made again by a later refusal when its process has died.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable

from spendfuse.core.decisions import Reason
from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.ledger.spent import SpentNote
from spendfuse.ledger.store import Ledger

logger = logging.getLogger("spendfuse.gate")
KNOWN_MAX = 10_000
"""More notes than this are forgotten, all at once; the store knows them."""
_RETRY_S = 1.0


class SpentLimits:
    """Notes of this process, and those still to be told."""

    def __init__(self, ledger: Ledger, on_told: Callable[[Collection[str]], None]) -> None:
        """`on_told` is called with the names of limits once the store knows that they are spent."""
        self._ledger = ledger
        self._on_told = on_told
        self._known: set[SpentNote] = set()
        self._untold: dict[SpentNote, None] = {}
        self._waiting = asyncio.Event()

    def note(self, reasons: Iterable[Reason]) -> None:
        """Take note of the reasons of a refusal."""
        for reason in reasons:
            if not reason.is_spent_for_alerts:
                continue
            note = SpentNote(reason.limit.name, reason.subject, reason.amount, reason.resets_at_ms)
            if note not in self._known:
                if len(self._known) >= KNOWN_MAX:
                    self._known.clear()
                self._known.add(note)
                self._untold[note] = None
                self._waiting.set()

    def forget(self) -> None:
        """An amount was raised, and may be spent anew."""
        self._known.clear()

    async def run(self) -> None:
        """Tell the ledger until cancelled."""
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            if not await self.flush():
                await asyncio.sleep(_RETRY_S)
                self._waiting.set()

    async def flush(self) -> bool:
        """Tell the ledger what is untold; False when it has to be tried again."""
        if not self._untold:
            return True
        notes, self._untold = self._untold, {}
        try:
            await self._ledger.note_spent(tuple(notes))
            self._on_told({note.limit_name for note in notes})
        except LedgerUnavailable as error:
            logger.warning("spent_notes_postponed notes=%d error=%s", len(notes), error)
            self._untold = {**notes, **self._untold}
            return False
        except LedgerError as error:
            logger.error("spent_notes_dropped notes=%d error=%s", len(notes), error)
        return True
