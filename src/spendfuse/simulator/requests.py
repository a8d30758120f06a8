"""What clients send, and the refusals of what the provider would not take."""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from spendfuse.simulator.errors import ProviderError
from spendfuse.simulator.images import Detail
from spendfuse.simulator.models import MODELS, Endpoint, Model

CHOICES_MAX = 128
EMBEDDING_INPUTS_MAX = 2_048

Tokens = Annotated[int, Field(ge=1)]


class _Body(BaseModel):
    # Strict: the provider refuses "5" where it wants 5.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class TextPart(_Body):
    type: Literal["text"]
    text: str


class RefusalPart(_Body):
    type: Literal["refusal"]
    refusal: str


class ImageUrl(_Body):
    url: str
    detail: Detail = "auto"


class ImagePart(_Body):
    type: Literal["image_url"]
    image_url: ImageUrl


class InputAudio(_Body):
    data: str
    format: Literal["wav", "mp3"]


class AudioPart(_Body):
    type: Literal["input_audio"]
    input_audio: InputAudio


class FileSource(_Body):
    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class FilePart(_Body):
    type: Literal["file"]
    file: FileSource


Part = Annotated[TextPart | RefusalPart | ImagePart | AudioPart | FilePart, Field(discriminator="type")]


class CalledFunction(_Body):
    name: str
    arguments: str


class ToolCall(_Body):
    function: CalledFunction


class ChatMessage(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None


class StreamOptions(_Body):
    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class ChatRequest(_Body):
    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES_MAX)] | None = None
    tools: list[dict[str, JsonValue]] | None = None
    tool_choice: JsonValue = None
    response_format: dict[str, JsonValue] | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def cap(self) -> int | None:
        """The cap on each choice's tokens that the client sent, under whichever name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def usage_asked(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def tool_name(self) -> str | None:
        """The first function that the model may call, if there is one."""
        if not self.tools or self.tool_choice == "none":
            return None
        function = self.tools[0].get("function")
        name = function.get("name") if isinstance(function, dict) else None
        return name if isinstance(name, str) else None


class EmbeddingsRequest(_Body):
    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=3_072)] = 1_536

    @property
    def texts(self) -> list[str | list[int]]:
        """The inputs one by one: texts, or texts as token ids."""
        if isinstance(self.input, str):
            return [self.input]
        ids = [item for item in self.input if isinstance(item, int)]
        return [ids] if ids else [item for item in self.input if not isinstance(item, int)]


AnyRequest = TypeVar("AnyRequest", ChatRequest, EmbeddingsRequest)


def parse(kind: type[AnyRequest], body: bytes) -> AnyRequest:
    """The request in a body.

    Raises:
        ProviderError: 400, with the first thing that is wrong.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise ProviderError(400, "We could not parse the JSON body of your request.") from None
        param = ".".join(str(step) for step in first["loc"])
        message = f"Invalid value for '{param}': {first['msg']}."
        code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
        raise ProviderError(400, message, param=param, code=code) from None


def model_for(name: str, endpoint: Endpoint) -> Model:
    """The model of that name, if it is served at that endpoint; else a 404."""
    model = MODELS.get(name)
    if model is None or model.endpoint != endpoint:
        message = f"The model `{name}` does not exist or you do not have access to it."
        raise ProviderError(404, message, code="model_not_found")
    return model


def check_chat(request: ChatRequest, model: Model) -> None:
    """Refuse (400) what has the right shape and still cannot be served."""
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise ProviderError(400, message, code="invalid_parameter_combination")
    if request.max_tokens is not None and model.reasoning:
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        raise ProviderError(400, message, param="max_tokens", code="unsupported_parameter")
    if request.stream_options is not None and not request.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise ProviderError(400, message, param="stream_options")
    if request.cap is not None and request.cap > model.output_tokens_max:
        param = "max_tokens" if request.max_tokens is not None else "max_completion_tokens"
        message = (
            f"{param} is too large: {request.cap}. "
            f"This model supports at most {model.output_tokens_max} completion tokens."
        )
        raise ProviderError(400, message, param=param, code="invalid_value")


def check_window(model: Model, *, input_tokens: int, cap: int | None) -> None:
    """Refuse (400) a prompt that, with the cap sent, is longer than the model's window."""
    asked = input_tokens + (cap or 0)
    if asked > model.window_tokens:
        message = (
            f"This model's maximum context length is {model.window_tokens} tokens. However, you requested {asked} "
            f"tokens ({input_tokens} in the messages, {cap or 0} in the completion)."
        )
        raise ProviderError(400, message, param="messages", code="context_length_exceeded")


def check_embeddings(request: EmbeddingsRequest) -> None:
    """Refuse (400) no inputs, too many, or an empty one."""
    texts = request.texts
    if not texts or len(texts) > EMBEDDING_INPUTS_MAX or any(len(text) == 0 for text in texts):
        message = f"'$.input' is invalid: 1 to {EMBEDDING_INPUTS_MAX} inputs, none of them empty."
        raise ProviderError(400, message, param="input")
