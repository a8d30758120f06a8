"""Anthropic's messages, and everybody who speaks like them."""

from collections.abc import Iterable, Mapping
from typing import cast

from spendfuse.core.calls import Body, Call, Operation
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.usage import NOTHING, AtLeast, Metered
from spendfuse.wire.anthropic_betas import AnthropicHeaders
from spendfuse.wire.anthropic_content import messages_content
from spendfuse.wire.anthropic_count import AnthropicCounter
from spendfuse.wire.anthropic_errors import refusal
from spendfuse.wire.anthropic_fields import MESSAGES_FIELDS
from spendfuse.wire.anthropic_request import (
    check_standard,
    claimed_labels,
    is_structured,
    thinking_of,
    without_labels,
)
from spendfuse.wire.anthropic_stream import MessagesStreamMeter
from spendfuse.wire.anthropic_usage import metered_usage
from spendfuse.wire.content import cache_write_of
from spendfuse.wire.dialect import NO_HEADERS, Answer, OwnWords, TokenCounter, WireTarget
from spendfuse.wire.fields import FieldTable
from spendfuse.wire.fingerprint import fingerprint_of
from spendfuse.wire.json_body import BodyInvalid, JsonObject, read_object, write
from spendfuse.wire.json_fields import boolean, integer, model_of, wrong
from spendfuse.wire.openai_usage import read_answer

_DIAGNOSTICS = "diagnostics"
_COUNTER = AnthropicCounter()


def metered_message(answer: JsonObject | None) -> Metered | None:
    """The usage in a whole answer; see `WholeAnswer`."""
    if answer is None or answer.get("type") != "message":
        return None
    usage = answer.get("usage")
    return metered_usage(usage) if isinstance(usage, dict) else AtLeast(NOTHING)


class AnthropicMessages(OwnWords):
    """The dialect of `/v1/messages`, and its exchange with those who speak it; see `Dialect` and `Exchange`.

    `extra_headers` pass upstream beside the known ones. `betas` pass beside those of the table in `anthropic_betas`.
    """

    def __init__(self, *, extra_headers: Iterable[str] = (), betas: Iterable[str] = ()) -> None:
        self._fields = FieldTable(MESSAGES_FIELDS)
        self._headers = AnthropicHeaders(extra=extra_headers, betas=betas)

    @property
    def operation(self) -> Operation:
        """See `Dialect`."""
        return Operation.MESSAGES

    @property
    def counter(self) -> TokenCounter | None:
        """See `Exchange`."""
        return _COUNTER

    def parse(self, body: bytes, headers: Mapping[bytes, bytes] = NO_HEADERS) -> Call | Deny:
        """See `Dialect`."""
        try:
            return self._headers.refusal(headers) or self._call(read_object(body), body)
        except BodyInvalid as invalid:
            return Deny(Code.INVALID_REQUEST, str(invalid), invalid.param)

    def render(self, call: Call, target: WireTarget, *, cap: int | None) -> bytes:
        """See `Exchange`. Without a cap the client's own stays as it is."""
        body: JsonObject = {**without_labels(_fields_of(call)), "model": target.model}
        if cap is not None:
            body["max_tokens"] = cap
        return write(body)

    def fingerprint(self, call: Call) -> str:
        """See `Dialect`."""
        return fingerprint_of({name: value for name, value in _fields_of(call).items() if name != _DIAGNOSTICS})

    def headers_upstream(self, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        """See `Exchange`."""
        return self._headers.upstream(headers)

    def metered(self, body: bytes) -> Metered | None:
        """See `WholeAnswer`."""
        return metered_message(read_answer(body))

    def stream_meter(self, call: Call) -> MessagesStreamMeter:
        """See `Exchange`."""
        return MessagesStreamMeter(call)

    def refuse(self, deny: Deny) -> Answer:
        """See `Dialect`."""
        return refusal(deny)

    def _call(self, body: JsonObject, raw: bytes) -> Call:
        self._fields.refuse(body)
        check_standard(body)
        cap = integer(body, "max_tokens", least=1)
        if cap is None:
            raise wrong("max_tokens", "an integer of at least 1", None)
        thinks, thinking_tokens = thinking_of(body)
        structured = is_structured(body)
        stream = boolean(body, "stream")
        return Call(
            operation=Operation.MESSAGES,
            model=model_of(body),
            body=Body(body),
            content=messages_content(
                body, body_bytes=len(raw), known_fields=self._fields.names, is_structured=structured
            ),
            stream=stream,
            wants_usage_chunk=stream,
            cap=cap,
            is_structured=structured,
            thinking_tokens=thinking_tokens,
            thinks=thinks,
            cache_write=cache_write_of(body, raw),
            claimed=claimed_labels(body),
        )


def _fields_of(call: Call) -> JsonObject:
    return cast("JsonObject", call.body)
