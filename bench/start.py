"""From `spendfuse serve` to the first 200, with a fresh store, and the memory then: our config, a LiteLLM config, none.

Without a config there is no base URL to lead to the static upstream, so its first 200 is that of `/health/ready`.
"""

import argparse
import http.client
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

from bench.gateway import CONFIG, ENVIRONMENT, running_upstream, serving
from bench.table import row, title
from bench.ways import CHAT, KEY

_LITELLM = """
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {{model: openai/gpt-4o-mini, api_base: "{base_url}", api_key: os.environ/PROVIDER_KEY}}
general_settings: {{master_key: os.environ/APP_KEY}}
"""


@dataclass(frozen=True, slots=True)
class Start:
    """A way to start. Without files, it is asked for its health."""

    name: str
    options: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    environment: Mapping[str, str] = field(default_factory=lambda: ENVIRONMENT)

    def once(self) -> tuple[float, float]:
        """Start it; the milliseconds to the first 200, and the megabytes then."""
        started_s = time.perf_counter()
        with serving(self.files, *self.options, environment=self.environment) as server:
            with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
                if self.files:
                    body = CHAT.request().partition(b"\r\n\r\n")[2]
                    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
                    connection.request("POST", CHAT.path, body, headers)
                else:
                    connection.request("GET", "/health/ready")
                response = connection.getresponse()
                answer = response.read()
            first_ms = (time.perf_counter() - started_s) * 1e3
            assert response.status == 200, answer
            return first_ms, server.processes.rss_mb()


def starts(base_url: str) -> tuple[Start, ...]:
    """The ways to start before one upstream."""
    ours, theirs = {"f.yaml": CONFIG.format(base_url=base_url)}, {"f.yaml": _LITELLM.format(base_url=base_url)}
    return (
        Start("our config, 1 worker", ("--config", "f.yaml"), ours),
        Start("our config, 2 workers", ("--config", "f.yaml", "--workers", "2"), ours),
        Start("a LiteLLM config, 1 worker", ("--config", "f.yaml"), theirs),
        Start("no config, 1 worker", (), environment={"OPENAI_API_KEY": "sk-none", "ANTHROPIC_API_KEY": "sk-none"}),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs: int = parser.parse_args().runs
    title("From `spendfuse serve` to the first 200, with a fresh store")
    with running_upstream() as upstream:
        for start in starts(f"http://127.0.0.1:{upstream.port}/v1"):
            taken = [start.once() for _ in range(runs)]
            row(start.name, [first_ms for first_ms, _ in taken], "ms", more=f"{taken[-1][1]:.0f} MB resident")


if __name__ == "__main__":
    main()
