"""The LiteLLM file with what it includes, and the environment that it sets."""

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

from spendfuse.config.document import Tree, read_yaml
from spendfuse.config.problems import Path
from spendfuse.core.errors import ConfigInvalid
from spendfuse.litellm_config.findings import Findings
from spendfuse.litellm_config.sections import REFERENCE


@dataclass(frozen=True, slots=True)
class LiteLLMFile:
    """A file and its lines by path; what was included has none."""

    tree: dict[str, Tree]
    lines: Mapping[Path, int]


def read_file(text: str, source: str, folder: pathlib.Path) -> LiteLLMFile:
    """Read the YAML, and append what it includes: lists grow; a section may stand in one file only, for LiteLLM would
    silently replace it as a whole.

    Raises:
        ConfigInvalid: not valid YAML, or an included file can't be read or has a section that is there already.
    """
    tree, lines = read_yaml(text.removeprefix("\N{BYTE ORDER MARK}"), source)
    included = tree.pop("include", None)
    for name in included if isinstance(included, list) else [included]:
        if name is None:
            continue
        if not isinstance(name, str):
            raise ConfigInvalid(f"{source}: include: got a mapping or a list, expected names of files")
        _append(tree, _included(folder / name, source), f"{source}: include: {name}")
    return LiteLLMFile(tree, lines)


def _included(file: pathlib.Path, source: str) -> dict[str, Tree]:
    try:
        text = file.read_bytes().decode()
    except OSError as exc:
        raise ConfigInvalid(f"{source}: include: {file} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise ConfigInvalid(f"{source}: include: {file} is not UTF-8: byte {exc.start}") from None
    return read_yaml(text.removeprefix("\N{BYTE ORDER MARK}"), str(file))[0]


def _append(tree: dict[str, Tree], included: dict[str, Tree], where: str) -> None:
    for key, value in included.items():
        there = tree.get(key)
        if key == "include":
            raise ConfigInvalid(f"{where}: includes files itself, which LiteLLM does not read")
        if isinstance(there, list) and isinstance(value, list):
            tree[key] = [*there, *value]
        elif key in tree:
            raise ConfigInvalid(f"{where}: {key} is set in another file too; say it in one")
        else:
            tree[key] = value


def environment(section: Tree, environ: Mapping[str, str], findings: Findings) -> dict[str, str]:
    """What `environment_variables` sets, which beats the process's own; a value may refer to the process's."""
    if section is not None and not isinstance(section, dict):
        findings.invalid(("environment_variables",), section, "a mapping")
    found: dict[str, str] = {}
    for name, value in section.items() if isinstance(section, dict) else ():
        if isinstance(value, dict | list):
            findings.stop(("environment_variables", name), "got a mapping or a list, expected a text")
        elif value is not None:
            inner = environ.get(value.removeprefix(REFERENCE)) if value.startswith(REFERENCE) else value
            if inner is not None:
                found[name] = inner
    return found
