"""HTTP by hand, for servers that misbehave on purpose."""

from __future__ import annotations

import socket


def read_request(connection: socket.socket) -> list[bytes]:
    """The lines of its head. Read to the end of its body, however it comes in pieces: what is left
    unread resets the connection, and the answer is lost with it."""
    with connection.makefile("rb") as got:
        lines: list[bytes] = []
        while line := got.readline().rstrip():
            lines.append(line)
        sizes = [int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")]
        got.read(sum(sizes))
    return lines
