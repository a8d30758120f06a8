"""What one text in a config means.

Each reader takes what stood there and returns its value, or raises `ValueError` whose text is what was expected
instead. Besides texts, integers are taken: a tree can also come from another program's config.
"""

import re
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import cast
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from spendfuse.config.alerts import QuietHours
from spendfuse.config.secret import Secret
from spendfuse.core.labels import LabelInvalid, label_name, label_value
from spendfuse.core.limits import OnExceed, Reject, RouteTo, Shadow
from spendfuse.core.money import NANOS_PER_USD, PICOS_PER_USD, AmountInvalid, parse_exact
from spendfuse.core.windows import CalendarUnit, Lifetime, Span

_NUMBER = re.compile(r"(?:(?:0|[1-9][0-9]*(?:_[0-9]+)*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,12})(KiB|MiB|GiB)?")
_QUIET_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES = {None: 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
REJECT = Reject()
PERIODS = "day, week, month, lifetime, second, minute, hour, or a span such as 5m or 30d"
_SPAN_NAMES = {"second": "1s", "minute": "1m", "hour": "1h"}
_SPAN_MS_MAX = 36_600 * _MS["d"]
_TOKENS_PER_PRICE = 1_000_000
# Names that stand for whatever the machine is set to, or for no time zone at all.
_NO_TIMEZONES = frozenset({"localtime", "posixrules", "Factory"})


def _exact(value: object, scale: int, expected: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        raise ValueError(expected)
    try:
        return parse_exact(Decimal(value), scale=scale, what="a number")
    except AmountInvalid:
        raise ValueError(expected) from None


def dollars(value: object) -> int:
    """Dollars as nano-dollars."""
    return _exact(value, NANOS_PER_USD, "a decimal number of dollars, at most 9 decimals")


def dollars_per_million_tokens(value: object) -> int:
    """Dollars per million tokens as pico-dollars a token."""
    expected = "a decimal number of dollars per million tokens, at most 6 decimals"
    return _exact(value, PICOS_PER_USD // _TOKENS_PER_PRICE, expected)


def dollars_per_request(value: object) -> int:
    """Dollars per request as pico-dollars."""
    return _exact(value, PICOS_PER_USD, "a decimal number of dollars per request, at most 12 decimals")


def count(value: object) -> int:
    """A whole number."""
    return _exact(value, 1, "a whole number of at least 0")


def positive(value: object) -> int:
    """A whole number of at least 1."""
    expected = "a whole number of at least 1"
    number = _exact(value, 1, expected)
    if not number:
        raise ValueError(expected)
    return number


def flag(value: object) -> bool:
    """`true` or `false`; `yes` and `no` are texts here."""
    known = {True: True, False: False, "true": True, "True": True, "false": False, "False": False}
    if not isinstance(value, str | bool) or value not in known:
        raise ValueError("true or false")
    return known[value]


def duration_ms(value: object) -> int:
    """A duration in milliseconds."""
    expected = "a duration such as 500ms, 2s, 5m, 1h or 30d"
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError(expected)
    whole = Decimal(match[1]) * _MS[match[2]]
    if whole != int(whole):
        raise ValueError(f"{expected}, in whole milliseconds")
    return int(whole)


def size_bytes(value: object) -> int:
    """A size in bytes, at least 1."""
    match = _SIZE.fullmatch(str(value)) if isinstance(value, str | int) else None
    if not match or not int(match[1]):
        raise ValueError("a size such as 1048576, 64KiB or 32MiB")
    return int(match[1]) * _BYTES[match[2]]


def percent(value: object) -> int:
    """A share of 1 to 100 percent."""
    expected = "a percentage from 1% to 100%"
    number = _exact(value.removesuffix("%") if isinstance(value, str) else value, 1, expected)
    if not 1 <= number <= 100:
        raise ValueError(expected)
    return number


def timezone(value: object) -> str:
    """An IANA time zone that this machine knows."""
    expected = "an IANA time zone such as UTC or Europe/Berlin"
    if not isinstance(value, str) or value in _NO_TIMEZONES:
        raise ValueError(expected)
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # Unknown, malformed, or a folder of zones ("Europe").
        raise ValueError(expected) from None
    return value


def network(value: object) -> IPv4Network | IPv6Network:
    """An IP network or address."""
    try:
        return ip_network(str(value))
    except ValueError:
        raise ValueError("an IP network such as 10.0.0.0/8 or 2001:db8::/32, or an address") from None


def base_url(value: object) -> str:
    """The URL under which a provider's paths stand, without a slash at its end."""
    expected = "a URL such as https://api.example.com/v1, without credentials, query or fragment"
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(expected)
    parts = urlsplit(value)
    try:
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise ValueError(expected)
    if parts.username is not None or parts.password is not None or "?" in value or "#" in value:
        raise ValueError(expected)
    return value.rstrip("/")


def name(value: object) -> str:
    """The name of a limit, key, provider or label."""
    try:
        return label_name(value if isinstance(value, str) else "")
    except LabelInvalid:
        raise ValueError("a name of 1 to 64 of a-z A-Z 0-9 _ . -") from None


def labelled(value: object) -> str:
    """A label's value in its stored form."""
    try:
        return label_value("", value if isinstance(value, str) else "")
    except LabelInvalid:
        raise ValueError("a text of 1 to 128 bytes without control characters") from None


def text(value: object) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def secret(value: object) -> Secret:
    """A key that fits into a header, without the blanks around it that files and variables often have."""
    stripped = value.strip() if isinstance(value, str) else ""
    if not stripped or not stripped.isascii() or not stripped.isprintable() or " " in stripped:
        raise ValueError("a key in printable ASCII without spaces, or a reference to one such as os.environ/NAME")
    return Secret(stripped)


def channel_url(value: object) -> Secret:
    """Where messages go: an URL, which as a rule is a secret."""
    stripped = value.strip() if isinstance(value, str) else ""
    if "://" not in stripped or not stripped.isprintable() or " " in stripped:
        raise ValueError("an URL such as slack://… or mailto://…, or a reference to one such as os.environ/NAME")
    return Secret(stripped)


def quiet_hours(value: object) -> QuietHours:
    """A span of the day."""
    match = _QUIET_HOURS.fullmatch(value) if isinstance(value, str) else None
    if not match or (match[1] == match[3] and match[2] == match[4]):
        raise ValueError("a span of the day such as 22:00-07:00")
    return QuietHours(int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4]))


def period(value: object) -> CalendarUnit | Span | Lifetime:
    """When a balance starts anew; the time zone of a calendar period is not known here."""
    if value == "lifetime":
        return Lifetime()
    if value in tuple(CalendarUnit):
        return CalendarUnit(value)
    try:
        ms = duration_ms(_SPAN_NAMES.get(value, value) if isinstance(value, str) else value)
    except ValueError:
        raise ValueError(PERIODS) from None
    if not 1 <= ms <= _SPAN_MS_MAX:
        raise ValueError(f"{PERIODS}; a span of at most 100 years")
    return Span(ms)


def on_exceed(value: object) -> OnExceed:
    """What happens when a limit is reached."""
    match value:
        case "reject":
            return REJECT
        case "shadow":
            return Shadow()
        case {"route_to": str() as model} if model and len(cast("dict[str, object]", value)) == 1:
            return RouteTo(model)
        case _:
            raise ValueError("reject, shadow or {route_to: MODEL}")
