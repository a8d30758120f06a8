"""Whom alerts go to, when, and in what words; what is never in them."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Mapping
from types import TracebackType

import pytest

from spendfuse.alerting.digest import DigestPeriod, digest_data, digest_lines, fetch_digest, last_span, span_so_far
from spendfuse.alerting.messages import Wording, message_of, summary_of
from spendfuse.alerting.routing import Sending, Waiting, channels_of, next_message, retry_in_ms
from spendfuse.alerting.senders import AppriseSender, check_channels, redacted, secrets_of
from spendfuse.alerting.webhook import signature
from spendfuse.clock import FrozenClock
from spendfuse.config import Secret, parse
from spendfuse.config.alerts import Alerting, Channel, QuietHours
from spendfuse.core.alerts import Alert, AlertKind, Phase, Severity
from spendfuse.core.decisions import Admitted, Fit
from spendfuse.core.errors import ConfigInvalid
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import CapRange, Quote
from spendfuse.core.reservations import Charge, ReservationId
from spendfuse.core.thresholds import threshold_alert
from spendfuse.core.usage import Usage
from spendfuse.core.windows import Calendar, CalendarUnit, window_at
from spendfuse.ledger.alerts import HOUR_MS, Delivery, Due, StoredAlert
from spendfuse.ledger.memory import open_memory
from spendfuse.ledger.store import Demand, RefusalCount

NOON_MS = 1_795_262_400_000  # 2026-11-21 12:00 UTC, a Saturday
USD = 10**9
MONTH = Calendar(CalendarUnit.MONTH)
MONEY = Limit("company", Unit.USD, 500 * USD, MONTH, each=("organization",))
CONFIG = """
limits: {company: {usd: 500, per: month}, other: {usd: 1, per: day}}
alerts:
  channels:
    team: slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ
    oncall: {url: "pagerduty://key@api"}
    hook: {webhook: "https://example.com/hook", secret: shared}
  routes:
    - {on: [threshold], to: [team], limit: company}
    - {on: [threshold, breaker], to: [oncall, hook], severity: critical}
