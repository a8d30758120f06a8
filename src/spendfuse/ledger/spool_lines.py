"""What a spool holds, one line each: the ends of reservations that the store has not taken yet.

A line is the CRC-32 of what follows, a space, and JSON. It names calls, labels and charges; never a prompt or a key.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, assert_never

from spendfuse.core.decisions import Fit
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import CapRange, Quote
from spendfuse.core.reservations import Charge, ReservationId
from spendfuse.core.usage import Usage
from spendfuse.ledger.operations import Record, Settle, Void
from spendfuse.ledger.store import Demand


@dataclass(frozen=True, slots=True)
class Begun:
    """A call goes out without a reservation. `record`, at its quote, is what it counts as should its process die."""

    record: Record

    @property
    def reservation_id(self) -> ReservationId:
        return self.record.reservation_id


@dataclass(frozen=True, slots=True)
class Unbilled:
    """Nothing was billed for a call that had begun without a reservation."""

    reservation_id: ReservationId


Spooled = Settle | Void | Record | Begun | Unbilled


class LineInvalid(ValueError):
    """A line is torn, corrupt, or of another version."""


def sealed(content: Mapping[str, object]) -> bytes:
    """A line, with its checksum and its end."""
    text = json.dumps(content, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def unsealed(line: bytes) -> dict[str, Any]:
    """The content of a line.

    Raises:
        LineInvalid: it is not as it was written.
    """
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        raise LineInvalid("the checksum is wrong")
    try:
        return json.loads(text)
    except ValueError as error:
        raise LineInvalid(str(error)) from error


def encode(spooled: Spooled) -> bytes:
    """The line of one end."""
    match spooled:
        case Settle(reservation_id, charge):
            return sealed({"settle": reservation_id, **_charge_out(charge)})
        case Void(reservation_id):
            return sealed({"void": reservation_id})
        case Record():
            return sealed({"record": spooled.reservation_id, **_record_out(spooled)})
        case Begun(record):
            return sealed({"begun": record.reservation_id, **_record_out(record)})
        case Unbilled(reservation_id):
            return sealed({"unbilled": reservation_id})
        case _:
            assert_never(spooled)


def decode(line: bytes) -> Spooled:
    """The end that a line stands for.

    Raises:
        LineInvalid: it can't be read.
    """
    content = unsealed(line)
    try:
        match content:
            case {"settle": int(number)}:
                return Settle(ReservationId(number), _charge_in(content))
            case {"void": int(number)}:
                return Void(ReservationId(number))
            case {"record": int(number)}:
                return _record_in(ReservationId(number), content)
            case {"begun": int(number)}:
                return Begun(_record_in(ReservationId(number), content))
            case {"unbilled": int(number)}:
                return Unbilled(ReservationId(number))
            case _:
                raise LineInvalid("it says nothing that this version knows")
    except (KeyError, TypeError, ValueError) as error:
        raise LineInvalid(repr(error)) from error


def _charge_out(charge: Charge) -> dict[str, object]:
    counts = {field.name: getattr(charge.usage, field.name) for field in fields(Usage)}
    usage = {name: count for name, count in counts.items() if count}
    return {"cost": charge.cost, "usage": usage, "estimated": charge.estimated}


def _charge_in(content: Mapping[str, Any]) -> Charge:
    usage = Usage(**{"input_tokens": 0, "output_tokens": 0, **content["usage"]})
    return Charge(usage, Nanos(content["cost"]), content["estimated"])


def _record_out(record: Record) -> dict[str, object]:
    quote, caps = record.demand.quote, record.demand.caps
    return {
        **_charge_out(record.charge),
        "at_ms": record.at_ms,
        "labels": dict(record.demand.labels),
        "quote": [quote.input_tokens, quote.fixed_picos, quote.output_picos, quote.choices],
        "caps": [caps.wanted, caps.useful],
    }


def _record_in(reservation_id: ReservationId, content: Mapping[str, Any]) -> Record:
    # What else a demand has is about being admitted.
    quote, caps = Quote(*content["quote"]), CapRange(*content["caps"])
    demand = Demand(reservation_id, content["labels"], quote, caps, Fit.LOWER, deadline_s=0.0)
    return Record(demand, _charge_in(content), content["at_ms"])
