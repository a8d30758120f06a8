"""CPU per request of the gateway at saturation, for whole answers on the three ways, beside a relay of bytes.

Closed loop against the static upstream, which has a process of its own, as has each worker. The ways take turns on one
gateway, so that their ratios hold on a busy machine too.
"""

import argparse
from dataclasses import dataclass

import uvloop

from bench.gateway import Server, running_gateway, running_relay, running_upstream
from bench.load import Load, run_load
from bench.table import row, title
from bench.ways import CHAT, KEY, WAYS

WARM_UP_S = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent to which server, and the status of every answer."""

    name: str
    server: Server
    request: bytes
    status: int = 200

    def load(self, *, connections: int, seconds: float) -> tuple[Load, float]:
        """Load the server; its CPU microseconds per request."""
        cpu_before_s = self.server.processes.cpu_s()
        load = uvloop.run(run_load(self.server.port, self.request, connections=connections, seconds=seconds))
        cpu_us = (self.server.processes.cpu_s() - cpu_before_s) / load.requests * 1e6
        assert set(load.statuses) == {self.status}, load.statuses
        return load, cpu_us


def cases_of(gateway: Server, relay: Server) -> list[Case]:
    """The three ways, a key that is refused before anything else is done, and the floor."""
    unknown_key = CHAT.request().replace(KEY.encode(), b"x" * len(KEY))
    return [
        *(Case(way.name, gateway, way.request()) for way in WAYS),
        Case("a refused key", gateway, unknown_key, 401),
        Case("relay of bytes", relay, CHAT.request()),
    ]


def measure(cases: list[Case], *, connections: int, seconds: float, runs: int) -> dict[str, list[tuple[Load, float]]]:
    """Load each case's server in turn, again and again."""
    for case in cases:
        case.load(connections=connections, seconds=WARM_UP_S)
    results: dict[str, list[tuple[Load, float]]] = {case.name: [] for case in cases}
    for _ in range(runs):
        for case in cases:
            results[case.name].append(case.load(connections=connections, seconds=seconds))
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    with running_upstream() as upstream:
        for workers in options.workers:
            title(f"CPU per request, whole answers, {options.connections} connections, workers {workers}")
            with running_gateway(upstream, workers=workers) as gateway, running_relay(upstream) as relay:
                cases = cases_of(gateway, relay)
                results = measure(cases, connections=options.connections, seconds=options.seconds, runs=options.runs)
                for name, measured in results.items():
                    _print(name, measured)
                row("resident after that", [gateway.processes.rss_mb()], "MB")


def _print(name: str, measured: list[tuple[Load, float]]) -> None:
    load = measured[-1][0]
    rate = f"{load.requests / load.seconds:,.0f} requests/s"
    row(name, [cpu_us for _, cpu_us in measured], "us", more=f"{rate}, p50 {load.quantile_ms(0.5):.1f} ms")


if __name__ == "__main__":
    main()
