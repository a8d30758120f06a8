"""The keys of a config and the type of each, as pydantic models.

Nothing of pydantic leaves this package: `building` turns these models into the values of `values`. What each key means
and its unit stand in `docs/reference/config.md`.
"""

from collections.abc import Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, cast

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from spendfuse.config import scalars
from spendfuse.config.schema_alerts import AlertsSection
from spendfuse.config.sections import (
    TEXT,
    Bytes,
    Count,
    Flag,
    Labelled,
    LabelValues,
    Milliseconds,
    Name,
    Names,
    Percent,
    PerMillion,
    PerRequest,
    Positive,
    SecretText,
    Section,
    Text,
    Usd,
    filled,
    filled_list,
    listed,
)
from spendfuse.core.limits import OnExceed, Unit
from spendfuse.core.subjects import NEW_SUBJECTS_PER_HOUR
from spendfuse.core.windows import CalendarUnit, Lifetime, Span


def _model(value: object) -> object:
    """`name: provider/model` is short for a model with one target."""
    return {"targets": [value]} if isinstance(value, str) else value


class PricesSection(Section):
    """What one model costs."""

    input: PerMillion
    output: PerMillion
    cache_read: PerMillion | None = None
    cache_write: PerMillion | None = None
    cache_write_1h: PerMillion | None = None
    input_audio: PerMillion | None = None
    cache_read_audio: PerMillion | None = None
    output_audio: PerMillion | None = None
    request: PerRequest = 0


class TimeoutsSection(Section):
    """How long an attempt may take."""

    connect: Milliseconds = 10_000
    first_byte: Milliseconds = 300_000
    read: Milliseconds = 120_000
    total: Milliseconds = 600_000

    @model_validator(mode="after")
    def _ordered(self) -> "TimeoutsSection":
        if min(self.connect, self.first_byte, self.read, self.total) == 0:
            raise PydanticCustomError("rule", "every timeout must be above 0")
        if max(self.connect, self.first_byte, self.read) > self.total:
            raise PydanticCustomError("rule", "no timeout may exceed total")
        return self


class ProviderSection(Section):
    """One provider."""

    vendor: Text | None = None
    dialect: Text | None = None
    base_url: Annotated[str, PlainValidator(scalars.base_url), TEXT] | None = None
    api_key: SecretText | None = None
    prices: dict[str, PricesSection] = Field(default_factory=dict[str, PricesSection])
    allow_free: Flag = False
    timeouts: Annotated[TimeoutsSection, BeforeValidator(filled)] = TimeoutsSection()
    cap_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    stream_options: Flag | None = None
    context_window: Positive | None = None
    output_tokens_max: Positive | None = None
    output_tokens_per_s_max: Positive | None = None


class ModelSection(Section):
    """One public model."""

    targets: list[Text]
    strategy: Literal["round_robin"] = "round_robin"
    prices: PricesSection | None = None
    min_output_tokens: Positive | None = None
    context_window: Positive | None = None
    output_tokens_max: Positive | None = None
    output_tokens_per_s_max: Positive | None = None
    reference_tokens: Positive | None = None


class KeySection(Section):
    """One client key."""

    name: Name
    key: SecretText
    labels: dict[Name, Labelled] = Field(default_factory=dict[str, str])
    labels_from: Annotated[list[Literal["headers", "body"]], BeforeValidator(listed)] = ["headers", "body"]
    new_subjects: Positive | None = None


