"""Who calls: client keys, known by their SHA-256 only.

Keys come from the config and from the ledger's store; a key revoked or created by any process counts in this one within
`POLL_S`. Failure policy: closed for keys that were never seen, while a store that is away leaves the keys as last read:
its limits refuse every call in the meantime anyway.
"""

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Iterable, Mapping

from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.refusals import Code, Deny
from spendfuse.gate.requests import Caller
from spendfuse.ledger.store import KeyRecord, Ledger

logger = logging.getLogger("spendfuse.server")
POLL_S = 0.5
KEY_PREFIX = "sk-sf-"


def new_key() -> str:
    """A fresh client key with 256 bits of randomness; shown once, never stored."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest_of(key: bytes) -> bytes:
    """The form in which a key is stored and compared. Keys are random, so that a plain hash can't be guessed back."""
    return hashlib.sha256(key).digest()


class Keyring:
    """The keys that are valid now."""

    def __init__(self, configured: Iterable[KeyRecord], ledger: Ledger) -> None:
        self._configured = tuple(configured)
        self._ledger = ledger
        self._callers: dict[bytes, tuple[bytes, Caller]] = {}
        self._admit(self._configured)

    def _admit(self, records: Iterable[KeyRecord]) -> None:
        self._callers = {
            record.digest[:8]: (record.digest, _caller_of(record)) for record in records if record.revoked_at_ms is None
        }

    def caller(self, headers: Mapping[bytes, bytes]) -> Caller | Deny:
        """The caller that a request's `Authorization: Bearer` or `x-api-key` header authenticates."""
        key = _key_in(headers)
        if key is None:
            return Deny(
                Code.INVALID_API_KEY,
                "No API key given. Send a Spendfuse key as `Authorization: Bearer KEY` or `x-api-key: KEY`.",
            )
        digest = digest_of(key)
        # The short prefix finds the candidate; only the constant-time comparison decides.
        known = self._callers.get(digest[:8])
        if known is None or not hmac.compare_digest(known[0], digest):
            return Deny(Code.INVALID_API_KEY, "The API key is not valid: it is unknown to this gateway, or revoked.")
        return known[1]

    async def load(self) -> None:
        """Read the store's keys."""
        await self._ledger.keys_changed()
        self._admit((*await self._ledger.keys(), *self._configured))

    async def follow(self) -> None:
        """Keep up with the store until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                if await self._ledger.keys_changed():
                    self._admit((*await self._ledger.keys(), *self._configured))
            except LedgerUnavailable as error:
                logger.warning("keys_not_reloaded error=%s", error)


def _caller_of(record: KeyRecord) -> Caller:
    labels = {**record.labels, "key": record.name}
    return Caller(record.name, labels, frozenset(record.labels_from))


def _key_in(headers: Mapping[bytes, bytes]) -> bytes | None:
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(b" ")
        return key.strip() if scheme.lower() == b"bearer" and key.strip() else None
    return headers.get(b"x-api-key") or None
