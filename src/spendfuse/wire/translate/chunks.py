"""An Anthropic stream's events as chat chunks, one event at a time.

An event of text becomes one chunk: its frame, which never changes within a stream, is written once.
"""

from collections.abc import Callable

import orjson

from spendfuse.core.usage import Usage
from spendfuse.wire.json_body import Json, JsonObject, write
from spendfuse.wire.openai_usage import usage_object
from spendfuse.wire.sse import DONE, event_of
from spendfuse.wire.translate.messages_to_chat import error_object, finish_reason

_OBJECT = "chat.completion.chunk"
_TEXT_END = b'},"logprobs":null,"finish_reason":null}]}\n\n'


class ChatChunks:
    """Writes the chunks of one stream. `model` stands in the chunks of a stream that never said its own."""

    def __init__(self, model: str, *, shows_usage: bool, now_s: Callable[[], int]) -> None:
        self._shows_usage = shows_usage
        self._head: JsonObject = {
            "id": "chatcmpl-spendfuse", "object": _OBJECT, "created": now_s(), "model": model,
        }  # fmt: skip
        self._text_begin = b""
        self._is_finished = False
        self._usage_shown = False

    def of(self, event: JsonObject) -> bytes:
        """The chunks of an event, none for most of those without text; the end of the stream is `end`."""
        match event.get("type"):
            case "content_block_delta":
                return self._text(event.get("delta"), "text_delta")
            case "content_block_start":
                return self._text(event.get("content_block"), "text")
            case "message_start":
                return self._begin(event.get("message"))
            case "message_delta":
                delta = event.get("delta")
                reason = delta.get("stop_reason") if isinstance(delta, dict) else None
                return b"" if reason is None else self._finish(finish_reason(reason))
            case "error":
                error = event.get("error")
                return event_of(write(error_object(error if isinstance(error, dict) else {})))
            case _:
                return b""

    def end(self, usage: Usage | None) -> bytes:
        """The end of the stream: `finish_reason: length` where none was given, the usage where the client gets one."""
        finish = self._finish("length")
        shown = b""
        if self._shows_usage and usage is not None and not self._usage_shown:
            self._usage_shown = True
            shown = self._chunk({"choices": [], "usage": usage_object(usage)})
        return finish + shown + event_of(DONE)

    def _begin(self, message: Json) -> bytes:
        for name in ("id", "model"):
            said = message.get(name) if isinstance(message, dict) else None
            if isinstance(said, str) and said:
                self._head[name] = said
        self._text_begin = b""
        return self._choice({"role": "assistant", "content": "", "refusal": None})

    def _text(self, holder: Json, kind: str) -> bytes:
        if not isinstance(holder, dict) or holder.get("type") != kind:
            return b""
        text = holder.get("text")
        if not text or not isinstance(text, str):
            return b""
        if not self._text_begin:
            self._text_begin = b"data: " + write(self._head)[:-1] + b',"choices":[{"index":0,"delta":{"content":'
        return self._text_begin + orjson.dumps(text) + _TEXT_END

    def _finish(self, reason: str) -> bytes:
        if self._is_finished:
            return b""
        self._is_finished = True
        return self._choice({}, reason)

    def _choice(self, delta: JsonObject, reason: str | None = None) -> bytes:
        choice: JsonObject = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._chunk({"choices": [choice]})

    def _chunk(self, rest: JsonObject) -> bytes:
        return event_of(write({**self._head, **rest}))
