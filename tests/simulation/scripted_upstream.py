"""A scripted upstream: what a provider answers, step by step, under a test's control."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from spendfuse.upstream.client import FateUnknown, UpstreamRequest

JSON_HEADERS = {"Content-Type": "application/json"}
SSE_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8"}
DONE = b"data: [DONE]\n\n"

Step = bytes | Exception | asyncio.Event | Callable[[], None]
"""What a scripted upstream does next: send bytes, fail, wait for the test, or change the world (advance the clock)."""


@dataclass(slots=True)
class Play:
    """One answer of the upstream."""

    body: Sequence[Step] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON_HEADERS)
    before_head: Sequence[Step] = ()


class Upstream:
    """A scripted `UpstreamClient`: each call meets what `play` makes of it. `log` has the order of events."""

    def __init__(self, log: list[str]) -> None:
        self.requests: list[UpstreamRequest] = []
        self.play: Callable[[UpstreamRequest], Play] = lambda _: Play([answer()])
        self.log = log
        self.open = 0

    def post(self, request: UpstreamRequest) -> "_Exchange":
        """See `UpstreamClient`."""
        self.requests.append(request)
        return _Exchange(self, self.play(request))

    async def close(self) -> None:
        """See `UpstreamClient`."""

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was sent up, read."""
        return [json.loads(request.body) for request in self.requests]


class _Exchange:
    """One request and its answer: the context and the response in one."""

    def __init__(self, upstream: Upstream, play: Play) -> None:
        self._upstream = upstream
        self._play = play
        self.status = play.status
        self.headers = _CaseInsensitive(play.headers)

    async def __aenter__(self) -> "_Exchange":
        self._upstream.open += 1
        try:
            async for _ in _performed(self._play.before_head):
                raise AssertionError("bytes before the head")
        except BaseException:
            self._left()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left()

    def _left(self) -> None:
        self._upstream.open -= 1
        self._upstream.log.append("upstream closed")

    def chunks(self) -> AsyncIterator[bytes]:
        """See `UpstreamResponse`."""
        return _performed(self._play.body)

    async def read(self, bytes_max: int) -> bytes:
        """See `UpstreamResponse`."""
        whole = b""
        async for chunk in self.chunks():
            whole += chunk
            if len(whole) > bytes_max:
                raise FateUnknown(f"the upstream's answer is larger than {bytes_max} bytes")
        return whole


class _CaseInsensitive(dict[str, str]):
    def get(self, key: str, default: str = "") -> str:  # type: ignore[override]
        return next((value for name, value in self.items() if name.lower() == key.lower()), default)


async def _performed(steps: Sequence[Step]) -> AsyncIterator[bytes]:
    for step in steps:
        await asyncio.sleep(0)
        if isinstance(step, bytes):
            yield step
        elif isinstance(step, Exception):
            raise step
        elif isinstance(step, asyncio.Event):
            await step.wait()
        else:
            step()


def words(count: int) -> str:
    """A text of so many tokens in OpenAI's vocabulary."""
    return " hello" * count


def usage(input_tokens: int, output_tokens: int, **more: object) -> dict[str, object]:
    """A provider's usage object."""
    total = input_tokens + output_tokens
    return {"prompt_tokens": input_tokens, "completion_tokens": output_tokens, "total_tokens": total, **more}


def answer(output_tokens: int = 5, *, input_tokens: int = 10, used: object = ...) -> bytes:
    """A whole answer; `used` replaces its usage."""
    said = usage(input_tokens, output_tokens) if used is ... else used
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": said}
    return json.dumps(body).encode()


def event(choices: list[dict[str, object]], **more: object) -> bytes:
    """One event of a stream."""
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"


def delta(text: str, index: int = 0) -> bytes:
    """A piece of an answer."""
    return event([{"index": index, "delta": {"content": text}, "finish_reason": None}])


def ended(reason: str = "stop", index: int = 0) -> bytes:
    """The end of a choice."""
    return event([{"index": index, "delta": {}, "finish_reason": reason}])


def used(input_tokens: int, output_tokens: int) -> bytes:
    """The chunk of usage."""
    return event([], usage=usage(input_tokens, output_tokens))


def stream(*steps: Step) -> Play:
    """A streamed answer."""
    return Play(steps, headers=SSE_HEADERS)


def failing(status: int, *, before_head: Sequence[Step] = ()) -> Play:
    """An answer that is an error."""
    return Play([b'{"error": {"message": "no", "code": "x"}}'], status=status, before_head=before_head)


def claude_usage(input_tokens: int, output_tokens: int, **more: object) -> dict[str, object]:
    """A usage object of Anthropic's."""
    return {"input_tokens": input_tokens, "output_tokens": output_tokens, **more}


def claude_answer(output_tokens: int = 5, *, input_tokens: int = 10, used: object = ..., **more: object) -> bytes:
    """A whole answer of Anthropic's; `used` replaces its usage."""
    said = claude_usage(input_tokens, output_tokens) if used is ... else used
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": said,
    }
    return json.dumps({**body, **more}).encode()


def claude_event(kind: str, **fields: object) -> bytes:
    """One event of a stream of Anthropic's."""
    return f"event: {kind}\ndata: ".encode() + json.dumps({"type": kind, **fields}).encode() + b"\n\n"


def claude_start(input_tokens: int = 10, **more: object) -> bytes:
    """The start of a stream and of its only block."""
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": claude_usage(input_tokens, 1, **more),
    }
    block = {"type": "text", "text": ""}
    return claude_event("message_start", message=message) + claude_event(
        "content_block_start", index=0, content_block=block
    )


def claude_delta(text: str) -> bytes:
    """A piece of an answer's text."""
    return claude_event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def claude_end(output_tokens: int | None, reason: str = "end_turn") -> bytes:
    """The end of the block and of the stream; without a count it says no usage."""
    said = {} if output_tokens is None else {"usage": {"output_tokens": output_tokens}}
    return (
        claude_event("content_block_stop", index=0)
        + claude_event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, **said)
        + claude_event("message_stop")
    )


def counted(tokens: int) -> Play:
    """Anthropic's count of an input."""
    return Play([json.dumps({"input_tokens": tokens}).encode()])


def is_count(request: UpstreamRequest) -> bool:
    """Whether a request asks for a count."""
    return request.url.endswith("/count_tokens")
