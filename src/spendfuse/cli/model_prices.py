"""What a model costs and where that price comes from: the config first, then the sheet that ships with Spendfuse."""

from dataclasses import dataclass
from datetime import UTC, datetime

from spendfuse.config import Config
from spendfuse.core.prices import DatedPrice, Price, Rates, price_at
from spendfuse.pricing.caps import CapsTable, ModelCaps
from spendfuse.pricing.sheet import Sheet

PICOS_PER_USD_PER_MILLION = 1_000_000
"""One dollar per million tokens, in pico-dollars a token."""


@dataclass(frozen=True, slots=True)
class ModelPrices:
    """All prices of one target, past and future. `unpriced` says why there is none now; it is empty otherwise.

    `output_tokens_max` and `context_window` include what the config says.
    """

    name: str
    target: str
    prices: tuple[DatedPrice, ...]
    price: Price | None
    source: str
    unpriced: str
    context_window: int | None
    output_tokens_max: int | None


class PriceBook:
    """Prices under one config, or of the sheet alone."""

    def __init__(self, config: Config | None) -> None:
        self._config = config
        self._sheet = Sheet.load()
        self._caps = CapsTable.load(self._sheet)
        self._now = datetime.now(UTC)

    def of(self, name: str) -> ModelPrices | None:
        """The prices of a public model or of a `provider/model`; None when neither knows the name."""
        config = self._config
        public = config.models.get(name) if config else None
        if config and public:
            provider, model = public.target.provider, public.target.model
            caps = self._caps.caps_of(provider.name, model)
            return self._found(
                name,
                (provider.name, model),
                public.price,
                allow_free=provider.allow_free,
                caps=_Bounds(
                    public.context_window or caps.context_window, public.output_tokens_max or caps.output_tokens_max
                ),
            )
        provider_name, separator, model = name.partition("/")
        if not separator or not model:
            return None
        caps = _bounds_of(self._caps.caps_of(provider_name, model))
        provider = config.providers.get(provider_name) if config else None
        if provider is not None:
            caps = _Bounds(
                provider.context_window or caps.context_window, provider.output_tokens_max or caps.output_tokens_max
            )
            return self._found(
                name, (provider_name, model), provider.price_of(model), allow_free=provider.allow_free, caps=caps
            )
        found = self._found(name, (provider_name, model), None, allow_free=False, caps=caps)
        return found if self._sheet.listing(provider_name, model) else None
