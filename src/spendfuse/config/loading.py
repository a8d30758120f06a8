"""From a file or a text to a `Config`, with every problem told at once."""

import os
import pathlib
from collections.abc import Mapping
from typing import cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from spendfuse.config.building import build
from spendfuse.config.document import Tree, read_yaml
from spendfuse.config.problems import Path, Problems, closest
from spendfuse.config.references import resolve
from spendfuse.config.schema import Document, keys_known_at
from spendfuse.config.values import Config
from spendfuse.core.errors import ConfigInvalid

_LIST = "a list"
_MAPPING = "a mapping"
_CONTAINERS = (_LIST, _MAPPING)


def load(path: str | pathlib.Path, *, environ: Mapping[str, str] = os.environ) -> Config:
    """Read a config file. A relative store stands in the file's own folder.

    Raises:
        ConfigInvalid: the file can't be read, or as `parse`.
    """
    file = pathlib.Path(path)
    return parse(read_text(file), source=str(path), folder=file.parent, environ=environ)


def read_text(path: pathlib.Path) -> str:
    """The text of a config file.

    Raises:
        ConfigInvalid: it can't be read, or is none.
    """
    try:
        return path.read_bytes().decode()
    except OSError as exc:
        raise ConfigInvalid(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise ConfigInvalid(f"{path}: is not UTF-8: byte {exc.start}") from None


def parse(
    text: str,
    *,
    source: str = "config",
    folder: pathlib.Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Read a config from YAML. `source` names it in messages; a relative store stands in `folder`, by default the
    current one.

    Raises:
        ConfigInvalid: with a line for every problem.
    """
    tree, lines = read_yaml(text.removeprefix("\N{BYTE ORDER MARK}"), source)
    return _read(tree, source=source, lines=lines, folder=folder, environ=environ)


def read_tree(
    tree: Mapping[str, object],
    *,
    source: str,
    folder: pathlib.Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Read a config from what its YAML would hold, for those who build one from another program's.

    Raises:
        ConfigInvalid: as `parse`.
    """
    return _read(cast("dict[str, Tree]", dict(tree)), source=source, lines={}, folder=folder, environ=environ)


def _read(
    tree: dict[str, Tree],
    *,
    source: str,
    lines: Mapping[Path, int],
    folder: pathlib.Path | None,
    environ: Mapping[str, str],
) -> Config:
    problems = Problems(source, lines)
    resolved, warnings = resolve(tree, environ, problems)
    try:
        document = Document.model_validate(resolved)
    except ValidationError as exc:
        for error in exc.errors(include_url=False):
            _add(problems, error, lines)
        problems.raise_any()
        raise AssertionError("a validation error is a problem") from exc
    here = (folder or pathlib.Path()).absolute()
    return build(document, source=source, folder=here, warnings=warnings, problems=problems)


def _add(problems: Problems, error: ErrorDetails, lines: Mapping[Path, int]) -> None:
    """Note one of pydantic's errors in our words."""
    path: Path = tuple(part for part in error["loc"] if part != "[key]")
    kind = error["type"]
    if kind == "extra_forbidden":
        problems.add(path, _unknown_key(path))
        return
    if kind == "missing":
        problems.add(path, "is missing")
        return
    while path and lines and path not in lines:  # A short form has fewer parts than what it stands for.
        path = path[:-1]
    if kind == "rule":
        problems.add(path, error["msg"])
        return
    expected = _expected(error)
    if expected in _CONTAINERS:
        # A text in place of a section may be a key.
        found = "got a text" if isinstance(error["input"], str) else problems.got(path, error["input"])
    elif error["loc"] and error["loc"][-1] == "[key]":
        found = "got this name"
    else:
        found = problems.got(path, error["input"])
    problems.add(path, f"{found}, expected {expected}")


def _unknown_key(path: Path) -> str:
    known = keys_known_at(path[:-1])
    return f"unknown key{closest(str(path[-1]), known) or ', expected one of ' + ', '.join(sorted(known))}"


def _expected(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "literal_error":
            return str(context["expected"]).replace("'", "")
        case "list_type":
            return _LIST
        case "dict_type" | "model_type":
            return _MAPPING
        case _:
            return error["msg"]
