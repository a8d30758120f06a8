"""The list of models in OpenAI's words: the public names, and nothing of the targets behind them."""

from collections.abc import Collection

from spendfuse.core.refusals import Code, Deny
from spendfuse.wire.dialect import Answer
from spendfuse.wire.json_body import JsonObject, write
from spendfuse.wire.openai_errors import JSON_TYPE, refusal


def models_answer(names: Collection[str]) -> Answer:
    """The body of `GET /v1/models`, by name."""
    return Answer(200, (JSON_TYPE,), write({"object": "list", "data": [_model(name) for name in sorted(names)]}))


def model_answer(name: str, names: Collection[str]) -> Answer:
    """The body of `GET /v1/models/{id}`, or its 404."""
    if name in names:
        return Answer(200, (JSON_TYPE,), write(_model(name)))
    return refusal(
        Deny(Code.MODEL_NOT_FOUND, f"model {name!r} is not served here; GET /v1/models lists those that are")
    )


def _model(name: str) -> JsonObject:
    # A public name has no date of its own; 0 keeps clients that require one content.
    return {"id": name, "object": "model", "created": 0, "owned_by": "spendfuse"}
