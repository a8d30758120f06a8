"""Our own webhook: one JSON object for each message, signed.

    x-spendfuse-alert-id: what the alert is known by; the same for its end, and for another try of either
    x-spendfuse-timestamp: seconds since the epoch
    x-spendfuse-signature: v1=HMAC-SHA256 of `TIMESTAMP.BODY` by the secret, in hexadecimal

A receiver answers with any 2xx. One that has an alert's event already answers likewise and forgets the second.
"""

import hashlib
import hmac
import json
from collections.abc import Callable

from spendfuse.alerting.messages import Message
from spendfuse.alerting.senders import CONNECT_TIMEOUT_S, SEND_TIMEOUT_S
from spendfuse.config.secret import Secret
from spendfuse.upstream.client import NeverSent, UpstreamClient, UpstreamError, UpstreamRequest, UpstreamTimeout


class WebhookSender:
    """A channel that takes signed JSON. `now_s` tells the time of a message."""

    def __init__(self, url: Secret, signs_with: Secret, client: UpstreamClient, now_s: Callable[[], int]) -> None:
        self._url = url
        self._signs_with = signs_with
        self._client = client
        self._now_s = now_s

    async def send(self, message: Message) -> str | None:
        """See `Sender`."""
        body = json.dumps(message.data, ensure_ascii=False, separators=(",", ":")).encode()
        timestamp = str(self._now_s())
        headers = {
            "content-type": "application/json",
            "user-agent": "spendfuse",
            "x-spendfuse-alert-id": message.alert_id,
            "x-spendfuse-timestamp": timestamp,
            "x-spendfuse-signature": signature(self._signs_with, timestamp, body),
        }
        request = UpstreamRequest(
            self._url.reveal(),
            headers,
            body,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            first_byte_timeout_s=SEND_TIMEOUT_S,
            read_timeout_s=SEND_TIMEOUT_S,
            total_timeout_s=SEND_TIMEOUT_S,
        )
        try:
            async with self._client.post(request) as answer:
                return None if 200 <= answer.status < 300 else f"the receiver answered HTTP {answer.status}"
        except UpstreamTimeout:
            return f"no answer within {SEND_TIMEOUT_S:g} s"
        except NeverSent:
            # Not the error's own words, which name the receiver.
            return "no connection to the receiver"
        except UpstreamError:
            return "the connection to the receiver broke"

    def close(self) -> None:
        """Nothing is held: the client is its owner's."""


def signature(secret: Secret, timestamp: str, body: bytes) -> str:
    """What shows a receiver that a message is ours, and of when."""
    signed = timestamp.encode() + b"." + body
    return f"v1={hmac.new(secret.reveal().encode(), signed, hashlib.sha256).hexdigest()}"
