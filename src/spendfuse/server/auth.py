"""Who calls: client keys, known by their SHA-256 only.

Keys come from the config and from the ledger's store. Failure policy: closed for keys that were never seen; a store
that is away leaves the keys as last read: its limits refuse every call in the meantime anyway.
"""

import asyncio
import contextlib
import hashlib
import hmac
import math
import secrets
from collections.abc import Mapping, Sequence

from spendfuse.config import CLIENT_KEY_PREFIX, ConfiguredKey
from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.refusals import Code, Deny
from spendfuse.gate.requests import Caller
from spendfuse.ledger.store import KeyRecord, Ledger

RELOAD_S = 0.1


def new_key() -> str:
    """A fresh client key with 256 bits of randomness; shown once, never stored."""
    return CLIENT_KEY_PREFIX + secrets.token_urlsafe(32)


def digest_of(key: bytes) -> bytes:
    """The form in which a key is stored and compared. Keys are random, so that a plain hash can't be guessed back."""
    return hashlib.sha256(key).digest()


class Keyring:
    """The keys that are valid now: those of the config, and the store's as last loaded."""

    def __init__(self, configured: Sequence[ConfiguredKey], ledger: Ledger, *, new_subjects_per_hour: int) -> None:
        """`new_subjects_per_hour` is for the store's keys; those of the config have their own."""
        self._configured = configured
        self._ledger = ledger
        self._new_subjects_per_hour = new_subjects_per_hour
        self._stored: Sequence[KeyRecord] = ()
        self._callers: dict[bytes, tuple[bytes, Caller]] = {}
        self._loaded_at_s = -math.inf
        self._admit()

    def configure(self, configured: Sequence[ConfiguredKey], *, new_subjects_per_hour: int) -> None:
        """Take the keys of another config in place of the last one's; the store's stay."""
        self._configured = configured
        self._new_subjects_per_hour = new_subjects_per_hour
        self._admit()

    def _admit(self) -> None:
        live = [(key, self._new_subjects_per_hour) for key in self._stored if key.revoked_at_ms is None]
        configured = [(key, key.new_subjects_per_hour) for key in self._configured]
        self._callers = {key.digest[:8]: (key.digest, _caller_of(key, per_hour)) for key, per_hour in live + configured}

    def caller(self, headers: Mapping[bytes, bytes]) -> Caller | Deny:
        """The caller that a request's `Authorization: Bearer` or `x-api-key` header authenticates.

        A client whose environment has two kinds of credentials sends both; one that is ours is enough.
        """
        keys = _keys_in(headers)
        for key in keys:
            digest = digest_of(key)
            # The short prefix finds the candidate; only the constant-time comparison decides.
            known = self._callers.get(digest[:8])
            if known is not None and hmac.compare_digest(known[0], digest):
                return known[1]
        if keys:
            return Deny(Code.INVALID_API_KEY, "The API key is not valid: it is unknown to this gateway, or revoked.")
        return Deny(
            Code.INVALID_API_KEY,
            "No API key given. Send a Spendfuse key as `Authorization: Bearer KEY` or `x-api-key: KEY`.",
        )

    async def caller_anew(self, headers: Mapping[bytes, bytes]) -> Caller | Deny:
        """The same for a key that is not known: it may have been stored a moment ago, so the store is asked, at most
        ten times a second.
        """
        now_s = asyncio.get_running_loop().time()
        if _keys_in(headers) and now_s - self._loaded_at_s >= RELOAD_S:
            self._loaded_at_s = now_s
            with contextlib.suppress(LedgerUnavailable):
                await self.load()
        return self.caller(headers)

    async def load(self) -> None:
        """Read the store's keys; a `Follower` repeats it."""
        self._stored = await self._ledger.keys()
        self._admit()


def _caller_of(key: KeyRecord | ConfiguredKey, new_subjects_per_hour: int) -> Caller:
    return Caller(key.name, {**key.labels, "key": key.name}, frozenset(key.labels_from), new_subjects_per_hour)


def _keys_in(headers: Mapping[bytes, bytes]) -> list[bytes]:
    """The keys that a request shows, at most two."""
    scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
    given = (bearer.strip() if scheme.lower() == b"bearer" else b"", headers.get(b"x-api-key", b""))
    return [key for key in given if key]
