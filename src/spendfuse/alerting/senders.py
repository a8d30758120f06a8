"""How a message gets to a channel: through apprise, whose plugins know some hundred services.

Failure policy: a sender never raises; what went wrong is a text, without anything of the channel's URL, and whether to
try again is for the outbox to say. A plugin that hangs holds up nothing but a thread of its own.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from spendfuse.alerting.messages import Message
from spendfuse.config.alerts import Alerting, Channel
from spendfuse.config.secret import MASK
from spendfuse.core.alerts import Phase, Severity
from spendfuse.core.errors import ConfigInvalid
from spendfuse.ledger.worker import WorkerThread

if TYPE_CHECKING:
    from apprise import NotifyBase

SEND_TIMEOUT_S = 10.0
"""So long a message may take in all; the next of its channel comes after it."""
CONNECT_TIMEOUT_S = 4.0
READ_TIMEOUT_S = 8.0
HANGING_MAX = 3
"""With so many threads that hang in a channel, no further one is begun."""
_SECRET_CHARS_MIN = 4
_REASON_CHARS_MAX = 300


class Sender(Protocol):
    """Sends messages to one channel, one at a time."""

    async def send(self, message: Message) -> str | None:
        """Send a message; None once the receiver has taken it, else why not. Ends within `SEND_TIMEOUT_S`."""
        ...


def check_channels(alerting: Alerting) -> None:
    """Look at the channels' URLs, sending nothing. Also loads what sends, which would hold up calls later.

    Raises:
        ConfigInvalid: no service is reached by one of them.
    """
    for channel in alerting.channels.values():
        if channel.signs_with is None:
            _plugin_of(channel)


class AppriseSender:
    """A channel that apprise knows."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._secrets = secrets_of(channel.url.reveal())
        self._thread: WorkerThread | None = None
        self._hanging = 0

    async def send(self, message: Message) -> str | None:
        """See `Sender`."""
        if self._hanging >= HANGING_MAX:
            return "earlier tries hang still"
        thread = self._thread = self._thread or WorkerThread(f"alerts-{self._channel.name}")
        sending = thread.submit(lambda: self._send(message))
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                return await asyncio.shield(sending)
        except TimeoutError:
            # That thread is left to itself; the next message has one of its own.
            thread.stop()
            self._thread = None
            self._hanging += 1
            sending.add_done_callback(self._note_end)
            return f"no answer within {SEND_TIMEOUT_S:g} s"

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    def _send(self, message: Message) -> str | None:
        from apprise import NotifyFormat, NotifyType

        types = {
            Severity.INFO: NotifyType.INFO,
            Severity.WARNING: NotifyType.WARNING,
            Severity.CRITICAL: NotifyType.FAILURE,
        }
        kind = NotifyType.SUCCESS if message.phase is Phase.RESOLVED else types[message.severity]
        plugin = _plugin_of(self._channel)
        if hasattr(plugin, "dedup"):
            # An incident has a key, by which it is raised once and resolved by what says that it is over.
            vars(plugin).update(dedup=message.alert_id, action="map")
        with _heard() as said:
            try:
                is_sent = bool(plugin.notify(message.text, message.title, kind, body_format=NotifyFormat.TEXT))
            except Exception as error:  # noqa: BLE001 - a plugin's defect is a failed try
                return self._told(f"{type(error).__name__}: {error}")
        return None if is_sent else self._told("; ".join(said) or "the receiver did not take it")

    def _told(self, text: str) -> str:
        return redacted(" ".join(text.split()), self._secrets)[:_REASON_CHARS_MAX]

    def _note_end(self, sending: "asyncio.Future[str | None]") -> None:
        self._hanging -= 1
        if not sending.cancelled():
            sending.exception()


def secrets_of(url: str) -> list[str]:
    """Whatever of a URL may be a secret, as it is and unquoted, the longest first: all but its scheme."""
    parts = urlsplit(url)
    split = url.partition("://")[2].replace("?", "/").replace("&", "/").replace("@", "/").replace(":", "/")
    found = {url, parts.netloc, *split.split("/"), *(one.partition("=")[2] for one in split.split("/"))}
    found |= {unquote(one) for one in found}
    return sorted((one for one in found if len(one) >= _SECRET_CHARS_MIN), key=len, reverse=True)


def redacted(text: str, secrets: list[str]) -> str:
    """A text without any of these."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _plugin_of(channel: Channel) -> "NotifyBase":
    """A new plugin for the channel's URL, as they keep what was sent.

    Raises:
        ConfigInvalid: no service is reached by it.
    """
    # A fifth of a second, and only for those who have channels.
    from apprise import Apprise, AppriseAsset

    asset = AppriseAsset(app_id="Spendfuse", app_desc="Spendfuse", app_url="", image_url_mask="", image_url_logo="")
    with _heard() as said:
        plugin = _instantiate(Apprise)(channel.url.reveal(), asset=asset)
    if plugin is None:
        secrets = secrets_of(channel.url.reveal())
        why = redacted("; ".join(said), secrets) or "apprise knows no such service"
        raise ConfigInvalid(f"alerts.channels.{channel.name}: {why}")
    bounds: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_read_timeout": READ_TIMEOUT_S,
        "retry": 0,
    }
    if hasattr(plugin, "include_image"):
        bounds["include_image"] = False
    vars(plugin).update(bounds)
    return plugin


def _instantiate(apprise: Any) -> "Callable[..., NotifyBase | None]":
    return apprise.instantiate


class _Heard(logging.Handler):
    """What apprise says on one thread. It goes nowhere else: it may hold parts of a URL."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self._thread_id = threading.get_ident()
        self._logger = logging.getLogger("apprise")

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread_id:
            self.said.append(record.getMessage())

    def __enter__(self) -> list[str]:
        self._logger.propagate = False
        # What is sent stands in the debug lines of what apprise sends it with.
        logging.getLogger("urllib3").setLevel(logging.WARNING)
        self._logger.addHandler(self)
        return self.said

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)


_heard: Callable[[], _Heard] = _Heard
