"""The fingerprint of a request: equal for retries, whatever ids and metadata each of them carries."""

from hashlib import blake2b

from spendfuse.wire.json_body import JsonObject, write_canonical

IDENTIFYING_FIELDS = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "stream_options", "store"})


def fingerprint_of(body: JsonObject) -> str:
    """A hash of the body less ids and metadata; the order of keys does not matter."""
    kept: JsonObject = {name: value for name, value in body.items() if name not in IDENTIFYING_FIELDS}
    return blake2b(write_canonical(kept), digest_size=16).hexdigest()
