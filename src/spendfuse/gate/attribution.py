"""The labels of a call: Spendfuse's own and its key's first, then what its headers and its body claim."""

from collections.abc import Sequence

from spendfuse.core.calls import Call
from spendfuse.core.labels import KEY_LABELS, Labels
from spendfuse.core.limits import Limit
from spendfuse.core.refusals import Code, Deny
from spendfuse.gate.requests import Request

OWN_LABELS = frozenset({"key", "model", "provider", "target", "ip", "fingerprint"})
"""Labels that only Spendfuse gives: a claim of one is ignored."""


class Attribution:
    """Labels calls as the limits of one config need it.

    `ip` and `fingerprint` are worked out, and stored, only where a limit counts by them.
    """

    def __init__(self, limits: Sequence[Limit]) -> None:
        used = {name for one in limits for name in (*one.each, *one.match)}
        self.uses_ip = "ip" in used
        self._uses_fingerprint = "fingerprint" in used
        self._requiring = tuple(one for one in limits if one.require and one.is_enforced)

    def labels_of(self, request: Request, call: Call, route_labels: Labels) -> dict[str, str] | Deny:
        """All labels of a call: of one name the first source wins, ours, the key's, the headers', the body's.

        A key may narrow where claims are read from.
        """
        caller = request.caller
        labels = {**caller.labels, **route_labels}
        if self.uses_ip:
            labels["ip"] = request.ip
        if self._uses_fingerprint:
            fingerprint = request.dialect.fingerprint(call)
            if fingerprint:
                labels["fingerprint"] = fingerprint
        for source, claimed in (("headers", request.claimed), ("body", call.claimed)):
            if claimed and source in caller.labels_from:
                for name, value in claimed.items():
                    if name not in OWN_LABELS:
                        labels.setdefault(name, value)
        return self._deny_missing(labels) or labels

    def _deny_missing(self, labels: Labels) -> Deny | None:
        for limit in self._requiring:
            missing = limit.missing_label(labels)
            if missing is not None and limit.covers(labels):
                return Deny(
                    Code.LABEL_REQUIRED,
                    f'limit "{limit.name}" counts by {missing!r}, and this call has no such label. '
                    f"Send it as {_header_of(missing)} or in `metadata`.",
                    param="metadata",
                )
        return None


def _header_of(label: str) -> str:
    """How a header says a label; those without a header of their own are tags."""
    return f"`x-spendfuse-{label}`" if label in KEY_LABELS else f"`x-spendfuse-tags: {label}=…`"
