"""The templates: each renders its sample; hostile data are escaped or refused, never obeyed."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from app.platform.mail.render import TEMPLATES, Letter, render
from app.switchyard.errors import PayloadInvalid
from app.switchyard.job import JobSpec
from app.switchyard.job import load as load_jobs

_PAYOUT = {"name": "Ana", "payoutId": "2025-01-15:creator_00001:usd", "amount": 123_450}
SAMPLES: dict[str, dict[str, Any]] = {
    "welcome": {"name": "Ana", "url": "https://example.com/start"},
    "payout-paid": {**_PAYOUT, "currency": "usd", "paidAt": "2025-01-17T09:30:00Z"},
    "payout-failed": {**_PAYOUT, "currency": "jpy", "reason": "account_closed"},
    "statement-ready": {"name": "Ana", "link": "https://example.com/s/1", "month": "2025-01"},
    "admin-summary": {
        "title": "Pay day 2025-01-15: 1 failed",
        "lead": "Pay day 2025-01-15 (run 0194…) is done.",
        "blocks": [{"heading": "Payouts", "lines": ["paid    997", "failed    1"]}],
    },
}
HOSTILE = (
    *("<script>alert(1)</script>\"'&{{ 7*7 }}{% raw %}", "</pre><h1>x", "a\u202eb"),
    *("{{ ''.__class__ }}", "%s %(x)s", "Zoë & Söhne <zoe@example.com>"),
)


@pytest.fixture(scope="module")
def spec() -> JobSpec:
    return load_jobs("app.platform.mail.jobs")["send-email"]


def tags(html: str) -> list[str]:
    return re.findall(r"<(\w+)", html)


def words(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


def links(html: str) -> list[str]:
    return [unescape(one) for one in re.findall(r'(?:href|src)="([^"]*)"', html)]


def letter(name: str, /, **change: Any) -> Letter:
    return render(name, {**SAMPLES[name], **change}, platform="Fanhouse")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_sample_says_the_same_in_text_and_html(name: str) -> None:
    made = letter(name)
    assert made.text.strip()
    assert made.subject.isprintable()
    for value in SAMPLES[name].values():
        if isinstance(value, str) and value.isalpha() and len(value) > 3:
            assert value in made.text
            assert value in words(made.html)
    assert not re.search(r"\{[{%]|%\}|None|Undefined", made.subject + made.text + made.html)
    assert "color-scheme" in made.html


def test_amounts_and_times_are_a_person_s() -> None:
    paid = letter("payout-paid")
    assert paid.subject == "Your payout of 1,234.50 USD was paid"
    assert "17 January 2025, 09:30 UTC" in paid.text
    assert "17 January 2025, 09:30 UTC" in paid.html
    east = letter("payout-paid", paidAt="2025-01-17T23:30:00-02:00", currency="kwd")
    assert east.subject == "Your payout of 123.450 KWD was paid"
    assert "18 January 2025, 01:30 UTC" in east.text
    assert "p" * 240 in letter("payout-paid", payoutId="p" * 240).text, "as long as they get"
    assert letter("payout-failed").subject == "Your payout of 123,450 JPY did not go through"
    ready = letter("statement-ready", link="https://example.com/s?token=t&x=1")
    assert ready.subject == "Your statement of January 2025 is ready"
    assert "https://example.com/s?token=t&x=1" in ready.text
    assert links(ready.html) == ["https://example.com/s?token=t&x=1"]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", TEMPLATES)
def test_data_are_words_and_nothing_else(name: str, hostile: str) -> None:
    if name == "admin-summary":
        block = {"heading": hostile, "lines": [hostile]}
        made = letter(name, title=hostile, lead=hostile, blocks=[block])
    else:
        made = letter(name, name=hostile, **({"reason": hostile} if "failed" in name else {}))
    assert hostile in made.text
    assert hostile in words(made.html)
    sample = letter(name)
    assert (tags(made.html), links(made.html)) == (tags(sample.html), links(sample.html))
    assert "\n" not in made.subject


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"to": "a@b.c", "template": "nope"}, "no template 'nope'; there are: welcome"),
        ({"to": "a@b.c", "template": "welcome"}, r"data\.name: Field required"),
        ({"to": "a@b.c", "template": "welcome", "data": {"name": "a\nBcc: x@y.z"}}, "one line"),
        ({"to": "a@b.c\nBcc: d@e.f", "template": "welcome", "data": {"name": "A"}}, "mail address"),
        (
            {"to": "a@b.c", "template": "welcome", "data": {"name": "A", "url": "javascript:x"}},
            r"data\.url",
        ),
        (
            {"to": "a@b.c", "template": "payout-paid", "data": {"name": "A", "amount": 1.5}},
            r"data\.payoutId|data\.amount",
        ),
        (
            {"to": "a@b.c", "template": "welcome", "data": {"name": "A"}, "delayMinutes": -1},
            "delay",
        ),
        ({"to": "a@b.c", "template": "welcome", "data": {"name": "A"}, "cc": "d@e.f"}, "cc"),
    ],
)
def test_what_does_not_fit_is_refused_at_dispatch(
    spec: JobSpec, payload: dict[str, Any], says: str
) -> None:
    with pytest.raises(PayloadInvalid, match=says) as refused:
        spec.parse(payload)
    assert "\n" not in str(refused.value)
