"""Which fields of a chat request can be said to a provider that speaks Anthropic, and which say nothing anyway.

A field is carried, or has a value that asks for nothing, or refuses the call: whoever set `seed` must learn that it
would not be obeyed. So a field that is not known here refuses as well.
"""

from collections.abc import Mapping

from spendfuse.wire.fields import Treatment
from spendfuse.wire.json_body import BodyInvalid, Json, JsonObject
from spendfuse.wire.openai_fields import CHAT_FIELDS

CARRIED = frozenset(
    {
        "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "stream",
        "stream_options", "user", "metadata",
    }
)  # fmt: skip
SAYS_NOTHING: Mapping[str, tuple[Json, ...]] = {
    "n": (1,),
    "store": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "parallel_tool_calls": (True, False),  # there are no tools
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    **{field.name: (False,) for field in CHAT_FIELDS if field.treatment is Treatment.REFUSED},
}
"""The values by which a field asks for what happens anyway; SDKs and frameworks send them unasked."""


def check_fields(body: JsonObject) -> None:
    """Look for a field that would have to be dropped. Null counts as absent.

    Raises:
        BodyInvalid: there is one.
    """
    for name, value in body.items():
        if name not in CARRIED and value is not None and value not in SAYS_NOTHING.get(name, ()):
            raise not_carried(name)


def not_carried(path: str, hint: str = "leave it out") -> BodyInvalid:
    """The refusal of something that has no words in the other API, or none yet."""
    return BodyInvalid(
        f"`{path}` cannot be carried to a provider that speaks Anthropic yet, and nothing is dropped silently: {hint}, "
        "or ask for a model of a provider that speaks OpenAI",
        path,
    )
