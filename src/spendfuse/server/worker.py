"""The worker's side: one forked process that serves, and does what its parent says.

It ends its calls in good order when its parent is gone, and says why when it can't start or can't follow; what follows
from that is for the parent to say.
"""

import asyncio
import functools
import logging
import signal
import socket

from spendfuse.server.channel import Channel, Word
from spendfuse.server.protocol import ServerLimits
from spendfuse.server.reloading import try_reload
from spendfuse.server.run import AppFactory, ServedApp, StartFailed, StopSwitch, run_app

logger = logging.getLogger("spendfuse.server")

_REASON_CHARS_MAX = 8_192


async def serve_as_worker(
    factory: AppFactory,
    sockets: list[socket.socket],
    channel: Channel,
    *,
    document: str,
    limits: ServerLimits,
    reload_s: float,
) -> None:
    """Serve until the parent says stop, or is gone.

    Raises:
        SystemExit: the app could not be opened, which the parent has been told.
    """
    switch = StopSwitch()
    documents: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    # One worker may be asked to end by itself; unlike the parent's, its second signal means no more than the first.
    loop.add_signal_handler(signal.SIGTERM, switch.stop)
    loop.add_reader(channel.fileno(), _obey, channel, switch, documents)
    try:
        await run_app(
            factory,
            sockets,
            document=document,
            limits=limits,
            switch=switch,
            on_accepting=functools.partial(channel.send, Word.ACCEPTS),
            beside=functools.partial(_follow, channel, documents, reload_s),
        )
    except StartFailed as exc:
        channel.send(Word.START_FAILED, str(exc)[:_REASON_CHARS_MAX])
        raise SystemExit(1) from None
    finally:
        loop.remove_reader(channel.fileno())


def _obey(channel: Channel, switch: StopSwitch, documents: asyncio.Queue[str]) -> None:
    frames = channel.receive()
    if frames is None:
        asyncio.get_running_loop().remove_reader(channel.fileno())
        logger.warning("parent_gone")
        switch.stop()
        return
    for frame in frames:
        match frame.word:
            case Word.STOP:
                switch.stop()
            case Word.CUT:
                switch.cut()
            case Word.FOLLOW:
                # The parent sends the next one after the answer to this.
                documents.put_nowait(frame.text)
            case _:
                logger.error("order_unknown word=%s", frame.word.name)


async def _follow(channel: Channel, documents: asyncio.Queue[str], reload_s: float, app: ServedApp) -> None:
    """Take each document that the parent sends, and answer; until cancelled."""
    while True:
        reason = await try_reload(app, await documents.get(), reload_s)
        if reason is None:
            channel.send(Word.FOLLOWS)
        else:
            channel.send(Word.CANNOT_FOLLOW, reason[:_REASON_CHARS_MAX])
