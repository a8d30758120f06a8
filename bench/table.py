"""How figures are printed: one line each, the median of several runs with their spread."""

import statistics
from collections.abc import Mapping, Sequence


def title(text: str) -> None:
    """Begin a group of figures."""
    print(f"\n{text}", flush=True)


def row(what: str, runs: Sequence[float], unit: str, *, digits: int = 0, more: str = "") -> None:
    """Print a figure."""
    median, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(runs), min(runs), max(runs)))
    spread = f"({low} to {high})" if len(runs) > 1 else ""
    print(f"  {what:<46} {median:>9} {unit:<5} {spread:<20} {more}".rstrip(), flush=True)


def quantile(ascending: Sequence[float], share: float) -> float:
    """A quantile of sorted values."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))]


def spread(runs: Sequence[float], *, digits: int = 0) -> str:
    """The median of several runs, with the least and the most of them; nothing for none."""
    if not runs:
        return ""
    median, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(runs), min(runs), max(runs)))
    return f"{median} ({low}-{high})" if low != high else median


def grid(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows of figures under the names of their columns; a column may be missing from some of them."""
    names = list(dict.fromkeys(name for one in rows for name in one))
    cells = [names, *([one.get(name, "") for name in names] for one in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)
