"""CPU per POST of the upstream client, against the static upstream in a process of its own.

Closed loop: each of `--in-flight` callers posts, reads the answer and posts again. The CPU is this process's own: the
client, the callers' few lines and the event loop.

    python bench/upstream_client.py --in-flight 32 --requests 20000 --runs 3
"""

import argparse
import asyncio
import gc
import itertools
import time
from collections.abc import Awaitable, Iterator

import uvloop

from bench.gateway import running_upstream
from bench.table import row, title
from bench.ways import CHAT
from spendfuse.upstream.client import UpstreamClient, UpstreamRequest
from spendfuse.upstream.http_client import HttpClient

WARM_UP_REQUESTS = 1_000
GC_ALLOCATIONS = 20_000
"""As in the gateway."""


async def post_repeatedly(client: UpstreamClient, request: UpstreamRequest, turns: Iterator[None]) -> None:
    """One caller; the callers share the turns."""
    for _ in turns:
        async with client.post(request) as response:
            assert response.status == 200
            for _name, _value in response.headers.items():
                pass
            assert await response.read(1 << 20)


async def measure(request: UpstreamRequest, *, in_flight: int, requests: int) -> float:
    """CPU microseconds per POST of one run."""
    client = HttpClient()

    async def run(count: int) -> None:
        turns = itertools.repeat(None, count)
        callers: list[Awaitable[None]] = [post_repeatedly(client, request, turns) for _ in range(in_flight)]
        await asyncio.gather(*callers)

    try:
        await run(WARM_UP_REQUESTS)
        before_s = time.process_time()
        await run(requests)
        return (time.process_time() - before_s) / requests * 1e6
    finally:
        await client.close()


def main() -> None:
    """Print the median and the spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    gc.set_threshold(GC_ALLOCATIONS)
    with running_upstream() as upstream:
        body = CHAT.request().partition(b"\r\n\r\n")[2]
        request = UpstreamRequest(
            f"http://127.0.0.1:{upstream.port}{CHAT.path}", {"Authorization": "Bearer sk-bench"}, body
        )
        runs_us = [
            uvloop.run(measure(request, in_flight=arguments.in_flight, requests=arguments.requests))
            for _ in range(arguments.runs)
        ]
    title("CPU per POST of the upstream client")
    row(f"whole answers, in flight {arguments.in_flight}", runs_us, "us", digits=1)


if __name__ == "__main__":
    main()
