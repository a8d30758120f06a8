"""Targets that charged more than their quotes, as `check` and `prices` mention them."""

from spendfuse.cli.factories import Factories
from spendfuse.cli.options import with_ledger
from spendfuse.cli.output import note
from spendfuse.cli.texts import iso_time
from spendfuse.config import Config
from spendfuse.core.errors import LedgerError
from spendfuse.ledger.store import TargetOverrun


def overruns_of(factories: Factories, config: Config) -> dict[str, TargetOverrun]:
    """By target. None where there is no store yet.

    A store that can't be read is only a warning: configs and prices are right or wrong without it.
    """
    if not config.store.is_there:
        return {}
    try:
        found = with_ledger(factories, config, lambda ledger: ledger.overruns())
    except LedgerError as error:
        note(f"warning: whether a target charged more than its quotes is not known: {error}")
        return {}
    return {one.target: one for one in found}


def overrun_text(overrun: TargetOverrun) -> str:
    """What is done about it: `its quotes are multiplied by 1.50 since 2026-11-18T11:06:40Z, as it charged …`."""
    whole, hundredths = divmod(overrun.percent, 100)
    return (
        f"its quotes are multiplied by {whole}.{hundredths:02d} since {iso_time(overrun.since_ms)}, as it charged more "
        f"than one of them; to trust them again: spendfuse prices {overrun.target} --clear-overrun"
    )
