"""Where webhooks may not go: hostile addresses, names that change their answer, redirects, TLS."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.platform.gateways.guard import AddressRefused, Guard, is_public
from app.platform.gateways.hooks import HookSender, HookUnavailable
from tests.support.receiver import Receiver, receiving, signature
from tests.support.wire import read_request

NOW = datetime(2025, 1, 15, 9, 30, 7, tzinfo=UTC)
KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
PUBLIC = "93.184.215.14"


def resolving(*answers: str) -> Any:
    """A resolver that gives one answer after the other."""
    left = list(answers)

    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return socket.getaddrinfo(left.pop(0) if len(left) > 1 else left[0], port, type=1)

    return resolve


def send(guard: Guard, url: str, seconds: float = 10.0) -> None:
    HookSender(SECRET, seconds, guard).send(SecretStr(url), b"{}", {}, "msg_1", NOW)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is connected to at all."""

    def connect(*_: Any) -> None:
        raise AssertionError("a connection was begun")

    monkeypatch.setattr(socket.socket, "connect", connect)


HOSTILE = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.5", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16"),
    *("192.0.0.192", "198.18.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    *("255.255.255.255", "[::1]", "[::]", "[::ffff:7f00:1]", "[::7f00:1]", "[fe80::1]"),
    *("[fc00::1]", "[fd00:ec2::254]", "[fec0::1]", "[ff02::1]", "[64:ff9b::a9fe:a9fe]"),
    *("[64:ff9b:1::7f00:1]", "[2002:7f00:1::1]", "[2001:0:7f00:1::1]", "[2001:db8::1]"),
    *("[100::1]", "[5f00::1]"),
]
UNREADABLE = [
    *("https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://0177.0.0.1/"),
    *(
        "https://127.1/",
        "https://127.0.0.1./",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::ffff:808:808]/",
        "https://[::1%25lo]/",
    ),
    *("https://good.example@127.0.0.1/", "https://a:b@good.example/", "https://good.example\\@x/"),
    *("https://good.example#@127.0.0.1/", "https://good.example:22/", "https://good.example:0/"),
    *("https://good.example:99999/", "https://①②⑦.0.0.1/", "https://good.example/\r\nHost: x"),
    *("https:///x", "https://", "file:///etc/passwd", "gopher://good.example/", "//good.example"),
    *(
        "http://good.example/",
        "https://good..example/",
        "https://[v1.fe80]/",
        "https://good.example /",
    ),
]


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("host", HOSTILE)
def test_a_hostile_address_is_refused(host: str) -> None:
    with pytest.raises(AddressRefused):
        send(Guard(), f"https://{host}/hook")
    # The same where a name resolves to it, alone or after one that is public.
    ip = host.strip("[]")
    for answers in ([ip], [PUBLIC, ip]):
        infos = [(0, 1, 6, "", (answer, 443)) for answer in answers]
        with pytest.raises(AddressRefused, match=r"good\.example is not, or not only"):
            send(Guard(resolve=lambda *_, infos=infos, **__: infos), "https://good.example/hook")


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("url", UNREADABLE)
def test_a_url_with_two_readings_is_refused(url: str) -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was looked up")

    with pytest.raises(AddressRefused):
        Guard(resolve=resolve, loopback=True)(url, b"", {}, 5)


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(ip: Any) -> None:
    if not ip.is_global or ip.is_multicast or ip.is_reserved:
        assert not is_public(str(ip))


def test_public_addresses_are() -> None:
    for ip in (PUBLIC, "8.8.8.8", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450:4001::200e"):
        assert is_public(ip)


@contextmanager
def catching(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What would be connected to, refused there."""
    tried: list[Any] = []

    def connect(_: socket.socket, to: Any) -> None:
        tried.append(to)
        raise ConnectionRefusedError

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        yield tried


def test_the_address_that_was_checked_is_the_one_called(monkeypatch: pytest.MonkeyPatch) -> None:
    # The second answer is the metadata service: it must not be asked for.
    guard = Guard(resolve=resolving(PUBLIC, "169.254.169.254"))
    with catching(monkeypatch) as tried, pytest.raises(HookUnavailable):
        send(guard, "https://rebind.example/hook")
    assert tried == [(PUBLIC, 443)]
    with catching(monkeypatch) as tried, pytest.raises(AddressRefused):
        send(guard, "https://rebind.example/hook")
    assert tried == []


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with catching(monkeypatch) as tried, pytest.raises(HookUnavailable):
        send(Guard(resolve=resolving(PUBLIC)), "https://good.example/hook")
    assert tried == [(PUBLIC, 443)]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def test_this_machine_only_when_allowed_and_named(receiver: Receiver) -> None:
    with pytest.raises(AddressRefused):
        send(Guard(), receiver.url)
    port = receiver.url.rpartition(":")[2]
    with pytest.raises(AddressRefused):
        send(Guard(loopback=True, resolve=resolving("127.0.0.1")), f"https://a.example:{port}/")
    with pytest.raises(AddressRefused):
        send(Guard(loopback=True, resolve=resolving("10.0.0.1")), f"http://localhost:{port}/")
    assert receiver.got == []
    send(Guard(loopback=True), f"{receiver.url}/a?b=c")
    [(path, headers, body)] = receiver.got
    assert (path, headers["host"], body) == ("/a?b=c", f"127.0.0.1:{port}", b"{}")
    assert headers["webhook-signature"] == signature(KEY, b"msg_1.1736933407.{}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_the_metadata_service_is_not_followed(
    receiver: Receiver, status: int
) -> None:
    receiver.status = status
    receiver.headers = {"Location": "http://169.254.169.254/latest/meta-data/"}
    with pytest.raises(HookUnavailable, match=f"answered {status}"):
        send(Guard(loopback=True), receiver.url)
    assert len(receiver.got) == 1


@contextmanager
def tls_server(certificate: trustme.LeafCert) -> Iterator[tuple[int, list[Any]]]:
    """A TLS server on loopback that answers one request after the other; the names it was asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    named: list[Any] = []
    context.sni_callback = lambda _socket, name, _context: named.append(name)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    plain, _ = server.accept()
                except OSError:
                    return
                with suppress(OSError), context.wrap_socket(plain, server_side=True) as talk:
                    named.append(read_request(talk))
                    talk.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], named
        server.shutdown(socket.SHUT_RDWR)


def test_tls_verifies_the_name_at_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    real = socket.socket.connect
    with tls_server(authority.issue_cert("good.example")) as (port, named):
        # The public address of the name is here.
        monkeypatch.setattr(
            socket.socket, "connect", lambda self, to: real(self, ("127.0.0.1", to[1]))
        )
        guard = Guard(resolve=resolving(PUBLIC), tls=trust)
        send(guard, f"https://good.example:{port}/hook")
        assert named[0] == "good.example"
        assert f"Host: good.example:{port}".encode() in named[1]
        with pytest.raises(HookUnavailable, match=r"evil\.example: SSLError"):
            send(guard, f"https://evil.example:{port}/hook")
        with pytest.raises(HookUnavailable, match=r"good\.example: SSLError"):
            send(Guard(resolve=resolving(PUBLIC)), f"https://good.example:{port}/hook")
