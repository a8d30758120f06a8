"""YAML text to a tree of texts, lists and mappings, with the line of every value.

Scalars stay texts as they are written: what `12:30`, `010`, `no` or `1e-3` means is for the key's own type to say, so
that YAML 1.1's ideas of them (a number in base 60, one in base 8, a boolean, a text) never apply. Names are texts too.
"""

from collections.abc import Generator
from contextlib import contextmanager

import yaml
from yaml import CSafeLoader, MappingNode, Node, ScalarNode, SequenceNode

from spendfuse.config.problems import Path, path_text
from spendfuse.core.errors import ConfigInvalid

Tree = str | None | list["Tree"] | dict[str, "Tree"]

_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "seq", "map")
)


def read_yaml(text: str, source: str) -> tuple[dict[str, Tree], dict[Path, int]]:
    """The tree of a document, empty for an empty one, and its lines by path.

    Raises:
        ConfigInvalid: not one YAML document whose top is a mapping, or a key appears twice.
    """
    try:
        node = yaml.compose(text, CSafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise ConfigInvalid(f"{source}:{line}: not valid YAML: {exc.problem}") from None
    except yaml.YAMLError as exc:
        raise ConfigInvalid(f"{source}: not valid YAML: {exc}") from None
    if node is None:
        return {}, {}
    if not isinstance(node, MappingNode):
        raise ConfigInvalid(f"{source}: got no mapping, expected keys such as `providers:` at the top")
    reader = _Reader(source)
    tree = reader.mapping(node, ())
    if reader.problems:
        raise ConfigInvalid("\n".join(reader.problems))
    return tree, reader.lines


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source
        self._open: list[Node] = []
        self.lines: dict[Path, int] = {}
        self.problems: list[str] = []

    def value(self, node: Node, path: Path) -> Tree:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if node.tag not in _TAGS:
            self._add(node, path, f"the tag {node.tag} is not supported")
            return None
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        if isinstance(node, SequenceNode):
            with self._inside(node, path):
                return [self.value(one, (*path, index)) for index, one in enumerate(node.value)]
        return None if node.tag.endswith(":null") else str(node.value)

    def mapping(self, node: MappingNode, path: Path) -> dict[str, Tree]:
        """The keys of a mapping and of what it merges in with `<<`; its own keys win."""
        own: dict[str, Tree] = {}
        merged: dict[str, Tree] = {}
        first_lines: dict[str, int] = {}
        with self._inside(node, path):
            for key_node, value_node in node.value:
                key = key_node.value if isinstance(key_node, ScalarNode) else ""
                if not key:
                    self._add(key_node, path, "a key must be a text")
                elif key in first_lines:
                    self._add(key_node, (*path, key), f"the key appears twice, first on line {first_lines[key]}")
                elif key_node.tag.endswith(":merge"):
                    merged = self._merged(value_node, path)
                else:
                    self.lines[(*path, key)] = key_node.start_mark.line + 1
                    own[key] = self.value(value_node, (*path, key))
                first_lines.setdefault(key, key_node.start_mark.line + 1)
        return merged | own

    def _merged(self, node: Node, path: Path) -> dict[str, Tree]:
        """What `<<` brings: a mapping, or several, of which the first wins."""
        merged: dict[str, Tree] = {}
        for one in node.value if isinstance(node, SequenceNode) else [node]:
            if isinstance(one, MappingNode):
                merged = self.mapping(one, path) | merged
            else:
                self._add(one, (*path, "<<"), "only mappings can be merged")
        return merged

    @contextmanager
    def _inside(self, node: Node, path: Path) -> Generator[None]:
        if any(node is one for one in self._open):
            raise ConfigInvalid(f"{self._where(node, path)}: the value contains itself")
        self._open.append(node)
        yield
        self._open.pop()

    def _add(self, node: Node, path: Path, what: str) -> None:
        self.problems.append(f"{self._where(node, path)}: {what}")

    def _where(self, node: Node, path: Path) -> str:
        return f"{self._source}:{node.start_mark.line + 1}: {path_text(path) or 'top level'}"
