"""What the simulated provider sells, at which price: its own list, on purpose not the gateway's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spendfuse.simulator.images import ImageRule, Patches, Tiles

Endpoint = Literal["chat.completions", "embeddings", "messages"]

PICOS_PER_NANO = 1_000

_NO_IMAGES = Tiles(base_tokens=0, tile_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    name: str
    endpoint: Endpoint = "chat.completions"
    input_picos_per_token: int = 0
    cached_picos_per_token: int = 0
    cache_write_5m_picos_per_token: int = 0
    cache_write_1h_picos_per_token: int = 0
    output_picos_per_token: int = 0
    request_picos: int = 0
    """For each call whose input is billed, whatever its tokens."""
    window_tokens: int
    output_tokens_max: int
    images: ImageRule = _NO_IMAGES
    reasoning: bool = False
    """Takes its cap only as `max_completion_tokens`."""

    def cost_nanos(
        self,
        *,
        input_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        cache_write_5m_tokens: int = 0,
        cache_write_1h_tokens: int = 0,
    ) -> int:
        """The price of one call, rounded up once. Tokens read from the cache or written to it are part of the input."""
        plain_tokens = input_tokens - cached_tokens - cache_write_5m_tokens - cache_write_1h_tokens
        picos = (
            plain_tokens * self.input_picos_per_token
            + cached_tokens * self.cached_picos_per_token
            + cache_write_5m_tokens * self.cache_write_5m_picos_per_token
            + cache_write_1h_tokens * self.cache_write_1h_picos_per_token
            + output_tokens * self.output_picos_per_token
            + (self.request_picos if input_tokens else 0)
        )
        return -(-picos // PICOS_PER_NANO)


_TILES_4O = Tiles(base_tokens=85, tile_tokens=170)
_TILES_4O_MINI = Tiles(base_tokens=2_833, tile_tokens=5_667)

_SOLD = (
    Model(
        name="gpt-4o-mini",
        input_picos_per_token=150_000,
        cached_picos_per_token=75_000,
        output_picos_per_token=600_000,
        window_tokens=128_000,
        output_tokens_max=16_384,
        images=_TILES_4O_MINI,
    ),
    Model(
        name="gpt-4o",
        input_picos_per_token=2_500_000,
        cached_picos_per_token=1_250_000,
        output_picos_per_token=10_000_000,
        window_tokens=128_000,
        output_tokens_max=16_384,
        images=_TILES_4O,
    ),
    Model(
        name="gpt-4.1-mini",
        input_picos_per_token=400_000,
        cached_picos_per_token=100_000,
        output_picos_per_token=1_600_000,
        window_tokens=1_047_576,
        output_tokens_max=32_768,
        images=Patches(percent=162),
    ),
    Model(
        name="o4-mini",
        input_picos_per_token=1_100_000,
        cached_picos_per_token=275_000,
        output_picos_per_token=4_400_000,
        window_tokens=200_000,
        output_tokens_max=100_000,
        images=Patches(percent=172),
        reasoning=True,
    ),
    Model(name="free-model", window_tokens=128_000, output_tokens_max=16_384, images=_TILES_4O),
    Model(
        name="text-embedding-3-small",
        endpoint="embeddings",
        input_picos_per_token=20_000,
        cached_picos_per_token=20_000,
        window_tokens=8_192,
        output_tokens_max=0,
    ),
)

MODELS: Mapping[str, Model] = {model.name: model for model in _SOLD}
"""Prices in pico-dollars a token: $0.15 per million tokens is 150,000."""
