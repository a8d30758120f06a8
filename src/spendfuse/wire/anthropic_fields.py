"""What becomes of every known field of an Anthropic request body, and why.

A field that is not in the table passes, and its text counts as input. The one that stands here as refused can change
what a call costs in a way that no cap and no price of ours covers.
"""

from spendfuse.wire.fields import Field, passing, priced, refused, set_by_us

_REFUSED: tuple[Field, ...] = (
    *refused("container mcp_servers plugins", "what the provider runs has no cap"),
    *refused("models route fallbacks", "another model than the priced one could answer"),
    *refused("provider preset", "another provider's price could apply"),
    *refused("speed inference_geo", "another price could apply"),
    *refused("billing_policy fallback_credit_token", "somebody else's account, or another price, could be billed"),
    *refused("thread", "what came before is held by the provider, so the input is not known"),
    *refused("compaction transforms", "the provider would rewrite the input, in output of its own"),
    *refused("n best_of use_beam_search", "further choices would be generated, and billed"),
    *refused("web_search_options search_parameters", "searches are billed by the call, in no proportion to tokens"),
    *refused("extra_body", "options of a provider that nobody checks; its known ones have fields of their own"),
)

MESSAGES_FIELDS: tuple[Field, ...] = (
    set_by_us("model", "the public name becomes the target's own"),
    set_by_us("max_tokens", "becomes the reserved cap; a request without it is a 400, as with the vendor"),
    priced(
        "messages",
        "input: text by its bytes or tokens, media by kind, what is only named or not known at the context window",
    ),
    priced("system", "input"),
    priced(
        "tools",
        "input; your own tools and the vendor's that you run (`bash_*`, `text_editor_*`, `computer_*`, `memory_*`, "
        "toolsets), with room for its instructions. A tool that the provider runs is a 400: its rounds have no cap",
    ),
    priced("thinking", "`budget_tokens` comes on top of the useful minimum of a cap; thinking is output"),
    priced("output_config", "input; a `json_schema` raises the useful minimum of a cap; `effort` is under the cap"),
    priced("output_format", "as `output_config.format`"),
    priced("cache_control", "with it, here or in any block, the input is quoted at the price of writing to the cache"),
    set_by_us(
        "metadata",
        "labels: `user_id` is the user; any other string is a label or a tag, as for OpenAI, and stays here: the "
        "vendor takes nothing but `user_id`",
    ),
    priced(
        "context_management",
        "edits that clear (`clear_*`) pass, as they can only lower the input; any other edit is a 400, as the provider "
        "would write, and bill, a summary",
    ),
    *passing(
        "service_tier", "`auto` (capacity that was bought beforehand) and `standard_only`; anything else is a 400"
    ),
    *passing("stream", "with it the answer is metered event by event"),
    *passing("tool_choice", "the cap covers what it makes the model write"),
    *passing("stop_sequences temperature top_p top_k", "sampling"),
    *passing("diagnostics", "not billed"),
    *_REFUSED,
)

COUNT_FIELDS: tuple[Field, ...] = (
    set_by_us("model", "the public name becomes the target's own"),
    *passing(
        "messages system tools tool_choice thinking output_config output_format cache_control context_management",
        "counting is free; read as strictly as in a call",
    ),
    set_by_us("metadata", "labels, as for a call; the vendor's count takes none, so it stays here"),
    *refused("stream", "a count does not stream"),
    *_REFUSED,
)
