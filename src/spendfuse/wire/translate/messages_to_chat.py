"""An Anthropic answer as a chat completion, and an Anthropic error as OpenAI's."""

from spendfuse.core.usage import Exact, Metered
from spendfuse.wire.anthropic_errors import error_type
from spendfuse.wire.json_body import Json, JsonObject, write
from spendfuse.wire.openai_usage import read_answer, usage_object

MESSAGE_BYTES_MAX = 2_000
"""Of a body that is no error of the vendor's: some proxy's page."""
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}
_UNSHOWN_BLOCKS = frozenset({"thinking", "redacted_thinking"})
"""OpenAI's chat does not show reasoning either; it counts in the usage."""


def finish_reason(stop_reason: Json) -> str:
    """OpenAI's word for why an answer ended. One that is not known is `length`: nobody should take it for whole."""
    return _FINISH_REASONS.get(stop_reason, "length") if isinstance(stop_reason, str) else "length"


def completion(message: JsonObject, metered: Metered, *, created_s: int) -> bytes | None:
    """A whole answer as a `chat.completion`; None when it holds what a chat answer can't.

    `id` and `model` are the provider's own, as they are where both sides speak alike. The usage is what is charged; one
    that is not exact is left out.
    """
    content = _text_of(message.get("content"))
    if content is None:
        return None
    answer: JsonObject = {
        "id": message.get("id"),
        "object": "chat.completion",
        "created": created_s,
        "model": message.get("model"),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "logprobs": None,
                "finish_reason": finish_reason(message.get("stop_reason")),
            }
        ],
    }
    if isinstance(metered, Exact):
        answer["usage"] = usage_object(metered.usage)
    return write(answer)


def _text_of(blocks: Json) -> str | None:
    """The texts of all blocks, joined as they stand; None where one is neither text nor thinking."""
    if not isinstance(blocks, list):
        return None
    texts: list[str] = []
    for block in blocks:
        kind, text = (block.get("type"), block.get("text")) if isinstance(block, dict) else (None, None)
        if kind == "text" and isinstance(text, str):
            texts.append(text)
        elif not isinstance(kind, str) or kind not in _UNSHOWN_BLOCKS:
            return None
    return "".join(texts)


def error_answer(status: int, body: bytes) -> bytes:
    """An error's body. What is not the vendor's error object passes as the message."""
    answer = read_answer(body)
    error = answer.get("error") if answer is not None else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return write(error_object(error))
    text = body[:MESSAGE_BYTES_MAX].decode(errors="replace").strip()
    return write(
        error_object({"type": error_type(status), "message": text or f"The provider answered {status} and no more."})
    )


def error_object(error: JsonObject) -> JsonObject:
    """The vendor's error object as OpenAI's, with the vendor's own type and message."""
    kind, message = error.get("type"), error.get("message")
    return {
        "error": {
            "message": message if isinstance(message, str) else "The provider reported an error.",
            "type": kind if isinstance(kind, str) else "api_error",
            "param": None,
            "code": None,
        }
    }
