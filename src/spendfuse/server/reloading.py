"""The config of a running server, anew: where its document comes from, and how an app takes it.

A document is a config as a text, whole: the server carries it from process to process and knows no more of it.

Failure policy: a document that can't be read is refused, and the one before stays. An app that can't take one keeps the
one before as well, whole; a worker is then replaced (`supervisor`), as the processes of a server must not disagree. A
server in one process has none to disagree with, and goes on.
"""

import asyncio
import logging
from collections.abc import Callable

from spendfuse.core.errors import SpendfuseError
from spendfuse.server.run import ServedApp, StopSwitch

logger = logging.getLogger("spendfuse.server")

ReadDocument = Callable[[str], str]
"""Reads and validates the document that takes the place of the given one.

Raises:
    SpendfuseError: there is none, or it can't be served, or only after a restart; the message says why.
"""


def read_anew(read_document: ReadDocument, document: str) -> str | None:
    """The document that takes the place of this one; None where it is refused, which is logged."""
    try:
        return read_document(document)
    except SpendfuseError as exc:
        logger.error("reload_refused reason=%r", str(exc))
    except Exception as exc:  # A defect must not end a server that serves.
        logger.exception("reload_refused reason=%r", f"{type(exc).__name__}: {exc}")
    return None


async def try_reload(app: ServedApp, document: str, within_s: float) -> str | None:
    """Let the app take a document; None when it has, else why it has not."""
    bound = asyncio.timeout(within_s)
    try:
        async with bound:
            await app.reload(document)
    except SpendfuseError as exc:
        return str(exc)
    except Exception as exc:
        if bound.expired():
            return f"the app took longer than {within_s:g} s"
        logger.exception("app_reload_failed")
        return f"{type(exc).__name__}: {exc}"
    return None


class OwnReloads:
    """The reloads of a server that is this process alone: one after the other, the last of many that were asked for."""

    def __init__(self, read_document: ReadDocument, document: str, *, switch: StopSwitch, within_s: float) -> None:
        self._read_document = read_document
        self._document = document
        self._switch = switch
        self._within_s = within_s
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """What SIGHUP does."""
        if self._switch.stopped.is_set():
            log_ignored()
        else:
            self._asked.set()

    async def run(self, app: ServedApp) -> None:
        """Reload the app whenever that was asked for, also before it was open; until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            # In a thread: parsing a long config would hold up every call.
            newer = await asyncio.to_thread(read_anew, self._read_document, self._document)
            if newer is None:
                continue
            reason = await try_reload(app, newer, self._within_s)
            if reason is None:
                self._document = newer
                log_reloaded(1)
            else:
                logger.error("reload_failed reason=%r", reason)


def log_ignored() -> None:
    logger.warning("reload_ignored reason='the server is stopping'")


def log_reloaded(workers: int) -> None:
    logger.info("config_reloaded workers=%d", workers)
