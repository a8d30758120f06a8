"""Strict JSON: what two readers could understand differently is refused before anybody has to price it.

A body is read by the standard library's scanner (the only fast one that shows repeated keys), and at once written by
orjson, which refuses what it could not send upstream unchanged: integers beyond 64 bit, lone surrogates, nesting
deeper than 254. Only a body that fails is read again, slowly, to name the place.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias, cast

import orjson

from spendfuse.core.errors import SpendfuseError

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
JsonObject: TypeAlias = dict[str, "Json"]

DEPTH_MAX = 254
"""Levels of nesting that can be written again; orjson's own bound."""
_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**64 - 1


class BodyInvalid(SpendfuseError):
    """A request body can't be served. `param` is the path of the offending field, None for the body itself."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def read_object(body: bytes) -> JsonObject:
    """Read a body that must be one JSON object.

    Raises:
        BodyInvalid: not JSON in UTF-8; a key repeated in one object, at any depth; NaN, an infinity or a number that
            overflows to one; an integer beyond 64 bit; a lone surrogate; more than 254 levels; not an object.
    """
    try:
        value: Json = _STRICT.decode(body.decode())
        orjson.dumps(value)
    except (ValueError, TypeError, RecursionError):
        raise _diagnosis(body) from None
    if not isinstance(value, dict):
        raise BodyInvalid(f"the body must be a JSON object, got {_KINDS[type(value)]}")
    return value


def write(value: Json) -> bytes:
    """JSON as it goes out: compact UTF-8."""
    return orjson.dumps(value)


def write_canonical(value: Json) -> bytes:
    """JSON with sorted keys: equal for equal values."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def shown(value: Json) -> str:
    """A value as it stood in the body, short enough for a message."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


_KINDS: dict[type, str] = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean"}
_KINDS[type(None)] = "null"


def _object(pairs: list[tuple[str, Json]]) -> JsonObject:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a repeated key")
    return made


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("not finite")
    return number


def _refused(text: str) -> NoReturn:
    raise ValueError(text)


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_refused)


@dataclass(frozen=True, slots=True)
class _Strange:
    """A number that JSON readers do not agree on."""

    what: str


class _Pairs(list[tuple[str, object]]):
    """An object as it was written, repeated keys included."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands; the path is written out only when it is needed."""

    within: "_Place | None"
    key: str | int

    def __str__(self) -> str:
        steps: list[str] = []
        place: _Place | None = self
        while place is not None:
            steps.append(f"[{place.key}]" if isinstance(place.key, int) else f".{place.key}")
            place = place.within
        return "".join(reversed(steps)).removeprefix(".").encode(errors="replace").decode()[:256]


def _strange_float(text: str) -> object:
    number = float(text)
    return _Strange(f"is too large a number: {text[:40]}") if number in (float("inf"), float("-inf")) else number


def _strange_int(text: str) -> object:
    is_long = len(text) > len(str(_INTEGER_MIN))
    if is_long or not _INTEGER_MIN <= int(text) <= _INTEGER_MAX:
        return _Strange(f"is an integer beyond 64 bit: {text[:40]}")
    return int(text)


_LENIENT = json.JSONDecoder(
    object_pairs_hook=_Pairs,
    parse_float=_strange_float,
    parse_int=_strange_int,
    parse_constant=lambda text: _Strange(f"is {text}, which is not JSON"),
)


def _diagnosis(body: bytes) -> BodyInvalid:
    """Say what is wrong with a body that was refused, and where."""
    too_deep = BodyInvalid(f"the body is nested deeper than {DEPTH_MAX} levels")
    try:
        tree: object = _LENIENT.decode(body.decode())
    except UnicodeDecodeError as error:
        return BodyInvalid(f"the body is not valid UTF-8 (byte {error.start})")
    except json.JSONDecodeError as error:
        return BodyInvalid(f"the body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})")
    except RecursionError:
        return too_deep
    return next(_troubles(tree), too_deep)


def _troubles(tree: object) -> Iterator[BodyInvalid]:
    """Everything wrong in a tree of the lenient reader."""
    open_places: list[tuple[_Place | None, object]] = [(None, tree)]
    while open_places:
        place, node = open_places.pop()
        if isinstance(node, _Pairs):
            yield from _repeated_keys(place, node)
            members: Iterator[tuple[str | int, object]] = iter(node)
        elif isinstance(node, list):
            members = enumerate(cast("list[object]", node))
        else:
            members = iter([("(the body)", node)])
        for key, value in members:
            if isinstance(value, list):
                open_places.append((_Place(place, key), cast("object", value)))
            elif isinstance(value, _Strange):
                yield _trouble(_Place(place, key), value.what)
            elif isinstance(value, str) and _has_surrogate(value):
                yield _trouble(_Place(place, key), "has a lone surrogate, which is not valid Unicode")


def _repeated_keys(place: _Place | None, pairs: _Pairs) -> Iterator[BodyInvalid]:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            yield _trouble(_Place(place, key), "appears twice in one object")
        if _has_surrogate(key):
            yield _trouble(_Place(place, key), "is a key with a lone surrogate, which is not valid Unicode")
        seen.add(key)


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text)


def _trouble(place: _Place, what: str) -> BodyInvalid:
    return BodyInvalid(f"`{place}` {what}", str(place))
