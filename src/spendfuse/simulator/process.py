"""The simulator in a process of its own, and a handle on it."""

import http.client
import json
import select
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson
from pydantic import TypeAdapter

from spendfuse.simulator.app import LastRequest
from spendfuse.simulator.behaviour import Behaviour, parse_behaviour
from spendfuse.simulator.bill import BillReport

START_TIMEOUT_S = 60
CONTROL_TIMEOUT_S = 90

_REPORT = TypeAdapter(BillReport)
_LAST_REQUEST = TypeAdapter(LastRequest | None)


class SimulatorError(Exception):
    """The simulator did not start, or refused a control request."""


@dataclass(frozen=True, slots=True)
class RunningSimulator:
    """A handle on a running simulator. Its methods block: in a coroutine, only for as long as a short request."""

    base_url: str
    """With `/v1`, as OpenAI's clients want it."""
    pid: int

    @property
    def anthropic_base_url(self) -> str:
        """Without `/v1`, as Anthropic's clients want it."""
        return self.base_url.removesuffix("/v1")

    def bill(self, *, with_records: bool = False, wait_idle_s: float = 0.0) -> BillReport:
        """The bill; with `wait_idle_s` as soon as no call runs any more, or after that time as it then is."""
        path = f"/simulator/bill?calls={int(with_records)}&wait_idle_s={wait_idle_s}"
        return _REPORT.validate_json(self._request("GET", path))

    def behaviour(self) -> Behaviour:
        return parse_behaviour(self._request("GET", "/simulator/behaviour"))

    def set_behaviour(self, behaviour: Behaviour) -> None:
        """Replace the whole behaviour from the next call on."""
        self._request("POST", "/simulator/behaviour", orjson.dumps(behaviour))

    def reset(self) -> None:
        """Start a new bill, under the behaviour that the process was started with."""
        self._request("POST", "/simulator/reset")

    def last_request(self) -> LastRequest | None:
        return _LAST_REQUEST.validate_json(self._request("GET", "/simulator/last_request"))

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        url = urlsplit(self.base_url)
        with closing(http.client.HTTPConnection(url.hostname or "", url.port, timeout=CONTROL_TIMEOUT_S)) as connection:
            connection.request(method, path, body)
            response = connection.getresponse()
            answer = response.read()
        if response.status != 200:
            raise SimulatorError(f"{method} {path}: {response.status} {answer.decode('utf-8', 'replace')}")
        return answer


@contextmanager
def running_simulator(
    behaviour: Behaviour | None = None, *, host: str = "127.0.0.1", port: int = 0, static: bool = False
) -> Generator[RunningSimulator]:
    """Start a simulator, wait until it accepts connections, and end it afterwards.

    It also ends when the process that started it dies, however that happens.

    Raises:
        SimulatorError: it did not start.
    """
    command = [sys.executable, "-m", "spendfuse.simulator", "--until-stdin-ends", "--host", host, "--port", str(port)]
    command += ["--behaviour", orjson.dumps(behaviour or Behaviour()).decode()]
    if static:
        command.append("--static")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 (ours)
        try:
            yield RunningSimulator(_base_url(process), process.pid)
        finally:
            # Its bill lives in memory only: there is nothing to end gracefully.
            process.kill()


def _base_url(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
    line = process.stdout.readline() if ready else b""
    if not line:
        raise SimulatorError(f"it did not say within {START_TIMEOUT_S} s where it listens; its standard error says why")
    base_url: str = json.loads(line)["base_url"]
    return base_url
