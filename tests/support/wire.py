"""HTTP by hand, for servers that misbehave on purpose."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def answering(answer: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says `answer` to every request and hangs up, or takes connections and says
    nothing for ever; its URL, and who came: the first line of each request that it read."""
    came: list[bytes] = []
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    caller, _ = listening.accept()
                    kept.append(caller)
                    if answer is None:
                        came.append(b"")
                    else:
                        came.append(read_request(caller)[0])
                        caller.sendall(answer)
                        caller.close()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", came
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for caller in kept:
                caller.close()


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
