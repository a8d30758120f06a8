"""Messages in the vendor's own bytes, whole and as events."""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from spendfuse.simulator.claude_models import CLAUDE_MODELS, ClaudeModel
from spendfuse.simulator.messages_answers import MessageAnswer, Said, TextSaid, ThinkingSaid, ToolUsed
from spendfuse.simulator.messages_cache import CachedInput

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
SIGNATURE = "c2ltdWxhdG9y"


def message_usage(
    billed: CachedInput, *, output_tokens: int, inference_geo: str, thinking_tokens: int = 0
) -> dict[str, object]:
    return {
        **_input_usage(billed),
        "cache_creation": {
            "ephemeral_5m_input_tokens": billed.write_5m_tokens,
            "ephemeral_1h_input_tokens": billed.write_1h_tokens,
        },
        "output_tokens": output_tokens,
        "output_tokens_details": _output_details(thinking_tokens),
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": inference_geo,
    }


def _output_details(thinking_tokens: int) -> dict[str, object] | None:
    return {"thinking_tokens": thinking_tokens} if thinking_tokens else None


def _input_usage(billed: CachedInput) -> dict[str, object]:
    return {
        "input_tokens": billed.plain_tokens,
        "cache_creation_input_tokens": billed.write_tokens,
        "cache_read_input_tokens": billed.read_tokens,
    }


def whole_message(
    answer: MessageAnswer, *, call_id: str, model: str, usage: Mapping[str, object] | None
) -> dict[str, object]:
    content = [_block(block, call_id, block.text(0, block.tokens)) for block in answer.blocks]
    return _message(
        call_id,
        model,
        content=content,
        stop_reason=answer.stop_reason,
        stop_sequence=answer.stop_sequence,
        usage=usage,
    )


def _message(call_id: str, model: str, *, usage: Mapping[str, object] | None, **ending: object) -> dict[str, object]:
    message = {
        "model": model,
        "id": call_id,
        "type": "message",
        "role": "assistant",
        "container": None,
        "stop_details": None,
        **ending,
    }
    return message if usage is None else {**message, "usage": usage}


def _block(block: Said, call_id: str, text: str) -> dict[str, object]:
    match block:
        case ThinkingSaid():
            return {"type": "thinking", "thinking": text, "signature": SIGNATURE}
        case TextSaid():
            return {"type": "text", "text": text, "citations": None}
        case ToolUsed():
            return {
                "type": "tool_use",
                "id": _tool_id(call_id),
                "name": block.tool.name,
                "input": _input(text),
                "caller": {"type": "direct"},
            }


def _input(arguments: str) -> object:
    """The arguments of a call; none of those that the cap cut off in the middle."""
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}


def _tool_id(call_id: str) -> str:
    return f"toolu_{call_id.removeprefix('msg_')}"


@dataclass(frozen=True, slots=True)
class MessageStream:
    """The events of one streamed call. Tokens are numbered through all blocks, thinking included."""

    answer: MessageAnswer
    call_id: str
    model: str
    billed: CachedInput
    inference_geo: str
    with_usage: bool = True

    def start(self) -> bytes:
        # The vendor claims a token or so before there is any.
        usage = message_usage(self.billed, output_tokens=1, inference_geo=self.inference_geo)
        message = _message(
            self.call_id,
            self.model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=usage if self.with_usage else None,
        )
        return _event("message_start", message=message)

    def deltas(self, start: int, stop: int, chunk_tokens: int) -> bytes:
        """The tokens `start` to `stop`, `chunk_tokens` to an event, with the edges of the blocks among them."""
        events: list[bytes] = []
        for first in range(start, stop, chunk_tokens):
            last = min(first + chunk_tokens, stop)
            for index, (block, end) in enumerate(zip(self.answer.blocks, self.answer.ends, strict=True)):
                begin = end - block.tokens
                if begin < last and first < end:
                    events += self._part(index, max(first - begin, 0), min(last - begin, block.tokens))
        return b"".join(events)

    def end(self) -> bytes:
        delta = {"stop_reason": self.answer.stop_reason, "stop_sequence": self.answer.stop_sequence}
        fields: dict[str, object] = {"delta": delta}
        if self.with_usage:
            fields["usage"] = {
                **_input_usage(self.billed),
                "output_tokens": self.answer.tokens,
                "output_tokens_details": _output_details(self.answer.thinking_tokens),
            }
        return _event("message_delta", **fields) + _event("message_stop")

    def _part(self, index: int, start: int, stop: int) -> list[bytes]:
        """The tokens of one block, opened and closed at its edges."""
        block = self.answer.blocks[index]
        events: list[bytes] = []
        if start == 0:
            events.append(_event("content_block_start", index=index, content_block=self._opened(block)))
            events += [PING] if index == 0 else []
        text = block.text(start, stop)
        if text:
            events.append(_event("content_block_delta", index=index, delta=_delta(block, text)))
        if stop == block.tokens:
            if isinstance(block, ThinkingSaid):
                signature = {"type": "signature_delta", "signature": SIGNATURE}
                events.append(_event("content_block_delta", index=index, delta=signature))
            events.append(_event("content_block_stop", index=index))
        return events

    def _opened(self, block: Said) -> dict[str, object]:
        opened = _block(block, self.call_id, "")
        return {**opened, "signature": ""} if isinstance(block, ThinkingSaid) else opened


def _delta(block: Said, text: str) -> dict[str, str]:
    match block:
        case ThinkingSaid():
            return {"type": "thinking_delta", "thinking": text}
        case TextSaid():
            return {"type": "text_delta", "text": text}
        case ToolUsed():
            return {"type": "input_json_delta", "partial_json": text}


def _event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: ".encode() + orjson.dumps({"type": kind, **fields}) + b"\n\n"


def claude_model_object(model: ClaudeModel) -> dict[str, object]:
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.display_name,
        "created_at": model.created_at,
        "lifecycle": "active",
        "max_input_tokens": model.window_tokens,
        "max_tokens": model.output_tokens_max,
    }


def claude_model_list() -> dict[str, object]:
    models = [claude_model_object(model) for model in CLAUDE_MODELS.values()]
    return {"data": models, "has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}
