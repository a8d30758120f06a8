"""`spendfuse demo`: the whole gateway before a simulated provider, driven into its limits by real clients."""

import shutil
import signal
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from spendfuse.cli.factories import Factories
from spendfuse.cli.output import MISUSED, fail, note, say

FOLDER_PREFIX = "spendfuse-demo-"


def add_to(app: typer.Typer, factories: Factories) -> None:
    @app.command()
    def demo(
        port: Annotated[
            int, typer.Option(min=0, max=65_535, help="Where the gateway listens; else a free one.")
        ] = 4000,
        once: Annotated[bool, typer.Option("--once", help="End after the show instead of staying up.")] = False,
        keep: Annotated[bool, typer.Option("--keep", help="Keep the folder with config, store and log.")] = False,
    ) -> None:
        """See it work, with a simulated provider.

        Drives real traffic into every kind of limit, shows report and audit, compares the ledger with the
        provider's own bill, and leaves the gateway up for you to try.
        """
        if find_spec("openai") is None:
            fail("the demo drives the OpenAI SDK: pip install 'spendfuse[demo]'", exit_code=MISUSED)
        # The demo's parts load the simulator and the SDK, which no other command needs.
        from spendfuse.cli.demo.show import run_show
        from spendfuse.simulator.process import SimulatorError

        with _demo_folder(keep=keep) as folder, _ended_by_signals():
            try:
                run_show(factories, folder, port=port, once=once)
            except SimulatorError as error:
                fail(f"the simulated provider: {error}")
        say("stopped")


@contextmanager
def _demo_folder(*, keep: bool) -> Generator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    try:
        yield folder
    finally:
        if keep:
            note(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """Ctrl-C ends the demo in good order; the signals by which others end it mean the same.

    A shell script starts what it runs in the background with SIGINT ignored, so that is set too.
    """
    former = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    former[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
