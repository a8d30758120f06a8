"""The keys of the section `alerts`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from spendfuse.config import scalars
from spendfuse.config.alerts import QuietHours
from spendfuse.config.sections import (
    TEXT,
    ChannelUrl,
    Name,
    Names,
    Positive,
    SecretText,
    Section,
    filled,
    filled_list,
    listed,
)


def _channel(value: object) -> object:
    """`name: URL` is short for a channel with this URL."""
    return {"url": value} if isinstance(value, str) else value


class ChannelSection(Section):
    """One channel that alerts go to."""

    url: ChannelUrl | None = None
    webhook: ChannelUrl | None = None
    secret: SecretText | None = None
    quiet_hours: Annotated[QuietHours, PlainValidator(scalars.quiet_hours), TEXT] | None = None
    messages_per_hour: Positive | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "ChannelSection":
        if (self.url is None) == (self.webhook is None):
            raise PydanticCustomError("rule", "expected either url (as apprise has them) or webhook")
        if (self.webhook is None) != (self.secret is None):
            raise PydanticCustomError("rule", "secret is what a webhook's messages are signed with: it needs the other")
        if self.webhook is not None and not self.webhook.reveal().startswith(("https://", "http://")):
            raise PydanticCustomError("rule", "webhook must be an https:// or http:// URL")
        return self


_KIND = Literal["threshold", "forecast", "breaker", "overrun", "drift", "unpriced", "store_down"]


class RouteSection(Section):
    """Which alerts go to which channels."""

    on: Annotated[list[_KIND], BeforeValidator(listed)] = []
    to: Names
    severity: Literal["info", "warning", "critical"] = "info"
    limit: Names = []


class DigestSection(Section):
    """Who gets the digest of a week or a month."""

    weekly: Names = []
    monthly: Names = []


class AlertsSection(Section):
    """Whom alerts go to."""

    channels: Annotated[dict[Name, Annotated[ChannelSection, BeforeValidator(_channel)]], BeforeValidator(filled)] = (
        Field(default_factory=dict[str, ChannelSection])
    )
    routes: Annotated[list[RouteSection], BeforeValidator(filled_list)] = []
    digest: Annotated[DigestSection, BeforeValidator(filled)] = DigestSection()
    dashboard_url: Annotated[str, PlainValidator(scalars.base_url), TEXT] | None = None
