"""Whom a key authenticates, and how many new subjects its calls may open."""

import asyncio
from dataclasses import replace

from spendfuse.config import ConfiguredKey, LabelSource
from spendfuse.core.refusals import Code, Deny
from spendfuse.gate.requests import Caller
from spendfuse.ledger.memory import open_memory
from spendfuse.ledger.store import KeyRecord
from spendfuse.server.auth import Keyring, digest_of

OF_CONFIG = ConfiguredKey("app", digest_of(b"sk-app"), {"organization": "acme"}, (LabelSource.HEADERS,), 3)
OF_STORE = KeyRecord("batch", digest_of(b"sk-batch"))


def test_keys_of_the_config_have_their_own_bound_and_those_of_the_store_the_general_one() -> None:
    async def run() -> None:
        ledger = await open_memory(())
        await ledger.add_key(OF_STORE)
        keyring = Keyring([OF_CONFIG], ledger, new_subjects_per_hour=7)
        assert isinstance(keyring.caller({b"x-api-key": b"sk-batch"}), Deny)
        await keyring.load()
        labels = {"organization": "acme", "key": "app"}
        assert keyring.caller({b"authorization": b"Bearer sk-app"}) == Caller("app", labels, frozenset({"headers"}), 3)
        batch = Caller("batch", {"key": "batch"}, frozenset({"headers", "body"}), 7)
        assert keyring.caller({b"x-api-key": b"sk-batch"}) == batch
        both = {b"authorization": b"Bearer another-service", b"x-api-key": b"sk-batch"}
        assert keyring.caller(both) == keyring.caller({**both, b"authorization": b"Basic YTpi"}) == batch
        await ledger.add_key(KeyRecord("new", digest_of(b"sk-new")))
        assert isinstance(keyring.caller({b"x-api-key": b"sk-new"}), Deny)
        assert await keyring.caller_anew({b"x-api-key": b"sk-new"}) == replace(batch, key="new", labels={"key": "new"})
        await ledger.revoke_key("batch")
        await keyring.load()
        refused = keyring.caller({b"x-api-key": b"sk-batch"})
        assert isinstance(refused, Deny) and refused.code is Code.INVALID_API_KEY
        await ledger.close()

    asyncio.run(run())
