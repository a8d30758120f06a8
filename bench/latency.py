"""How much later an answer comes through the gateway than from the upstream itself, at a fixed rate of calls.

Open loop: calls leave on a schedule, and their latencies count from when they were due. The upstream is asked directly
and through the gateway in turns; what is added is the difference of the two quantiles, the median of several turns.
Generator, upstream and workers share the machine's cores: on two of them, 1,000 calls a second measure that as well.
"""

import argparse
import contextlib
from dataclasses import dataclass

from bench.gateway import Server, running_gateway, running_upstream
from bench.open_loop import Latencies, OpenLoop
from bench.table import row, title
from bench.ways import CHAT

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
WARM_UP_REQUESTS = 300


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of each, one behind the other."""

    direct: Latencies
    gateway: Latencies
    gateway_cpu_us: float
    """Per call, at this rate: each call pays for waking everybody up."""

    def added_us(self, share: float) -> float:
        return self.gateway.us(share) - self.direct.us(share)


def measure(upstream: Server, gateway: Server, *, rate: float, seconds: float, turns: int, even: bool) -> list[Turn]:
    """Load both in turns."""
    requests = max(100, int(rate * seconds))
    with (
        contextlib.closing(OpenLoop(upstream.port, CHAT.request())) as direct,
        contextlib.closing(OpenLoop(gateway.port, CHAT.request())) as through,
    ):
        for loop in (direct, through):
            loop.run(rate, WARM_UP_REQUESTS)
        taken: list[Turn] = []
        for _ in range(turns):
            directly = direct.run(rate, requests, even=even)
            cpu_before_s = gateway.processes.cpu_s()
            through_it = through.run(rate, requests, even=even)
            cpu_s = gateway.processes.cpu_s() - cpu_before_s
            taken.append(Turn(directly, through_it, cpu_s / requests * 1e6))
    for turn in taken:
        assert turn.direct.statuses == turn.gateway.statuses == {b"200"}, turn.gateway.statuses
    return taken


def _print(turns: list[Turn], rate: float, workers: int) -> None:
    for name, share in SHARES.items():
        direct_us = [turn.direct.us(share) for turn in turns]
        through_us = [turn.gateway.us(share) for turn in turns]
        more = f"{min(direct_us):,.0f} to {max(direct_us):,.0f} us directly, {min(through_us):,.0f} to "
        more += f"{max(through_us):,.0f} through it"
        added_us = [turn.added_us(share) for turn in turns]
        row(f"{rate:,.0f}/s, workers {workers}, {name} added", added_us, "us", more=more)
    row(f"{rate:,.0f}/s, workers {workers}, CPU per call", [turn.gateway_cpu_us for turn in turns], "us")
    late_us = [one.lateness_us(0.99) for turn in turns for one in (turn.direct, turn.gateway)]
    row(f"{rate:,.0f}/s, workers {workers}, generator's lateness p99", late_us, "us")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="*", default=[200.0, 1_000.0])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--arrivals", choices=["even", "random"], default="even")
    options = parser.parse_args()
    title(f"Added latency, whole chat answers, {options.arrivals} arrivals")
    with running_upstream() as upstream:
        for workers in options.workers:
            with running_gateway(upstream, workers=workers) as gateway:
                for rate in options.rates:
                    turns = measure(
                        upstream,
                        gateway,
                        rate=rate,
                        seconds=options.seconds,
                        turns=options.turns,
                        even=options.arrivals == "even",
                    )
                    _print(turns, rate, workers)


if __name__ == "__main__":
    main()
