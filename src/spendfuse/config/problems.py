"""What is wrong with a config, in one wording: file, key path, what was got, what is expected."""

import difflib
from collections.abc import Iterable, Mapping

from spendfuse.core.errors import ConfigInvalid

Path = tuple[str | int, ...]
"""Where a value stands: mapping keys and list indexes, from the top."""

_SECRET_KEYS = frozenset({"api_key", "key", "admin_key"})
_CHANNELS = ("alerts", "channels")
"""Whose URLs are secrets, wherever they were written."""


class Problems:
    """Collects problems, each with the line of the nearest value that the document has a line for."""

    def __init__(self, source: str, lines: Mapping[Path, int]) -> None:
        self._source = source
        self._lines = lines
        self._found: dict[Path, tuple[int, str]] = {}
        self._hidden: set[Path] = set()

    def hide(self, path: Path) -> None:
        """Never show the value at a path: it came from the environment, where a slip of the pen may find a key."""
        self._hidden.add(path)

    def got(self, path: Path, value: object) -> str:
        """What was found, for people; secrets are not shown, nor are containers, which may hold some."""
        match value:
            case None:
                return "got nothing"
            case Mapping():
                return "got a mapping"
            case list() | tuple():
                return "got a list"
            case _ if path in self._hidden or path[:2] == _CHANNELS or (path and path[-1] in _SECRET_KEYS):
                return "got a value (not shown)"
            case str():
                return f'got "{value if len(value) <= 80 else value[:77] + "..."}"'
            case bool():
                return "got true" if value else "got false"
            case _:
                return f"got {value}"

    def add(self, path: Path, what: str) -> None:
        """Note a problem, unless its path has one already: the first is the cause of the others."""
        line = next((self._lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self._lines), 0)
        text = f"{self._source}: {path_text(path)}: {what}" + (f" (line {line})" if line else "")
        self._found.setdefault(path, (line, text))

    def raise_any(self) -> None:
        """Raise what was found, in the order of the document.

        Raises:
            ConfigInvalid: there was a problem.
        """
        if self._found:
            in_order = sorted(self._found.values(), key=lambda one: one[0])
            raise ConfigInvalid("\n".join(text for _, text in in_order))


def path_text(path: Path) -> str:
    """A path for people: `keys[0].labels`, `models."gpt-4.1".prices`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part and not set(part) & set(". []\"'")
            text += ("." if text else "") + (part if plain else f'"{part}"')
    return text


def closest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that was probably meant: `; did you mean "per"?`, or nothing."""
    near = difflib.get_close_matches(word.lower(), sorted(known), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""
