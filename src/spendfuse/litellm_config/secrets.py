"""Keys that stand in the file as they are: each becomes a reference, so that no tree ever holds one."""

from collections.abc import Mapping

from spendfuse.config.problems import Path, path_text
from spendfuse.litellm_config.sections import REFERENCE


class Secrets:
    """Names an environment variable for every literal key; `environ` has them beside those of the process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ: dict[str, str] = dict(environ)
        self.stands_at: dict[str, str] = {}
        """By variable: the key path where its value stands."""
        self._names: dict[tuple[str, str], str] = {}

    def reference(self, kind: str, literal: str, path: Path) -> str:
        """A reference to a literal key; the same for the same key. `kind` says whose it is."""
        name = self._names.get((kind, literal))
        if name is None:
            base = f"SPENDFUSE_{kind.upper().replace('-', '_')}_KEY"
            numbered = (f"{base}_{number}" if number > 1 else base for number in range(1, len(self.environ) + 2))
            name = next(one for one in numbered if self.environ.get(one, literal) == literal)
            self._names[kind, literal] = name
            self.environ[name] = literal
            self.stands_at[name] = path_text(path)
        return f"{REFERENCE}{name}"
