"""`spendfuse prices`: all prices of one model, and what it takes and makes at most."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from spendfuse.cli.factories import Factories
from spendfuse.cli.options import DEFAULT_CONFIG, ConfigPath
from spendfuse.cli.output import fail, say
from spendfuse.cli.texts import did_you_mean
from spendfuse.config import Config, load


def _known_names(config: Config | None) -> list[str]:
    return [] if config is None else [*config.models, *(model.target.name for model in config.models.values())]


def _load_if_there(path: Path) -> Config | None:
    """Prices can be asked for before there is a config."""
    return None if path == DEFAULT_CONFIG and not path.exists() else load(path)


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def prices(
        model: Annotated[str, typer.Argument(help="A model of the config, or provider/model.", show_default=False)],
        config: ConfigPath = DEFAULT_CONFIG,
    ) -> None:
        """All prices of a model, and its caps.

        Per million tokens, with tiers, since when they hold and where they come from.
        """
        # The sheet and the vocabulary's rules are needed by no other command but `check`.
        from spendfuse.cli.model_prices import PriceBook
        from spendfuse.pricing.describe import describe
        from spendfuse.pricing.targets import Unpriced

        loaded = _load_if_there(config)
        found = PriceBook(loaded).of(model)
        hint = did_you_mean(model, _known_names(loaded))
        if found is None:
            fail(f'no model is known as "{model}"{hint or "; name it as provider/model"}')
        if isinstance(found, Unpriced):
            fail(f"{found.message.removesuffix('.')}{hint}")
        rows = describe(found, datetime.now(UTC))
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            say(f"{name:<{width}}  {value}")
