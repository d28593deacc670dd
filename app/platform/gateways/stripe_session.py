"""The HTTP session under Stripe's library."""

import time
from typing import Any

import requests
import urllib3

READ_BYTES = 65536


class BoundedSession(requests.Session):
    """A session whose calls end: a plain timeout bounds each read from the socket, not their sum.

    Connecting and the wait for an answer share `seconds`; a body still trickling in after them is
    given up at its next piece, so that a call takes at most twice as long.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        # Stripe does not redirect, and each redirect would begin the time anew.
        self.max_redirects = 0

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        deadline = time.monotonic() + self._seconds
        kwargs |= {"stream": True, "timeout": urllib3.Timeout(total=self._seconds)}
        response = super().send(request, **kwargs)
        body = bytearray()
        try:
            while piece := response.raw.read1(READ_BYTES, decode_content=True):
                body += piece
                if time.monotonic() > deadline:
                    response.close()
                    raise requests.ReadTimeout(f"no complete answer within {self._seconds} s")
        except urllib3.exceptions.HTTPError as broken:
            response.close()
            raise requests.ConnectionError(f"answer cut short ({type(broken).__name__})") from None
        response._content = bytes(body)
        response._content_consumed = True  # type: ignore[attr-defined]
        return response
