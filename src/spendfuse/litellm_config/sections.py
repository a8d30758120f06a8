"""A mapping of the LiteLLM file, whose keys are taken one by one, so that what nobody took can be told."""

from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation
from typing import TypeVar

from spendfuse.config import scalars
from spendfuse.config.document import Tree
from spendfuse.config.problems import Path
from spendfuse.litellm_config.findings import Findings

T = TypeVar("T")

REFERENCE = "os.environ/"
"""What LiteLLM writes before the name of an environment variable."""
_NANO = Decimal("1e-9")
_MILLI = Decimal("1e-3")
_MICRO = Decimal("1e-6")
_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off"})
_SECONDS_MAX = 10**8
_USD_MAX = 9 * 10**9


def is_off(value: Tree) -> bool:
    """Whether a value switches nothing on: empty, null or false, in YAML 1.1's words, which LiteLLM reads."""
    return not value or (isinstance(value, str) and value.strip().lower() in {*_FALSE, "null", "none", "~"})


def plain(number: Decimal) -> str:
    """A number without exponent or trailing zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Section:
    """One mapping. A value that is missing, null or empty is None; one that is wrong is noted, and None."""

    def __init__(self, tree: Tree, path: Path, *, environ: Mapping[str, str], findings: Findings) -> None:
        if tree is not None and not isinstance(tree, dict):
            findings.invalid(path, tree, "a mapping")
        self.path = path
        self._tree: Mapping[str, Tree] = tree if isinstance(tree, dict) else {}
        self._environ = environ
        self._findings = findings
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._tree

    def path_of(self, key: str) -> Path:
        return (*self.path, key)

    def raw(self, key: str) -> Tree:
        self._taken.add(key)
        return self._tree.get(key)

    def left(self) -> list[str]:
        """Those that nobody has taken yet."""
        return [key for key in self._tree if key not in self._taken]

    def put_back(self, key: str) -> None:
        """Leave a key to whoever asks what is `left`."""
        self._taken.discard(key)

    def section(self, key: str) -> "Section":
        return Section(self.raw(key), self.path_of(key), environ=self._environ, findings=self._findings)

    def sections(self, key: str) -> "list[Section]":
        """The mappings of a list."""
        value = self.raw(key)
        if value is not None and not isinstance(value, list):
            self._findings.invalid(self.path_of(key), value, "a list")
        return [
            Section(one, (*self.path_of(key), index), environ=self._environ, findings=self._findings)
            for index, one in enumerate(value if isinstance(value, list) else [])
        ]

    def texts(self, key: str) -> list[str]:
        """A text, or the texts of a list."""
        value = self.raw(key)
        return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]

    def text(self, key: str) -> str | None:
        """A text, or what the environment variable holds that it names."""
        value, path = self.raw(key), self.path_of(key)
        if isinstance(value, dict | list):
            self._findings.invalid(path, value, "a text")
            return None
        if value is None or not value.startswith(REFERENCE):
            return value or None
        self._findings.hide(path)
        variable = value.removeprefix(REFERENCE)
        found = self._environ.get(variable)
        if not found:
            self._findings.stop(path, f"environment variable {variable} is not set")
        return found or None

    def read(self, key: str, reader: Callable[[str], T]) -> T | None:
        """A text as a reader takes it, whose `ValueError` says what it expected."""
        text = self.text(key)
        try:
            return None if text is None else reader(text)
        except ValueError as error:
            self._findings.invalid(self.path_of(key), text, str(error))
            return None

    def is_on(self, key: str) -> bool:
        """A flag."""

        def flag(text: str) -> bool:
            if text.lower() not in _TRUE | _FALSE:
                raise ValueError("true or false")
            return text.lower() in _TRUE

        return self.read(key, flag) is True

    def count(self, key: str) -> int | None:
        """A whole number of at least 1."""
        return self.read(key, scalars.positive)

    def usd(self, key: str) -> str | None:
        """Dollars for a limit. What is finer than a nano-dollar is rounded down."""
        number = self.read(key, lambda text: _number(text, "a number of dollars", _USD_MAX))
        return None if number is None else self._rounded(key, number, _NANO, up=False)

    def seconds(self, key: str) -> Decimal | None:
        """A time above 0 in seconds, in whole milliseconds."""

        def seconds(text: str) -> Decimal:
            expected = "a number of seconds above 0"
            number = _number(text, expected, _SECONDS_MAX)
            if not number:
                raise ValueError(expected)
            return number.quantize(_MILLI, ROUND_CEILING)

        return self.read(key, seconds)

    def per_million(self, key: str) -> Decimal | None:
        """A price in dollars a token as one per million tokens, at the 6 decimals that a price has; rounded up."""
        number = self.read(key, lambda text: _number(text, "a number of dollars a token", _USD_MAX // 10**6))
        return None if number is None else Decimal(self._rounded(key, number.scaleb(6), _MICRO, up=True))

    def _rounded(self, key: str, number: Decimal, step: Decimal, *, up: bool) -> str:
        rounded = plain(number.quantize(step, ROUND_CEILING if up else ROUND_FLOOR))
        if Decimal(rounded) != number:
            how = f"up to {rounded} dollars per million tokens" if up else f"down to {rounded} dollars"
            self._findings.warn(self.path_of(key), f"is rounded {how}")
        return rounded


def _number(text: str, expected: str, most: int) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(expected) from None
    # 010 is 8 to LiteLLM and 10 to a reader, 1_0 is allowed by both; let neither decide.
    if not number.is_finite() or not 0 <= number <= most or (text[:1] == "0" and text[1:2].isdigit()):
        raise ValueError(expected)
    return number
