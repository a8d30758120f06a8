"""`python -m spendfuse.simulator`: prints one JSON line with its `base_url` once it accepts connections."""

import argparse
import asyncio
import json
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

import uvicorn

from spendfuse.simulator.app import Simulator
from spendfuse.simulator.behaviour import Behaviour, parse_behaviour
from spendfuse.simulator.counting import count_text
from spendfuse.simulator.static import StaticSimulator

# A call that hangs on purpose must not keep the process alive.
SHUTDOWN_S = 1
KEEP_ALIVE_S = 75


class _Server(uvicorn.Server):
    """A server that says where it listens and, when asked to, ends with whoever started it."""

    def __init__(self, config: uvicorn.Config, *, ends_with_stdin: bool) -> None:
        super().__init__(config)
        self._ends_with_stdin = ends_with_stdin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._ends_with_stdin:
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._stop)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        sys.stdout.write(json.dumps({"base_url": f"http://{shown}:{port}/v1"}) + "\n")
        sys.stdout.flush()

    def _stop(self) -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        self.should_exit = True


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        listener = _listener(options.host, options.port)
    except OSError as refused:
        parser.error(f"cannot listen on {options.host} port {options.port}: {refused}")
    config = uvicorn.Config(
        StaticSimulator() if options.static else _simulator(options.behaviour),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        # Connections dropped on purpose would be reported as errors.
        log_level="critical",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    # Ctrl-C is how a trial ends, and no failure.
    with suppress(KeyboardInterrupt):
        _Server(config, ends_with_stdin=options.until_stdin_ends).run([listener])


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def _simulator(behaviour: Behaviour) -> Simulator:
    # Loads the vocabulary now, so that the first call is as quick as the rest.
    count_text("ready")
    return Simulator(behaviour)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m spendfuse.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--behaviour", type=_behaviour, default=Behaviour(), metavar="JSON")
    parser.add_argument("--static", action="store_true", help="one fixed answer and no bill: for benchmarks")
    parser.add_argument("--until-stdin-ends", action="store_true", help="exit when standard input ends")
    return parser


def _behaviour(text: str) -> Behaviour:
    try:
        return parse_behaviour(text)
    except ValueError as invalid:
        raise argparse.ArgumentTypeError(str(invalid)) from None


if __name__ == "__main__":
    main()
