"""Bytes as a real file without a name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


@contextmanager
def spooled(data: bytes) -> Iterator[IO[bytes]]:
    """A file with these bytes."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        file.seek(0)
        yield file
