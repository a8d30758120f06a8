"""The `usage` object of OpenAI and those who answer like it, read so that no token is missed.

Providers disagree on what the counts include. Where two readings are possible the dearer one is taken: it is bounded by
the reservation, and money that was spent must not vanish.
"""

import orjson

from spendfuse.core.usage import NOTHING, AtLeast, Exact, Metered, Usage
from spendfuse.wire.json_body import Json, JsonObject

_COUNT_MAX = 2**40
"""More tokens than any call has: a count above it is no count."""


def read_answer(body: bytes) -> JsonObject | None:
    """A whole answer, None when it is not a JSON object."""
    try:
        value: Json = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def metered_usage(value: Json) -> Metered:
    """A `usage` object as the charge's tokens: exact, or at least what it does say.

    A usage of nothing at all is no usage: a call has input.
    """
    if not isinstance(value, dict):
        return AtLeast(NOTHING)
    prompt, completion = _count(value, "prompt_tokens"), _count(value, "completion_tokens")
    total = _count(value, "total_tokens")
    if prompt is None:
        return AtLeast(Usage(0, completion or 0))
    if completion is None and total is None:
        return AtLeast(Usage(prompt, 0))
    output_details = _details(value, "completion_tokens_details")
    reasoning = _count(output_details, "reasoning_tokens") or 0
    output = completion or 0
    if reasoning > output:
        # Reasoning that is larger than the whole was left out of it (xAI).
        output += reasoning
    # Gemini leaves thinking out of the completion, but not out of the total.
    output = max(output, (total or 0) - prompt)
    if prompt == 0 and output == 0:
        return AtLeast(NOTHING)
    return Exact(_usage(value, output_details, prompt=prompt, output=output, reasoning=reasoning))


def metered_embeddings(value: Json) -> Metered:
    """The `usage` of embeddings, which have no output."""
    if not isinstance(value, dict):
        return AtLeast(NOTHING)
    tokens = max(_count(value, "prompt_tokens") or 0, _count(value, "total_tokens") or 0)
    return Exact(Usage(tokens, 0)) if tokens else AtLeast(NOTHING)


def usage_object(usage: Usage) -> JsonObject:
    """A usage in OpenAI's own form."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens + usage.cache_read_audio_tokens,
            "audio_tokens": usage.input_audio_tokens + usage.cache_read_audio_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.output_audio_tokens,
        },
    }


def _usage(value: JsonObject, output_details: JsonObject, *, prompt: int, output: int, reasoning: int) -> Usage:
    """The usage with its parts. Dear parts are cut to the whole; cheap ones that do not fit beside them are dropped."""
    details = _details(value, "prompt_tokens_details")
    audio = min(prompt, _count(details, "audio_tokens") or 0)
    written = min(prompt - audio, _count(details, "cache_write_tokens") or 0)
    cached = (
        _count(details, "cached_tokens")
        or _count(value, "prompt_cache_hit_tokens")
        or _count(value, "cached_tokens")
        or 0
    )
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        cache_read_tokens=cached if cached <= prompt - audio - written else 0,
        cache_write_tokens=written,
        input_audio_tokens=audio,
        output_audio_tokens=min(output, _count(output_details, "audio_tokens") or 0),
        reasoning_tokens=min(output, reasoning),
    )


def _count(value: JsonObject, name: str) -> int | None:
    count = value.get(name)
    return count if type(count) is int and 0 <= count <= _COUNT_MAX else None


def _details(value: JsonObject, group: str) -> JsonObject:
    details = value.get(group)
    return details if isinstance(details, dict) else {}