"""


def _stored(share: int = 80, *, number: int = 1, **more: object) -> StoredAlert:
    window = window_at(MONTH, NOON_MS)
    alert = threshold_alert(MONEY, '["acme"]', window, share=share, amount=500 * USD, settled=401 * USD)
    return StoredAlert(number, alert, NOON_MS, **more)  # type: ignore[arg-type]


def _channels(share: int, phase: Phase = Phase.RAISED) -> tuple[str, ...]:
    alert = _stored(share).alert
    return channels_of(parse(CONFIG).alerting, alert, phase, alert.kind)


def test_routes_go_by_kind_severity_and_limit() -> None:
    assert _channels(80) == ("team",)
    assert _channels(100) == ("team", "oncall", "hook")
    other = Alert(AlertKind.THRESHOLD, "x", Severity.CRITICAL, {"limit": "other"})
    assert channels_of(parse(CONFIG).alerting, other, Phase.RAISED, other.kind) == ("oncall", "hook")
    drift = Alert(AlertKind.BREAKER, "x", Severity.CRITICAL, {"breaker": "longer"})
    assert channels_of(parse(CONFIG).alerting, drift, Phase.RAISED, AlertKind.DRIFT) == ()


def test_people_hear_of_the_end_of_what_was_critical_and_programs_of_every_end() -> None:
    assert _channels(80, Phase.RESOLVED) == ()
    assert _channels(100, Phase.RESOLVED) == ("team", "oncall", "hook")
    everyone = parse(CONFIG.partition("  routes")[0]).alerting
    alert = _stored(80).alert
    assert channels_of(everyone, alert, Phase.RAISED, alert.kind) == ("team", "oncall", "hook")
    assert channels_of(everyone, alert, Phase.RESOLVED, alert.kind) == ("oncall", "hook")


def _due(count: int) -> list[Due]:
    return [Due(_stored(number=number), Delivery("team", Phase.RAISED)) for number in range(count)]


def _channel(**more: object) -> Channel:
    return Channel("team", Secret("json://localhost"), **more)  # type: ignore[arg-type]


def test_in_quiet_hours_everything_waits_until_they_end() -> None:
    channel = _channel(quiet_hours=QuietHours(22 * 60, 7 * 60))
    midnight_ms = NOON_MS + 12 * HOUR_MS
    for now_ms, timezone, expected_ms in (
        (midnight_ms, "UTC", 7 * HOUR_MS),
        (midnight_ms, "Asia/Tokyo", 0),
        (NOON_MS + 10 * HOUR_MS + 1, "UTC", 9 * HOUR_MS - 1),
        (NOON_MS + 10 * HOUR_MS - 1, "UTC", 0),
        (midnight_ms + 7 * HOUR_MS, "UTC", 0),
    ):
        chosen = next_message(channel, _due(2), sent_at_ms=(), now_ms=now_ms, timezone=timezone)
        assert (chosen.for_ms if isinstance(chosen, Waiting) else 0) == expected_ms, now_ms


def test_the_last_message_within_the_cap_sums_up_the_rest() -> None:
    channel, due = _channel(messages_per_hour=3), _due(10)
    sent = [NOON_MS - HOUR_MS // 2]

    def chosen(sent_at_ms: list[int]) -> Sending | Waiting:
        return next_message(channel, due, sent_at_ms=sent_at_ms, now_ms=NOON_MS, timezone="UTC")

    assert chosen(sent) == Sending((due[0],))
    assert chosen([*sent, NOON_MS]) == Sending(tuple(due))
    assert chosen([*sent, NOON_MS, NOON_MS]) == Waiting(tuple(due), HOUR_MS // 2 + 1)
    assert isinstance(next_message(_channel(), due, sent_at_ms=[NOON_MS] * 99, now_ms=NOON_MS, timezone="UTC"), Sending)


def test_tries_are_spaced_further_and_further_up_to_five_minutes() -> None:
    assert [retry_in_ms(n) for n in (1, 2, 3, 8, 9, 500)] == [2_000, 4_000, 8_000, 256_000, 300_000, 300_000]


def test_a_message_says_what_how_much_who_until_when_and_what_to_do() -> None:
    tops = {"top_features": [{"name": "search", "text": "$300.00"}, {"name": "", "text": "$101.00"}]}
    message = message_of(_stored(details=json.dumps(tops)), Phase.RAISED, Wording("Europe/Berlin", "https://d.example"))
    assert message.title == "company (organization=acme): 80 % of $500.00 is spent"
    assert message.text.splitlines() == [
        "$401.00 of $500.00 per month settled (80.2 %), $99.00 left.",
        "Top features: search $300.00, (none) $101.00.",
        "It resets on Tue 2026-12-01 01:00 CET.",
        "Calls under it are refused once it is spent. To raise it: `spendfuse limits set company --for acme AMOUNT`; "
        "to see who spends: `spendfuse report`.",
        "Dashboard: https://d.example",
    ]
    assert (message.data["amount"], message.data["settled"], message.data["share"]) == ("500.00", "401.00", 80)


def test_the_end_of_an_alert_says_why_under_the_same_id() -> None:
    stored = _stored(100, resolved_at_ms=NOON_MS + HOUR_MS, resolution="raised")
    raised, over = (message_of(stored, phase, Wording()) for phase in Phase)
    assert over.alert_id == raised.alert_id
    assert over.title == "Over: company (organization=acme) is spent: $401.00 of $500.00"
    assert over.text == "The amount was raised (Sat 2026-11-21 13:00 UTC)."
    assert (over.data["event"], over.data["resolution"]) == ("resolved", "raised")


def test_a_summary_names_what_it_sums_up() -> None:
    several = [(_stored(share, number=share), Phase.RAISED) for share in range(1, 31)]
    message = summary_of(several, Wording())
    assert message.title == "30 more alerts"
    assert message.lines[0].startswith("company (organization=acme): 1 %")
    assert message.lines[-1] == "and 10 more: `spendfuse alerts list` has them all"
    assert message.severity is Severity.WARNING


def test_a_signature_is_over_the_time_and_the_body() -> None:
    expected = hmac.new(b"shared", b'17.{"a":1}', hashlib.sha256).hexdigest()
    assert signature(Secret("shared"), "17", b'{"a":1}') == f"v1={expected}"


@pytest.mark.parametrize(
    "url",
    [
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        "mailto://ops:p%40ssword@smtp.example.com?from=a@example.com&to=b@example.com",
        "json://user:hunter2@example.com:8080/path/token123?x=secretvalue",
    ],
)
def test_nothing_of_a_channels_url_is_in_what_is_told_of_it(url: str) -> None:
    said = f"failed: {url}; and {' '.join(secrets_of(url))}"
    told = redacted(said, secrets_of(url))
    for secret in ("TIiajkdnlazkcOXrIdevi7FQ", "p%40ssword", "p@ssword", "hunter2", "token123", "secretvalue"):
        assert secret not in told
    assert "hunter2" not in repr(Channel("json", Secret(url)))


def test_a_channel_that_apprise_does_not_know_is_refused_without_its_url() -> None:
    channel = Channel("bad", Secret("nosuchservice://verysecret"))
    with pytest.raises(ConfigInvalid, match=r"alerts\.channels\.bad") as caught:
        check_channels(Alerting({"bad": channel}))
    assert "verysecret" not in str(caught.value)


def test_a_sender_says_why_without_the_url() -> None:
    channel = Channel("json", Secret("json://127.0.0.1:1/verysecret"))

    async def send() -> str | None:
        sender = AppriseSender(channel)
        try:
            return await sender.send(message_of(_stored(), Phase.RAISED, Wording()))
        finally:
            sender.close()

    error = asyncio.run(send())
    assert error and "verysecret" not in error


class _Ledger:
    """A ledger in memory with a clock, for as long as a test takes."""

    async def __aenter__(self) -> "_Ledger":
        self.clock = FrozenClock(NOON_MS * 10**6)
        self.limits = (Limit("company", Unit.USD, 500 * USD, MONTH),)
        self.ledger = await open_memory(self.limits, self.clock)
        self._number = 0
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.ledger.close()

    async def spend(self, usd: int, labels: Mapping[str, str]) -> None:
        self._number += 1
        number = ReservationId(self._number)
        quote = Quote(0, fixed_picos=usd * USD * 1_000, output_picos=0)
        outcome = await self.ledger.reserve(Demand(number, labels, quote, CapRange(1, 1), Fit.LOWER, 600.0))
        assert isinstance(outcome, Admitted)
        await self.ledger.settle(number, Charge(Usage(1, 1), Nanos(usd * USD)))


def test_a_digest_compares_with_the_week_before_and_points_out_where_most_of_it_went() -> None:
    async def run() -> None:
        async with _Ledger() as one:
            one.clock.advance(ms=-10 * 86_400_000)
            await one.spend(10, {"feature": "chat"})
            one.clock.advance(ms=6 * 86_400_000)
            await one.spend(70, {"feature": "search", "user": "ada"})
            await one.spend(30, {"feature": "chat", "user": "bob"})
            await one.ledger.count_refusals([RefusalCount("budget_exceeded", "company", "chat", "bob", 7)])
            one.clock.advance(ms=4 * 86_400_000)
            now_ms = NOON_MS
            so_far = span_so_far(DigestPeriod.WEEK, "UTC", now_ms)
            digest = await fetch_digest(one.ledger, one.limits, so_far, now_ms)
            lines = digest_lines(digest, Wording())
            assert lines[0].startswith("$100.00 in the week 2026-11-16 to 2026-11-21 so far: +900.0 %")
            assert [line.split() for line in lines[3:5]] == [
                ["search", "$70.00", "70.0", "%", "$0.00", "new"],
                ["chat", "$30.00", "30.0", "%", "$10.00", "+200.0", "%"],
            ]
            assert "search alone is 70.0 % of it: look there first." in lines
            assert "Top users: ada $70.00, bob $30.00." in lines
            assert "Most refused: 7 x budget_exceeded by company (feature chat, user bob)." in lines
            assert lines[-1].startswith("company: $110.00 of $500.00 so far; at this rate it lasts")
            assert digest_data(digest)["cost_before_usd"] == "10.00"

    asyncio.run(run())


def test_the_last_whole_week_and_month_are_those_of_the_time_zone() -> None:
    week = last_span(DigestPeriod.WEEK, "Europe/Berlin", NOON_MS)
    assert (week.until_ms - week.from_ms, week.from_ms - week.before_from_ms) == (7 * 24 * HOUR_MS,) * 2
    assert week.until_ms == window_at(Calendar(CalendarUnit.WEEK, "Europe/Berlin"), NOON_MS).starts_at_ms
    month = last_span(DigestPeriod.MONTH, "UTC", NOON_MS)
    assert (month.until_ms - month.from_ms) // (24 * HOUR_MS) == 31
