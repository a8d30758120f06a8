"""Anthropic's free count of a call's input: for the gateway's own quotes, and as clients ask for it."""

from collections.abc import Iterable, Mapping
from typing import cast

from spendfuse.core.calls import Body, CacheWrite, Call, Operation
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.usage import NOTHING, Exact, Metered
from spendfuse.wire.anthropic_betas import AnthropicHeaders
from spendfuse.wire.anthropic_content import messages_content
from spendfuse.wire.anthropic_errors import refusal
from spendfuse.wire.anthropic_fields import COUNT_FIELDS, MESSAGES_FIELDS
from spendfuse.wire.anthropic_request import check_standard, claimed_labels, is_structured, thinking_of
from spendfuse.wire.dialect import NO_HEADERS, Answer, OwnWords, StreamMeter, WireTarget
from spendfuse.wire.fields import FieldTable
from spendfuse.wire.json_body import BodyInvalid, JsonObject, read_object, write
from spendfuse.wire.json_fields import mapping, model_of
from spendfuse.wire.openai_usage import read_answer

_COUNT_MAX = 2**40
_COUNTED = ("messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control")
_KNOWN = frozenset(field.name for field in MESSAGES_FIELDS)


class AnthropicCounter:
    """The vendor's count of a call that is about to be quoted; see `TokenCounter`."""

    @property
    def operation(self) -> Operation:
        """See `TokenCounter`."""
        return Operation.COUNT_TOKENS

    def render(self, call: Call, target: WireTarget) -> bytes | None:
        """See `TokenCounter`. A field that the vendor does not count, or that nobody knows, leaves no bound."""
        body = cast("JsonObject", call.body)
        if call.content.references or body.keys() - _KNOWN:
            return None
        counted: JsonObject = {"model": target.model}
        counted |= {name: body[name] for name in _COUNTED if body.get(name) is not None}
        older = body.get("output_format")
        if older is not None:
            # The count knows only the newer name of it.
            counted["output_config"] = {"format": older, **(mapping(counted, "output_config") or {})}
        return write(counted)

    def read(self, body: bytes) -> int | None:
        """See `TokenCounter`."""
        answer = read_answer(body)
        count = answer.get("input_tokens") if answer is not None else None
        return count if type(count) is int and 0 < count <= _COUNT_MAX else None


class AnthropicCountTokens(OwnWords):
    """The dialect of `/v1/messages/count_tokens`, and its exchange; see `Dialect` and `Exchange`.

    A count is free, but is read as strictly as the call that it is for.
    """

    def __init__(self, *, extra_headers: Iterable[str] = (), betas: Iterable[str] = ()) -> None:
        self._fields = FieldTable(COUNT_FIELDS)
        self._headers = AnthropicHeaders(extra=extra_headers, betas=betas)

    @property
    def operation(self) -> Operation:
        """See `Dialect`."""
        return Operation.COUNT_TOKENS

    def parse(self, body: bytes, headers: Mapping[bytes, bytes] = NO_HEADERS) -> Call | Deny:
        """See `Dialect`."""
        try:
            return self._headers.refusal(headers) or self._call(read_object(body), len(body))
        except BodyInvalid as invalid:
            return Deny(Code.INVALID_REQUEST, str(invalid), invalid.param)

    def render(self, call: Call, target: WireTarget, *, cap: int | None) -> bytes:
        """See `Exchange`. There is no output to cap, and the vendor's count takes no `metadata`."""
        body = {**cast("JsonObject", call.body), "model": target.model}
        body.pop("metadata", None)
        return write(body)

    def fingerprint(self, call: Call) -> str:
        """Empty: the same text is counted again and again without anything being wrong."""
        return ""

    def headers_upstream(self, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        """See `Exchange`."""
        return self._headers.upstream(headers)

    def metered(self, body: bytes) -> Metered | None:
        """See `WholeAnswer`: a count costs nothing."""
        return Exact(NOTHING) if AnthropicCounter().read(body) is not None else None

    def stream_meter(self, call: Call) -> StreamMeter:
        """Never called: `parse` refuses `stream`."""
        raise AssertionError("a count does not stream")

    def refuse(self, deny: Deny) -> Answer:
        """See `Dialect`."""
        return refusal(deny)

    def _call(self, body: JsonObject, body_bytes: int) -> Call:
        self._fields.refuse(body)
        check_standard(body)
        thinking_of(body)
        structured = is_structured(body)
        return Call(
            operation=Operation.COUNT_TOKENS,
            model=model_of(body),
            body=Body(body),
            content=messages_content(
                body, body_bytes=body_bytes, known_fields=self._fields.names, is_structured=structured
            ),
            has_output=False,
            cache_write=CacheWrite.NONE,
            claimed=claimed_labels(body),
        )
