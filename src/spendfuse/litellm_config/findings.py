"""What a translation has to say: what stops it, and what is worth a warning."""

from collections.abc import Mapping

from spendfuse.config.problems import Path, Problems, path_text


class Findings:
    """Collects both, by the key path of the LiteLLM file. `warnings` are in the order in which they were found."""

    def __init__(self, source: str, lines: Mapping[Path, int], *, accept_unenforced: bool) -> None:
        self._problems = Problems(source, lines)
        self._accept_unenforced = accept_unenforced
        self.warnings: list[str] = []

    def warn(self, path: Path, what: str) -> None:
        self.warnings.append(f"{path_text(path)}: {what}")

    def ignored(self, path: Path, why: str = "") -> None:
        """A key that has no effect here."""
        self.warn(path, f"is not honoured: {why}" if why else "is not honoured")

    def unenforced(self, path: Path, why: str) -> None:
        """A key that limits money or traffic in LiteLLM and would not here: it stops the start unless accepted."""
        if self._accept_unenforced:
            self.warn(path, f"is NOT ENFORCED: {why}")
        else:
            what = f"limits money or traffic and cannot be enforced: {why}"
            self._problems.add(path, f"{what}; remove it, or start without it by --accept-unenforced")

    def stop(self, path: Path, what: str) -> None:
        self._problems.add(path, what)

    def invalid(self, path: Path, value: object, expected: str) -> None:
        self._problems.add(path, f"{self._problems.got(path, value)}, expected {expected}")

    def hide(self, path: Path) -> None:
        """Never show the value at a path: it came from the environment."""
        self._problems.hide(path)

    def raise_any(self) -> None:
        """Raise what stops the start.

        Raises:
            ConfigInvalid: something does.
        """
        self._problems.raise_any()
