"""What a POST looks like on the wire up to its body.

Failure policy: what could forge a header or another framing is refused as `NeverSent`, before a byte is written.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from spendfuse import __version__
from spendfuse.upstream.client import NeverSent, UpstreamRequest

_DEFAULT_HEADERS = (
    ("Accept-Encoding", "identity"),  # Usage is read out of the bytes as they pass.
    ("Content-Type", "application/json"),
    ("User-Agent", f"spendfuse/{__version__}"),
)
_OUR_HEADERS = frozenset(
    {
        "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""They belong to the connection, not to the call."""
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_HOST = re.compile(r"[0-9A-Za-z._~:-]+")
_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Where connections lead to; those of one origin are interchangeable."""

    is_tls: bool
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, taken apart once."""

    origin: Origin
    start: str = field(repr=False)
    """The request line and the `Host` header."""


@lru_cache(maxsize=256)
def target_of(url: str) -> Target:
    """Take a URL apart.

    Raises:
        NeverSent: it is not an http or https URL, or it holds credentials.
    """
    try:
        parts = urlsplit(url)
        default_port = _DEFAULT_PORTS[parts.scheme]
        port = default_port if parts.port is None else parts.port
        host = parts.hostname or ""
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except (KeyError, ValueError) as exc:
        raise _invalid_url() from exc
    if not _HOST.fullmatch(host) or not port or "@" in parts.netloc:
        raise _invalid_url()
    path = quote(parts.path or "/", safe=_URL_SAFE) + (f"?{quote(parts.query, safe=_URL_SAFE)}" if parts.query else "")
    authority = f"[{host}]" if ":" in host else host
    if port != default_port:
        authority += f":{port}"
    return Target(Origin(parts.scheme == "https", host, port), f"POST {path} HTTP/1.1\r\nHost: {authority}\r\n")


def _invalid_url() -> NeverSent:
    # Without the URL itself: some carry a key.
    return NeverSent("the request was not sent: its URL is not an http or https URL without credentials")


def head_of(target: Target, request: UpstreamRequest) -> bytes:
    """The request line and all headers, with the empty line.

    Raises:
        NeverSent: a header is malformed, given twice, or belongs to the connection.
    """
    lines = _lines_of(target.start, tuple(request.headers.items()))
    return b"%bContent-Length: %d\r\n\r\n" % (lines, len(request.body))


@lru_cache(maxsize=256)
def _lines_of(start: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    """Cached, because most calls to a target have the same headers."""
    given = {name.lower() for name, _ in headers}
    if len(given) < len(headers):
        raise NeverSent("the request was not sent: it has a header twice")
    for name, value in headers:
        if name.lower() in _OUR_HEADERS or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise NeverSent(f"the request was not sent: its header {name!r} may not be sent")
    defaults = ((name, value) for name, value in _DEFAULT_HEADERS if name.lower() not in given)
    text = start + "".join(f"{name}: {value}\r\n" for name, value in (*defaults, *headers))
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise NeverSent("the request was not sent: a header holds half a character") from exc
