"""What the commands are given, so that none of them names a concrete engine."""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from spendfuse.alerting.senders import Sender
from spendfuse.config import Config
from spendfuse.config.alerts import Channel
from spendfuse.ledger.store import Ledger
from spendfuse.server.run import Message, Receive, Send

if TYPE_CHECKING:
    # A gate takes a while to import, which only a drill needs here.
    from spendfuse.drill.stage import OpenStage


class GatewayApp(Protocol):
    """The ASGI app of a whole gateway, whose config can be changed while it serves."""

    def __call__(self, scope: Message, receive: Receive, send: Send, /) -> Awaitable[None]: ...

    async def reload(self, config: Config, /) -> None:
        """As `ServedApp.reload`, of a config with the same store."""
        ...


@dataclass(frozen=True, slots=True)
class Factories:
    """Made by `wiring`, the only place that knows the engines."""

    open_ledger: Callable[[Config], AbstractAsyncContextManager[Ledger]]
    """The store as commands use it: it applies no limits."""
    migrate_store: Callable[[Config], Coroutine[Any, Any, list[str]]]
    """Brings the config's store up to this version; the names of what was applied."""
    open_app: Callable[[Config], AbstractAsyncContextManager[GatewayApp]]
    """The whole gateway, opened in the event loop of the process that serves it."""
    open_sender: Callable[[Channel], AbstractAsyncContextManager[Sender]]
    """What sends messages to a channel."""
    warnings: Callable[[Config, int], list[str]]
    """What is worth a warning, beyond the config's own warnings, when so many processes serve."""
    open_drill_stage: "OpenStage"
    """The inside of a gateway, on a store of its own, for a drill."""
