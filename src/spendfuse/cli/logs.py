"""Logs as `key=value` lines on standard error: `time=… level=info server_started host=127.0.0.1 port=4000`."""

import json
import logging
import sys
import time
from enum import StrEnum


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class KeyValueFormatter(logging.Formatter):
    """Our events are `key=value` already; what other packages say becomes one quoted `message`."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """UTC in ISO 8601, to the millisecond."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"

    def formatMessage(self, record: logging.LogRecord) -> str:
        said = record.message
        if not record.name.startswith("spendfuse"):
            said = f"logged by={record.name} message={json.dumps(said, ensure_ascii=False)}"
        # A line break in a value must not look like a line of its own.
        said = said.replace("\r", "\\r").replace("\n", "\\n")
        return f"time={record.asctime} level={record.levelname.lower()} pid={record.process} {said}"

    def usesTime(self) -> bool:
        return True


def configure_logs(level: LogLevel) -> None:
    """Send everything from this level on to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
