"""Answers that are not Stripe's, late ones and none at all: never taken for a refusal."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from app.local.serving import serve_in_thread
from app.platform.gateways.stripe import (
    StripeError,
    StripeGateway,
    StripeMisconfigured,
    StripeRateLimited,
    StripeServerError,
    StripeUnknownOutcome,
)
from tests.support.stripe_stand import KEY, canned, pay
from tests.support.wire import read_request


@pytest.mark.parametrize(
    ("status", "body", "raised"),
    [
        ("502 Bad Gateway", "<html>", StripeServerError),
        (
            "503 Unavailable",
            '{"error": {"message": "x", "type": "api_error"}}',
            StripeServerError,
        ),
        ("400 Bad Request", "<html>a proxy's</html>", StripeUnknownOutcome),
        ("200 OK", "<html>a proxy's</html>", StripeUnknownOutcome),
        ("200 OK", "{}", StripeUnknownOutcome),
        ("200 OK", "[]", StripeUnknownOutcome),
        ("200 OK", '{"id": "tr_1", "object": "transfer"}', StripeUnknownOutcome),
        ("307 Temporary Redirect", "", StripeUnknownOutcome),
        ("429 Too Many", "<html>", StripeRateLimited),
        ("401 Unauthorized", "<html>", StripeMisconfigured),
        ("403 Forbidden", '{"error": {"message": "x"}}', StripeMisconfigured),
        ("400 Bad Request", '{"error": {"message": "x", "code": "rate_limit"}}', StripeRateLimited),
    ],
)
def test_answers_that_are_not_stripes_are_classified_safely(
    status: str, body: str, raised: type[StripeError]
) -> None:
    app = canned(status, "text/html", body)
    with serve_in_thread(app) as url, pytest.raises(raised) as failure:
        pay(StripeGateway(KEY, url))
    assert type(failure.value) is raised


def test_nobody_listening_is_an_unknown_outcome() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        gateway = StripeGateway(KEY, f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(StripeUnknownOutcome):
            pay(gateway)


def test_an_answer_that_trickles_in_for_ever_is_given_up() -> None:
    over = threading.Event()

    def trickle(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):
            read_request(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not over.wait(0.01):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        done = pool.submit(trickle, listener)
        gateway = StripeGateway(KEY, f"http://127.0.0.1:{listener.getsockname()[1]}", 2.0)
        with pytest.raises(StripeUnknownOutcome, match="no complete answer"):
            pay(gateway)
        over.set()
        done.result()


def test_an_answer_cut_short_is_an_unknown_outcome() -> None:
    def cut(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            read_request(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        done = pool.submit(cut, listener)
        with pytest.raises(StripeUnknownOutcome, match="cut short"):
            pay(StripeGateway(KEY, f"http://127.0.0.1:{listener.getsockname()[1]}"))
        done.result()


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_path_is_the_api_s_whatever_the_base_ends_in(slash: str) -> None:
    def answer(listener: socket.socket) -> bytes:
        connection, _ = listener.accept()
        with connection:
            head = read_request(connection)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return head[0]

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(answer, listener)
        base = f"http://127.0.0.1:{listener.getsockname()[1]}{slash}"
        with pytest.raises(StripeUnknownOutcome):
            pay(StripeGateway(KEY, base))
        assert asked.result() == b"POST /v1/transfers HTTP/1.1"
