"""SQL as it stands in `sql/<engine>/<name>.sql`, and migrations in `migrations/<engine>/<number>_<name>.sql`."""

import sqlite3
from importlib.resources import files

_PACKAGE = "spendfuse.ledger"
Migration = tuple[int, str, str]
"""Number, name, script."""


def sql(engine: str, name: str) -> str:
    """One named statement, without its comment."""
    text = files(_PACKAGE).joinpath("sql", engine, f"{name}.sql").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip()


def migrations(engine: str) -> list[Migration]:
    """All migrations in order."""
    folder = files(_PACKAGE).joinpath("migrations", engine)
    found: list[Migration] = []
    for file in folder.iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append((int(number), name, file.read_text(encoding="utf-8")))
    return sorted(found)


def split_script(script: str) -> list[str]:
    """The statements of a script, triggers whole."""
    statements: list[str] = []
    gathered = ""
    for line in script.splitlines(keepends=True):
        gathered += line
        if sqlite3.complete_statement(gathered):
            statements.append(gathered.strip())
            gathered = ""
    if any(line.strip() and not line.startswith("--") for line in gathered.splitlines()):
        raise ValueError(f"a migration ends in the middle of a statement: {gathered!r}")
    return statements
