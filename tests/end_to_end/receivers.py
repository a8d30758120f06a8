"""Receivers of alerts on loopback: HTTP as Slack, PagerDuty and webhooks have it, and SMTP."""

import email
import json
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

SLACK_URL = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
PAGERDUTY_URL = "pagerduty://pagerduty-routing-key@pagerduty-api-key"
SECRETS = ("TIiajkdnlazkcOXrIdevi7FQ", "pagerduty-routing-key", "pagerduty-api-key", "webhook-path", "webhook-signs")

_SITE = """
import os
from apprise.plugins import pagerduty
from apprise.plugins.slack import NotifySlack

NotifySlack.webhook_url = os.environ["TEST_RECEIVER"] + "/slack"
pagerduty.PAGERDUTY_API_LOOKUP = {"us": os.environ["TEST_RECEIVER"] + "/pagerduty"}
"""


@dataclass(frozen=True, slots=True)
class Received:
    """One request that was taken."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class HttpReceiver:
    """A server that takes everything while `is_up`; else it answers 503, and takes nothing. It lets the paths that
    begin with one of `hangs` wait until `release` is set."""

    port: int
    is_up: bool = True
    hangs: tuple[str, ...] = ()
    taken: list[Received] = field(default_factory=list[Received])
    refused: int = 0
    hanging: int = 0
    release: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def at(self, path: str) -> list[Received]:
        """What was taken below a path, in order."""
        return [one for one in list(self.taken) if one.path.startswith(path)]


@contextmanager
def http_receiver(port: int = 0) -> Generator[HttpReceiver]:
    """Listen on a port (0: any free one)."""
    receiver = HttpReceiver(0)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if receiver.hangs and self.path.startswith(receiver.hangs):
                receiver.hanging += 1
                receiver.release.wait(60)
                receiver.hanging -= 1
                return
            if receiver.is_up:
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.taken.append(Received(self.path, headers, body))
            else:
                receiver.refused += 1
            self.send_response(200 if receiver.is_up else 503)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class SmtpReceiver:
    """A mail server that takes everything."""

    port: int
    taken: list[Message] = field(default_factory=list[Message])

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.taken.append(email.message_from_bytes(envelope.content))
        return "250 taken"


@contextmanager
def smtp_receiver() -> Generator[SmtpReceiver]:
    """Listen on a free port."""
    receiver = SmtpReceiver(free_port())
    controller = Controller(receiver, hostname="127.0.0.1", port=receiver.port)
    controller.start()
    try:
        yield receiver
    finally:
        controller.stop()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def site(folder: Path, receiver_url: str) -> dict[str, str]:
    """What makes a gateway's Slack and PagerDuty stand on loopback: for its environment."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE)
    return {"PYTHONPATH": str(folder), "TEST_RECEIVER": receiver_url}
