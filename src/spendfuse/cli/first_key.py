"""The first client key, for a config that brings none: made once, shown once, stored as its hash."""

from dataclasses import dataclass

from spendfuse.cli.keys import LABEL_SOURCES, create_key
from spendfuse.cli.output import note
from spendfuse.config import Config
from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.ledger.store import Ledger

FIRST_KEY = "default"
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  what a client can't connect to


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """Whether any key is live, and the one that was made just now."""

    exist: bool
    made: str | None = None


async def ensure_key(ledger: Ledger, config: Config) -> ClientKeys:
    """Make the first key if the config wants one and none is live."""
    if config.keys or any(key.revoked_at_ms is None for key in await ledger.keys()):
        return ClientKeys(exist=True)
    if not config.makes_key:
        return ClientKeys(exist=False)
    try:
        made = await create_key(ledger, FIRST_KEY, labels={}, labels_from=LABEL_SOURCES)
    except LedgerUnavailable:
        raise
    except LedgerError:  # Another process took the name at this moment, and shows its key.
        return ClientKeys(exist=True)
    return ClientKeys(exist=True, made=made)


def say_first_key(key: str) -> None:
    """Show the key: before anything else can fail, as nothing can show it again."""
    note(f'client key "{FIRST_KEY}", which is shown only this once: {key}')


def say_how_to_use(key: str, base_url: str) -> None:
    """The lines that point an application at the gateway; `base_url` has no path."""
    note("Point an application at it:")
    note(f"  export OPENAI_BASE_URL={base_url}/v1 OPENAI_API_KEY={key}")
    note(f"  export ANTHROPIC_BASE_URL={base_url} ANTHROPIC_API_KEY={key}")


def base_url_of(host: str, port: int, *, for_clients: bool = False) -> str:
    """The gateway's address as a URL; `for_clients` names one that can be connected to."""
    host = _ANY_ADDRESS.get(host, host) if for_clients else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