class LimitSection(Section):
    """One limit."""

    usd: Usd | None = None
    tokens: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    requests: Count | None = None
    concurrent: Count | None = None
    per: Annotated[CalendarUnit | Span | Lifetime, PlainValidator(scalars.period), TEXT] | None = None
    each: Names = []
    match: dict[Name, LabelValues] = Field(default_factory=dict[str, list[str]])
    require: Flag = False
    on_exceed: Annotated[
        OnExceed,
        PlainValidator(scalars.on_exceed),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["reject", "shadow"]},
                    {"type": "object", "properties": {"route_to": {"type": "string"}}, "additionalProperties": False},
                ]
            }
        ),
    ] = scalars.REJECT
    on_store_down: Literal["refuse", "admit"] = "refuse"
    fit: Flag | None = None
    estimate: Flag | None = None
    burst: Positive | None = None
    min_output_tokens: Positive | None = None
    alert_at: Annotated[list[Percent], BeforeValidator(listed)] = [50, 80, 100]

    @property
    def amounts(self) -> dict[Unit, int]:
        """The units that have an amount; a valid limit has one."""
        amounts = {unit: cast("int | None", getattr(self, unit.value)) for unit in Unit}
        return {unit: amount for unit, amount in amounts.items() if amount is not None}

    @model_validator(mode="after")
    def _consistent(self) -> "LimitSection":
        broken = self._broken_rule()
        if broken:
            raise PydanticCustomError("rule", "{what}", {"what": broken})
        return self

    def _broken_rule(self) -> str | None:
        if len(self.amounts) != 1:
            got = " and ".join(unit.value for unit in self.amounts) or "none"
            return f"got {got}, expected exactly one of {', '.join(Unit)}"
        (unit,) = self.amounts
        if unit is Unit.CONCURRENT and self.per is not None:
            return "concurrent counts calls in flight and takes no per"
        if unit is not Unit.CONCURRENT and self.per is None:
            return f"per is missing, expected {scalars.PERIODS}"
        if self.burst is not None and not (unit is Unit.REQUESTS and isinstance(self.per, Span)):
            return "burst is for requests per span (second, minute, hour, 5m) only"
        for key in ("fit", "estimate", "min_output_tokens"):
            if getattr(self, key) is not None and not unit.is_consumable:
                return f"{key} is for limits of money and tokens only"
        if len(set(self.each)) < len(self.each):
            return "each names a label twice"
        if self.require and not self.each:
            return "require needs each: the labels that a call must have"
        return None


class BreakerSection(Section):
    """One breaker."""

    error_rate: Percent | None = None
    mean_latency: Milliseconds | None = None
    limit: Name | None = None
    usd: Usd | None = None
    drift: Literal["output_tokens", "cost"] | None = None
    times: Positive | None = None
    ttft: Flag | None = None
    over: Milliseconds | None = None
    baseline: Milliseconds | None = None
    min_calls: Positive | None = None
    min_errors: Positive | None = None
    each: Names | None = None
    cooldown: Milliseconds | None = None
    opens: Flag | None = None

    @property
    def trigger(self) -> str:
        """The key that says what it watches; a valid breaker has one."""
        return self._triggers[0]

    @property
    def _triggers(self) -> list[str]:
        found = [key for key in _OPTIONS if getattr(self, key) is not None]
        # With drift, `times` is its threshold.
        return [key for key in found if key != "times" or "drift" not in found]

    @model_validator(mode="after")
    def _consistent(self) -> "BreakerSection":
        broken = self._broken_rule()
        if broken:
            raise PydanticCustomError("rule", "{what}", {"what": broken})
        return self

    def _broken_rule(self) -> str | None:
        if len(self._triggers) != 1:
            got = " and ".join(self._triggers) or "none"
            return f"got {got}, expected exactly one of {', '.join(_OPTIONS)}"
        wrong = self.model_fields_set - {self.trigger, "each", "opens", *_OPTIONS[self.trigger]}
        if wrong:
            return f"{min(wrong)} is not for breakers of {self.trigger}"
        if self.trigger in ("usd", "times") and self.over is None:
            return "over is missing, expected a duration such as 10m"
        if self.trigger == "drift" and self.times is None:
            return "times is missing, expected how many times the usual mean"
        if self.over is not None and not _OVER_MS_MIN <= self.over <= _OVER_MS_MAX:
            return "over is out of range, expected a duration from 10s to 31d"
        if 0 in (self.mean_latency, self.cooldown, self.baseline):
            return "got a duration of 0"
        if self.each is not None and len(set(self.each)) < len(self.each):
            return "each names a label twice"
        return None


