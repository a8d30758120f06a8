"""Prices by the names that people use: a public model of the config, or `provider/model`."""

from collections.abc import Mapping

from spendfuse.config import Config, Provider, PublicModel
from spendfuse.gate.routes import overrides_of, vendors_of
from spendfuse.pricing.caps import CapsTable
from spendfuse.pricing.quoting import Overrides, Pricer
from spendfuse.pricing.sheet import Sheet
from spendfuse.pricing.targets import Override, PricedTarget, Unpriced


def unpriced_models(config: Config) -> dict[str, str]:
    """The public models none of whose targets has a price, and why the first has none."""
    book = PriceBook(config)
    found = {name: book.of(name) for name in config.models}
    return {
        name: each[0].message
        for name, each in found.items()
        if isinstance(each[0], Unpriced) and not any(isinstance(one, PricedTarget) for one in each)
    }


class PriceBook:
    """Prices under one config, or of the sheet alone."""

    def __init__(self, config: Config | None) -> None:
        self._models: Mapping[str, PublicModel] = config.models if config else {}
        self._providers: Mapping[str, Provider] = config.providers if config else {}
        self._vendors = vendors_of(config) if config else {}
        self._sheet = Sheet.load()
        self._caps = CapsTable.load(self._sheet)
        self._pricer = self._pricer_with(overrides_of(config) if config else {})

    def of(self, name: str) -> list[PricedTarget | Unpriced]:
        """What each target behind a name costs in this gateway; none where it is neither a public model nor
        `provider/model`.
        """
        public = self._models.get(name)
        if public is not None:
            return [self._pricer.target_prices(one.provider.name, one.model) for one in public.targets]
        provider_name, _, model = name.partition("/")
        provider = self._providers.get(provider_name)
        if provider is not None:
            override = Override(
                provider.price_of(model),
                provider.context_window,
                provider.output_tokens_max,
                allow_zero=provider.allow_free,
            )
            return [self._pricer_with({provider_name: {model: override}}).target_prices(provider_name, model)]
        return [self._pricer.target_prices(provider_name, model)] if model else []

    def _pricer_with(self, overrides: Overrides) -> Pricer:
        return Pricer(self._sheet, self._caps, overrides, self._vendors)
