"""A client that sends exactly the bytes it is told to, and says exactly what came back."""

import json
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error_code(self) -> str:
        return json.loads(self.body)["error"]["code"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RawClient:
    def __init__(self, port: int, *, timeout_s: float = 10.0, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout_s)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def read_answer(self) -> Answer:
        """One whole answer, by its own length or chunks."""
        lines = self.read_until(b"\r\n\r\n").decode().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.read_chunk, b""))
        else:
            body = self._read_exactly(int(headers.get("content-length", "0")))
        return Answer(int(lines[0].split(" ")[1]), headers, body)

    def read_chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        size = int(self.read_until(b"\r\n"), 16)
        return self._read_exactly(size + 2)[:-2]

    def read_until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(end)
        return head

    def read_to_close(self) -> bytes:
        """Everything until the server closes; a reset ends it as well."""
        try:
            while True:
                self._receive()
        except ConnectionError:
            pass
        rest, self._buffer = self._buffer, b""
        return rest

    def read_to_close_or(self, end: bytes) -> bool:
        """Read on until these bytes have come; False when the server closes before."""
        try:
            self.read_until(end)
        except ConnectionError:
            return False
        return True

    def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _receive(self) -> None:
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._buffer += data


def get(path: str, *headers: bytes) -> bytes:
    lines = (b"GET %s HTTP/1.1" % path.encode(), b"Host: test", *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    lines = (b"POST %s HTTP/1.1" % path.encode(), b"Host: test", length, *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def ask(port: int, request: bytes) -> Answer:
    """Send one request on a connection of its own and read its answer."""
    with RawClient(port) as client:
        client.send(request)
        return client.read_answer()
