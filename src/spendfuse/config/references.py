"""References to environment variables, `os.environ/NAME` and `${NAME}`, in place of a whole value."""

import re
from collections.abc import Mapping

from spendfuse.config.document import Tree
from spendfuse.config.problems import Path, Problems

_REFERENCE = re.compile(r"os\.environ/(.*)|\$\{([^}]*)\}", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EMBEDDED = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}|os\.environ/[A-Za-z_]")


def resolve(tree: Tree, environ: Mapping[str, str], problems: Problems) -> tuple[Tree, list[str]]:
    """The tree with every reference replaced, and warnings.

    A variable that is missing or empty is a problem; but a provider's `api_key` becomes None, with a warning, so that
    one config serves where only some of its providers have keys.
    """
    resolver = _Resolver(environ, problems)
    return resolver.resolved(tree, ()), resolver.warnings


class _Resolver:
    def __init__(self, environ: Mapping[str, str], problems: Problems) -> None:
        self._environ = environ
        self._problems = problems
        self.warnings: list[str] = []

    def resolved(self, tree: Tree, path: Path) -> Tree:
        match tree:
            case dict():
                return {key: self.resolved(one, (*path, key)) for key, one in self._named(tree, path).items()}
            case list():
                return [self.resolved(one, (*path, index)) for index, one in enumerate(tree)]
            case str():
                return self._text(tree, path)
            case _:
                return tree

    def _named(self, tree: dict[str, Tree], path: Path) -> dict[str, Tree]:
        """A client key without a name is called like the variable that holds it."""
        key = tree.get("key")
        if len(path) == 2 and path[0] == "keys" and "name" not in tree and isinstance(key, str):
            variable = _variable(key)
            return {"name": variable, **tree} if variable else tree
        return tree

    def _text(self, text: str, path: Path) -> Tree:
        if not _REFERENCE.fullmatch(text):
            if _EMBEDDED.search(text):
                self._problems.add(path, "a reference to an environment variable must be the whole value")
            return text
        variable = _variable(text)
        if not variable:
            self._problems.add(path, "a reference must name an environment variable: os.environ/NAME or ${NAME}")
            return text
        value = self._environ.get(variable)
        self._problems.hide(path)
        if value:
            return value
        if len(path) == 3 and path[0] == "providers" and path[2] == "api_key":
            self.warnings.append(f"providers.{path[1]}.api_key: environment variable {variable} is not set")
            return None
        self._problems.add(path, f"environment variable {variable} is not set")
        return text


def _variable(text: str) -> str | None:
    reference = _REFERENCE.fullmatch(text)
    name = (reference[1] or reference[2] or "") if reference else ""
    return name if _NAME.fullmatch(name) else None
