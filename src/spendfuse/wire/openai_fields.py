"""What becomes of every known field of an OpenAI request body, and why.

A field that is not in the table passes, and its text counts as input. The one that stands here as refused can change
what a call costs in a way that no cap and no price of ours covers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from spendfuse.wire.json_body import BodyInvalid, JsonObject


class Treatment(StrEnum):
    """What happens to a field on its way upstream."""

    PASSES = "passes"
    """Unaltered; it cannot change the bill beyond the quote."""
    PRICED = "priced"
    """Unaltered; the quote follows from it."""
    SET = "set by us"
    """Replaced, or added."""
    REFUSED = "refused"
    """A 400 unless null or false."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a body."""

    name: str
    treatment: Treatment
    why: str


def _passing(names: str, why: str) -> list[Field]:
    return [Field(name, Treatment.PASSES, why) for name in names.split()]


def _priced(name: str, why: str) -> Field:
    return Field(name, Treatment.PRICED, why)


def _set(name: str, why: str) -> Field:
    return Field(name, Treatment.SET, why)


def _refused(names: str, why: str) -> list[Field]:
    return [Field(name, Treatment.REFUSED, why) for name in names.split()]


CHAT_FIELDS: tuple[Field, ...] = (
    _set("model", "the public name becomes the target's own"),
    _set(
        "max_tokens", "becomes the reserved cap, under the one name that the target obeys; two names at once are a 400"
    ),
    _set("max_completion_tokens", "as `max_tokens`"),
    _set("stream_options", "`include_usage` is set on a stream, else its charge would not be known; the rest passes"),
    _set(
        "service_tier",
        "`auto` and `default` become `default` where the provider has tiers; `flex` and `priority` are priced",
    ),
    _priced("messages", "input: text by its bytes or tokens, media by kind, what is only named at the context window"),
    _priced(
        "tools", "input; types `function` and `custom`. A tool that the provider runs is a 400: its rounds have no cap"
    ),
    _priced("functions", "input"),
    _priced("response_format", "input; `json_schema` and `json_object` raise the useful minimum of a cap"),
    _priced("n", "the cap applies to each choice; at most `n_max`"),
    _priced("modalities", "`audio` is quoted at the price of audio output; anything but `text` and `audio` is a 400"),
    _priced("audio", "as `modalities: [audio]`"),
    _priced("thinking", "`budget_tokens` comes on top of the useful minimum of a cap"),
    _priced("reasoning", "`max_tokens`, as `thinking.budget_tokens`"),
    _priced("metadata", "labels: `user_id`, `organization_id`, `feature`, `run_id`; anything else is a tag"),
    _priced("user", "the label `user`, weaker than `metadata.user_id`"),
    *_passing("stream", "with it the answer is metered event by event"),
    *_passing("reasoning_effort verbosity", "reasoning is output, and the cap covers it"),
    *_passing("tool_choice function_call parallel_tool_calls", "the cap covers what they make the model write"),
    *_passing(
        "temperature top_p top_k min_p seed stop frequency_penalty presence_penalty repetition_penalty", "sampling"
    ),
    *_passing("logit_bias logprobs top_logprobs", "not billed"),
    *_passing("store safety_identifier prompt_cache_key prompt_cache_retention", "not billed by the token"),
    *_refused("prediction", "rejected prediction tokens are billed beyond the cap"),
    *_refused("web_search_options", "searches are billed by the call, in no proportion to tokens"),
    *_refused("search_parameters search_settings", "searches are billed by the source, in no proportion to tokens"),
    *_refused("models route fallbacks", "another model than the priced one could answer"),
    *_refused("provider preset", "another provider's price could apply"),
    *_refused("plugins mcp_servers container", "what the provider runs has no cap"),
    *_refused("transforms context_management", "the provider would change the input"),
    *_refused("best_of use_beam_search", "choices are generated, and billed, that are not returned"),
    *_refused("speed inference_geo", "another price could apply"),
    *_refused("deferred", "the answer, and with it the usage, would be fetched past the gateway"),
    *_refused("extra_body", "options of a provider that nobody checks; its known ones have fields of their own"),
)

EMBEDDINGS_FIELDS: tuple[Field, ...] = (
    _set("model", "the public name becomes the target's own"),
    _priced("input", "texts by their bytes or tokens, token ids by their number"),
    _priced("metadata", "labels, as for chat"),
    _priced("user", "the label `user`"),
    *_passing("dimensions encoding_format", "not billed"),
    *_refused("stream", "embeddings do not stream"),
    *_refused("models route fallbacks", "another model than the priced one could answer"),
    *_refused("provider preset", "another provider's price could apply"),
    *_refused("extra_body", "options of a provider that nobody checks"),
)


class FieldTable:
    """A table of fields, ready to be asked."""

    def __init__(self, fields: Iterable[Field], *, allowed: Iterable[str] = ()) -> None:
        """`allowed` are fields that stand as refused but that whoever calls has priced."""
        everything = tuple(fields)
        self.names = frozenset(field.name for field in everything)
        passing = frozenset(allowed)
        self._why_refused = {
            field.name: field.why
            for field in everything
            if field.treatment is Treatment.REFUSED and field.name not in passing
        }

    def refuse(self, body: JsonObject) -> None:
        """Look for a refused field.

        Raises:
            BodyInvalid: there is one that is neither null nor false.
        """
        for name in body.keys() & self._why_refused.keys():
            if body[name] is not None and body[name] is not False:
                raise BodyInvalid(f"`{name}` is refused: {self._why_refused[name]}", name)
