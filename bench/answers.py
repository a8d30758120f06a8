"""The bytes of the static upstream's answers, rendered beforehand: one whole and one stream of any length for each API.

Their usage is what they claim; nobody counted.
"""

from collections.abc import Callable
from functools import cache

import orjson

from spendfuse.simulator.answers import WORD, Answer
from spendfuse.simulator.counting import InputCount
from spendfuse.simulator.messages_answers import MessageAnswer, TextSaid
from spendfuse.simulator.messages_cache import CachedInput
from spendfuse.simulator.messages_rendering import MessageStream, message_usage, whole_message
from spendfuse.simulator.rendering import DONE, ChatStream, chat_completion, chat_usage

CHAT_PATH, MESSAGES_PATH = b"/v1/chat/completions", b"/v1/messages"
WHOLE_TOKENS = 20
_INPUT_TOKENS = 200
_CHAT_ID, _CREATED, _CHAT_MODEL = "chatcmpl-static", 1_700_000_000, "gpt-4o-mini"
_MESSAGE_ID, _CLAUDE, _GEO = "msg_static", "claude-haiku-4-5-20251001", "not_available"
_WHOLE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@cache
def whole_answer(path: bytes) -> bytes:
    """The HTTP answer to a call that does not stream."""
    body = {CHAT_PATH: _completion, MESSAGES_PATH: _message}[path]()
    return _WHOLE_HEAD % len(body) + body


@cache
def streamed_answer(path: bytes, deltas: int) -> tuple[bytes, ...]:
    """The HTTP answer to a call that streams, in the pieces to be written one by one: a piece for each delta of a
    token, and few more.
    """
    first, *pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in stream_events(path, deltas)]
    return (_STREAM_HEAD + first, *pieces[:-1], pieces[-1] + b"0\r\n\r\n")


def stream_events(path: bytes, deltas: int) -> tuple[bytes, ...]:
    """The same pieces without HTTP around them."""
    render: dict[bytes, Callable[[int], tuple[bytes, ...]]] = {CHAT_PATH: _chunks, MESSAGES_PATH: _events}
    return render[path](deltas)


def _completion() -> bytes:
    answer = Answer(reasoning_tokens=0, visible_tokens=WHOLE_TOKENS, finish_reason="stop")
    usage = chat_usage(InputCount(_INPUT_TOKENS), answer, cached_tokens=0, choices=1)
    return chat_completion(answer, call_id=_CHAT_ID, created=_CREATED, model=_CHAT_MODEL, choices=1, usage=usage)


def _chunks(deltas: int) -> tuple[bytes, ...]:
    answer = Answer(reasoning_tokens=0, visible_tokens=deltas, finish_reason="stop")
    usage = chat_usage(InputCount(_INPUT_TOKENS), answer, cached_tokens=0, choices=1)
    stream = ChatStream.of(answer, call_id=_CHAT_ID, created=_CREATED, model=_CHAT_MODEL, choices=1, with_usage=True)
    tokens = [stream.deltas(at, at + 1, chunk_tokens=1) for at in range(deltas)]
    return (stream.heads(), *tokens, stream.ends(), stream.usage(usage) + DONE)


def _message() -> bytes:
    answer = _said(WHOLE_TOKENS)
    usage = message_usage(CachedInput(_INPUT_TOKENS), output_tokens=answer.tokens, inference_geo=_GEO)
    return orjson.dumps(whole_message(answer, call_id=_MESSAGE_ID, model=_CLAUDE, usage=usage))


def _events(deltas: int) -> tuple[bytes, ...]:
    stream = MessageStream(
        _said(deltas), call_id=_MESSAGE_ID, model=_CLAUDE, billed=CachedInput(_INPUT_TOKENS), inference_geo=_GEO
    )
    tokens = [stream.deltas(at, at + 1, chunk_tokens=1) for at in range(deltas)]
    return (stream.start(), *tokens, stream.end())


def _said(tokens: int) -> MessageAnswer:
    return MessageAnswer((TextSaid(tokens, WORD * tokens),), "end_turn")
