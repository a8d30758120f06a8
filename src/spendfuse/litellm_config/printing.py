"""A tree as YAML for people: what reads as a number is written as one, without quotes."""

import re
from collections.abc import Mapping

import yaml

_NUMBER = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?")
_LINE = 116


class _Dumper(yaml.SafeDumper):
    """Texts of numbers are plain, as our reader takes every scalar for the text that it is; nothing is an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def number_or_text(self, data: str) -> yaml.Node:
        match = _NUMBER.fullmatch(data)
        if match is None:
            return self.represent_str(data)
        return yaml.ScalarNode(f"tag:yaml.org,2002:{'float' if match[2] else 'int'}", data)


_Dumper.add_representer(str, _Dumper.number_or_text)


def to_yaml(tree: Mapping[str, object]) -> str:
    """The tree as YAML, in its own order."""
    dumped = yaml.dump(  # pyright: ignore[reportUnknownMemberType]
        dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_LINE
    )
    return str(dumped)
