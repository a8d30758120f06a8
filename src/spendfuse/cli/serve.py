"""`spendfuse serve`: the gateway, in this process or as a parent with worker processes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from spendfuse import __version__
from spendfuse.cli.check import limit_words
from spendfuse.cli.configs import ServedConfig
from spendfuse.cli.factories import Factories, GatewayApp
from spendfuse.cli.first_key import ClientKeys, base_url_of, ensure_key, say_first_key, say_how_to_use
from spendfuse.cli.logs import LogLevel, configure_logs
from spendfuse.cli.options import DEFAULT_CONFIG, AcceptUnenforced, ConfigPath, with_ledger
from spendfuse.cli.output import note
from spendfuse.cli.texts import counted
from spendfuse.config import Config
from spendfuse.server.run import Message, Receive, Send

NAMES_SHOWN_MAX = 8


@dataclass(frozen=True, slots=True)
class _AppByDocuments:
    """The gateway's app as the server has it, which carries documents and knows no configs."""

    app: GatewayApp
    served: ServedConfig

    def __call__(self, scope: Message, receive: Receive, send: Send, /) -> Awaitable[None]:
        return self.app(scope, receive, send)

    async def reload(self, document: str, /) -> None:
        # In a thread: parsing a long config would hold up every call.
        config = await asyncio.to_thread(self.served.config_of, document)
        await self.app.reload(config)


def serve_gateway(
    factories: Factories,
    config: ServedConfig,
    *,
    host: str,
    port: int,
    workers: int = 1,
    on_started: Callable[[str, int], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. SIGHUP reads the config anew.

    Raises:
        StartFailed: it never came to accept calls.
    """
    # Loaded before any fork: workers share it, and no reload has to wait for it.
    import spendfuse.server.gateway  # noqa: F401 # pyright: ignore[reportUnusedImport]
    from spendfuse.cli.model_prices import unpriced_models
    from spendfuse.server.supervisor import serve

    unpriced_models(config.config)

    @asynccontextmanager
    async def open_app(document: str) -> AsyncGenerator[_AppByDocuments]:
        async with factories.open_app(config.config_of(document)) as app:
            yield _AppByDocuments(app, config)

    serve(
        open_app,
        document=config.document,
        read_document=config.reread,
        host=host,
        port=port,
        workers=workers,
        on_started=on_started,
    )


def _start_line(config: Config, base_url: str) -> str:
    names = list(config.models)
    models = ", ".join(names[:NAMES_SHOWN_MAX])
    if len(names) > NAMES_SHOWN_MAX:
        models += f" and {len(names) - NAMES_SHOWN_MAX} more"
    return (
        f"spendfuse {__version__} serves {base_url}/v1: {counted(len(names), 'model')} ({models}), "
        f"{counted(len(config.limits), 'limit')}, store {config.store.where}"
    )


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def serve(
        config: ConfigPath = None,
        accept_unenforced: AcceptUnenforced = False,
        host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 4000,
        workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that serve.")] = 1,
        log_level: Annotated[LogLevel, typer.Option(help="Logs from this level on.")] = LogLevel.INFO,
    ) -> None:
        """Serve the gateway.

        Ends on SIGTERM or Ctrl-C, when calls in flight have ended; a second signal cuts them. SIGHUP reads the config
        file anew; one that can't be used is refused, and the former stays. Without any config it serves the providers
        whose API keys are in the environment, and shows a client key at the first start.
        """
        configure_logs(log_level)
        served = ServedConfig(config, accept_unenforced=accept_unenforced)
        loaded = served.config
        # Also shows that the store can be opened, before anything listens.
        keys = with_ledger(factories, loaded, lambda ledger: ensure_key(ledger, loaded))
        if keys.made:
            say_first_key(keys.made)

        def on_started(actual_host: str, actual_port: int) -> None:
            note(_start_line(loaded, base_url_of(actual_host, actual_port)))
            _say_zero_config(loaded)
            if keys.made:
                say_how_to_use(keys.made, base_url_of(actual_host, actual_port, for_clients=True))
            _warn(loaded, keys, factories.warnings(loaded, workers))

        serve_gateway(factories, served, host=host, port=port, workers=workers, on_started=on_started)


def _say_zero_config(config: Config) -> None:
    """What a config that nobody wrote serves and limits; nothing for another."""
    # Prices come with it, which the gateway needs anyway.
    from spendfuse.zero_config import SOURCE

    if config.source != SOURCE:
        return
    limits = ", ".join(map(limit_words, config.limits))
    note(f"No {DEFAULT_CONFIG} here: zero config, with {', '.join(config.providers)} from the environment; {limits}")


def _warn(config: Config, keys: ClientKeys, further: Iterable[str]) -> None:
    for warning in (*config.warnings, *further):
        note(f"warning: {warning}")
    if not keys.exist:
        option = "" if config.source == str(DEFAULT_CONFIG) else f" --config {config.source}"
        where = f"spendfuse keys create NAME{option}"
        note(f"No client key exists yet: every call is refused. Create one: {where}")
