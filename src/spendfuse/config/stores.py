"""The store that a config names, and the folder of the spool beside it."""

import pathlib
from urllib.parse import urlsplit

from spendfuse.config.problems import Problems
from spendfuse.config.secret import Secret
from spendfuse.config.values import PostgresStore, SqliteStore, Store

_POSTGRES = ("postgresql", "postgres")


def store_of(text: str, folder: pathlib.Path, problems: Problems) -> Store | None:
    """The store of an address; None where that is wrong."""
    scheme, separator, path = text.partition("://")
    if separator and scheme in _POSTGRES:
        return _postgres(text, problems)
    # Three slashes before a relative path, four before an absolute one: the host between the first two is empty.
    if scheme != "sqlite" or not path.startswith("/") or path[1:] in ("", ":memory:") or "?" in path or "\0" in path:
        expected = "expected sqlite:///RELATIVE/PATH, sqlite:////ABSOLUTE/PATH or postgresql://USER@HOST/DATABASE"
        problems.add(("store",), expected)
        return None
    return SqliteStore(folder / path[1:])


def spool_of(text: str | None, store: Store, folder: pathlib.Path) -> pathlib.Path:
    """The folder of the spool: beside the database's file, or beside the config of a store that is elsewhere."""
    if text is not None:
        return folder / text
    match store:
        case SqliteStore(path):
            return path.with_name(f"{path.name}.spool")
        case PostgresStore():
            return folder / "spendfuse.spool"


def _postgres(text: str, problems: Problems) -> PostgresStore | None:
    """The store of a PostgreSQL URL, whose password no message shows."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        url, port = None, None
    if url is None or len(url.path) < 2:
        problems.add(("store",), "expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
        return None
    user = f"{url.username}@" if url.username else ""
    host = f"{url.hostname or ''}{f':{port}' if port else ''}"
    return PostgresStore(Secret(text), f"postgresql://{user}{host}{url.path}")
