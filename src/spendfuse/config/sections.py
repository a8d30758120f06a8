"""What sections of a config are made of: the types of their keys, each read from the text that a YAML scalar is."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator, WithJsonSchema

from spendfuse.config import scalars
from spendfuse.config.secret import Secret

NUMBER = WithJsonSchema({"type": ["number", "string"]})
WHOLE = WithJsonSchema({"type": ["integer", "string"]})
TEXT = WithJsonSchema({"type": "string"})
DURATION = WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$"})


def listed(value: object) -> object:
    """One value where several may stand."""
    return [value] if isinstance(value, str | int) else value


def filled(value: object) -> object:
    """A section all of whose keys are commented out is an empty one."""
    return {} if value is None else value


def filled_list(value: object) -> object:
    return [] if value is None else value


Usd = Annotated[int, PlainValidator(scalars.dollars), NUMBER]
PerMillion = Annotated[int, PlainValidator(scalars.dollars_per_million_tokens), NUMBER]
PerRequest = Annotated[int, PlainValidator(scalars.dollars_per_request), NUMBER]
Count = Annotated[int, PlainValidator(scalars.count), WHOLE]
Positive = Annotated[int, PlainValidator(scalars.positive), WHOLE]
Percent = Annotated[int, PlainValidator(scalars.percent), WithJsonSchema({"type": ["integer", "string"]})]
Flag = Annotated[bool, PlainValidator(scalars.flag), WithJsonSchema({"type": "boolean"})]
Milliseconds = Annotated[int, PlainValidator(scalars.duration_ms), DURATION]
Bytes = Annotated[int, PlainValidator(scalars.size_bytes), WHOLE]
Name = Annotated[str, PlainValidator(scalars.name), TEXT]
Labelled = Annotated[str, PlainValidator(scalars.labelled), TEXT]
Text = Annotated[str, PlainValidator(scalars.text), TEXT]
SecretText = Annotated[Secret, PlainValidator(scalars.secret), TEXT]
ChannelUrl = Annotated[Secret, PlainValidator(scalars.channel_url), TEXT]
Names = Annotated[list[Name], BeforeValidator(listed)]
LabelValues = Annotated[list[Labelled], BeforeValidator(listed)]


class Section(BaseModel):
    """A mapping with known keys."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)
