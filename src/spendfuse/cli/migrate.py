"""`spendfuse migrate`: bring a store up to this version before any process of it serves."""

import asyncio

import typer

from spendfuse.cli.configs import load_store_config
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import ConfigPath
from spendfuse.cli.output import say


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def migrate(config: ConfigPath = None) -> None:
        """Create the store, or bring it up to this version.

        Serving does so too. Migrations only go forward, and processes of older versions go on while they run.
        """
        loaded = load_store_config(config, makes_store=True)
        for name in asyncio.run(factories.migrate_store(loaded)):
            say(f"applied {name}")
        say(f"{loaded.store.where} is up to date")
