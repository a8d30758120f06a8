"""How figures are printed: one line each, the median of several runs with their spread."""

import statistics
from collections.abc import Sequence


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
