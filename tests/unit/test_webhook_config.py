"""What WEBHOOK_SOURCES and WEBHOOK_TARGETS may say, and what stops the start."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from app.platform.webhooks.config import Scheme, address
from app.switchyard.config import load
from app.switchyard.errors import SettingsError

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
SOURCES = f"github=hex@X-Hub-Signature-256/X-GitHub-Delivery:a:b=c@d/e partner=standard:{SECRET}"
URL = "https://crm.example.com:8443/hooks?a=b:c"


def test_what_is_declared() -> None:
    raw = {
        "WEBHOOK_SOURCES": f"{SOURCES}\n shop=base64@X-Shop-Hmac:shpss_12 shop=hex@X-New:12345678"
    }
    raw["WEBHOOK_TARGETS"] = f"crm=github,stripe:{SECRET}:{URL} all=*:{SECRET}:https://b.example/"
    made = load(raw)
    [github] = made.sources["github"]
    assert (github.scheme, github.header, github.id_header, github.key) == (
        *(Scheme.HEX, "X-Hub-Signature-256", "X-GitHub-Delivery", b"a:b=c@d/e"),
    )
    assert made.sources["partner"][0].key == KEY
    assert [(s.header, s.id_header) for s in made.sources["shop"]] == [
        *(("X-Shop-Hmac", None), ("X-New", None)),
    ]
    crm, every = made.targets.values()
    assert (crm.url.get_secret_value(), crm.secret.get_secret_value()) == (URL, SECRET)
    assert [crm.wants(name) for name in ("github", "stripe", "shop")] == [True, True, False]
    assert every.wants("shop")
    for shown in (repr(made), repr(made.sources), repr(made.targets)):
        assert not {SECRET, "a:b=c", "crm.example"} & {p for p in (SECRET, "a:b=c") if p in shown}


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ("github", "entry 1 must be NAME=standard"),
        ("a=standard:" + SECRET + " Git=x", "entry 2 must be"),
        ("a=standard:hunter2secret", "a: its secret must be whsec_"),
        ("a=hex:hunter2secret", "a: must be NAME="),
        ("a=hex@:hunter2secret", "a: must be NAME="),
        ("a=hex@X-S/:hunter2secret", "a: must be NAME="),
        ("a=md5@X-S:hunter2secret", "a: must be NAME="),
        ("a=hex@X S:hunter2secret", "a: needs a secret"),
        ("a=hex@X-S:short", "a: needs a secret of at least 8"),
        ("stripe=hex@X-S:hunter2secret", "stripe has an endpoint"),
    ],
)
def test_a_source_that_is_none(sources: str, says: str) -> None:
    with pytest.raises(SettingsError, match=f"WEBHOOK_SOURCES: {says}") as refused:
        load({"WEBHOOK_SOURCES": sources})
    assert "hunter2" not in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (f"crm=shop:{SECRET}:{URL}", r"crm: must name sources of github, partner, stripe or \*"),
        (f"crm=stripe:whsec_hunter2:{URL}", "crm: its secret must be"),
        (f"crm=stripe:{SECRET}", "crm: must be NAME="),
        (f"crm=*:{SECRET}:{URL} crm=*:{SECRET}:{URL}", "crm: is there twice"),
        (f"crm=*:{SECRET}:http://crm.example.com/hunter2", "crm: its URL must start with https"),
        (f"crm=*:{SECRET}:http://127.0.0.1:8000/hunter2", "crm: its URL must start with https"),
    ],
)
def test_a_target_that_is_none(targets: str, says: str) -> None:
    with pytest.raises(SettingsError, match=f"WEBHOOK_TARGETS: {says}") as refused:
        load({"WEBHOOK_SOURCES": SOURCES, "WEBHOOK_TARGETS": targets})
    assert "hunter2" not in str(refused.value)
    assert SECRET not in str(refused.value)


def test_this_machine_is_a_target_in_local_mode_only() -> None:
    raw = {"WEBHOOK_TARGETS": f"me=*:{SECRET}:http://127.0.0.1:9000/", "WEBHOOK_LOOPBACK": "true"}
    assert load(raw).targets["me"].wants("stripe")
    with pytest.raises(SettingsError, match="WEBHOOK_LOOPBACK: is for local mode only"):
        load({**raw, "STRIPE_API_KEY": "sk_live_x"})
    raw["WEBHOOK_TARGETS"] = f"me=*:{SECRET}:http://localhost.example:9000/"
    with pytest.raises(SettingsError, match="must start with https"):
        load(raw)


def test_an_address_has_one_reading() -> None:
    read = address("https://[2606:4700::1111]:8443?q=1")
    assert read == (True, "2606:4700::1111", 8443, "/?q=1")
    assert read.authority == "[2606:4700::1111]:8443"
    assert address("https://xn--bcher-kva.example/a%20b").authority == "xn--bcher-kva.example"


PARTS = st.sampled_from(
    [
        *("https://", "http://", "//", "a.example", "127.0.0.1", "[::1]", "0x7f.1", ":", ":443"),
        *("@", "\\", "/", "?", "#", "%", "%40", ".", "é", " ", "a", "1", "[", "]", "\t", "-", "_"),
    ]
)


@settings(max_examples=400)
@example("https://a.example")
@given(st.one_of(st.text(max_size=40), st.lists(PARTS, max_size=9).map("".join)))
def test_what_is_read_another_reader_reads_the_same(url: str) -> None:
    try:
        read = address(url, loopback=True)
    except ValueError:
        return
    try:
        other = parse_url(url)
    except LocationParseError:
        return
    assert (other.host or "").strip("[]") == read.host
    assert other.auth is None
    assert (other.port or (443 if read.tls else 80)) == read.port
