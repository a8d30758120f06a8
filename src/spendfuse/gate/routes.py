"""Public model names, compiled for the hot path: where a call goes, at what price, under which bounds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from spendfuse.clock import Clock
from spendfuse.config import Config, OnDisconnect, PublicModel, Timeouts
from spendfuse.core.calls import Call, Operation
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import Quote
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.usage import Usage
from spendfuse.upstream.client import UpstreamRequest
from spendfuse.wire.dialect import WireTarget