_OPTIONS = {
    "error_rate": ("over", "min_calls", "min_errors", "cooldown"),
    "mean_latency": ("ttft", "over", "min_calls", "cooldown"),
    "limit": (),
    "usd": ("over", "cooldown"),
    "times": ("over", "cooldown"),
    "drift": ("times", "over", "baseline", "min_calls", "cooldown"),
}
"""What a breaker watches, and which keys that takes."""
_OVER_MS_MIN, _OVER_MS_MAX = 10_000, 31 * 86_400_000


class Document(Section):
    """A whole config."""

    store: Text = "sqlite:///spendfuse.db"
    spool: Text | None = None
    timezone: Annotated[str, PlainValidator(scalars.timezone), TEXT] = "UTC"
    reservation_deadline: Milliseconds = 600_000
    busy_wait: Milliseconds = 2_000
    retention: Milliseconds | None = None
    min_output_tokens: Positive = 256
    output_tokens_default: Positive = 4_096
    output_tokens_per_s_max: Positive = 1_000
    n_max: Positive = 8
    body_bytes_max: Bytes = 32 * 2**20
    new_subjects: Positive = NEW_SUBJECTS_PER_HOUR
    trusted_proxies: Annotated[
        list[Annotated[IPv4Network | IPv6Network, PlainValidator(scalars.network), TEXT]], BeforeValidator(listed)
    ] = []
    admin_key: SecretText | None = None
    admin_from: Annotated[
        list[Annotated[IPv4Network | IPv6Network, PlainValidator(scalars.network), TEXT]], BeforeValidator(listed)
    ] = [IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")]
    cut_tail: Milliseconds = 1_000
    on_disconnect: Literal["cancel", "finish"] = "cancel"
    betas: Annotated[list[Text], BeforeValidator(listed)] = []
    providers: Annotated[dict[Name, ProviderSection], BeforeValidator(filled)] = Field(
        default_factory=dict[str, ProviderSection]
    )
    models: Annotated[dict[Labelled, Annotated[ModelSection, BeforeValidator(_model)]], BeforeValidator(filled)] = (
        Field(default_factory=dict[str, ModelSection])
    )
    keys: Annotated[list[KeySection], BeforeValidator(filled_list)] = []
    limits: Annotated[dict[Name, LimitSection], BeforeValidator(filled)] = Field(
        default_factory=dict[str, LimitSection]
    )
    alerts: Annotated[AlertsSection, BeforeValidator(filled)] = AlertsSection()
    breakers: Annotated[dict[Name, BreakerSection], BeforeValidator(filled)] = Field(
        default_factory=dict[str, BreakerSection]
    )


@cache
def json_schema() -> dict[str, object]:
    """The JSON Schema of a config, for editors."""
    schema = Document.model_json_schema()
    models = schema["properties"]["models"]
    models["additionalProperties"] = {"anyOf": [{"type": "string"}, models["additionalProperties"]]}
    channels = schema["$defs"]["AlertsSection"]["properties"]["channels"]
    channels["additionalProperties"] = {"anyOf": [{"type": "string"}, channels["additionalProperties"]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Spendfuse config"}


def keys_known_at(path: tuple[str | int, ...]) -> frozenset[str]:
    """The keys that may stand in the section at a path; empty where any may."""
    schema = json_schema()
    definitions = cast("dict[str, dict[str, object]]", schema["$defs"])

    def resolved(node: Mapping[str, object]) -> Mapping[str, object]:
        for one in cast("list[Mapping[str, object]]", node.get("anyOf", [])):
            if "$ref" in one:
                node = one
        reference = node.get("$ref")
        return definitions[str(reference).rsplit("/", 1)[1]] if reference else node

    node: Mapping[str, object] = schema
    for part in path:
        properties = cast("Mapping[str, Mapping[str, object]]", node.get("properties", {}))
        inner = node.get("items") if isinstance(part, int) else properties.get(part, node.get("additionalProperties"))
        if not isinstance(inner, Mapping):
            return frozenset()
        node = resolved(cast("Mapping[str, object]", inner))
    return frozenset(cast("Mapping[str, object]", node.get("properties", {})))
