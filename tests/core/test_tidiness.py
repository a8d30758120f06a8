"""The code's own shape: what a reader can take in at one sitting."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FUNCTION_LINES_MAX = 50
MODULE_LINES_MAX = 400


def _functions(source: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _name(source: Path) -> str:
    return str(source.relative_to(ROOT))


@pytest.mark.parametrize("source", SOURCES, ids=_name)
def test_modules_and_functions_are_short(source: Path) -> None:
    assert len(source.read_text().splitlines()) <= MODULE_LINES_MAX
    lengths = {one.name: (one.end_lineno or one.lineno) - one.lineno + 1 for one in _functions(source)}
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}
