"""Stores files by path, in a folder or an S3-compatible bucket.

The URL is `file:///folder`, or `s3://bucket/prefix?endpoint=https://…&region=…` with the usual AWS
variables for credentials. A path is names of letters, digits and `_ . = @ + -`, joined by slashes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import IO, Any
from urllib.parse import parse_qsl, urlsplit

from app.switchyard import effects
from app.switchyard.config import WEB
from app.switchyard.errors import BadInput, SettingsError, SwitchyardError

MAX_PATH = 200
PIECE = 8 * 1024 * 1024
"""How many bytes of a large file are transferred at once."""
TIMEOUT, LONGEST = timedelta(seconds=15), timedelta(minutes=10)
"""Of each wait for a bucket, and of a whole call."""
_NAME = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9_.=@+-]{1,140}")
_NO_FILE = re.compile(r"\(os error (20|21)\)")
"""The path, or a part of it, is a folder where it should be a file, or the reverse."""


class StorageUnavailable(SwitchyardError, status=503, title="Storage unavailable"):
    """The storage failed. The call may be retried."""


class StorageMissing(SwitchyardError, status=404, title="No such file"):
    """There is no such file."""


class Storage:
    """The storage of a STORAGE_URL, without a connection yet. Raises SettingsError.

    A put is atomic: a reader sees the old file or the new one. Every call raises BadInput for an
    invalid path, and StorageUnavailable.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._options: Any = dict(parse_qsl(parts.query, keep_blank_values=True))
        fits = bool(parts.netloc) and "@" not in parts.netloc
        if parts.scheme == "file":
            fits = parts.path.startswith("/") and not (parts.netloc or parts.query)
        try:
            WEB(self._options.get("endpoint", "https://s3"))  # the library panics at some others
        except ValueError:
            fits = False
        if not fits or parts.fragment or self._options.keys() - {"endpoint", "region"}:
            raise SettingsError(
                "STORAGE_URL: a folder is file:/// and its path from the root on,"
                " a bucket s3://bucket/prefix?endpoint=https://…&region=…"
            )
        self._url = url.partition("?")[0]
        self._pid: int | None = None

    def put(self, path: str, data: bytes | IO[bytes], content_type: str) -> None:
        """Store `data` as `path`, replacing any file there. A file is read from its beginning."""
        effects.allow("storing a file")
        if not isinstance(data, bytes):
            data.seek(0)
        # A folder keeps no types.
        kept = None if self._url.startswith("file:") else {"Content-Type": content_type}
        with self._opened(path, reading=False) as store:
            store.put(path, data, attributes=kept, chunk_size=PIECE, max_concurrency=2)

    def get(self, path: str) -> bytes:
        """The content of the file `path`. Raises StorageMissing."""
        with self._opened(path) as store:
            return bytes(store.get(path).bytes())

    def fetch(self, path: str, into: IO[bytes], at_most: int) -> None:
        """Copy a file of at most `at_most` bytes in pieces. Raises StorageMissing, and BadInput."""
        with self._opened(path) as store:
            kept = store.get(path)
            if (size := kept.meta["size"]) > at_most:
                raise BadInput(f"{path} has {size:,} bytes; the limit is {at_most:,}")
            for piece in kept.stream(PIECE):
                into.write(piece)

    @contextmanager
    def _opened(self, path: str, *, reading: bool = True) -> Iterator[Any]:
        """The store for one call. The library's errors are translated."""
        from obstore.exceptions import BaseError  # most processes need no storage library

        checked_path(path)
        self._pid = self._pid or os.getpid()
        if self._pid != os.getpid():
            # A forked child lacks the library's threads, so that a call would wait forever.
            raise StorageUnavailable("this process was forked from one that had used the storage")
        try:
            yield self._store
        except (OSError, ValueError, BaseError) as failure:
            gone = isinstance(failure, FileNotFoundError) or _NO_FILE.search(str(failure))
            if reading and gone:
                raise StorageMissing(f"there is no file {path}") from None
            said = str(failure).partition("\n")[0][:200]
            raise StorageUnavailable(f"{path}: {type(failure).__name__}: {said}") from None

    @cached_property
    def _store(self) -> Any:
        from obstore.store import from_url

        if self._url.startswith("file:"):
            return from_url(self._url, mkdir=True)
        bounds: Any = {"read_timeout": TIMEOUT, "connect_timeout": TIMEOUT, "timeout": LONGEST}
        bounds["allow_http"] = True
        retries: Any = {"max_retries": 2, "retry_timeout": 2 * TIMEOUT}
        return from_url(self._url, client_options=bounds, retry_config=retries, **self._options)


def checked_path(path: str) -> str:
    """`path`, if it is valid and leads only downwards. Raises BadInput."""
    if len(path) > MAX_PATH or not all(map(_NAME.fullmatch, path.split("/"))):
        raise BadInput(f"{path[:MAX_PATH]!r} is no path in the storage")
    return path
