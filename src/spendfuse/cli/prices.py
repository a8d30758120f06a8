"""`spendfuse prices`: all prices of one model, what it takes and makes at most, and whether its quotes are trusted."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from spendfuse.cli.configs import load_config_if_any
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import DEFAULT_CONFIG, ConfigPath, with_ledger
from spendfuse.cli.output import MISUSED, fail, say
from spendfuse.cli.overruns import overrun_text, overruns_of
from spendfuse.cli.texts import did_you_mean
from spendfuse.config import Config


def _known_names(config: Config | None) -> list[str]:
    return (
        [] if config is None else [*config.models, *(one for name in config.models for one in _targets(config, name))]
    )


def _targets(config: Config, name: str) -> list[str]:
    """The `provider/model` of each target of a public model, or of the name itself."""
    model = config.models.get(name)
    return [name] if model is None else [one.name for one in model.targets]


def _rows(config: Config | None, name: str) -> list[list[tuple[str, str]]]:
    """What is known of each target behind a name."""
    # The sheet and the vocabulary's rules are needed by no other command but `check`.
    from spendfuse.cli.model_prices import PriceBook
    from spendfuse.pricing.describe import describe
    from spendfuse.pricing.targets import PricedTarget, Unpriced

    found = PriceBook(config).of(name)
    hint = did_you_mean(name, _known_names(config))
    if not found:
        fail(f'no model is known as "{name}"{hint or "; name it as provider/model"}')
    if not any(isinstance(one, PricedTarget) for one in found):
        unpriced = next(one for one in found if isinstance(one, Unpriced))
        fail(f"{unpriced.message.removesuffix('.')}{hint}")
    now = datetime.now(UTC)
    return [describe(one, now) for one in found]


def _clear(factories: Factories, config: Config, targets: list[str]) -> None:
    multiplied = overruns_of(factories, config)
    found = [one for one in targets if one in multiplied]
    if not found:
        fail(f"the quotes of {' and '.join(targets)} are not multiplied{did_you_mean(targets[0], multiplied)}")
    for target in found:
        with_ledger(factories, config, lambda ledger, name=target: ledger.clear_overrun(name))
        say(f"the quotes of {target} are trusted again")


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def prices(
        model: Annotated[str, typer.Argument(help="A model of the config, or provider/model.", show_default=False)],
        clear_overrun: Annotated[
            bool, typer.Option("--clear-overrun", help="Trust quotes again that it charged more than.")
        ] = False,
        config: ConfigPath = None,
    ) -> None:
        """All prices of a model, and its caps.

        Per million tokens, with tiers, since when they hold and where they come from, of each of its targets.
        """
        loaded = load_config_if_any(config)
        if clear_overrun:
            if loaded is None:
                fail(f"--clear-overrun: no config at {DEFAULT_CONFIG}, which would name the store", exit_code=MISUSED)
            _clear(factories, loaded, _targets(loaded, model))
            return
        each = _rows(loaded, model)
        overruns = overruns_of(factories, loaded) if loaded else {}
        for index, (rows, target) in enumerate(zip(each, _targets(loaded, model) if loaded else [model], strict=True)):
            if target in overruns:
                rows.append(("overrun", overrun_text(overruns[target])))
            if index:
                say()
            width = max(len(name) for name, _ in rows)
            for name, value in rows:
                say(f"{name:<{width}}  {value}")
