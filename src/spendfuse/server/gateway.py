"""A whole gateway in one process: what serves under its config now, and how another config takes that one's place.

All that follows from a config is one value, an `App` with its gate. A reload makes another and swaps them between two
turns of the event loop; a call keeps the one that it began with. What lives on is in `Shared`, and the keyring.

Failure policy: a reload that fails changes nothing here. What can fail comes first, the store last: it takes the limits
in one transaction. Where it did not say whether it has, the reload counts as failed; should it have taken them all the
same, they rule, and a process that still holds the former ones refuses its calls until it is reloaded.
"""

import asyncio
from collections.abc import Awaitable

from spendfuse.alerting.outbox import Outbox
from spendfuse.alerting.senders import check_channels
from spendfuse.config import Config
from spendfuse.gate.exchanges import served
from spendfuse.gate.gate import Gate
from spendfuse.gate.routes import Routes, via_of
from spendfuse.gate.shared import Shared
from spendfuse.server.admin import AdminApi
from spendfuse.server.app import App
from spendfuse.server.auth import Keyring
from spendfuse.server.others import others_app
from spendfuse.server.peers import Peers
from spendfuse.server.run import Message, Receive, Send


class Gateway:
    """The ASGI app of a gateway. The ledger has the limits of its first config already."""

    def __init__(self, config: Config, *, shared: Shared, keyring: Keyring, outbox: Outbox) -> None:
        self._shared = shared
        self._keyring = keyring
        self._outbox = outbox
        self._app = self._app_of(config, Routes(config, shared.clock))
        shared.breakers.configure(config.breakers)

    def __call__(self, scope: Message, receive: Receive, send: Send, /) -> Awaitable[None]:
        return self._app(scope, receive, send)

    async def reload(self, config: Config, /) -> None:
        """Serve another config, of the same store, from now on. Calls in flight keep the one they began with.

        Swaps the whole config or, when it raises or is cancelled, nothing. Must not be called twice at a time.

        Raises:
            ConfigInvalid: a channel of its alerts leads nowhere.
            LedgerUnavailable: the store did not take its limits.
        """
        await asyncio.to_thread(check_channels, config.alerting)
        # In a thread: many models would hold up every call.
        routes = await asyncio.to_thread(Routes, config, self._shared.clock)
        app = self._app_of(config, routes)
        # Before the swap, as it may fail. Calls of the former config are decided by the new limits in between, as are
        # those that have yet to reserve: the promise is the ledger's, whoever asks it.
        await self._shared.ledger.apply(config.limits)
        self._keyring.configure(config.keys, new_subjects_per_hour=config.new_subjects_per_hour)
        self._shared.breakers.configure(config.breakers)
        self._outbox.configure(config)
        self._app = app

    def _app_of(self, config: Config, routes: Routes) -> App:
        serves = served(config, self._shared.clock)
        gate = Gate(config=config, routes=routes, exchanges=serves.exchanges, shared=self._shared)
        admin = AdminApi(config, self._shared.ledger, self._shared.breakers.learn)
        return App(
            gate=gate,
            keyring=self._keyring,
            dialects=serves.dialects,
            models=config.models,
            others=others_app(lambda: self._shared.ledger.outage, lambda: self._outbox.failing, admin.routes()),
            peers=Peers(config.trusted_proxies) if gate.needs_peers else None,
            body_bytes_max=config.body_bytes_max,
            via=via_of(config),
        )
