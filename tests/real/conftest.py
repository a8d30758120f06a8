"""One model for all tests: its server, a recorder before it, and the gateway before that."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

import pytest
from gateway import RunningGateway, running_gateway
from real_clients import CLIENTS, Client
from real_ledger import PRICES
from real_model import CONTEXT_WINDOW, RunningModel, running_model
from recorder import Recorder, recording

CONFIG = """
store: sqlite:///spendfuse.db
providers:
  chat: {{dialect: openai, base_url: "{url}/v1", prices: {prices}, context_window: {window}}}
  messages: {{dialect: anthropic, base_url: "{url}/v1", prices: {prices}, context_window: {window}}}
models: {{gemma: chat/gemma, gemma-messages: messages/gemma}}
keys:
  - {{name: app, key: os.environ/APP_KEY}}
limits: {limits}
"""

StartGateway = Callable[[str], AbstractContextManager[RunningGateway]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningModel]:
    folder = tmp_path_factory.mktemp("model")
    with running_model(folder) as running:
        yield running
    # A quarter of a gigabyte, which pytest would keep for three runs.
    (folder / "model.gguf").unlink()


@pytest.fixture(scope="session")
def recorded(model: RunningModel) -> Generator[tuple[str, Recorder]]:
    with recording(model.url) as recorded:
        yield recorded


@pytest.fixture(scope="session")
def recorder(recorded: tuple[str, Recorder]) -> Recorder:
    return recorded[1]


@pytest.fixture(scope="session")
def start_gateway(recorded: tuple[str, Recorder], tmp_path_factory: pytest.TempPathFactory) -> StartGateway:
    """Starts a gateway of its own with these limits (YAML)."""

    def start(limits: str) -> AbstractContextManager[RunningGateway]:
        config = CONFIG.format(url=recorded[0], prices=PRICES, window=CONTEXT_WINDOW, limits=limits)
        return running_gateway(config, tmp_path_factory.mktemp("gateway"))

    return start


@pytest.fixture(scope="session")
def gateway(start_gateway: StartGateway) -> Generator[RunningGateway]:
    """A gateway whose limits are far away; its ledger must add up in the end."""
    with start_gateway("{company: {usd: 5, per: month}}") as running:
        yield running
        running.run("audit")


@pytest.fixture(params=sorted(CLIENTS))
def client(request: pytest.FixtureRequest, gateway: RunningGateway) -> Client:
    return CLIENTS[request.param](gateway)
