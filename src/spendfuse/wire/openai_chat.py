"""OpenAI's chat completions, and everybody who speaks like them."""

from collections.abc import Iterable, Mapping
from typing import cast

from spendfuse.core.calls import Body, Call, Operation
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.usage import NOTHING, AtLeast, Metered
from spendfuse.wire.content import cache_write_of
from spendfuse.wire.dialect import NO_HEADERS, Answer, OwnWords, WireTarget
from spendfuse.wire.fields import FieldTable
from spendfuse.wire.fingerprint import fingerprint_of
from spendfuse.wire.headers import headers_passed, passed_names
from spendfuse.wire.json_body import BodyInvalid, JsonObject, read_object, write
from spendfuse.wire.json_fields import boolean, integer, mapping, model_of, objects, text, wrong
from spendfuse.wire.labels import labels_from_body
from spendfuse.wire.openai_content import chat_content
from spendfuse.wire.openai_errors import refusal
from spendfuse.wire.openai_fields import CHAT_FIELDS
from spendfuse.wire.openai_stream import ChatStreamMeter
from spendfuse.wire.openai_usage import metered_usage, read_answer

CHOICES_MAX = 8
_CAP_FIELDS = ("max_tokens", "max_completion_tokens")
_STANDARD_TIERS = frozenset({"auto", "default"})
_PRICED_TIERS = frozenset({"flex", "priority"})
_STRUCTURED_FORMATS = ("json_schema", "json_object")
_CLIENT_TOOLS = frozenset({"function", "custom"})


class OpenAIChat(OwnWords):
    """The dialect of `/v1/chat/completions`, and its exchange with those who speak it; see `Dialect` and `Exchange`.

    `allows_web_search` is for a config that prices searches. `extra_headers` pass upstream beside the known ones.
    """

    def __init__(
        self, *, n_max: int = CHOICES_MAX, allows_web_search: bool = False, extra_headers: Iterable[str] = ()
    ) -> None:
        self._n_max = n_max
        self._fields = FieldTable(CHAT_FIELDS, allowed=["web_search_options"] if allows_web_search else [])
        self._headers = passed_names(extra_headers)

    @property
    def operation(self) -> Operation:
        """See `Dialect`."""
        return Operation.CHAT

    def parse(self, body: bytes, headers: Mapping[bytes, bytes] = NO_HEADERS) -> Call | Deny:
        """See `Dialect`."""
        try:
            return self._call(read_object(body), body)
        except BodyInvalid as invalid:
            return Deny(Code.INVALID_REQUEST, str(invalid), invalid.param)

    def render(self, call: Call, target: WireTarget, *, cap: int | None) -> bytes:
        """See `Exchange`. Without a cap the client's own stays as it is."""
        body = {**_fields_of(call), "model": target.model}
        if cap is not None:
            for name in _CAP_FIELDS:
                body.pop(name, None)
            body[target.cap_field] = cap
        if call.stream and target.takes_stream_options:
            body["stream_options"] = {**(mapping(body, "stream_options") or {}), "include_usage": True}
        elif not target.takes_stream_options:
            body.pop("stream_options", None)
        if target.pins_service_tier and call.service_tier is None:
            body["service_tier"] = "default"
        return write(body)

    def fingerprint(self, call: Call) -> str:
        """See `Dialect`."""
        return fingerprint_of(_fields_of(call))

    def metered(self, body: bytes) -> Metered | None:
        """See `WholeAnswer`."""
        answer = read_answer(body)
        if answer is None:
            return None
        if isinstance(answer.get("usage"), dict):
            return metered_usage(answer["usage"])
        return AtLeast(NOTHING) if isinstance(answer.get("choices"), list) else None

    def stream_meter(self, call: Call) -> ChatStreamMeter:
        """See `Exchange`."""
        return ChatStreamMeter(call)

    def refuse(self, deny: Deny) -> Answer:
        """See `Dialect`."""
        return refusal(deny)

    def headers_upstream(self, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        """See `Exchange`."""
        return headers_passed(headers, self._headers)

    def _call(self, body: JsonObject, raw: bytes) -> Call:
        self._fields.refuse(body)
        _check_tools(body)
        stream = boolean(body, "stream")
        options = mapping(body, "stream_options") or {}
        asks_usage = boolean(options, "include_usage", path="stream_options.include_usage")
        return Call(
            operation=Operation.CHAT,
            model=model_of(body),
            body=Body(body),
            content=chat_content(body, body_bytes=len(raw), known_fields=self._fields.names),
            stream=stream,
            wants_usage_chunk=stream and asks_usage,
            cap=_cap(body),
            choices=integer(body, "n", least=1, most=self._n_max) or 1,
            output_audio=_asks_audio(body),
            is_structured=(mapping(body, "response_format") or {}).get("type") in _STRUCTURED_FORMATS,
            thinking_tokens=_thinking_tokens(body),
            cache_write=cache_write_of(body, raw),
            service_tier=_service_tier(body),
            claimed=labels_from_body(body),
        )


def _fields_of(call: Call) -> JsonObject:
    return cast("JsonObject", call.body)


def _cap(body: JsonObject) -> int | None:
    cap = integer(body, "max_tokens", least=1)
    newer = integer(body, "max_completion_tokens", least=1)
    if cap is not None and newer is not None:
        raise BodyInvalid("`max_tokens` and `max_completion_tokens` are both given: send one of them", "max_tokens")
    return newer if cap is None else cap


def _check_tools(body: JsonObject) -> None:
    """Refuse a tool that the provider runs: neither its rounds nor its fees have a cap."""
    for at, tool in enumerate(objects(body, "tools")):
        kind = tool.get("type")
        if not isinstance(kind, str) or kind not in _CLIENT_TOOLS:
            raise wrong(f"tools[{at}].type", '"function" or "custom" (a tool that you run)', kind)


def _asks_audio(body: JsonObject) -> bool:
    modalities = body.get("modalities")
    if modalities is None:
        return mapping(body, "audio") is not None
    if not isinstance(modalities, list) or any(one not in ("text", "audio") for one in modalities):
        raise wrong("modalities", 'an array of "text" and "audio"', modalities)
    return "audio" in modalities or body.get("audio") is not None


def _thinking_tokens(body: JsonObject) -> int:
    for group, name in (("thinking", "budget_tokens"), ("reasoning", "max_tokens")):
        options = mapping(body, group)
        if options and options.get(name) is not None:
            budget = options[name]
            if type(budget) is not int or budget < 0:
                raise wrong(f"{group}.{name}", "an integer of at least 0", budget)
            return budget
    return 0


def _service_tier(body: JsonObject) -> str | None:
    """The tier to price, None for the standard one."""
    tier = text(body, "service_tier")
    if tier is None or tier in _STANDARD_TIERS:
        return None
    if tier not in _PRICED_TIERS:
        raise wrong("service_tier", '"auto", "default", "flex" or "priority"', tier)
    return tier
