"""What becomes of every known field of an OpenAI request body, and why.

A field that is not in the table passes, and its text counts as input. The one that stands here as refused can change
what a call costs in a way that no cap and no price of ours covers.
"""

from spendfuse.wire.fields import Field, passing, priced, refused, set_by_us

CHAT_FIELDS: tuple[Field, ...] = (
    set_by_us("model", "the public name becomes the target's own"),
    set_by_us(
        "max_tokens", "becomes the reserved cap, under the one name that the target obeys; two names at once are a 400"
    ),
    set_by_us("max_completion_tokens", "as `max_tokens`"),
    set_by_us(
        "stream_options", "`include_usage` is set on a stream, else its charge would not be known; the rest passes"
    ),
    set_by_us(
        "service_tier",
        "`auto` and `default` become `default` where the provider has tiers; `flex` and `priority` are priced",
    ),
    priced("messages", "input: text by its bytes or tokens, media by kind, what is only named at the context window"),
    priced(
        "tools", "input; types `function` and `custom`. A tool that the provider runs is a 400: its rounds have no cap"
    ),
    priced("functions", "input"),
    priced("response_format", "input; `json_schema` and `json_object` raise the useful minimum of a cap"),
    priced("n", "the cap applies to each choice; at most `n_max`"),
    priced("modalities", "`audio` is quoted at the price of audio output; anything but `text` and `audio` is a 400"),
    priced("audio", "as `modalities: [audio]`"),
    priced("thinking", "`budget_tokens` comes on top of the useful minimum of a cap"),
    priced("reasoning", "`max_tokens`, as `thinking.budget_tokens`"),
    priced("metadata", "labels: `user_id`, `organization_id`, `feature`, `run_id`; anything else is a tag"),
    priced("user", "the label `user`, weaker than `metadata.user_id`"),
    *passing("stream", "with it the answer is metered event by event"),
    *passing("reasoning_effort verbosity", "reasoning is output, and the cap covers it"),
    *passing("tool_choice function_call parallel_tool_calls", "the cap covers what they make the model write"),
    *passing(
        "temperature top_p top_k min_p seed stop frequency_penalty presence_penalty repetition_penalty", "sampling"
    ),
    *passing("logit_bias logprobs top_logprobs", "not billed"),
    *passing("store safety_identifier prompt_cache_key prompt_cache_retention", "not billed by the token"),
    *refused("prediction", "rejected prediction tokens are billed beyond the cap"),
    *refused("web_search_options", "searches are billed by the call, in no proportion to tokens"),
    *refused("search_parameters search_settings", "searches are billed by the source, in no proportion to tokens"),
    *refused("models route fallbacks", "another model than the priced one could answer"),
    *refused("provider preset", "another provider's price could apply"),
    *refused("plugins mcp_servers container", "what the provider runs has no cap"),
    *refused("transforms context_management", "the provider would change the input"),
    *refused("best_of use_beam_search", "choices are generated, and billed, that are not returned"),
    *refused("speed inference_geo", "another price could apply"),
    *refused("deferred", "the answer, and with it the usage, would be fetched past the gateway"),
    *refused("extra_body", "options of a provider that nobody checks; its known ones have fields of their own"),
)

EMBEDDINGS_FIELDS: tuple[Field, ...] = (
    set_by_us("model", "the public name becomes the target's own"),
    priced("input", "texts by their bytes or tokens, token ids by their number"),
    priced("metadata", "labels, as for chat"),
    priced("user", "the label `user`"),
    *passing("dimensions encoding_format", "not billed"),
    *refused("stream", "embeddings do not stream"),
    *refused("models route fallbacks", "another model than the priced one could answer"),
    *refused("provider preset", "another provider's price could apply"),
    *refused("extra_body", "options of a provider that nobody checks"),
)
