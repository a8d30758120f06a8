"""Labels that a request claims, in its headers or its body. Which claims are believed is decided elsewhere.

Header values are UTF-8, taken as they are: nothing is percent-decoded, so that a value has one spelling. A label that
only the gateway can know is refused in our own headers and passed over in a body, whose `metadata` is the provider's
field and may name anything.
"""

from collections.abc import Iterable

from spendfuse.core.labels import KEY_LABELS, LabelInvalid, label_name, label_value
from spendfuse.core.refusals import Code, Deny
from spendfuse.wire.json_body import BodyInvalid, JsonObject
from spendfuse.wire.json_fields import mapping, text, wrong

TAGS_MAX = 16
"""Tags that one source may claim."""
HEADER_PREFIX = b"x-spendfuse-"
TAGS_HEADER = b"x-spendfuse-tags"
_HEADERS = {
    b"x-spendfuse-user": "user",
    b"x-spendfuse-organization": "organization",
    b"x-spendfuse-feature": "feature",
    b"x-spendfuse-run": "run",
}
_METADATA_LABELS = {"user_id": "user", "organization_id": "organization", "run_id": "run"}
_CLAIMABLE = frozenset({"organization", "user", "feature", "run"})
_GATEWAY_LABELS = frozenset(KEY_LABELS) - _CLAIMABLE


def labels_from_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str] | Deny:
    """The labels in `x-spendfuse-user`, `-organization`, `-feature`, `-run` and `-tags` (`a=b,c=d`).

    Header names are lower case, as ASGI has them. Refused: a header that comes twice, a value that is not UTF-8, and
    whatever `core.labels` refuses.
    """
    seen: set[bytes] = set()
    labels: dict[str, str] = {}
    for name, raw in headers:
        if not name.startswith(HEADER_PREFIX) or (name not in _HEADERS and name != TAGS_HEADER):
            continue
        param = name.decode()
        try:
            if name in seen:
                raise LabelInvalid("the header comes twice")
            seen.add(name)
            value = raw.decode()
            claims = _tags(value) if name == TAGS_HEADER else [(_HEADERS[name], value)]
            for label, claim in claims:
                labels[label] = label_value(label, claim)
        except UnicodeDecodeError:
            return _deny(param, "the value is not valid UTF-8")
        except LabelInvalid as invalid:
            return _deny(param, str(invalid))
    return labels


def labels_from_body(body: JsonObject) -> dict[str, str]:
    """The labels in `metadata`, then `user`; the first to name a label wins.

    Raises:
        BodyInvalid: `metadata` is no object of strings, or `core.labels` refuses a name or value.
    """
    labels: dict[str, str] = {}
    metadata = mapping(body, "metadata") or {}
    user = text(body, "user")
    at = "metadata"
    try:
        for at, value in metadata.items():
            if not isinstance(value, str):
                raise wrong(f"metadata.{at}", "a string", value)
            name = _METADATA_LABELS.get(at, at)
            if name not in _GATEWAY_LABELS:
                labels.setdefault(name if name in _CLAIMABLE else label_name(name), label_value(name, value))
    except LabelInvalid as invalid:
        raise BodyInvalid(f"`metadata.{at}`: {invalid}", f"metadata.{at}") from None
    if len(labels.keys() - _CLAIMABLE) > TAGS_MAX:
        raise BodyInvalid(f"`metadata` has more than {TAGS_MAX} tags", "metadata")
    try:
        if user is not None:
            labels.setdefault("user", label_value("user", user))
    except LabelInvalid as invalid:
        raise BodyInvalid(f"`user`: {invalid}", "user") from None
    return labels


def _tags(value: str) -> list[tuple[str, str]]:
    """The pairs of `a=b,c=d`. A value may hold `=` but no comma."""
    pairs: dict[str, str] = {}
    for pair in value.split(","):
        name, sign, tag = pair.partition("=")
        name = label_name(name.strip())
        if not sign:
            raise LabelInvalid(f"tag {name!r} has no value: tags are written a=b,c=d")
        if name in KEY_LABELS:
            raise LabelInvalid(f"{name!r} is not a tag")
        if name in pairs:
            raise LabelInvalid(f"tag {name!r} comes twice")
        pairs[name] = tag
    if len(pairs) > TAGS_MAX:
        raise LabelInvalid(f"more than {TAGS_MAX} tags")
    return list(pairs.items())


def _deny(param: str, what: str) -> Deny:
    return Deny(Code.INVALID_REQUEST, f"header {param}: {what}", param)
