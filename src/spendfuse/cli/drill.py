"""`spendfuse drill`: four disasters, rehearsed against a config without spending a cent."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from spendfuse.cli.configs import load_drill_config
from spendfuse.cli.factories import Factories
from spendfuse.cli.options import AcceptUnenforced, ConfigPath, OutputFormat
from spendfuse.cli.output import FAILED, MISUSED, Format, fail
from spendfuse.cli.texts import did_you_mean
from spendfuse.core.money import AmountInvalid

if TYPE_CHECKING:
    from spendfuse.drill.rehearsal import Finding, Progress, Rehearsal
    from spendfuse.drill.scenarios import Scenario

HOURS_MAX = 24.0 * 31


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def drill(
        scenarios: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[SCENARIO]...", help="retry-loop, power-user, long-answers, denial-of-wallet; default: all."
            ),
        ] = None,
        config: ConfigPath = None,
        max_loss: Annotated[
            str, typer.Option(metavar="LOSS", help="What a scenario may cost: 25% of the budget, or 5 dollars.")
        ] = "100%",
        hours: Annotated[
            float | None, typer.Option(min=0.1, max=HOURS_MAX, help="How long each goes on; default: 8, the attack 1.")
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="Other traffic of the same kind.")] = 1,
        accept_unenforced: AcceptUnenforced = False,
        output: OutputFormat = Format.TABLE,
    ) -> None:
        """Rehearse four disasters against a config.

        Plays a retry loop, a power user, answers that become three times longer and a denial-of-wallet attack through
        the real gateway, before simulated providers, in virtual time; shows what each would cost with and without
        Spendfuse. Exits 1 when one gets past --max-loss. The budget is the smallest limit in money over all calls.
        """
        # A drill loads the gate and the simulator, which no other command needs.
        from spendfuse.cli.drill_report import DrillReport, say_drill
        from spendfuse.drill.losses import budget_of, parse_max_loss
        from spendfuse.drill.rehearsal import Rehearsal

        chosen = _chosen(scenarios or [])
        try:
            loss = parse_max_loss(max_loss)
        except AmountInvalid as error:
            fail(f"--max-loss: {error}", exit_code=MISUSED)
        loaded = load_drill_config(config, accept_unenforced=accept_unenforced)
        rehearsal = Rehearsal(loaded, factories.open_drill_stage, seed=seed)
        findings = _play(rehearsal, chosen, hours)
        report = DrillReport(
            findings, loaded.limits, budget_of(loaded.limits), loss, rehearsal.offers, rehearsal.begins_at, seed
        )
        say_drill(report, output)
        if report.failed:
            raise typer.Exit(FAILED)


def _chosen(names: Sequence[str]) -> "list[Scenario]":
    from spendfuse.drill.scenarios import SCENARIOS

    for name in names:
        if name not in SCENARIOS:
            fail(f"no scenario is named {name!r}{did_you_mean(name, SCENARIOS)}", exit_code=MISUSED)
    return [one for one in SCENARIOS.values() if not names or one.name in names]


def _play(rehearsal: "Rehearsal", scenarios: "Sequence[Scenario]", hours: float | None) -> "list[Finding]":
    """Play them in order, with a progress bar where there is a terminal to draw it on."""
    with _bars() as bar_of:
        return [rehearsal.play(one, hours=hours, progress=bar_of(one)) for one in scenarios]


@contextmanager
def _bars() -> "Generator[Callable[[Scenario], Progress]]":
    """A bar for each scenario, on standard error, gone when all is done."""
    if not sys.stderr.isatty():
        yield lambda _: lambda _: None
        return
    # Rich costs some start-up time that other commands need not pay.
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:>16}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        def bar_of(scenario: "Scenario") -> "Progress":
            bar = bars.add_task(scenario.name, total=1.0)
            return lambda share: bars.update(bar, completed=share)

        yield bar_of
