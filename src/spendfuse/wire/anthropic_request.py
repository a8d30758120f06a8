"""What a call and a count have in common in an Anthropic request body."""

import unicodedata
from hashlib import blake2b

from spendfuse.core.labels import LABEL_VALUE_BYTES_MAX
from spendfuse.wire.json_body import JsonObject
from spendfuse.wire.json_fields import mapping, objects, text, wrong
from spendfuse.wire.labels import labels_from_body

_STANDARD_TIERS = frozenset({None, "auto", "standard_only"})
_CLEARING = "clear_"
_DIGEST_BYTES = 8


def thinking_of(body: JsonObject) -> tuple[bool, int]:
    """Whether a request asks for thinking, and its budget of tokens; 0 without one.

    Raises:
        BodyInvalid: `thinking` has a wrong type.
    """
    thinking = mapping(body, "thinking")
    if thinking is None:
        return False, 0
    kind = thinking.get("type")
    if not isinstance(kind, str):
        raise wrong("thinking.type", "a string", kind)
    if kind == "disabled":
        return False, 0
    budget = thinking.get("budget_tokens")
    if budget is None:
        return True, 0
    if type(budget) is not int or budget < 0:
        raise wrong("thinking.budget_tokens", "an integer of at least 0", budget)
    return True, budget


def is_structured(body: JsonObject) -> bool:
    """Whether the answer must follow a schema.

    Raises:
        BodyInvalid: the field that says so has a wrong type.
    """
    config = mapping(body, "output_config") or {}
    older = mapping(body, "output_format") or {}
    newer = config.get("format")
    if newer is not None and not isinstance(newer, dict):
        raise wrong("output_config.format", "an object", newer)
    return "json_schema" in ((newer or {}).get("type"), older.get("type"))


def check_standard(body: JsonObject) -> None:
    """Refuse a tier that has a price of its own, and a change to the input that has.

    Raises:
        BodyInvalid: there is one.
    """
    tier = text(body, "service_tier")
    if tier not in _STANDARD_TIERS:
        raise wrong("service_tier", '"auto" or "standard_only"', tier)
    management = mapping(body, "context_management")
    if management is None:
        return
    for name in management.keys() - {"edits"}:
        raise wrong(f"context_management.{name}", "absent: only `edits` are known", management[name])
    for at, edit in enumerate(objects(management, "edits")):
        kind = edit.get("type")
        if not isinstance(kind, str) or not kind.startswith(_CLEARING):
            raise wrong(f"context_management.edits[{at}].type", f'"{_CLEARING}*" (an edit that only clears)', kind)


def claimed_labels(body: JsonObject) -> dict[str, str]:
    """The labels in `metadata`; null counts as absent.

    The vendor's own clients send users of up to 256 characters, which no label holds: such a user keeps its beginning,
    and a hash keeps it apart from others.

    Raises:
        BodyInvalid: as `labels_from_body`.
    """
    metadata: JsonObject = {
        name: value for name, value in (mapping(body, "metadata") or {}).items() if value is not None
    }
    user = metadata.get("user_id")
    if isinstance(user, str):
        metadata["user_id"] = _fitting(user)
    return labels_from_body({"metadata": metadata})


def without_labels(body: JsonObject) -> JsonObject:
    """The body less the labels in its `metadata`, which the gateway has read: the vendor takes only `user_id` there."""
    metadata = mapping(body, "metadata")
    if metadata is None or metadata.keys() <= {"user_id"}:
        return body
    kept = {name: value for name, value in body.items() if name != "metadata"}
    if "user_id" in metadata:
        kept["metadata"] = {"user_id": metadata["user_id"]}
    return kept


def _fitting(user: str) -> str:
    whole = unicodedata.normalize("NFC", user).strip().encode()
    if len(whole) <= LABEL_VALUE_BYTES_MAX:
        return user
    digest = "#" + blake2b(whole, digest_size=_DIGEST_BYTES).hexdigest()
    return whole[: LABEL_VALUE_BYTES_MAX - len(digest)].decode(errors="ignore") + digest
