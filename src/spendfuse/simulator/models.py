"""What the simulated provider sells, at which price: its own list, on purpose not the gateway's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spendfuse.simulator.images import ImageRule, Patches, Tiles

Endpoint = Literal["chat.completions", "embeddings"]

PICOS_PER_NANO = 1_000


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    endpoint: Endpoint
    input_picos_per_token: int
    cached_picos_per_token: int
    output_picos_per_token: int
    window_tokens: int
    output_tokens_max: int
    images: ImageRule
    reasoning: bool = False

    def cost_nanos(self, *, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """The price of one call, rounded up once. Cached tokens are part of the input."""
        picos = (
            (input_tokens - cached_tokens) * self.input_picos_per_token
            + cached_tokens * self.cached_picos_per_token
            + output_tokens * self.output_picos_per_token
        )
        return -(-picos // PICOS_PER_NANO)


_TILES_4O = Tiles(base_tokens=85, tile_tokens=170)

_SOLD = (
    Model("gpt-4o-mini", "chat.completions", 150_000, 75_000, 600_000, 128_000, 16_384, Tiles(2833, 5667)),
    Model("gpt-4o", "chat.completions", 2_500_000, 1_250_000, 10_000_000, 128_000, 16_384, _TILES_4O),
    Model("gpt-4.1-mini", "chat.completions", 400_000, 100_000, 1_600_000, 1_047_576, 32_768, Patches(162)),
    Model("o4-mini", "chat.completions", 1_100_000, 275_000, 4_400_000, 200_000, 100_000, Patches(172), reasoning=True),
    Model("free-model", "chat.completions", 0, 0, 0, 128_000, 16_384, _TILES_4O),
    Model("text-embedding-3-small", "embeddings", 20_000, 20_000, 0, 8_191, 0, _TILES_4O),
    Model("text-embedding-3-large", "embeddings", 130_000, 130_000, 0, 8_191, 0, _TILES_4O),
)

MODELS: Mapping[str, Model] = {model.name: model for model in _SOLD}
"""Prices in pico-dollars a token: $0.15 per million tokens is 150,000."""
