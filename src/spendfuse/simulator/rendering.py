"""Answers in the provider's own bytes."""

import base64
from array import array
from dataclasses import dataclass
from functools import lru_cache

import orjson

from spendfuse.simulator.answers import Answer
from spendfuse.simulator.counting import InputCount
from spendfuse.simulator.models import MODELS

FINGERPRINT = "fp_simulator"
DONE = b"data: [DONE]\n\n"
ERROR = (
    b'data: {"error":{"message":"The server had an error while processing your request.",'
    b'"type":"server_error","param":null,"code":null}}\n\n'
)


def chat_usage(count: InputCount, answer: Answer, *, cached_tokens: int, choices: int) -> dict[str, object]:
    completion_tokens = choices * answer.tokens
    return {
        "prompt_tokens": count.tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": count.tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens, "audio_tokens": count.audio_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": choices * answer.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def chat_completion(
    answer: Answer, *, call_id: str, created: int, model: str, choices: int, usage: dict[str, object] | None
) -> bytes:
    body: dict[str, object] = {
        "id": call_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [_choice(answer, call_id, index) for index in range(choices)],
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }
    if usage is not None:
        body["usage"] = usage
    return orjson.dumps(body)


def _choice(answer: Answer, call_id: str, index: int) -> dict[str, object]:
    text = answer.text(0, answer.visible_tokens)
    message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    if answer.tool is not None:
        message["content"] = None
        message["tool_calls"] = [_tool_call(call_id, index, answer.tool.name, text)]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}


def _tool_call(call_id: str, index: int, name: str, arguments: str) -> dict[str, object]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{call_id[-16:]}{index}", "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ChatStream:
    """The events of one streamed call; what all its chunks share is rendered once."""

    answer: Answer
    call_id: str
    choices: int
    opening: bytes
    closing: bytes

    @classmethod
    def of(
        cls, answer: Answer, *, call_id: str, created: int, model: str, choices: int, with_usage: bool
    ) -> "ChatStream":
        """With `with_usage`, every chunk has a null usage, as OpenAI's have when a usage chunk follows."""
        shared = {
            "id": call_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "service_tier": "default",
            "system_fingerprint": FINGERPRINT,
        }
        opening = b"data: " + orjson.dumps(shared)[:-1] + b',"choices":['
        return cls(answer, call_id, choices, opening, b'],"usage":null}\n\n' if with_usage else b"]}\n\n")

    def heads(self) -> bytes:
        """A chunk per choice with the role, or with the tool that is called."""
        return b"".join(self._chunk(index, orjson.dumps(self._head(index))) for index in range(self.choices))

    def deltas(self, start: int, stop: int, chunk_tokens: int) -> bytes:
        """The visible tokens `start` to `stop` of every choice, `chunk_tokens` to a chunk."""
        chunks: list[bytes] = []
        for first in range(start, stop, chunk_tokens):
            text = self.answer.text(first, min(first + chunk_tokens, stop))
            delta = self._delta(orjson.dumps(text))
            chunks += (self._chunk(index, delta) for index in range(self.choices))
        return b"".join(chunks)

    def ends(self) -> bytes:
        reason = orjson.dumps(self.answer.finish_reason)
        return b"".join(self._chunk(index, b"{}", reason) for index in range(self.choices))

    def usage(self, usage: dict[str, object]) -> bytes:
        # The closing of the other chunks ends in a null usage, which this chunk has instead.
        return self.opening + b'],"usage":' + orjson.dumps(usage) + b"}\n\n"

    def _head(self, index: int) -> dict[str, object]:
        if self.answer.tool is None:
            return {"role": "assistant", "content": "", "refusal": None}
        call = {"index": 0, **_tool_call(self.call_id, index, self.answer.tool.name, "")}
        return {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}

    def _delta(self, text: bytes) -> bytes:
        if self.answer.tool is None:
            return b'{"content":%b}' % text
        return b'{"tool_calls":[{"index":0,"function":{"arguments":%b}}]}' % text

    def _chunk(self, index: int, delta: bytes, finish_reason: bytes = b"null") -> bytes:
        choice = b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}' % (index, delta, finish_reason)
        return self.opening + choice + self.closing


def embeddings(
    model: str, *, inputs: int, dimensions: int, base64_encoded: bool, usage: dict[str, int] | None
) -> bytes:
    vector: object = _encoded_vector(dimensions) if base64_encoded else _vector(dimensions).tolist()
    body: dict[str, object] = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index in range(inputs)],
        "model": model,
    }
    if usage is not None:
        body["usage"] = usage
    return orjson.dumps(body)


@lru_cache(maxsize=8)
def _vector(dimensions: int) -> "array[float]":
    """A vector of length one; every input has the same."""
    return array("f", [dimensions**-0.5] * dimensions)


@lru_cache(maxsize=8)
def _encoded_vector(dimensions: int) -> str:
    return base64.b64encode(_vector(dimensions).tobytes()).decode("ascii")


def model_object(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulator"}


def model_list() -> dict[str, object]:
    return {"object": "list", "data": [model_object(name) for name in MODELS]}
