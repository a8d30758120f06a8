"""Meters a stream of OpenAI chat chunks while its bytes pass through.

Bytes are unaltered but for one chunk: the one with `choices: []` and a `usage`, when the client did not ask for it. The
`usage: null` that a provider puts on all other chunks because we asked stays as it is.

Failure policy: what cannot be read passes on. An event that is not JSON, or larger than 8 MiB, may have held usage, so
`has_unread` says so; the usage is then still only what was read.
"""

import orjson

from spendfuse.core.calls import Call
from spendfuse.core.usage import Exact, Usage
from spendfuse.wire.dialect import Visible
from spendfuse.wire.json_body import Json, JsonObject, write
from spendfuse.wire.openai_usage import metered_usage, usage_object
from spendfuse.wire.sse import DONE, EventSplitter, event_of, payload_of

_HEAD_FIELDS = ("id", "created", "model")


class ChatStreamMeter:
    """A meter for one stream; see `StreamMeter`."""

    def __init__(self, call: Call) -> None:
        self.visible = Visible(has_hidden=call.output_audio)
        self.error_seen = False
        self.has_unread = False
        self.is_complete = False
        self._model = call.model
        self._choices = call.choices
        self._passes_usage = call.wants_usage_chunk
        self._usage_passed = False
        self._events = EventSplitter()
        self._last_passed = True
        self._head: JsonObject = {}
        self._finished: set[int] = set()
        self._usage: Usage | None = None
        self._usage_is_final = False

    @property
    def usage(self) -> Usage | None:
        """See `StreamMeter`. A count that still runs (on chunks before the last) is not given."""
        return self._usage if self._usage_is_final or self.is_complete else None

    def feed(self, chunk: bytes) -> bytes:
        """See `StreamMeter`."""
        if self._events.is_blind:
            return chunk
        kept = [event for event in self._events.feed(chunk) if self._passes(event)]
        if self._events.is_blind:
            self.has_unread = True
            kept.append(self._events.release())
        return kept[0] if len(kept) == 1 else b"".join(kept)

    def finish(self) -> bytes:
        """See `StreamMeter`. An event that lacks its end is read all the same, as clients do."""
        rest = self._events.release()
        return rest if rest and self._passes(rest) else b""

    def cut(self, usage: Usage) -> bytes:
        """See `StreamMeter`. After the stream's own end there is nothing to add."""
        if self.is_complete:
            return b""
        # Where events are no longer split, one may have been passed on in part: end it.
        parts = [b"\n\n"] if self._events.is_blind else []
        self._events.release()
        still_open = [index for index in range(self._choices) if index not in self._finished]
        if still_open:
            ends: list[Json] = [{"index": at, "delta": {}, "finish_reason": "length"} for at in still_open]
            parts.append(self._chunk({"choices": ends}))
        if self._passes_usage and not self._usage_passed:
            parts.append(self._chunk({"choices": [], "usage": usage_object(usage)}))
        parts.append(event_of(DONE))
        self.is_complete = True
        return b"".join(parts)

    def _chunk(self, rest: JsonObject) -> bytes:
        head: JsonObject = {
            "id": self._head.get("id", "chatcmpl-spendfuse"),
            "object": "chat.completion.chunk",
            "created": self._head.get("created", 0),
            "model": self._head.get("model", self._model),
        }
        return event_of(write({**head, **rest}))

    def _passes(self, event: bytes) -> bool:
        """Read an event; False for the usage chunk that the client did not ask for."""
        if event != b"\n":  # else: the end of the event before
            self._last_passed = self._read(payload_of(event))
        return self._last_passed

    def _read(self, payload: bytes) -> bool:
        if not payload:
            return True
        if payload == DONE:
            self.is_complete = True
            return True
        try:
            chunk: Json = orjson.loads(payload)
        except orjson.JSONDecodeError:
            self.has_unread = True
            return True
        return not isinstance(chunk, dict) or self._read_chunk(chunk)

    def _read_chunk(self, chunk: JsonObject) -> bool:
        if len(self._head) < len(_HEAD_FIELDS):
            self._head |= {name: chunk[name] for name in _HEAD_FIELDS if chunk.get(name)}
        if chunk.get("error") is not None:
            self.error_seen = True
        usage = chunk.get("usage")
        choices = chunk.get("choices")
        if isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, dict):
                    self._read_choice(choice)
                    usage = usage or choice.get("usage")  # Moonshot
        if "x_groq" in chunk:
            usage = usage or _usage_by_groq(chunk["x_groq"])
        if not isinstance(usage, dict):
            return True
        self._take_usage(usage, is_last=choices == [])
        is_usage_chunk = choices == [] and not self.error_seen
        self._usage_passed = self._usage_passed or (is_usage_chunk and self._passes_usage)
        return self._passes_usage or not is_usage_chunk

    def _read_choice(self, choice: JsonObject) -> None:
        index = choice.get("index")
        at = index if isinstance(index, int) else 0
        if choice.get("finish_reason") is not None:
            self._finished.add(at)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        content = delta.get("content")
        shown = content if len(delta) == 1 and isinstance(content, str) else _shown(delta)
        if shown:
            self.visible.show(at, shown)
        if delta.get("audio") is not None:
            self.visible.has_hidden = True

    def _take_usage(self, value: JsonObject, *, is_last: bool) -> None:
        metered = metered_usage(value)
        if not isinstance(metered, Exact):
            return
        usage = metered.usage
        if self._usage is None or usage.tokens >= self._usage.tokens:
            self._usage = usage
        if usage.reasoning_tokens or usage.output_audio_tokens:
            self.visible.has_hidden = True
        if is_last or len(self._finished) >= self._choices:
            self._usage_is_final = True


def _usage_by_groq(extra: Json) -> Json:
    """Without `stream_options` Groq puts the usage into an object of its own, on the last chunk."""
    return extra.get("usage") if isinstance(extra, dict) else None


def _shown(delta: JsonObject) -> str:
    """All text in a delta, each once: some providers send reasoning under two names."""
    content = delta.get("content")
    reasoning = delta.get("reasoning_content") or delta.get("reasoning")
    texts: list[Json] = [reasoning, content, delta.get("refusal")]
    audio = delta.get("audio")
    if isinstance(audio, dict):
        texts.append(audio.get("transcript"))
    calls = delta.get("tool_calls")
    for one in [*(calls if isinstance(calls, list) else []), {"function": delta.get("function_call")}]:
        called = (one.get("function") or one.get("custom")) if isinstance(one, dict) else None
        if isinstance(called, dict):
            texts += [called.get("name"), called.get("arguments"), called.get("input")]
    return "".join([text for text in texts if isinstance(text, str)])
