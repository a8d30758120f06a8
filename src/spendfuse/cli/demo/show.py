"""The show: a gateway before a simulated provider, acts that run into its limits, the proof, and what to do next."""

import asyncio
from contextlib import aclosing
from pathlib import Path

from spendfuse.cli.demo.acts import FEATURES, MONTH_LIMIT, acts, play
from spendfuse.cli.demo.proof import say_proof
from spendfuse.cli.demo.stage import CLAUDE, Gateway, running_gateway, write_config
from spendfuse.cli.demo.traffic import MODEL, Tally, Traffic, requests
from spendfuse.cli.factories import Factories
from spendfuse.cli.keys import LABEL_SOURCES, create_key
from spendfuse.cli.output import fail, say
from spendfuse.config import Config, load
from spendfuse.core.labels import subject_of
from spendfuse.core.money import parse_usd
from spendfuse.ledger.store import Ledger
from spendfuse.simulator.behaviour import Behaviour, LogNormal
from spendfuse.simulator.process import RunningSimulator, running_simulator

KEY_NAME = "demo"
RAISED_USD = "5"
KEY_TIMEOUT_S = 5.0
BEHAVIOUR = Behaviour(
    latency_s=LogNormal(0.04, 0.4),
    output_tokens=LogNormal(260, 0.5),
    chunk_tokens=20,
    chunk_interval_s=0.002,
    tool_call=True,
)


def run_show(factories: Factories, folder: Path, *, port: int, once: bool) -> None:
    """Play it all in this folder; without `once` the gateway then stays up until Ctrl-C."""
    with running_simulator(BEHAVIOUR) as simulator:
        path = write_config(folder, simulator.base_url)
        config = load(path)
        log = folder / "gateway.log"
        with running_gateway(factories, config, port=port, log=log) as gateway:
            _introduce(path, gateway, port)
            key = asyncio.run(_play(factories, config, gateway, simulator, path=path))
            if not once:
                _invite(gateway, key, path)
                say("The gateway and the simulated provider stay up. Ctrl-C stops both.")
                gateway.wait()
                fail(f"the gateway ended by itself; see {log}")


def _introduce(path: Path, gateway: Gateway, port: int) -> None:
    if gateway.took_other_port:
        say(f"port {port} is taken; the gateway has another one")
    say(f"gateway  {gateway.base_url}, before a simulated provider")
    say(f"config   {path}")
    text = path.read_text(encoding="utf-8")
    say()
    for line in text[text.index("limits:") :].splitlines():
        say(f"  {line}")
    say()


async def _play(
    factories: Factories, config: Config, gateway: Gateway, simulator: RunningSimulator, *, path: Path
) -> str:
    """The acts and the proof; returns the key."""
    config_option = f"--config {path}"
    async with factories.open_ledger(config) as ledger:
        say(f"$ spendfuse keys create {KEY_NAME} {config_option}")
        key = await create_key(ledger, KEY_NAME, labels={}, labels_from=LABEL_SOURCES)
        say(key)
        say()
        async with aclosing(Traffic(gateway.base_url, key)) as traffic:
            await traffic.wait_until_known(KEY_TIMEOUT_S)
            tallies = [await play(act, traffic, ledger) for act in acts()]
            _say_error(tallies[-1])
            await say_proof(ledger, simulator, limit_name=MONTH_LIMIT, config_option=config_option)
            await _raise_limit(ledger, traffic, config_option)
    return key


def _say_error(tally: Tally) -> None:
    """What a program sees of a spent budget."""
    error = tally.first.get(MONTH_LIMIT)
    if error is None:
        fail(f'the traffic did not reach the limit "{MONTH_LIMIT}"')
    say("In the application this was an exception, which the SDK does not retry:")
    say(f"  openai.{type(error).__name__}: {error}")
    say()


async def _raise_limit(ledger: Ledger, traffic: Traffic, config_option: str) -> None:
    """Leave a gateway that answers: a raised limit holds at once."""
    say()
    say(f"$ spendfuse limits set {MONTH_LIMIT} {RAISED_USD} {config_option}")
    await ledger.set_amount(MONTH_LIMIT, subject_of({}, ()), parse_usd(RAISED_USD))
    tally = Tally()
    await traffic.send(next(requests(("ada",), FEATURES[-1:])), tally)
    say(f"  the next call: {'admitted' if tally.admitted else 'refused'}")
    say()


def _invite(gateway: Gateway, key: str, path: Path) -> None:
    say("Point any OpenAI or Anthropic client at it:")
    say()
    say(f"  export OPENAI_BASE_URL={gateway.base_url} OPENAI_API_KEY={key}")
    say(f"  export ANTHROPIC_BASE_URL={gateway.base_url.removesuffix('/v1')} ANTHROPIC_API_KEY={key}")
    say()
    say("  from openai import OpenAI")
    say(f'  OpenAI().chat.completions.create(model="{MODEL}", messages=[{{"role": "user", "content": "Hello"}}])')
    say(f"  # {CLAUDE} answers there too, and at anthropic.Anthropic().messages.create(…)")
    say()
    say(f"  spendfuse limits list --config {path}")
    say()
