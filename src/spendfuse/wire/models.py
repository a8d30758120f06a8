"""The list of models as clients of both APIs read it: the public names, and nothing of the targets behind them."""

from collections.abc import Collection

from spendfuse.core.refusals import Code, Deny
from spendfuse.wire.dialect import Answer
from spendfuse.wire.json_body import JsonObject, write
from spendfuse.wire.refusals import JSON_TYPE


def models_answer(name: str, names: Collection[str]) -> Answer | Deny:
    """The body of `GET /v1/models` (`name` empty), by name, or of `GET /v1/models/{name}`.

    Its objects have the fields of both APIs, which do not collide.
    """
    if name and name not in names:
        message = f"model {name!r} is not served here; GET /v1/models lists those that are"
        return Deny(Code.MODEL_NOT_FOUND, message)
    if name:
        return Answer(200, (JSON_TYPE,), write(_model(name)))
    ordered = sorted(names)
    listed: JsonObject = {
        "object": "list",
        "data": [_model(one) for one in ordered],
        "has_more": False,
        "first_id": ordered[0] if ordered else None,
        "last_id": ordered[-1] if ordered else None,
    }
    return Answer(200, (JSON_TYPE,), write(listed))


def _model(name: str) -> JsonObject:
    # A public name has no date of its own; the epoch keeps clients that require one content.
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "spendfuse",
        "type": "model",
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
    }
