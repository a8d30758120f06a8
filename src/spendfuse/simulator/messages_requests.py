"""What clients of the Messages API send, as strictly as the vendor reads it: no field that it does not know."""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, ValidationError

from spendfuse.simulator.errors import ProviderError
from spendfuse.simulator.messages_cache import Ttl

THINKING_BUDGET_TOKENS_MIN = 1_024

JsonObject = dict[str, JsonValue]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class CacheControl(_Body):
    type: Literal["ephemeral"]
    ttl: Ttl = "5m"


class _Cacheable(_Body):
    # Left out of dumps: a mark on a block does not change what the block says.
    cache_control: CacheControl | None = Field(default=None, exclude=True)


class TextBlock(_Cacheable):
    type: Literal["text"]
    text: str
    citations: list[JsonObject] | None = None


class InlineImage(_Body):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class LinkedSource(_Body):
    type: Literal["url"]
    url: str


class ImageBlock(_Cacheable):
    type: Literal["image"]
    source: Annotated[InlineImage | LinkedSource, Field(discriminator="type")]


class InlinePdf(_Body):
    type: Literal["base64"]
    media_type: Literal["application/pdf"]
    data: str


class PlainText(_Body):
    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


class ContentSource(_Body):
    type: Literal["content"]
    content: str | list[Annotated[TextBlock | ImageBlock, Field(discriminator="type")]]


class DocumentBlock(_Cacheable):
    type: Literal["document"]
    source: Annotated[InlinePdf | PlainText | ContentSource | LinkedSource, Field(discriminator="type")]
    title: str | None = None
    context: str | None = None
    citations: JsonObject | None = None


class ToolUseBlock(_Cacheable):
    type: Literal["tool_use"]
    id: str = Field(pattern=r"^[a-zA-Z0-9_-]+$")
    name: str = Field(min_length=1, max_length=200)
    input: JsonObject
    caller: JsonObject | None = None


ResultBlock = Annotated[TextBlock | ImageBlock | DocumentBlock, Field(discriminator="type")]


class ToolResultBlock(_Cacheable):
    type: Literal["tool_result"]
    tool_use_id: str = Field(pattern=r"^[a-zA-Z0-9_-]+$")
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None


class ThinkingBlock(_Body):
    type: Literal["thinking"]
    thinking: str
    signature: str


class RedactedThinkingBlock(_Body):
    type: Literal["redacted_thinking"]
    data: str


Block = TextBlock | ImageBlock | DocumentBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock


class Message(_Body):
    role: Literal["user", "assistant"]
    content: str | list[Annotated[Block, Field(discriminator="type")]]

    @property
    def blocks(self) -> list[Block]:
        return [TextBlock(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class InputSchema(_Body):
    model_config = ConfigDict(extra="allow")

    type: Literal["object"]


class CustomTool(_Cacheable):
    type: Literal["custom"] | None = None
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")
    description: str | None = None
    input_schema: InputSchema
    strict: bool | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    allowed_callers: list[str] | None = None
    input_examples: list[JsonObject] | None = None


class VendorTool(_Cacheable):
    """A tool that the vendor defined and the client runs."""

    type: Literal[
        "bash_20250124",
        "text_editor_20250124",
        "text_editor_20250429",
        "text_editor_20250728",
        "memory_20250818",
    ]
    name: str
    max_characters: Annotated[int, Field(ge=1)] | None = None


def _tool_kind(tool: object) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return "custom" if kind in (None, "custom") else "vendor"


Tool = Annotated[
    Annotated[CustomTool, Tag("custom")] | Annotated[VendorTool, Tag("vendor")],
    Discriminator(_tool_kind),
]


class ToolChoice(_Body):
    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class NamedToolChoice(_Body):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


class ThinkingEnabled(_Body):
    type: Literal["enabled"]
    budget_tokens: Annotated[int, Field(ge=THINKING_BUDGET_TOKENS_MIN)]
    display: Literal["summarized", "omitted"] | None = None


class ThinkingAdaptive(_Body):
    type: Literal["adaptive"]
    display: Literal["summarized", "omitted"] | None = None


class ThinkingDisabled(_Body):
    type: Literal["disabled"]


class OutputConfig(_Body):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonObject | None = None


class Metadata(_Body):
    user_id: str | None = Field(default=None, max_length=256)


class Prompt(_Body):
    """What is counted of a request, and all that `count_tokens` takes."""

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: Annotated[ToolChoice | NamedToolChoice, Field(discriminator="type")] | None = None
    thinking: Annotated[ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled, Field(discriminator="type")] | None = (
        None
    )
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None

    @property
    def system_blocks(self) -> list[TextBlock]:
        if isinstance(self.system, str):
            return [TextBlock(type="text", text=self.system)] if self.system else []
        return self.system or []

    @property
    def thinks(self) -> ThinkingEnabled | ThinkingAdaptive | None:
        """The thinking that it asks for, if it does."""
        return None if isinstance(self.thinking, ThinkingDisabled) else self.thinking


class MessagesRequest(Prompt):
    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    metadata: Metadata | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    inference_geo: Literal["global"] | None = None

    @property
    def tool_name(self) -> str | None:
        """The tool that the model may or must call: the one that was chosen, else the first."""
        match self.tool_choice:
            case NamedToolChoice(name=name):
                return name
            case ToolChoice(type="none"):
                return None
            case _:
                return self.tools[0].name if self.tools else None


AnyPrompt = TypeVar("AnyPrompt", bound=Prompt)


def parse_prompt(kind: type[AnyPrompt], body: bytes) -> AnyPrompt:
    """The request in a body.

    Raises:
        ProviderError: 400, with one thing that is wrong.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_context=False, include_input=False)
        # Of a union each branch complains; the one that got furthest is the one that was meant.
        worst = max(errors, key=lambda error: len(error["loc"]))
        if worst["type"] == "json_invalid":
            raise ProviderError(400, "The request body is not valid JSON.") from None
        # The branches of a union stand in the path by their Python names, which are nothing to the client.
        path = ".".join(str(step) for step in worst["loc"] if "[" not in str(step))
        raise ProviderError(400, f"{path}: {worst['msg']}") from None
