"""`spendfuse serve`: the gateway, in this process or as a parent with worker processes."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from spendfuse import __version__
from spendfuse.cli.factories import Factories
from spendfuse.cli.logs import LogLevel, configure_logs
from spendfuse.cli.options import DEFAULT_CONFIG, ConfigPath, with_ledger
from spendfuse.cli.output import note
from spendfuse.cli.texts import counted
from spendfuse.config import Config, load
from spendfuse.ledger.store import Ledger

NAMES_SHOWN_MAX = 8


def serve_gateway(
    factories: Factories,
    config: Config,
    *,
    host: str,
    port: int,
    workers: int = 1,
    on_started: Callable[[str, int], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return.

    Raises:
        StartFailed: it never came to accept calls.
    """
    from spendfuse.server.supervisor import serve

    serve(lambda: factories.open_app(config), host=host, port=port, workers=workers, on_started=on_started)


async def _has_key(ledger: Ledger) -> bool:
    return any(key.revoked_at_ms is None for key in await ledger.keys())


def _start_line(config: Config, host: str, port: int) -> str:
    shown_host = f"[{host}]" if ":" in host else host
    names = list(config.models)
    models = ", ".join(names[:NAMES_SHOWN_MAX])
    if len(names) > NAMES_SHOWN_MAX:
        models += f" and {len(names) - NAMES_SHOWN_MAX} more"
    return (
        f"spendfuse {__version__} serves http://{shown_host}:{port}/v1: {counted(len(names), 'model')} ({models}), "
        f"{counted(len(config.limits), 'limit')}, store {config.store.path}"
    )


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def serve(
        config: ConfigPath = DEFAULT_CONFIG,
        host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 4000,
        workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that serve.")] = 1,
        log_level: Annotated[LogLevel, typer.Option(help="Logs from this level on.")] = LogLevel.INFO,
    ) -> None:
        """Serve the gateway.

        Ends on SIGTERM or Ctrl-C, when calls in flight have ended; a second signal cuts them.
        """
        configure_logs(log_level)
        loaded = load(config)
        # Also shows that the store can be opened, before anything listens.
        has_key = with_ledger(factories, loaded, _has_key) or bool(loaded.keys)

        def on_started(actual_host: str, actual_port: int) -> None:
            note(_start_line(loaded, actual_host, actual_port))
            _warn((*loaded.warnings, *factories.warnings(loaded, workers)), config, has_key=has_key)

        serve_gateway(factories, loaded, host=host, port=port, workers=workers, on_started=on_started)


def _warn(warnings: Iterable[str], path: Path, *, has_key: bool) -> None:
    for warning in warnings:
        note(f"warning: {warning}")
    if not has_key:
        note(f"No client key exists yet: every call is refused. Create one: spendfuse keys create NAME --config {path}")
