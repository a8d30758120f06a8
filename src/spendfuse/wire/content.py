"""What the content of every dialect shares: the strings in a value, the kind of a medium, and what is to be cached."""

from spendfuse.core.calls import CacheWrite, MediaKind
from spendfuse.wire.json_body import Json, JsonObject

_KIND_OF_MIME = {"image": MediaKind.IMAGE, "audio": MediaKind.AUDIO}
_CACHE_CONTROL = "cache_control"
_SHORT_TTLS = frozenset({None, "5m"})
"""Of a cache's shortest lifetime, which is the vendor's default."""


def media_kind(mime: str) -> MediaKind:
    """The kind of a MIME type."""
    if mime.strip() == "application/pdf":
        return MediaKind.DOCUMENT
    return _KIND_OF_MIME.get(mime.strip().partition("/")[0], MediaKind.OTHER)


def add_strings(value: Json, texts: list[str]) -> None:
    """Add every string in a value, keys of objects included."""
    open_values: list[Json] = [value]
    while open_values:
        node = open_values.pop()
        if isinstance(node, str):
            texts.append(node)
        elif isinstance(node, dict):
            texts.extend(node)
            open_values.extend(node.values())
        elif isinstance(node, list):
            open_values.extend(node)


def cache_write_of(body: JsonObject, raw: bytes) -> CacheWrite:
    """For how long anything in a body asks to be cached, by `cache_control` anywhere in it.

    A lifetime that is not known counts as the longest. `raw` are the bytes of the body: most have no such key, and only
    an escape could hide one there.
    """
    if _CACHE_CONTROL.encode() not in raw and b"\\u" not in raw:
        return CacheWrite.NONE
    found = CacheWrite.NONE
    open_values: list[Json] = [body]
    while open_values:
        node = open_values.pop()
        if isinstance(node, dict):
            control = node.get(_CACHE_CONTROL)
            if control is not None:
                ttl = control.get("ttl") if isinstance(control, dict) else None
                if not (ttl is None or isinstance(ttl, str)) or ttl not in _SHORT_TTLS:
                    return CacheWrite.LONG
                found = CacheWrite.SHORT
            open_values.extend(node.values())
        elif isinstance(node, list):
            open_values.extend(node)
    return found
