"""`spendfuse prices`: all prices of one model, what it takes and makes at most, and whether its quotes are trusted."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from spendfuse.cli.factories import Factories
from spendfuse.cli.options import DEFAULT_CONFIG, ConfigPath, with_ledger
from spendfuse.cli.output import MISUSED, fail, say
from spendfuse.cli.overruns import overrun_text, overruns_of
from spendfuse.cli.texts import did_you_mean
from spendfuse.config import Config, load


def _known_names(config: Config | None) -> list[str]:
    return [] if config is None else [*config.models, *(model.target.name for model in config.models.values())]


def _load_if_there(path: Path) -> Config | None:
    """Prices can be asked for before there is a config."""
    return None if path == DEFAULT_CONFIG and not path.exists() else load(path)


def _target_name(config: Config, name: str) -> str:
    """The `provider/model` of a public model, or of itself."""
    model = config.models.get(name)
    return name if model is None else model.target.name


def _rows(config: Config | None, name: str) -> list[tuple[str, str]]:
    # The sheet and the vocabulary's rules are needed by no other command but `check`.
    from spendfuse.cli.model_prices import PriceBook
    from spendfuse.pricing.describe import describe
    from spendfuse.pricing.targets import Unpriced

    found = PriceBook(config).of(name)
    hint = did_you_mean(name, _known_names(config))
    if found is None:
        fail(f'no model is known as "{name}"{hint or "; name it as provider/model"}')
    if isinstance(found, Unpriced):
        fail(f"{found.message.removesuffix('.')}{hint}")
    return describe(found, datetime.now(UTC))


def _clear(factories: Factories, config: Config, target: str) -> None:
    if not config.store.path.exists() or not with_ledger(factories, config, lambda one: one.clear_overrun(target)):
        fail(f"the quotes of {target} are not multiplied{did_you_mean(target, overruns_of(factories, config))}")
    say(f"the quotes of {target} are trusted again")


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def prices(
        model: Annotated[str, typer.Argument(help="A model of the config, or provider/model.", show_default=False)],
        clear_overrun: Annotated[
            bool, typer.Option("--clear-overrun", help="Trust quotes again that it charged more than.")
        ] = False,
        config: ConfigPath = DEFAULT_CONFIG,
    ) -> None:
        """All prices of a model, and its caps.

        Per million tokens, with tiers, since when they hold and where they come from.
        """
        loaded = _load_if_there(config)
        if clear_overrun:
            if loaded is None:
                fail(f"--clear-overrun: no config at {config}, which would name the store", exit_code=MISUSED)
            _clear(factories, loaded, _target_name(loaded, model))
            return
        rows = _rows(loaded, model)
        overrun = overruns_of(factories, loaded).get(_target_name(loaded, model)) if loaded else None
        if overrun is not None:
            rows.append(("overrun", overrun_text(overrun)))
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            say(f"{name:<{width}}  {value}")
