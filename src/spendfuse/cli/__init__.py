"""The command line. `build` makes it of what `wiring` gives it."""

from spendfuse.cli.app import build
from spendfuse.cli.factories import Factories

__all__ = ["Factories", "build"]
