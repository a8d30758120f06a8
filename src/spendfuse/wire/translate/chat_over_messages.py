"""OpenAI's chat calls, carried out with a provider that speaks Anthropic."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import cast

from spendfuse.core.calls import Body, Call, Content, Operation
from spendfuse.core.refusals import Code, Deny
from spendfuse.wire.anthropic_messages import AnthropicMessages, metered_message
from spendfuse.wire.dialect import TokenCounter, WholeAnswer, WireTarget
from spendfuse.wire.json_body import BodyInvalid, JsonObject
from spendfuse.wire.openai_usage import read_answer
from spendfuse.wire.translate.chat_to_messages import FIELDS_BYTES, IMAGE_BYTES, carried_body
from spendfuse.wire.translate.messages_to_chat import completion, error_answer
from spendfuse.wire.translate.stream import ChatOverMessagesMeter

_VENDORS_HEADERS = b"anthropic-"


class ChatOverMessages:
    """The exchange of calls that `OpenAIChat` has parsed with whoever speaks `/v1/messages`; see `Exchange`.

    Everything about the provider, the bill above all, is the native exchange's; only words are changed here. `now_s` is
    the time in Unix seconds, for `created`, which the vendor does not say. `extra_headers` pass upstream beside the
    known ones.
    """

    def __init__(self, *, now_s: Callable[[], int], extra_headers: Iterable[str] = ()) -> None:
        self._now_s = now_s
        self._native = AnthropicMessages(extra_headers=extra_headers)

    @property
    def operation(self) -> Operation:
        """See `Exchange`."""
        return self._native.operation

    @property
    def counter(self) -> TokenCounter | None:
        """See `Exchange`."""
        return self._native.counter

    def carry(self, call: Call) -> Call | Deny:
        """See `Exchange`. `text_bytes` stays at least what the body has, less its media and the model's name."""
        try:
            body = carried_body(cast("JsonObject", call.body), call)
        except BodyInvalid as invalid:
            return Deny(Code.INVALID_REQUEST, str(invalid), invalid.param)
        return replace(call, body=Body(body), content=_grown(call.content))

    def render(self, call: Call, target: WireTarget, *, cap: int | None) -> bytes:
        """See `Exchange`. Without a cap to send it is the client's own, else `OUTPUT_TOKENS_DEFAULT`."""
        return self._native.render(call, target, cap=cap)

    def headers_upstream(self, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        """See `Exchange`. A client of OpenAI's has no say in the version and the betas of another vendor."""
        theirs = {name: value for name, value in headers.items() if not name.startswith(_VENDORS_HEADERS)}
        return self._native.headers_upstream(theirs)

    def read(self, body: bytes) -> WholeAnswer:
        """See `Exchange`."""
        message = read_answer(body)
        metered = metered_message(message)
        if message is None or metered is None:
            return WholeAnswer(metered, None)
        return WholeAnswer(metered, completion(message, metered, created_s=self._now_s()))

    def error(self, status: int, body: bytes) -> bytes:
        """See `Exchange`."""
        return error_answer(status, body)

    def stream_meter(self, call: Call) -> ChatOverMessagesMeter:
        """See `Exchange`."""
        return ChatOverMessagesMeter(call, self._now_s)


def _grown(content: Content) -> Content:
    """The content with the bytes by which frames can grow in other words. All that is not text is an image."""
    images = len(content.media) + content.references
    return replace(content, text_bytes=content.text_bytes + FIELDS_BYTES + images * IMAGE_BYTES)
