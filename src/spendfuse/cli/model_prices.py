"""Prices by the names that people use: a public model of the config, or `provider/model`."""

from spendfuse.config import Config
from spendfuse.gate.routes import overrides_of
from spendfuse.pricing.caps import CapsTable
from spendfuse.pricing.quoting import Pricer
from spendfuse.pricing.sheet import Sheet
from spendfuse.pricing.targets import Override, PricedTarget, Unpriced


class PriceBook:
    """Prices under one config, or of the sheet alone."""

    def __init__(self, config: Config | None) -> None:
        self._config = config
        self._overrides = overrides_of(config) if config else {}
        self._sheet = Sheet.load()
        self._caps = CapsTable.load(self._sheet)

    def of(self, name: str) -> PricedTarget | Unpriced | None:
        """What a name costs in this gateway; None where it is neither a public model nor `provider/model`."""
        public = self._config.models.get(name) if self._config else None
        if public is not None:
            provider_name, model = public.target.provider.name, public.target.model
            return self._priced(provider_name, model, self._overrides[provider_name][model])
        provider_name, _, model = name.partition("/")
        provider = self._config.providers.get(provider_name) if self._config else None
        if provider is not None:
            override = Override(
                provider.price_of(model),
                provider.context_window,
                provider.output_tokens_max,
                allow_zero=provider.allow_free,
            )
            return self._priced(provider_name, model, override)
        return self._priced(provider_name, model, Override()) if model else None

    def _priced(self, provider: str, model: str, override: Override) -> PricedTarget | Unpriced:
        return Pricer(self._sheet, self._caps, {provider: {model: override}}).target_prices(provider, model)
