"""A real model behind HTTP, and the bill that its server keeps of all calls together."""

import json
import select
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

CONTEXT_WINDOW = 8_192
SLOTS = 4
START_TIMEOUT_S = 60
IDLE_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Tokens:
    """What calls used. `input` has the cached ones in it, as OpenAI counts and Anthropic does not."""

    input: int
    cached: int
    output: int

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.input + other.input, self.cached + other.cached, self.output + other.output)

    def __sub__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.input - other.input, self.cached - other.cached, self.output - other.output)

    @property
    def total(self) -> int:
        return self.input + self.output


NOTHING = Tokens(0, 0, 0)


@dataclass(frozen=True, slots=True)
class RunningModel:
    """A handle on a model's server."""

    url: str

    def bill(self) -> Tokens:
        """All tokens since the start by the server's own counters, as soon as no call runs any more.

        The counters know what no answer says: what was made for a client that had left.
        """
        ends_at = time.monotonic() + IDLE_TIMEOUT_S
        while True:
            counters = self._counters()
            if not counters["requests_processing"] and not counters["requests_deferred"]:
                break
            assert time.monotonic() < ends_at, "the server still works on a call"
            time.sleep(0.02)
        cached = counters["prompt_tokens_cached_total"]
        return Tokens(counters["prompt_tokens_total"] + cached, cached, counters["tokens_predicted_total"])

    def _counters(self) -> dict[str, int]:
        lines = httpx2.get(f"{self.url}/metrics", timeout=IDLE_TIMEOUT_S).raise_for_status().text.splitlines()
        pairs = [line.removeprefix("llamacpp:").split() for line in lines if not line.startswith("#")]
        return {name: int(float(value)) for name, value in pairs}


@contextmanager
def running_model(folder: Path) -> Generator[RunningModel]:
    """Join the model's file in `folder`, serve it on a free port, and end the server afterwards."""
    script = Path(__file__).with_name("model_process.py")
    command = [sys.executable, str(script), str(folder / "model.gguf"), str(CONTEXT_WINDOW), str(SLOTS)]
    log_path = folder / "model.log"
    with (
        log_path.open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
            line = process.stdout.readline() if ready else b""
            assert line, f"the model did not start:\n{log_path.read_text(errors='replace')}"
            yield RunningModel(json.loads(line)["url"])
        finally:
            process.kill()
