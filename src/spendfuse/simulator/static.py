"""An upstream for benchmarks: one answer, rendered beforehand, with neither parsing nor a bill.

Its usage is what it claims, not what anyone counted. Streams come in one piece,
without pauses.
"""

import orjson

from spendfuse.simulator.answers import WORD, Answer
from spendfuse.simulator.asgi import (
    EVENT_STREAM,
    ClientLeftError,
    Headers,
    Receive,
    Scope,
    Send,
    json_headers,
    read_body,
    send_body,
    send_start,
)
from spendfuse.simulator.counting import InputCount
from spendfuse.simulator.messages_answers import MessageAnswer, TextSaid
from spendfuse.simulator.messages_cache import CachedInput
from spendfuse.simulator.messages_rendering import MessageStream, message_usage, whole_message
from spendfuse.simulator.rendering import DONE, ChatStream, chat_completion, chat_usage, embeddings

ID = "chatcmpl-static"
CREATED = 1_700_000_000
MODEL = "gpt-4o-mini"
ANSWER = Answer(reasoning_tokens=0, visible_tokens=20, finish_reason="stop")
MESSAGE_ID = "msg_static"
CLAUDE = "claude-haiku-4-5-20251001"
GEO = "not_available"
MESSAGE = MessageAnswer((TextSaid(20, WORD * 20),), "end_turn")
STREAMED = (b'"stream":true', b'"stream": true')
USAGE_ASKED = b'"include_usage"'


class StaticSimulator:
    def __init__(self) -> None:
        usage = chat_usage(InputCount(20), ANSWER, cached_tokens=0, choices=1)
        whole = chat_completion(ANSWER, call_id=ID, created=CREATED, model=MODEL, choices=1, usage=usage)
        vectors = embeddings(
            "text-embedding-3-small",
            inputs=1,
            dimensions=1_536,
            base64_encoded=True,
            usage={"prompt_tokens": 20, "total_tokens": 20},
        )
        self._whole = (json_headers(len(whole)), whole)
        self._vectors = (json_headers(len(vectors)), vectors)
        self._stream = (EVENT_STREAM, _events(usage, with_usage=False))
        self._stream_with_usage = (EVENT_STREAM, _events(usage, with_usage=True))

        message_body = _message()
        self._message = (json_headers(len(message_body)), message_body)
        self._message_stream = (EVENT_STREAM, _message_events())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            body = await read_body(receive)
        except ClientLeftError:
            return
        headers, answer = self._answer(scope["path"], body)
        await send_start(send, 200, headers)
        await send_body(send, answer)

    def _answer(self, path: str, body: bytes) -> tuple[Headers, bytes]:
        if path == "/v1/embeddings":
            return self._vectors
        streamed = any(mark in body for mark in STREAMED)
        if path == "/v1/messages":
            return self._message_stream if streamed else self._message
        if not streamed:
            return self._whole
        return self._stream_with_usage if USAGE_ASKED in body else self._stream


def _events(usage: dict[str, object], *, with_usage: bool) -> bytes:
    stream = ChatStream.of(ANSWER, call_id=ID, created=CREATED, model=MODEL, choices=1, with_usage=with_usage)
    deltas = stream.deltas(0, ANSWER.visible_tokens, chunk_tokens=1)
    return stream.heads() + deltas + stream.ends() + (stream.usage(usage) if with_usage else b"") + DONE


def _message() -> bytes:
    usage = message_usage(CachedInput(20), output_tokens=MESSAGE.tokens, inference_geo=GEO)
    return orjson.dumps(whole_message(MESSAGE, call_id=MESSAGE_ID, model=CLAUDE, usage=usage))


def _message_events() -> bytes:
    stream = MessageStream(MESSAGE, call_id=MESSAGE_ID, model=CLAUDE, billed=CachedInput(20), inference_geo=GEO)
    return stream.start() + stream.deltas(0, MESSAGE.tokens, chunk_tokens=1) + stream.end()
