"""The Claude models that the simulated provider sells: its own list too, and apart from the other API's."""

from collections.abc import Mapping
from dataclasses import dataclass

from spendfuse.simulator.models import Model

NOT_CHOSEN = "not_available"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeModel(Model):
    alias: str
    """Its other name, which moves on to the next snapshot; answers say `name`."""
    display_name: str
    created_at: str
    thinking: frozenset[str]
    """The kinds of `thinking` that it takes, beside `disabled`."""
    inference_geo: str = NOT_CHOSEN


_SOLD = (
    ClaudeModel(
        name="claude-3-5-haiku-20241022",
        alias="claude-3-5-haiku-latest",
        display_name="Claude Haiku 3.5",
        created_at="2024-10-22T00:00:00Z",
        endpoint="messages",
        input_picos_per_token=800_000,
        cached_picos_per_token=80_000,
        cache_write_5m_picos_per_token=1_000_000,
        cache_write_1h_picos_per_token=1_600_000,
        output_picos_per_token=4_000_000,
        window_tokens=200_000,
        output_tokens_max=8_192,
        thinking=frozenset(),
    ),
    ClaudeModel(
        name="claude-sonnet-4-5-20250929",
        alias="claude-sonnet-4-5",
        display_name="Claude Sonnet 4.5",
        created_at="2025-09-29T00:00:00Z",
        endpoint="messages",
        input_picos_per_token=3_000_000,
        cached_picos_per_token=300_000,
        cache_write_5m_picos_per_token=3_750_000,
        cache_write_1h_picos_per_token=6_000_000,
        output_picos_per_token=15_000_000,
        # Its dearer long-context tier begins above this.
        window_tokens=200_000,
        output_tokens_max=64_000,
        thinking=frozenset({"enabled"}),
    ),
    ClaudeModel(
        name="claude-haiku-4-5-20251001",
        alias="claude-haiku-4-5",
        display_name="Claude Haiku 4.5",
        created_at="2025-10-01T00:00:00Z",
        endpoint="messages",
        input_picos_per_token=1_000_000,
        cached_picos_per_token=100_000,
        cache_write_5m_picos_per_token=1_250_000,
        cache_write_1h_picos_per_token=2_000_000,
        output_picos_per_token=5_000_000,
        window_tokens=200_000,
        output_tokens_max=64_000,
        thinking=frozenset({"enabled"}),
    ),
    ClaudeModel(
        name="claude-opus-4-6",
        alias="claude-opus-4-6",
        display_name="Claude Opus 4.6",
        created_at="2026-02-05T00:00:00Z",
        endpoint="messages",
        input_picos_per_token=5_000_000,
        cached_picos_per_token=500_000,
        cache_write_5m_picos_per_token=6_250_000,
        cache_write_1h_picos_per_token=10_000_000,
        output_picos_per_token=25_000_000,
        window_tokens=1_000_000,
        output_tokens_max=128_000,
        thinking=frozenset({"enabled", "adaptive"}),
        inference_geo="global",
    ),
)

CLAUDE_MODELS: Mapping[str, ClaudeModel] = {model.name: model for model in _SOLD}

_BY_ANY_NAME: Mapping[str, ClaudeModel] = {**CLAUDE_MODELS, **{model.alias: model for model in _SOLD}}


def claude_model(name: str) -> ClaudeModel | None:
    """The model of that name or alias."""
    return _BY_ANY_NAME.get(name)
