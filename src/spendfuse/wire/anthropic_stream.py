"""Meters a stream of Anthropic's events while its bytes pass through, unaltered.

Failure policy: what cannot be read passes on. An event that is not JSON, or larger than 8 MiB, may have held usage, so
`has_unread` says so; the usage is then still only what was read.
"""

import orjson

from spendfuse.core.calls import Call
from spendfuse.core.usage import Exact, Usage
from spendfuse.wire.anthropic_usage import UsageTally, usage_object
from spendfuse.wire.dialect import Visible
from spendfuse.wire.json_body import Json, JsonObject, write
from spendfuse.wire.sse import DONE, EventSplitter, payload_of

_TEXT_OF_DELTA = {"text_delta": "text", "input_json_delta": "partial_json", "thinking_delta": "thinking"}
_TEXTS_OF_BLOCK = ("name", "text", "thinking")
_SHOWN_BLOCKS = ("text", "tool_use")


class MessagesStreamMeter:
    """A meter for one stream; see `StreamMeter`."""

    def __init__(self, call: Call) -> None:
        # Thinking is billed in full, and shown as a summary or not at all.
        self.visible = Visible(has_hidden=call.thinks)
        self.error_seen = False
        self.has_unread = False
        self.is_complete = False
        self._model = call.model
        self._events = EventSplitter()
        self._has_started = False
        self._has_stopped = False
        self._open_blocks: set[int] = set()
        self._tally = UsageTally()
        self._output_said = False

    @property
    def usage(self) -> Usage | None:
        """See `StreamMeter`. The output that is said as the stream begins is not the whole, and is not given."""
        if not self._output_said or not (self._has_stopped or self.is_complete):
            return None
        metered = self._tally.metered()
        return metered.usage if isinstance(metered, Exact) else None

    def feed(self, chunk: bytes) -> bytes:
        """See `StreamMeter`."""
        if self._events.is_blind:
            return chunk
        events = self._events.feed(chunk)
        for event in events:
            self._read(payload_of(event))
        if self._events.is_blind:
            self.has_unread = True
            events.append(self._events.release())
        return events[0] if len(events) == 1 else b"".join(events)

    def finish(self) -> bytes:
        """See `StreamMeter`. An event that lacks its end is read all the same, as clients do."""
        rest = self._events.release()
        self._read(payload_of(rest))
        return rest

    def cut(self, usage: Usage) -> bytes:
        """See `StreamMeter`. After the stream's own end there is nothing to add."""
        if self.is_complete:
            return b""
        # Where events are no longer split, one may have been passed on in part: end it.
        parts = [b"\n\n"] if self._events.is_blind else []
        self._events.release()
        if not self._has_started:
            parts.append(_event(self._beginning(usage)))
        parts += [_event({"type": "content_block_stop", "index": at}) for at in sorted(self._open_blocks)]
        if not self._has_stopped:
            delta: JsonObject = {"stop_reason": "max_tokens", "stop_sequence": None}
            output: JsonObject = {"output_tokens": usage.output_tokens}
            parts.append(_event({"type": "message_delta", "delta": delta, "usage": output}))
        parts.append(_event({"type": "message_stop"}))
        self.is_complete = True
        return b"".join(parts)

    def _beginning(self, usage: Usage) -> JsonObject:
        message: JsonObject = {
            "id": "msg_spendfuse",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**usage_object(usage), "output_tokens": 0},
        }
        return {"type": "message_start", "message": message}

    def _read(self, payload: bytes) -> None:
        if not payload or payload == DONE:
            return
        try:
            event: Json = orjson.loads(payload)
        except orjson.JSONDecodeError:
            self.has_unread = True
            return
        if isinstance(event, dict):
            self._read_event(event)

    def _read_event(self, event: JsonObject) -> None:
        match event.get("type"):
            case "content_block_delta":
                self._read_delta(event.get("delta"))
            case "content_block_start":
                self._open_blocks.add(_index(event))
                self._read_block(event.get("content_block"))
            case "content_block_stop":
                self._open_blocks.discard(_index(event))
            case "message_start":
                self._has_started = True
                message = event.get("message")
                self._take_usage(message.get("usage") if isinstance(message, dict) else None)
            case "message_delta":
                self._read_end(event)
            case "message_stop":
                self.is_complete = True
            case "error":
                self.error_seen = True
            case _:
                # A ping, or news: an event without a known type changes nothing that is counted.
                self.error_seen |= isinstance(event.get("error"), dict)

    def _read_end(self, event: JsonObject) -> None:
        delta, usage = event.get("delta"), event.get("usage")
        self._has_stopped |= isinstance(delta, dict) and delta.get("stop_reason") is not None
        self._output_said |= isinstance(usage, dict) and usage.get("output_tokens") is not None
        self._take_usage(usage)

    def _take_usage(self, usage: Json) -> None:
        self._tally.take(usage)
        self.visible.has_hidden |= self._tally.has_thinking

    def _read_block(self, block: Json) -> None:
        """The start of a block: a tool's name, and whatever it already holds."""
        if not isinstance(block, dict):
            return
        # Thinking, or a kind whose output nobody knows.
        self.visible.has_hidden |= block.get("type") not in _SHOWN_BLOCKS
        shown = [text for name in _TEXTS_OF_BLOCK if isinstance(text := block.get(name), str)]
        given = block.get("input")
        if isinstance(given, dict) and given:
            shown.append(write(given).decode())
        self._show("".join(shown))

    def _read_delta(self, delta: Json) -> None:
        if not isinstance(delta, dict):
            return
        kind = delta.get("type")
        name = _TEXT_OF_DELTA.get(kind) if isinstance(kind, str) else None
        # Citations and signatures stand for output that is not shown.
        self.visible.has_hidden |= name is None or name == "thinking"
        text = delta.get(name) if name is not None else None
        self._show(text if isinstance(text, str) else "")

    def _show(self, text: str) -> None:
        if text:
            self.visible.show(0, text)


def _index(event: JsonObject) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else 0


def _event(value: JsonObject) -> bytes:
    """An event under its own name, as the vendor writes it."""
    return b"event: " + str(value["type"]).encode() + b"\ndata: " + write(value) + b"\n\n"
